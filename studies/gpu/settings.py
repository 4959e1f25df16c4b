"""Settings of the GPU suite: the device, and full or tiny workloads."""

from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

from glmix.models import MODEL_NAMES

__all__ = ["Row", "Settings", "relative_error"]

Row = dict[str, object]


@dataclass(frozen=True)
class Settings:
    """Workloads of the suite.

    Args:
        device: torch device.
        smoke: tiny models and images and few repetitions, to test the suite itself in seconds.
    """

    device: str = "cuda"
    smoke: bool = False

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @property
    def variants(self) -> tuple[str, ...]:
        """Every registered GLNet."""
        return ("test_glnet",) if self.smoke else MODEL_NAMES

    @property
    def size(self) -> int:
        """Image height and width."""
        return 64 if self.smoke else 224

    def pick(self, *names: str) -> tuple[str, ...]:
        """Return the names, or the tiny model in their place."""
        return ("test_glnet",) if self.smoke else names

    def build(self, name: str, **options: object) -> nn.Module:
        """Return a model with random weights, the same on every call, on the CPU."""
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, **options)
        return model

    def images(self, batch: int, size: int | None = None) -> Tensor:
        """Return random images (B, 3, H, W) on the CPU, the same on every call."""
        size = self.size if size is None else size
        return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))

    def synchronize(self) -> None:
        """Wait for the GPU, which computes asynchronously."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return |found - expected| / |expected| in Euclidean norms, computed in float64 on the CPU."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())
