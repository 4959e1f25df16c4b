"""Three ways to make slots out of pixels, as interchangeable modules: soft, k-means, static.

Each maps a block's normalised pixels `y` and the block's input `x`, both (B, C, H, W), to the pair of matrices
(`clustering`, `assignment`), both (B, S, N), that `slots.py` defines. A forward hook on a bridge sees the pair: that
is all there is to looking into a model. In a padded batch a mask (B, H, W) says where the image is, and padding has no
weight in clustering.
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

# Leaves of a symbolic trace: they branch on dtypes and build index grids from sizes.
for _name in ("cosine_logits", "fit_grid", "kmeans_centres", "pool_to_grid", "regular_pair"):
    torch.fx.wrap(_name)

Clustering = Literal["soft", "kmeans", "static"]
Seeds = Literal["pooled", "learned"]


def slot_grid_of(num_slots: int) -> tuple[int, int]:
    """The most nearly square grid with exactly `num_slots` cells: 64 -> (8, 8), 96 -> (8, 12)."""
    if num_slots < 1:
        raise InputError(f"num_slots must be at least 1, got {num_slots}.")
    rows = max(r for r in range(1, int(num_slots**0.5) + 1) if num_slots % r == 0)
    return rows, num_slots // rows


class Bridge(nn.Module):
    """What the three have in common: a grid of slots, fixed or following the aspect ratio of the image."""

    def __init__(self, grid: tuple[int, int], follow_aspect: bool) -> None:
        super().__init__()
        self.set_grid(grid, follow_aspect)

    @torch.jit.ignore
    def set_grid(self, grid: tuple[int, int], follow_aspect: bool = False) -> None:
        """Change the grid of slots, also of a trained model: neither pooled seeds nor regions have parameters."""
        rows, cols = grid
        if rows < 1 or cols < 1:
            raise InputError(f"A slot grid needs at least one row and one column, got {rows} rows and {cols} columns.")
        self.rows, self.cols = int(rows), int(cols)
        self.follow_aspect = follow_aspect

    def grid_for(self, x: Tensor, mask: Tensor | None) -> tuple[int, int]:
        if self.follow_aspect:
            if mask is not None:
                raise InputError(
                    "A grid of slots that follows the aspect ratio of the image is one for the whole batch, and images "
                    "that are padded to one size differ in theirs: set a fixed slot grid, or batch images of one size."
                )
            return fit_grid(self.rows * self.cols, x.shape[2], x.shape[3])
        return self.rows, self.cols

    def extra_repr(self) -> str:
        return f"grid={self.rows}x{self.cols}" + (", follow_aspect=True" if self.follow_aspect else "")


class SoftBridge(Bridge):
    """The paper's: softmaxes of the scaled cosine between pixels and seeds, pooled from the image or learned."""

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
        # shape (1,), not (): parameters without a dimension cannot be sharded
        self.scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.seeds = (
            nn.Parameter(torch.empty(1, self.rows * self.cols, dim, device=device, dtype=dtype))
            if seeds == "learned"
            else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, self.initial_scale)
        if self.seeds is not None:
            nn.init.normal_(self.seeds, std=0.02)

    @torch.jit.ignore
    def set_grid(self, grid: tuple[int, int], follow_aspect: bool = False) -> None:
        if getattr(self, "seeds", None) is not None:
            raise InputError(
                f"This model has {self.rows * self.cols} learned seeds, so its slots cannot be changed to "
                f"{grid[0]} rows and {grid[1]} columns; only models with pooled seeds can change them."
            )
        super().set_grid(grid, follow_aspect)

    def logits(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """How alike seeds and pixels are, (B, S, N): cosines by the scale."""
        if self.seeds is not None:
            seeds = self.seeds.expand(y.shape[0], -1, -1)
        else:
            rows, cols = self.grid_for(x, mask)
            seeds = pool_to_grid(x, rows, cols, mask)
        return cosine_logits(seeds, pixels_of(y), self.scale)

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return soft_pair(self.logits(y, x, mask), y.dtype, mask)


class KMeansBridge(Bridge):
    """Hard clusters: a few Lloyd iterations from the same pooled seeds. Gradients flow through the means alone."""

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
    """Slots are the cells of a regular grid: what clustering by content must beat."""

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
    """The bridge that `clustering` names; combinations that mean nothing are refused. Only `soft` has a scale."""
    if seeds not in ("pooled", "learned"):
        raise InputError(f"seeds must be 'pooled' or 'learned', got {seeds!r}.")
    if seeds == "learned" and clustering != "soft":
        raise InputError(
            f"Learned seeds need clustering='soft', got {clustering!r}: no gradient reaches seeds through hard or "
            "fixed assignments. Use seeds='pooled'."
        )
    if seeds == "learned" and follow_aspect:
        raise InputError("Learned seeds are fixed in number, so slots cannot follow the aspect ratio of the image.")
    if clustering == "soft":
        return SoftBridge(dim, grid, follow_aspect, seeds=seeds, scale=scale, device=device, dtype=dtype)
    if clustering == "kmeans":
        return KMeansBridge(grid, follow_aspect, iterations=kmeans_iterations)
    if clustering == "static":
        return StaticBridge(grid, follow_aspect)
    raise InputError(f"clustering must be 'soft', 'kmeans' or 'static', got {clustering!r}.")
