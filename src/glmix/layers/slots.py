"""Functions for clustering pixels into semantic slots and dispatching slots to pixels.

Shapes: B images, C channels, an H x W grid of N = H * W pixels (row by row), S slots on a G x K grid.

A bridge between pixels and slots is a pair of matrices, both (B, S, N). `clustering` sums to one over pixels: each slot
is a weighted mean of pixels. `assignment` sums to one over slots: each pixel gets a weighted mean of slots. Most
functions compute such pairs; `cluster` and `dispatch` use them to move features from pixels to slots and back.
"""

import math

import torch
from timm.layers import register_notrace_function
from torch import Tensor
from torch.nn import functional as F

from .capture import is_capturing, is_exporting, must_be_deterministic
from .padding import cells_of, fill_padding, pool_masked

__all__ = [
    "cluster",
    "cosine_logits",
    "dispatch",
    "fit_grid",
    "hard_assignment",
    "hard_pair",
    "kmeans_centres",
    "pixels_of",
    "pool_by_products",
    "pool_to_grid",
    "pooling_matrix",
    "regular_pair",
    "soft_pair",
]


@register_notrace_function
def fit_grid(num_slots: int, height: int, width: int) -> tuple[int, int]:
    """Return the grid (rows, columns) of about `num_slots` nearly square cells for an image of height x width."""
    rows = max(1, int(round(math.sqrt(num_slots * height / width))))  # noqa: RUF046 (TorchScript rounds to float)
    return rows, max(1, int(round(num_slots / rows)))  # noqa: RUF046


def pooling_windows(size: int, bins: int, device: torch.device) -> Tensor:
    """Return which of `size` positions lie in each of `bins` adaptive-pooling windows: (bins, size), boolean.

    The windows are those of `adaptive_avg_pool`: from floor(i * size / bins) to ceil((i + 1) * size / bins). Adjacent
    windows overlap if `bins` does not divide `size`, and repeat positions if `bins` is larger than `size`.
    """
    index = torch.arange(bins, device=device).unsqueeze(1)
    position = torch.arange(size, device=device).unsqueeze(0)
    start = (index * size).div(bins, rounding_mode="floor")
    end = ((index + 1) * size + bins - 1).div(bins, rounding_mode="floor")
    return (position >= start) & (position < end)


def pooling_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """Return the matrix (bins, size) of adaptive average pooling, with the device and dtype of `like`."""
    windows = pooling_windows(size, bins, like.device).to(like.dtype)
    return windows / windows.sum(1, keepdim=True)


def pool_by_products(x: Tensor, rows: int, cols: int) -> Tensor:
    """Compute `pool_to_grid` as products with two averaging matrices: (B, C, H, W) -> (B, S, C)."""
    down = pooling_matrix(x.shape[2], rows, x)  # (G, H)
    across = pooling_matrix(x.shape[3], cols, x)  # (K, W)
    pooled = across @ x.permute(0, 2, 3, 1)  # (B, H, K, C): a view of channels-last memory
    return (down @ pooled.flatten(2)).unflatten(2, (cols, -1)).flatten(1, 2)  # (B, G, K * C) -> (B, S, C)


@register_notrace_function
def pool_to_grid(x: Tensor, rows: int, cols: int, mask: Tensor | None = None) -> Tensor:
    """Pool images to a regular grid by adaptive averaging: (B, C, H, W) -> (B, S, C), S = rows * cols.

    Captured graphs use products with two averaging matrices for the same windows. With adaptive pooling, a trace has
    fixed H and W, the TorchScript-based ONNX exporter supports only grids that divide the image size, and
    `torch.jit.optimize_for_inference` crashes. The order of summation differs, so the results agree up to rounding.
    The same products are used on a GPU if PyTorch must be deterministic: the gradient of adaptive pooling is not.
    """
    if mask is not None:
        return pool_masked(x, mask, rows, cols)
    if is_exporting():
        # exported graphs keep the memory format of their input, and their batch size may be constant
        down, across = pooling_matrix(x.shape[2], rows, x), pooling_matrix(x.shape[3], cols, x)
        return (down @ x @ across.t()).flatten(2).transpose(1, 2)  # (B, C, G, K) -> (B, S, C)
    if is_capturing() or must_be_deterministic(x):
        return pool_by_products(x, rows, cols)
    return F.adaptive_avg_pool2d(x, (rows, cols)).flatten(2).transpose(1, 2)


def pixels_of(x: Tensor) -> Tensor:
    """Flatten the pixel grid: (B, C, H, W) -> (B, N, C). This is a view if x is channels-last."""
    return x.flatten(2).transpose(1, 2)


@register_notrace_function
def cosine_logits(seeds: Tensor, pixels: Tensor, scale: Tensor) -> Tensor:
    """Return scale * cos(seed, pixel): (B, S, C), (B, N, C), (1,) -> (B, S, N), in at least float32.

    The norms are computed and clamped in at least float32: in float16 an epsilon of 1e-12 is zero, which would divide
    zero pixels by zero. The products are divided by the pixel norms, not the pixels, to avoid a copy of the pixels.
    """
    half = pixels.dtype == torch.float16 or pixels.dtype == torch.bfloat16
    dtype = torch.float32 if half else pixels.dtype
    seed_norm = torch.linalg.vector_norm(seeds, dim=-1, keepdim=True, dtype=dtype).clamp_min(1e-12)
    pixel_norm = torch.linalg.vector_norm(pixels, dim=-1, dtype=dtype).clamp_min(1e-12)
    directions = (seeds * (scale / seed_norm)).to(pixels.dtype)
    return (directions @ pixels.transpose(1, 2)).to(dtype) / pixel_norm.unsqueeze(1)


def soft_pair(logits: Tensor, dtype: torch.dtype, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the matrices of soft clustering (as in the paper): two softmaxes of the same logits (B, S, N)."""
    masked = logits if mask is None else fill_padding(logits, mask)
    return masked.softmax(dim=2).to(dtype), logits.softmax(dim=1).to(dtype)


def hard_assignment(logits: Tensor, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """Return the one-hot assignment of each pixel to its most similar slot, (B, S, N); zeros for padding pixels."""
    one_hot = torch.zeros_like(logits, dtype=dtype).scatter(1, logits.argmax(dim=1, keepdim=True), 1.0)
    return one_hot if mask is None else fill_padding(one_hot, mask, 0.0)


def hard_pair(assignment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the clustering matrix for a one-hot assignment (B, S, N), and the assignment; empty slots are zero."""
    counts = assignment.sum(dim=2, keepdim=True, dtype=torch.float32).clamp_min(1.0)
    return assignment * counts.reciprocal().to(assignment.dtype), assignment


@register_notrace_function
def kmeans_centres(seeds: Tensor, pixels: Tensor, iterations: int, mask: Tensor | None = None) -> Tensor:
    """Return the centres of spherical k-means: (B, S, C), (B, N, C) -> (B, S, C). Empty clusters keep their centre."""
    one = torch.ones(1, device=pixels.device, dtype=pixels.dtype)
    for _ in range(iterations):
        assignment = hard_assignment(cosine_logits(seeds, pixels, one), pixels.dtype, mask)
        clustering, assignment = hard_pair(assignment)
        seeds = torch.where(assignment.amax(dim=2, keepdim=True) > 0, cluster(clustering, pixels), seeds)
    return seeds


@register_notrace_function
def regular_pair(x: Tensor, rows: int, cols: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the clustering and assignment matrices (B, S, N) of a regular grid of cells over x (B, C, H, W)."""
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
    """Average pixels to slots: (B, S, N), (B, N, C) -> (B, S, C)."""
    return clustering @ pixels


def dispatch(assignment: Tensor, slots: Tensor) -> Tensor:
    """Distribute slots to pixels: (B, S, N), (B, S, C) -> (B, N, C)."""
    return assignment.transpose(1, 2) @ slots
