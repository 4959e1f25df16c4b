"""The slot explorer: one page that opens from disk, in which a person sees what the slots of an image hold.

For one image and one model, or two to compare:

    from glmix.slots.explorer import write_page

    write_page(Path("photo.html"), image, [("glnet_4g", model)])

`explore` gives the same page as text. What both take is told by `explore`.
"""

from .data import gather
from .page import explore, render, write_page

__all__ = ["explore", "gather", "render", "write_page"]
