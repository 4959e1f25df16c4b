"""The report of the GPU suite: Markdown, JSON and plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmix.bench.plot import draw
from glmix.bench.report import format_results
from glmix.files import write_atomically

__all__ = ["goals", "markdown", "merge", "write"]

PLOTS = ("inference", "training", "scaling")


def write(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write `gpu.json`, `gpu.md` and, if matplotlib is installed, a plot per table of speed; return the files."""
    files = {"gpu.json": json.dumps(report, indent=1) + "\n", "gpu.md": markdown(report)}
    for name, text in files.items():
        write_atomically(folder / name, text)
    written = [folder / name for name in files]
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return written
    for name in PLOTS:
        result = report["parts"].get(name, {}).get("result")
        if isinstance(result, dict):
            write_atomically(folder / f"gpu-{name}.png", draw(result))
            written.append(folder / f"gpu-{name}.png")
    return written


def merge(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one report with the parts of several; a later report replaces the parts of an earlier one."""
    parts: dict[str, Any] = {}
    for report in reports:
        parts |= {name: part for name, part in report["parts"].items() if part["status"] != "not run"}
    return {**reports[-1], "parts": parts}


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a page: machine, one line per part, goals, and the rows of every part."""
    machine, versions = report["machine"], report["versions"]
    where = machine.get("gpu", machine["cpu"])
    details = {name: machine[name] for name in ("driver", "cuda", "cudnn") if machine.get(name)} | versions
    lines = [
        "# GPU suite",
        "",
        f"    {report['command']}",
        "",
        f"{where}; " + ", ".join(f"{name} {value}" for name, value in details.items()),
        "",
        *_table([_summary(name, part) for name, part in report["parts"].items()]),
    ]
    reached = goals(report)
    if reached:
        lines += ["", "## Goals", "", *_table(reached)]
    for name, part in report["parts"].items():
        lines += ["", f"## {name.capitalize()}", "", part["summary"]]
        result = part.get("result")
        if isinstance(result, dict):
            lines += ["", format_results(result)]
            if name in PLOTS:
                lines += ["", f"![{name}](gpu-{name}.png)"]
        elif result:
            lines += ["", *_table(result)]
        if part.get("reason"):
            lines += ["", f"{part['status']}: {part['reason']}"]
    return "\n".join(lines) + "\n"


def _summary(name: str, part: dict[str, Any]) -> dict[str, object]:
    result = part.get("result")
    rows = result["rows"] if isinstance(result, dict) else result or []
    return {"part": name, "status": part["status"], "rows": len(rows), "seconds": round(part["seconds"], 1)}


def goals(report: dict[str, Any]) -> list[dict[str, object]]:
    """Return the measured ratios that the project set as goals for bfloat16, for the tables that were measured."""
    found: list[dict[str, object]] = []
    for table in ("inference", "training"):
        result = report["parts"].get(table, {}).get("result")
        if not isinstance(result, dict):
            continue
        rows = [row for row in result["rows"] if row["error"] is None]

        def best(model: str, words: str, rows: Any = rows) -> dict[str, Any]:
            """Return the fastest row of a model in a form that begins with some words."""
            own = [row for row in rows if row["model"] == model and row["form"].startswith(words)]
            return max(own, key=lambda row: row["images_per_second"], default={})

        def ratio(key: str, one: dict[str, Any], other: dict[str, Any]) -> float | None:
            return one[key] / other[key] if one.get(key) and other.get(key) else None

        ours, plain = best("glnet_stl", "optimized+bf16+compiled"), best("glnet_stl", "plain+bf16")
        swin = best("swin_tiny_patch4_window7_224", "optimized+bf16+compiled")
        ratios = [
            (f"{table}: images/s by those of the plain form", ratio("images_per_second", ours, plain), "at least 2"),
            (f"{table}: images/s by those of swin_tiny", ratio("images_per_second", ours, swin), "above 1"),
        ]
        if table == "training":
            memory = ratio("peak_memory_mib", ours, plain)
            ratios.append(("training: memory by that of the plain form", memory, "at most 0.8"))
        found += [{"glnet_stl": what, "ratio": value, "goal": goal} for what, value, goal in ratios if value]
    return found


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return rows of equal or different keys as a Markdown table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
