"""One HTML page with thumbnails of images in sections. It makes no request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_atomically
from ..pages import escape_html, page_html
from .thumbnails import Part, Thumbnails, draw_part, jpeg_uri

__all__ = ["Picture", "write_contact_sheet"]

STYLE = """
body { max-inline-size: 75rem; }
h1 { margin-block-end: 1rem; }
section { border-block-start: 1px solid var(--line); padding-block: .75rem; display: flex; flex-wrap: wrap;
  gap: .75rem; }
h2 { flex-basis: 100%; font-size: 1rem; }
figure { inline-size: 8.5rem; }
img, .absent { inline-size: 100%; block-size: 8.5rem; object-fit: contain; border-radius: .25rem;
  background: var(--raised); display: block; }
figcaption { font-size: .75rem; overflow-wrap: anywhere; margin-block-start: .25rem; }
b { display: block; }
"""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image on the page.

    Args:
        key: its key in the results.
        caption: text below it.
        part: part of the image to outline.
    """

    key: str
    caption: str = ""
    part: Part | None = None


def write_contact_sheet(
    file: Path, title: str, sections: Sequence[tuple[str, Sequence[Picture]]], thumbnails: Thumbnails | None = None
) -> None:
    """Write a page of thumbnails.

    Args:
        file: HTML file to write.
        title: title of the page.
        sections: (heading, images). Images that cannot be read have no thumbnail.
        thumbnails: reader of the thumbnails; None to read the keys as paths.
    """
    thumbnails = thumbnails or Thumbnails()
    plain: dict[str, str] = {}
    parts = []
    for heading, pictures in sections:
        figures = []
        for picture in pictures:
            if picture.part is not None:
                uri = _uri(picture, thumbnails)
            else:
                uri = plain[picture.key] = plain.get(picture.key) or _uri(picture, thumbnails)
            shown = f'<img alt="" loading="lazy" src="{uri}">' if uri else '<span class="absent"></span>'
            text = escape_html(picture.key)
            caption = f"<figcaption><b>{escape_html(picture.caption)}</b>{text.rpartition('/')[2]}</figcaption>"
            figures.append(f'<figure title="{text}">{shown}{caption}</figure>')
        head = f"<h2>{escape_html(heading)}</h2>" if heading else ""
        parts.append(f"<section>{head}{''.join(figures)}</section>")
    body = f"<h1>{escape_html(title)}</h1>{''.join(parts) or '<p>No results.</p>'}"
    write_atomically(file, page_html(title, body, style=STYLE))


def _uri(picture: Picture, thumbnails: Thumbnails) -> str:
    """Return the thumbnail as a data URI, or an empty string if the image cannot be read."""
    thumbnail = thumbnails(picture.key, 160 if picture.part is None else 240)
    if thumbnail is None:
        return ""
    return jpeg_uri(thumbnail if picture.part is None else draw_part(thumbnail, picture.part))
