"""The bridge between a fine grid of pixels and a few semantic slots, as free functions.

Letters: B images, C channels, an H x W grid of N = H * W pixels (row by row), S slots on a G x K grid.

A bridge is a pair of matrices, both (B, S, N). `clustering` sums to one over pixels: every slot is a weighted mean
of pixels. `assignment` sums to one over slots: every pixel takes a weighted mean of slots. The functions at the top
build such pairs, `cluster` and `dispatch` at the bottom carry features across, one way and the other.
"""

import math

import torch
from timm.layers import register_notrace_function
from torch import Tensor
from torch.nn import functional as F

from .capture import is_capturing, is_exporting
from .padding import cells_of, drop_pixels, pool_masked

__all__ = [
    "cluster",
    "cosine_logits",
    "dispatch",
    "fit_grid",
    "hard_assignment",
    "hard_pair",
    "kmeans_centres",
    "pixels_of",
    "pool_to_grid",
    "pooling_matrix",
    "regular_pair",
    "soft_pair",
]


@register_notrace_function
def fit_grid(num_slots: int, height: int, width: int) -> tuple[int, int]:
    """The grid of about `num_slots` cells that are as near to square as possible on a height x width image."""
    rows = max(1, int(round(math.sqrt(num_slots * height / width))))  # noqa: RUF046 (TorchScript rounds to float)
    return rows, max(1, int(round(num_slots / rows)))  # noqa: RUF046


def pooling_windows(size: int, bins: int, device: torch.device) -> Tensor:
    """Which of `size` positions lie in which of `bins` adaptive-pooling windows: (bins, size), boolean.

    The windows are those of `adaptive_avg_pool`: from floor(i * size / bins) up to ceil((i + 1) * size / bins), so
    neighbours overlap where `bins` does not divide `size`, and repeat positions where `bins` exceeds it.
    """
    index = torch.arange(bins, device=device).unsqueeze(1)
    position = torch.arange(size, device=device).unsqueeze(0)
    start = (index * size).div(bins, rounding_mode="floor")
    end = ((index + 1) * size + bins - 1).div(bins, rounding_mode="floor")
    return (position >= start) & (position < end)


def pooling_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """Adaptive average pooling of `size` positions to `bins`, as a matrix (bins, size) of `like`'s device and dtype."""
    windows = pooling_windows(size, bins, like.device).to(like.dtype)
    return windows / windows.sum(1, keepdim=True)


@register_notrace_function
def pool_to_grid(x: Tensor, rows: int, cols: int, mask: Tensor | None = None) -> Tensor:
    """Average an image over a regular grid: (B, C, H, W) -> (B, S, C), S = rows * cols.

    Captured graphs get the same windows as two products with averaging matrices: adaptive pooling fixes H and W in a
    trace, the TorchScript-based ONNX exporter has it only for grids that divide the image, and there
    `torch.jit.optimize_for_inference` crashes on it. The order of summation differs, so results agree to rounding.
    """
    if mask is not None:
        return pool_masked(x, mask, rows, cols)
    if is_capturing():
        down = pooling_matrix(x.shape[2], rows, x)  # (G, H)
        across = pooling_matrix(x.shape[3], cols, x)  # (K, W)
        if is_exporting():  # exported graphs keep the images' own memory format, and their batch may be a constant
            return (down @ x @ across.t()).flatten(2).transpose(1, 2)  # (B, C, G, K) -> (B, S, C)
        pooled = across @ x.permute(0, 2, 3, 1)  # (B, H, K, C): a view of channels-last memory
        return (down @ pooled.flatten(2)).unflatten(2, (cols, -1)).flatten(1, 2)  # (B, G, K * C) -> (B, S, C)
    return F.adaptive_avg_pool2d(x, (rows, cols)).flatten(2).transpose(1, 2)


def pixels_of(x: Tensor) -> Tensor:
    """The pixels of an image in a row: (B, C, H, W) -> (B, N, C); a view where x is channels-last."""
    return x.flatten(2).transpose(1, 2)


@register_notrace_function
def cosine_logits(seeds: Tensor, pixels: Tensor, scale: Tensor) -> Tensor:
    """scale * cos(seed, pixel): (B, S, C), (B, N, C), (1,) -> (B, S, N), in float32 where the inputs are narrower.

    Norms are taken and clamped in at least float32: in float16 an epsilon of 1e-12 is zero, and a black pixel would
    be divided by it. The pixels' norms divide the products, not the pixels: S x N divisions and no second copy of y.
    """
    narrow = pixels.dtype == torch.float16 or pixels.dtype == torch.bfloat16
    wide = torch.float32 if narrow else pixels.dtype
    seed_norm = torch.linalg.vector_norm(seeds, dim=-1, keepdim=True, dtype=wide).clamp_min(1e-12)
    pixel_norm = torch.linalg.vector_norm(pixels, dim=-1, dtype=wide).clamp_min(1e-12)
    directions = (seeds * (scale / seed_norm)).to(pixels.dtype)
    return (directions @ pixels.transpose(1, 2)).to(wide) / pixel_norm.unsqueeze(1)


def soft_pair(logits: Tensor, dtype: torch.dtype, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Soft clustering (the paper's): both matrices are softmaxes of the same logits (B, S, N)."""
    image = logits if mask is None else drop_pixels(logits, mask)
    return image.softmax(dim=2).to(dtype), logits.softmax(dim=1).to(dtype)


def hard_assignment(logits: Tensor, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """Every pixel to its most similar slot, one-hot: (B, S, N) -> (B, S, N). Padding goes to none."""
    one_hot = torch.zeros_like(logits, dtype=dtype).scatter(1, logits.argmax(dim=1, keepdim=True), 1.0)
    return one_hot if mask is None else drop_pixels(one_hot, mask, 0.0)


def hard_pair(assignment: Tensor) -> tuple[Tensor, Tensor]:
    """A one-hot assignment (B, S, N) with the means that belong to it; a slot that nobody chose takes no pixel."""
    counts = assignment.sum(dim=2, keepdim=True, dtype=torch.float32).clamp_min(1.0)
    return assignment * counts.reciprocal().to(assignment.dtype), assignment


@register_notrace_function
def kmeans_centres(seeds: Tensor, pixels: Tensor, iterations: int, mask: Tensor | None = None) -> Tensor:
    """Spherical k-means from the given seeds: (B, S, C), (B, N, C) -> (B, S, C). A centre nobody chose stays."""
    one = torch.ones(1, device=pixels.device, dtype=pixels.dtype)
    for _ in range(iterations):
        assignment = hard_assignment(cosine_logits(seeds, pixels, one), pixels.dtype, mask)
        clustering, assignment = hard_pair(assignment)
        seeds = torch.where(assignment.amax(dim=2, keepdim=True) > 0, cluster(clustering, pixels), seeds)
    return seeds


@register_notrace_function
def regular_pair(x: Tensor, rows: int, cols: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Slots that are the cells of a regular grid over x (B, C, H, W), whatever it shows: two (B, S, N)."""
    if mask is not None:
        inside = cells_of(mask, rows, cols).to(x.dtype)
        return inside / inside.sum(2, keepdim=True).clamp_min(1.0), inside / inside.sum(1, keepdim=True).clamp_min(1.0)
    down = pooling_windows(x.shape[2], rows, x.device)  # (G, H)
    across = pooling_windows(x.shape[3], cols, x.device)  # (K, W)
    cells = down[:, None, :, None] & across[None, :, None, :]  # (G, K, H, W)
    member = cells.flatten(2).flatten(0, 1).to(x.dtype)  # (S, N)
    clustering = member / member.sum(1, keepdim=True)
    assignment = member / member.sum(0, keepdim=True)
    batch = x.shape[0]
    return clustering.expand(batch, -1, -1), assignment.expand(batch, -1, -1)


def cluster(clustering: Tensor, pixels: Tensor) -> Tensor:
    """Pixels to slots: (B, S, N), (B, N, C) -> (B, S, C). The inverse direction is `dispatch`."""
    return clustering @ pixels


def dispatch(assignment: Tensor, slots: Tensor) -> Tensor:
    """Slots to pixels: (B, S, N), (B, S, C) -> (B, N, C). The inverse direction is `cluster`."""
    return assignment.transpose(1, 2) @ slots
