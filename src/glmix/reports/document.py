"""A report as a list of sections, which are written as Markdown and as HTML."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..pages import escaped

__all__ = ["Facts", "Figure", "Format", "Part", "Pictures", "Section", "Table", "shown", "to_html", "to_markdown"]

Format = Literal["text", "count", "percent", "number"]
LONG = 25  # rows above which a table of the page scrolls


@dataclass(frozen=True)
class Facts:
    """Pairs of name and value; with `large`, the page shows them as large numbers."""

    items: Sequence[tuple[str, str]]
    large: bool = False


@dataclass(frozen=True)
class Table:
    """A table, which the page sorts by any column.

    Args:
        columns: the title and the format of each column.
        rows: the cells of each row; None is shown as a dash.
    """

    columns: Sequence[tuple[str, Format]]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Figure:
    """Alternative views of one figure, which the page shows one at a time. The Markdown report has no figures.

    Args:
        title: the caption.
        views: the title and the HTML of each view.
    """

    title: str
    views: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Pictures:
    """Images with captions.

    Args:
        items: per image, its name, its lines of text, and the data URI of the image or None.
        wide: whether the images are much wider than high.
    """

    items: Sequence[tuple[str, Sequence[str], str | None]]
    wide: bool = False


Part = Facts | Table | Figure | Pictures


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        title: the heading.
        note: an explanation, or an empty text.
        parts: the contents.
    """

    title: str
    note: str = ""
    parts: Sequence[Part] = field(default_factory=tuple)


def shown(value: Any, style: Format) -> str:
    """Return a value as text: 0.123 is `12.3 %` as a percentage, with a no-break space, and None is a dash."""
    if value is None:
        return "–"  # noqa: RUF001
    if style == "percent":
        return f"{100 * value:.1f}\u00a0%"
    if style == "count":
        return f"{value:,}"
    return f"{value:.3f}" if style == "number" else str(value)


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the report as Markdown, without its figures and pictures."""
    blocks = [f"# {_markdown_text(title)}"]
    for section in sections:
        parts = [_markdown_of(part) for part in section.parts if not isinstance(part, Figure)]
        if section.parts and not parts:
            continue
        blocks += [f"## {section.title}", *([section.note] if section.note else []), *parts]
    return "\n\n".join(blocks) + "\n"


def _markdown_of(part: Part) -> str:
    if isinstance(part, Facts):
        return "\n".join(f"- {name}: {_markdown_text(value)}" for name, value in part.items)
    if isinstance(part, Table):
        lines = [
            _markdown_row([title for title, _ in part.columns]),
            _markdown_row(["---" if style == "text" else "---:" for _, style in part.columns]),
        ]
        lines += [
            _markdown_row([_markdown_text(shown(v, s)) for v, (_, s) in zip(row, part.columns, strict=True)])
            for row in part.rows
        ]
        return "\n".join(lines)
    assert isinstance(part, Pictures)
    return "\n".join(f"- {_markdown_text(': '.join((name, ', '.join(lines))))}" for name, lines, _ in part.items)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_text(text: str) -> str:
    """Escape what Markdown or HTML would interpret; a name of a class or a file may contain anything."""
    marked = "".join(f"\\{char}" if char in "\\`*_[]|#" else char for char in " ".join(text.split()))
    return html.escape(marked.encode("utf-8", "replace").decode("utf-8"), quote=False)


def to_html(sections: Sequence[Section]) -> str:
    """Return the sections as HTML."""
    return "\n".join(_html_section(number, section) for number, section in enumerate(sections))


def _html_section(number: int, section: Section) -> str:
    note = f'<p class="note">{escaped(section.note)}</p>' if section.note else ""
    parts = "\n".join(_html_of(part, f"s{number}p{k}") for k, part in enumerate(section.parts))
    return f"<section><h2>{escaped(section.title)}</h2>{note}\n{parts}</section>"


def _html_of(part: Part, key: str) -> str:
    if isinstance(part, Facts):
        pairs = [f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in part.items]
        return f'<dl class="{"tiles" if part.large else "facts"}">{"".join(pairs)}</dl>'
    if isinstance(part, Table):
        return _html_table(part)
    if isinstance(part, Pictures):
        pictures = "".join(_html_picture(*item) for item in part.items)
        return f'<div class="{"pictures wide" if part.wide else "pictures"}">{pictures}</div>'
    views = "".join(f'<div class="view">{content}</div>' for _, content in part.views)
    caption = f"<figcaption>{escaped(part.title)}</figcaption>" if part.title else ""
    if len(part.views) == 1:
        return f"<figure>{views}{caption}</figure>"
    choices = "".join(
        f'<input type="radio" name="{key}" id="{key}v{k}"{" checked" * (k == 0)}><label for="{key}v{k}">'
        f"{escaped(title)}</label>"
        for k, (title, _) in enumerate(part.views)
    )
    return f'<figure class="choice">{choices}{views}{caption}</figure>'


def _html_table(table: Table) -> str:
    head = "".join(
        f'<th scope="col" class="{style}"><button type="button">{escaped(title)}</button></th>'
        for title, style in table.columns
    )
    rows = "".join(
        "<tr>" + "".join(_html_cell(v, style) for v, (_, style) in zip(row, table.columns, strict=True)) + "</tr>"
        for row in table.rows
    )
    kind = "table long" if len(table.rows) > LONG else "table"
    return f'<div class="{kind}" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _html_cell(value: Any, style: Format) -> str:
    text = escaped(shown(value, style))
    if style == "text":
        return f'<td class="text">{text}</td>'
    bar = ""
    if style == "percent" and value is not None:
        # an SVG, because the content security policy of the page forbids style attributes
        width = 100 * min(max(value, 0), 1)
        bar = f'<svg class="bar" aria-hidden="true"><rect width="{width:.1f}%" height="100%"/></svg>'
    return f'<td class="{style}" data-value="{"" if value is None else value}">{text}{bar}</td>'


def _html_picture(name: str, lines: Sequence[str], uri: str | None) -> str:
    image = f'<img src="{uri}" alt="">' if uri else '<div class="missing">no picture</div>'
    text = "".join(f"<span>{escaped(line)}</span>" for line in lines)
    return f'<figure>{image}<figcaption>{text}<span class="name">{escaped(name)}</span></figcaption></figure>'
