"""One HTML page with thumbnails of images in sections. It makes no request."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from ..data.core.decoding import read_image
from ..errors import InputError
from ..files import write_atomically
from ..pages import content_policy, escaped

__all__ = ["write_contact_sheet"]

STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem; }
section { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding: .75rem 0;
  display: flex; flex-wrap: wrap; gap: .75rem; }
h2 { flex-basis: 100%; font-size: 1rem; margin: 0; }
figure { margin: 0; width: 8.5rem; }
img, .absent { width: 100%; height: 8.5rem; object-fit: contain; border-radius: .25rem;
  background: color-mix(in srgb, currentColor 8%, transparent); display: block; }
figcaption { font-size: .75rem; overflow-wrap: anywhere; margin-top: .25rem; }
b { display: block; }
"""


def write_contact_sheet(file: Path, title: str, sections: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    """Write a page of thumbnails.

    Args:
        file: HTML file to write.
        title: title of the page.
        sections: (heading, [(path of an image, caption)]). Paths that are not readable image files have no thumbnail.
    """
    thumbnails: dict[str, str] = {}
    parts = []
    for heading, images in sections:
        figures = []
        for path, caption in images:
            if path not in thumbnails:
                thumbnails[path] = _thumbnail(path)
            picture = f'<img alt="" loading="lazy" src="{thumbnails[path]}">' if thumbnails[path] else _ABSENT
            text = escaped(path)
            name = text.rpartition("/")[2]
            figures.append(
                f'<figure title="{text}">{picture}<figcaption><b>{escaped(caption)}</b>{name}</figcaption></figure>'
            )
        head = f"<h2>{escaped(heading)}</h2>" if heading else ""
        parts.append(f"<section>{head}{''.join(figures)}</section>")
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy(STYLE, "")}">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style><body><h1>{escaped(title)}</h1>"
        f"{''.join(parts) or '<p>No results.</p>'}</body></html>"
    )
    write_atomically(file, page)


_ABSENT = '<span class="absent"></span>'


def _thumbnail(path: str, size: int = 160) -> str:
    """Return a JPEG thumbnail as a data URL, or an empty string if the path is no readable image file."""
    try:
        image = read_image(path, at_least=size)
    except (InputError, OSError):
        return ""
    image.thumbnail((size, size))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
