"""Three interchangeable modules that cluster pixels into slots: soft clustering, k-means and static regions.

Each module maps the normalised pixels `y` and the input `x` of a block, both (B, C, H, W), to the matrices
`clustering` and `assignment`, both (B, S, N), that `slots.py` defines. A forward hook on a bridge receives this pair;
visualisation and analysis need nothing else. For a padded batch, a mask (B, H, W) is true for image pixels, and padding
pixels have no weight in the clustering.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from .slots import (
    cosine_logits,
    fit_grid,
    hard_assignment,
    hard_pair,
    kmeans_centres,
    pixels_of,
    pool_to_grid,
    regular_pair,
    soft_pair,
)

__all__ = ["Bridge", "Clustering", "KMeansBridge", "Seeds", "SoftBridge", "StaticBridge", "make_bridge", "slot_grid_of"]

# torch.fx must not trace into these functions: they branch on dtypes and build index grids from sizes.
for _name in ("cosine_logits", "fit_grid", "kmeans_centres", "pool_to_grid", "regular_pair"):
    torch.fx.wrap(_name)

Clustering = Literal["soft", "kmeans", "static"]
Seeds = Literal["pooled", "learned"]


def slot_grid_of(num_slots: int) -> tuple[int, int]:
    """Return the grid (rows, columns) with exactly `num_slots` cells that is closest to square: 96 -> (8, 12)."""
    if num_slots < 1:
        raise InputError(f"num_slots must be at least 1, got {num_slots}.")
    rows = max(r for r in range(1, int(num_slots**0.5) + 1) if num_slots % r == 0)
    return rows, num_slots // rows


class Bridge(nn.Module):
    """Base class of the bridges: the slot grid, which is fixed or follows the aspect ratio of the images.

    Args:
        grid: rows and columns of the slot grid.
        follow_aspect: use a grid with about as many slots that fits the aspect ratio of the images.
    """

    def __init__(self, grid: tuple[int, int], follow_aspect: bool) -> None:
        super().__init__()
        self.set_grid(grid, follow_aspect)

    @torch.jit.ignore
    def set_grid(self, grid: tuple[int, int], follow_aspect: bool = False) -> None:
        """Change the slot grid, also of a trained model: pooled seeds and static regions have no parameters."""
        rows, cols = grid
        if rows < 1 or cols < 1:
            raise InputError(f"A slot grid needs at least one row and one column, got {rows} rows and {cols} columns.")
        self.rows, self.cols = int(rows), int(cols)
        self.follow_aspect = follow_aspect

    def grid_for(self, x: Tensor, mask: Tensor | None) -> tuple[int, int]:
        """Return the rows and columns of the slot grid for pixels (B, C, H, W)."""
        if self.follow_aspect:
            if mask is not None:
                raise InputError(
                    "A slot grid that follows the aspect ratio of the image cannot be used with a padded batch, whose "
                    "images differ in their aspect ratios: set a fixed slot grid, or batch images of one size."
                )
            return fit_grid(self.rows * self.cols, x.shape[2], x.shape[3])
        return self.rows, self.cols

    def extra_repr(self) -> str:
        return f"grid={self.rows}x{self.cols}" + (", follow_aspect=True" if self.follow_aspect else "")


class SoftBridge(Bridge):
    """Soft clustering as in the paper: softmaxes of the scaled cosine similarity between pixels and seeds.

    Args:
        dim: number of channels.
        grid: see `Bridge`.
        follow_aspect: see `Bridge`.
        seeds: "pooled" for seeds that are pooled from the image, "learned" for parameters.
        scale: initial value of the learned scale; None for dim^-0.5.
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        follow_aspect: bool = False,
        *,
        seeds: Seeds = "pooled",
        scale: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(grid, follow_aspect)
        self.initial_scale = dim**-0.5 if scale is None else float(scale)
        # shape (1,), not (): zero-dimensional parameters cannot be sharded
        self.scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.seeds = (
            nn.Parameter(torch.empty(1, self.rows * self.cols, dim, device=device, dtype=dtype))
            if seeds == "learned"
            else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the scale and the learned seeds."""
        nn.init.constant_(self.scale, self.initial_scale)
        if self.seeds is not None:
            nn.init.normal_(self.seeds, std=0.02)

    @torch.jit.ignore
    def set_grid(self, grid: tuple[int, int], follow_aspect: bool = False) -> None:
        if getattr(self, "seeds", None) is not None:
            raise InputError(
                f"This model has {self.rows * self.cols} learned seeds, so its slot grid cannot be changed to "
                f"{grid[0]} rows and {grid[1]} columns; only models with pooled seeds support this."
            )
        super().set_grid(grid, follow_aspect)

    def seeds_of(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the seeds (B, S, C) of the slots: the learned ones, or those that are pooled from x."""
        if self.seeds is not None:
            return self.seeds.expand(x.shape[0], -1, -1)
        rows, cols = self.grid_for(x, mask)
        return pool_to_grid(x, rows, cols, mask)

    def logits(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the scaled cosine similarities of seeds and pixels, (B, S, N)."""
        return cosine_logits(self.seeds_of(x, mask), pixels_of(y), self.scale)

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return soft_pair(self.logits(y, x, mask), y.dtype, mask)


class KMeansBridge(Bridge):
    """Hard clustering: k-means (Lloyd iterations) from pooled seeds. Gradients flow only through the cluster means.

    Args:
        grid: see `Bridge`.
        follow_aspect: see `Bridge`.
        iterations: number of Lloyd iterations.
    """

    def __init__(self, grid: tuple[int, int], follow_aspect: bool = False, *, iterations: int = 3) -> None:
        super().__init__(grid, follow_aspect)
        if iterations < 0:
            raise InputError(f"kmeans_iterations must be 0 or more, got {iterations}.")
        self.iterations = iterations

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows, cols = self.grid_for(x, mask)
        pixels = pixels_of(y).detach()
        centres = kmeans_centres(pool_to_grid(x.detach(), rows, cols, mask), pixels, self.iterations, mask)
        one = torch.ones(1, device=y.device, dtype=y.dtype)
        return hard_pair(hard_assignment(cosine_logits(centres, pixels, one), y.dtype, mask))


class StaticBridge(Bridge):
    """Static regions: the slots are the cells of a regular grid. A baseline for content-based clustering."""

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows, cols = self.grid_for(x, mask)
        return regular_pair(y, rows, cols, mask)


def make_bridge(
    dim: int,
    *,
    clustering: Clustering,
    seeds: Seeds,
    grid: tuple[int, int],
    follow_aspect: bool,
    scale: float | None,
    kmeans_iterations: int,
    device: Any = None,
    dtype: Any = None,
) -> Bridge:
    """Return the bridge for a `clustering` method.

    Args:
        dim: number of channels.
        clustering: "soft", "kmeans" or "static".
        seeds: "pooled" or "learned"; learned seeds need soft clustering and a fixed grid.
        grid: rows and columns of the slot grid.
        follow_aspect: let the grid follow the aspect ratio of the images.
        scale: initial scale of soft clustering; the other methods ignore it.
        kmeans_iterations: number of Lloyd iterations of k-means.

    Raises:
        InputError: a value is unknown, or the combination is not supported.
    """
    if seeds not in ("pooled", "learned"):
        raise InputError(f"seeds must be 'pooled' or 'learned', got {seeds!r}.")
    if seeds == "learned" and clustering != "soft":
        raise InputError(
            f"Learned seeds need clustering='soft', got {clustering!r}: seeds get no gradient through hard or "
            "static assignments. Use seeds='pooled'."
        )
    if seeds == "learned" and follow_aspect:
        raise InputError(
            "The number of learned seeds is fixed, so the slot grid cannot follow the aspect ratio of the image."
        )
    if clustering == "soft":
        return SoftBridge(dim, grid, follow_aspect, seeds=seeds, scale=scale, device=device, dtype=dtype)
    if clustering == "kmeans":
        return KMeansBridge(grid, follow_aspect, iterations=kmeans_iterations)
    if clustering == "static":
        return StaticBridge(grid, follow_aspect)
    raise InputError(f"clustering must be 'soft', 'kmeans' or 'static', got {clustering!r}.")
