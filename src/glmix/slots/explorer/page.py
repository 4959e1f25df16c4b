"""HTML page of the explorer: template, styles, scripts and data in one file, with a strict content security policy.

The public functions are `explore` and `write_page`.
"""

from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image
from torch import nn

from ...files import write_atomically
from ...pages import bundle_scripts, embed_json, escape_html, page_html, read_sources
from .data import Labels, page_data

__all__ = ["SCRIPTS", "STYLES", "explore", "render", "write_page"]

# In the order of their dependencies. The page contains them as one script, because browsers do not load modules from
# local files.
MODULES = ("decode", "colours", "dom", "words", "state", "paint", "stage", "panel", "pins", "app")
SCRIPTS = tuple(f"{name}.js" for name in MODULES)
STYLES = ("page.css", "controls.css", "slots.css", "narrow.css")


def explore(
    image: Image.Image,
    models: Sequence[tuple[str, nn.Module]],
    *,
    title: str = "Image",
    label_names: Labels | Sequence[Labels] | None = None,
    blocks: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    top: int = 5,
    multi_label: bool = False,
) -> str:
    """Return the explorer page of one image as HTML text that needs no other file.

    Args:
        image: an image of any size and mode.
        models: one or two pairs of title and model; two models are compared. The models are not modified.
        title: title of the page, such as the name of the image file.
        label_names: function from class index to class name, or one function per model.
        blocks: indices of the blocks in the order of execution, negative from the end; None for all.
        size: height and width to which the whole image is resized. None: each model's own size and centre crop.
        top: number of most probable classes per model.
        multi_label: an image may have several classes: probabilities are sigmoids.

    Raises:
        InputError: an argument is out of range, or the logits of a model are not finite.
    """
    data = page_data(image, models, label_names=label_names, blocks=blocks, size=size, top=top, multi_label=multi_label)
    return render(data, title)


def write_page(path: str | Path, image: Image.Image, models: Sequence[tuple[str, nn.Module]], **options: Any) -> None:
    """Write `explore(image, models, **options)` to a file, atomically."""
    path = Path(path)
    text = explore(image, models, **options)
    write_atomically(path, text)


def render(data: dict[str, Any], title: str) -> str:
    """Return the page for the data that `page_data` returns."""
    title = title.encode("utf-8", "replace").decode("utf-8")  # file names may contain surrogates
    (body,) = read_sources(__package__, "body.html")
    return page_html(
        f"{title} · slots",
        Template(body).substitute(title=escape_html(title), data=embed_json({"title": title, **data})),
        style="\n".join(read_sources(__package__, *STYLES)),
        script=bundle(),
    )


def bundle() -> str:
    """Concatenate the scripts, without import and export statements."""
    return bundle_scripts(read_sources(__package__, *SCRIPTS))
