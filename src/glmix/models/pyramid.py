"""A GLNet as the backbone of dense prediction: one feature map a stage."""

from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .glnet import GLNet

__all__ = ["Pyramid"]


class Pyramid(nn.Module):
    """The maps of a GLNet's stages, from fine to coarse, without classifier and final norm.

    Args:
        model: the network; its stages behind the last one asked for, its final norm and its head are taken from it.
        out_indices: stages whose maps are given.
        norm: a LayerNorm of its own on each map that is handed out. The next stage sees the map without it.
        frozen_statistics: keep the running statistics of BatchNorm as they are in training too, for small batches and
            for padded ones. Its weights and biases are trained.
    """

    def __init__(
        self,
        model: GLNet,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        *,
        norm: bool = True,
        frozen_statistics: bool = False,
    ) -> None:
        super().__init__()
        taken = model.prune_intermediate_layers(list(out_indices), prune_norm=True)
        self.model = model
        self.out_indices = tuple(taken)
        self.frozen_statistics = frozen_statistics
        self.channels: list[int] = [model.feature_info[i]["num_chs"] for i in taken]
        self.reductions: list[int] = [model.feature_info[i]["reduction"] for i in taken]
        self.norms = nn.ModuleList(LayerNorm2d(dim, eps=1e-6) if norm else nn.Identity() for dim in self.channels)
        like = next(model.parameters())
        self.norms.to(like.device, like.dtype)
        self.train(self.training)  # which freezes what is to stay

    def train(self, mode: bool = True) -> "Pyramid":
        super().train(mode)
        if self.frozen_statistics:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass, to save memory."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Images (B, C, H, W), and for a padded batch where they are (B, H, W), to maps [(B, C_i, H_i, W_i), ...]."""
        maps = self.model.forward_intermediates(x, list(self.out_indices), intermediates_only=True, mask=mask)
        return [norm(features) for norm, features in zip(self.norms, maps, strict=True)]
