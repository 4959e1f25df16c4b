"""The page itself: a template, a few styles and scripts, put together with the data so that nothing can run by itself.

`write_page` and `explore` are what other parts call.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image
from torch import nn

from ...files import write_atomically
from .data import Labels, gather

__all__ = ["SCRIPTS", "STYLES", "explore", "render", "write_page"]

# In the order in which they need each other: modules in their folder, one script in the page, as modules cannot load
# one another from a disk.
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
    """The explorer of one image, as the text of an HTML page that needs nothing else.

    Args:
        image: of any size and mode.
        models: one or two, each with the name that it is shown under; two are compared. They stay as they are.
        title: what the image is called, its file name perhaps.
        label_names: from the number of a class to its name; a sequence where each model has classes of its own.
        blocks: which blocks with slots, by their place in the order of execution, from the end where negative; None
            for all.
        size: rows and columns that the whole image is brought to; None for each model's own size, and its own crop.
        top: how many of the most probable classes each model tells.
        multi_label: classes do not exclude each other: probabilities are sigmoids.
    """
    data = gather(image, models, label_names=label_names, blocks=blocks, size=size, top=top, multi_label=multi_label)
    return render(data, title)


def write_page(path: str | Path, image: Image.Image, models: Sequence[tuple[str, nn.Module]], **options: Any) -> None:
    """Write `explore(image, models, **options)` to a file, whole or not at all."""
    path = Path(path)
    text = explore(image, models, **options)
    write_atomically(path, text)


def render(data: dict[str, Any], title: str) -> str:
    """The page around what `gather` returns."""
    style, script = "\n".join(_source(name) for name in STYLES), bundle()
    title = title.encode("utf-8", "replace").decode("utf-8")  # names of files may hold what is no text
    contents = {"title": title, **data}
    return Template(_source("page.html")).substitute(
        title=html.escape(title),
        policy=_policy(style, script),
        style=style,
        script=script,
        # "<" ends a script element wherever it opens a tag, even inside a string
        data=json.dumps(contents, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    )


def bundle() -> str:
    """The scripts one behind the other, without what only modules in files need."""
    return "\n".join(re.sub(r"(?m)^import .*\n|^export ", "", _source(name)) for name in SCRIPTS)


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded from anywhere and nothing runs, but this very style and this very script."""

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'"

    return (
        f"default-src 'none'; img-src data:; style-src {digest(style)}; script-src {digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
