"""One stage of GLNet."""

import torch
from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers import Block, apply_layers, convolve

__all__ = ["Stage"]


class Stage(nn.Module):
    """A stage: a transition that downsamples (the identity in the first stage), followed by blocks."""

    def __init__(self, downsample: nn.Module, blocks: list[Block]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x) if torch.jit.is_scripting() else apply_layers(self.downsample, x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)

    @torch.jit.unused
    def forward_padded(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the stage to a padded batch; return the pixels and the mask (B, H, W) for their grid."""
        if isinstance(self.downsample, nn.Sequential):
            x, mask = convolve(self.downsample, x, mask)
        for block in self.blocks:
            x = checkpoint(block, x, mask, use_reentrant=False) if self.grad_checkpointing else block(x, mask)
        return x, mask
