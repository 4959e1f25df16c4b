"""Reports of benchmark results in Markdown, from `measure` or from a JSON file."""

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["format_report", "format_results"]

Row = dict[str, Any]
Cell = Callable[[Row], str]

TITLES = {
    "inference": "Inference",
    "training": "Training steps",
    "scaling": "Cost by resolution",
    "profile": "Time per operator",
}


def format_report(result: dict[str, Any]) -> str:
    """Format a page with the command, the machine, the versions and the results."""
    machine, settings = result["machine"], result["settings"]
    computed = machine.get("gpu", f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}")
    passes = "steps" if result["kind"] == "training" else "passes"
    lines = [
        f"# {TITLES[result['kind']]}",
        *(["", f"    {result['command']}"] if "command" in result else []),
        "",
        f"{machine['cpu']} ({machine['instructions']}, {machine['cores']} cores), {computed}; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "",
        f"Each combination of model and form ran in a separate process, measured in turns: {settings['runs']} {passes} "
        f"with batch size {settings['batch']}; medians, with quartiles in parentheses.",
        "",
        format_results(result),
    ]
    return "\n".join(lines) + "\n"


def format_results(result: dict[str, Any]) -> str:
    """Format the tables, followed by the rows without measurements and the reasons."""
    rows = [row for row in result["rows"] if row["error"] is None]
    kind = result["kind"]
    parts = []
    if rows:
        tables = {"inference": _inference, "training": _training, "scaling": _scaling, "profile": _profiles}
        parts += tables[kind](rows)
    rates = [f"{name} {2e-9 * product['macs_per_second']:.0f} GFLOP/s" for name, product in result["matmul"].items()]
    if rates:
        parts.append(f"Rate of a large matrix product, measured in the same turns: {', '.join(rates)}.")
    failed = [f"* {_name(row)}: {row['error']}" for row in result["rows"] if row["error"] is not None]
    if failed:
        parts.append("\n".join(["No measurements:", "", *failed]))
    if result["left_out"]:
        pairs = ", ".join(f"{model} {form}" for model, form in result["left_out"])
        parts.append(f"Left out, because these forms are supported only for GLNets: {pairs}.")
    return "\n\n".join(parts)


def _name(row: Row) -> str:
    return f"{row['model']} {row['form']} at {_pixels(row)}"


def _pixels(row: Row) -> str:
    return f"{row['width']} x {row['height']}"


def _number(value: float | None, digits: int = 3) -> str:
    """Format a number with `digits` significant digits; None as "-"."""
    if value is None:
        return "-"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(0, digits - whole)}f}"


def _spread(row: Row, key: str, scale: float = 1.0) -> str:
    low, high = (_number(scale * value) for value in row[f"{key}_quartiles"])
    return f"{_number(scale * row[key])} ({low} to {high})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


_COSTS: dict[str, Cell] = {
    "model": lambda row: f"{row['model']}",
    "form": lambda row: f"{row['form']}",
    "pixels": _pixels,
    "parameters": lambda row: f"{_number(row['parameters'] / 1e6)} M",
    "MACs": lambda row: f"{_number(row['macs'] / 1e9)} G",
}
_MEMORY: dict[str, Cell] = {"peak memory": lambda row: f"{_number(row['peak_memory_mib'])} MiB"}
_ROOFLINE: dict[str, Cell] = {"share of matmul rate": lambda row: _share(row["roofline"])}


def _inference(rows: Sequence[Row]) -> list[str]:
    columns = {**_COSTS, "images/s": lambda row: _spread(row, "images_per_second")}
    if any("latency_ms" in row for row in rows):
        columns |= {
            "latency": lambda row: f"{_number(row.get('latency_ms'))} ms",
            "latency p99": lambda row: f"{_number(row.get('latency_ms_p99'))} ms",
        }
    return [_table(rows, {**columns, **_MEMORY, **_ROOFLINE})]


def _training(rows: Sequence[Row]) -> list[str]:
    columns: dict[str, Cell] = {
        "ms per step": lambda row: _spread(row, "seconds", 1e3),
        "images/s": lambda row: _number(row["images_per_second"]),
    }
    return [_table(rows, {**_COSTS, **columns, **_MEMORY, **_ROOFLINE})]


def _scaling(rows: Sequence[Row]) -> list[str]:
    """Format one row per model and form and one column per image size."""
    sizes = list(dict.fromkeys(_pixels(row) for row in rows))
    by_key = {(row["model"], row["form"], _pixels(row)): row for row in rows}
    pairs = list(dict.fromkeys((row["model"], row["form"]) for row in rows))

    def by_size(title: str, cell: Cell) -> str:
        header = ["model", "form", *sizes]
        body = [
            [*pair, *(cell(by_key[(*pair, size)]) if (*pair, size) in by_key else "-" for size in sizes)]
            for pair in pairs
        ]
        return f"{title}\n\n{_lines([header, *body])}"

    parts = [
        by_size("Seconds per megapixel:", lambda row: _spread_per_megapixel(row)),
        by_size("Peak memory in MiB per megapixel:", lambda row: _number(row["peak_memory_mib_per_megapixel"])),
    ]
    staged = [row for row in rows if "stage_seconds" in row]
    if staged:
        lines = [["model", "form", "stage", *sizes]]
        for pair in pairs:
            own = {_pixels(row): row for row in staged if (row["model"], row["form"]) == pair}
            for name in next(iter(own.values()))["stage_seconds"] if own else []:
                cells = [
                    _number(own[size]["stage_seconds"][name] / _megapixels(own[size])) if size in own else "-"
                    for size in sizes
                ]
                lines.append([*pair, name, *cells])
        parts.append(f"Seconds per megapixel of the image, by stage:\n\n{_lines(lines)}")
    return parts


def _megapixels(row: Row) -> float:
    return float(row["batch"] * row["height"] * row["width"] / 1e6)


def _spread_per_megapixel(row: Row) -> str:
    return _spread(row, "seconds", 1 / _megapixels(row))


def _profiles(rows: Sequence[Row]) -> list[str]:
    """Format two tables per row: the time by kind of operator, and the operators with the most time."""
    time: dict[str, Cell] = {
        "share of the time": lambda line: f"{100 * line['share']:.1f} %",
        "ms": lambda line: _number(1e3 * line["seconds"]),
    }
    parts = []
    for row in rows:
        parts.append(f"{_name(row)}, {row['batch']} images:")
        if row["profile"]["kinds"]:
            parts.append(_table(row["profile"]["kinds"], {"kind of operator": lambda line: line["name"], **time}))
        columns: dict[str, Cell] = {"operator": _operator, **time, "calls": lambda line: f"{line['calls']}"}
        parts.append(_table(row["profile"]["operators"], columns))
    return parts


def _operator(line: Row) -> str:
    """Return the name of an operator, cut to 100 characters."""
    name: str = line["name"]
    return name if len(name) <= 100 else f"{name[:97]}..."


def _table(rows: Sequence[Row], columns: dict[str, Cell]) -> str:
    return _lines([list(columns), *([cell(row) for cell in columns.values()] for row in rows)])


def _lines(cells: list[list[str]]) -> str:
    """Format a Markdown table with aligned columns."""
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
