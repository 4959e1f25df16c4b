"""Random crops of photographs with pasted cut-outs, made on the GPU."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import roi_align
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from glmix.data.core.image_files import read_upright
from glmix.errors import InputError

__all__ = ["Crops", "find_photographs", "read_stack"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def find_photographs(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted.

    Raises:
        InputError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{folder} contains no {', '.join(sorted(SUFFIXES))} files.")
    return found


def read_stack(files: Sequence[Path], side: int, mode: str, device: str) -> tuple[Tensor, Tensor]:
    """Read images and scale them to squares.

    Args:
        files: image files.
        side: height and width of the squares.
        mode: RGB or RGBA.
        device: device of the result.

    Returns:
        Pixels (N, 3 or 4, side, side) from 0 to 1 in float16, and the aspect ratios (N,), width by height.
    """
    pixels, aspects = [], []
    for file in tqdm(files, desc="reading", unit="image", disable=None, leave=False):
        image = read_upright(file) if mode == "RGB" else Image.open(file).convert(mode)
        aspects.append(image.width / image.height)
        pixels.append(pil_to_tensor(image.resize((side, side), Image.Resampling.LANCZOS)))
    return torch.stack(pixels).to(device).half() / 255, torch.tensor(aspects, device=device)


class Crops:
    """Batches of random crops of photographs: scaled, flipped, with other colours, with cut-outs, and mixed by CutMix.

    Args:
        photographs: pixels (N, 3, S, S) and aspect ratios, from `read_stack`.
        cut_outs: the same with an alpha channel, (M, 4, S, S); None for none.
        size: height and width of the crops.
        seed: seed of all random numbers.
    """

    def __init__(
        self, photographs: tuple[Tensor, Tensor], cut_outs: tuple[Tensor, Tensor] | None, size: int, seed: int = 0
    ) -> None:
        self.pixels, self.aspects = photographs
        self.cut_outs = cut_outs
        self.size = size
        self.device = self.pixels.device
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def _uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(count, device=self.device, generator=self.generator)

    def _choose(self, count: int, total: int) -> Tensor:
        return torch.randint(total, (count,), device=self.device, generator=self.generator)

    def batch(self, count: int) -> Tensor:
        """Return images (B, 3, size, size) in float32, from 0 to 1."""
        images = self._cropped(count)
        if self.cut_outs is not None:
            images = self._pasted(images)
        return self._mixed(self._coloured(images))

    def _cropped(self, count: int) -> Tensor:
        """Crop 5 % to 100 % of the area with aspect ratios from 3/4 to 4/3; half of the crops are flipped."""
        chosen, side = self._choose(count, len(self.pixels)), self.pixels.shape[-1]
        area, ratio = self._uniform(count, 0.05, 1.0), self._uniform(count, 0.75, 4 / 3)
        ratio = ratio / self.aspects[chosen]  # in the coordinates of the square
        width = (area * ratio).sqrt().clamp_max(1) * side
        height = (area / ratio).sqrt().clamp_max(1) * side
        left, top = self._uniform(count) * (side - width), self._uniform(count) * (side - height)
        boxes = torch.stack([chosen.float(), left, top, left + width, top + height], 1).to(self.pixels.dtype)
        crops: Tensor = roi_align(self.pixels, boxes, self.size, sampling_ratio=2, aligned=True).float()
        flipped = self._uniform(count) < 0.5
        return torch.where(flipped.view(-1, 1, 1, 1), crops.flip(3), crops)

    def _pasted(self, images: Tensor) -> Tensor:
        """Paste a cut-out on half of the images: scaled to 30 % to 100 % of the side, turned by up to 30 degrees."""
        assert self.cut_outs is not None
        pixels, aspects = self.cut_outs
        count = len(images)
        chosen = self._choose(count, len(pixels))
        scale, angle = self._uniform(count, 0.3, 1.0), self._uniform(count, -0.52, 0.52)
        sign = torch.where(self._uniform(count) < 0.5, -1.0, 1.0)
        aspect = aspects[chosen]
        # from the canvas to the cut-out: the inverse of scaling, turning and moving
        wide, high = scale * aspect.clamp_max(1), scale / aspect.clamp_min(1)
        cos, sin = angle.cos(), angle.sin()
        x, y = (self._uniform(count, -1, 1) * (1 - 0.7 * scale) for _ in range(2))
        rows = [cos / wide * sign, sin / wide * sign, -(cos * x + sin * y) / wide * sign]
        rows += [-sin / high, cos / high, (sin * x - cos * y) / high]
        theta = torch.stack(rows, 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, [count, 4, self.size, self.size], align_corners=False)
        pasted = F.grid_sample(pixels[chosen].float(), grid, align_corners=False)
        alpha = pasted[:, 3:] * (self._uniform(count) < 0.5).view(-1, 1, 1, 1)
        return alpha * pasted[:, :3] + (1 - alpha) * images

    def _coloured(self, images: Tensor) -> Tensor:
        """Change brightness, contrast and saturation by up to 40 %."""
        brightness, contrast, saturation = (self._uniform(len(images), 0.6, 1.4).view(-1, 1, 1, 1) for _ in range(3))
        images = images * brightness
        images = (images - images.mean((1, 2, 3), keepdim=True)) * contrast + images.mean((1, 2, 3), keepdim=True)
        grey = images.mean(1, keepdim=True)
        return ((images - grey) * saturation + grey).clamp(0, 1)

    def _mixed(self, images: Tensor) -> Tensor:
        """Replace a rectangle of half of the images by that of another image of the batch (CutMix)."""
        count, size = len(images), self.size
        share = self._uniform(count, 0.2, 0.7)  # fraction of the side
        left, top = self._uniform(count) * (1 - share), self._uniform(count) * (1 - share)
        position = (torch.arange(size, device=self.device) + 0.5) / size
        across = (position >= left[:, None]) & (position < (left + share)[:, None])
        down = (position >= top[:, None]) & (position < (top + share)[:, None])
        inside = (down[:, None, :, None] & across[:, None, None, :]) & (self._uniform(count) < 0.5).view(-1, 1, 1, 1)
        return torch.where(inside, images.roll(1, 0), images)
