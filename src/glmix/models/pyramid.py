"""A GLNet as the backbone of dense prediction: one feature map a stage."""

import copy
from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..compat import BatchNorm
from .glnet import GLNet

__all__ = ["Pyramid"]


class Pyramid(nn.Module):
    """The maps of a GLNet's stages, from fine to coarse, without classifier and final norm.

    It holds a copy of the model's modules that shares their parameters and buffers. So `model` keeps its head, its mode
    and its slot grid, an optimiser that was given the model's parameters trains the pyramid's, and training the pyramid
    changes the weights of both. Move the model to its device and dtype before: moving the pyramid alone would leave the
    model's buffers behind.

    Args:
        model: the network, in training or evaluation mode, which the pyramid keeps.
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
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = copy.deepcopy(model, shared)  # what is in the second argument is not copied
        taken = self.model.prune_intermediate_layers(list(out_indices), prune_norm=True)
        self.out_indices = tuple(taken)
        self.frozen_statistics = frozen_statistics
        self.channels: list[int] = [model.feature_info[i]["num_chs"] for i in taken]
        self.reductions: list[int] = [model.feature_info[i]["reduction"] for i in taken]
        self.norms = nn.ModuleList(LayerNorm2d(dim, eps=1e-6) if norm else nn.Identity() for dim in self.channels)
        like = next(model.parameters())
        self.norms.to(like.device, like.dtype).train(model.training)
        self.training = model.training
        self._freeze_statistics()

    def train(self, mode: bool = True) -> "Pyramid":
        super().train(mode)
        self._freeze_statistics()
        return self

    def _freeze_statistics(self) -> None:
        if self.frozen_statistics:
            for module in self.model.modules():
                if isinstance(module, BatchNorm):
                    module.eval()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass, to save memory."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Images (B, C, H, W), and for a padded batch where they are (B, H, W), to maps [(B, C_i, H_i, W_i), ...]."""
        maps = self.model.forward_intermediates(x, list(self.out_indices), intermediates_only=True, mask=mask)
        return [norm(features) for norm, features in zip(self.norms, maps, strict=True)]
