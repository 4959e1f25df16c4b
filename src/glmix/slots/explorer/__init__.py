"""Slot explorer: an interactive HTML page, in a single file, that shows the slots of an image.

For one image and one model, or two models to compare:

    from glmix.slots.explorer import write_page

    write_page(Path("photo.html"), image, [("glnet_4g", model)])

`explore` returns the page as text. See `explore` for all arguments.
"""

from .data import page_data
from .page import explore, render, write_page

__all__ = ["explore", "page_data", "render", "write_page"]
