"""A feature pyramid from a GLNet backbone for dense prediction."""

import copy
from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..compat import BatchNorm
from .glnet import GLNet

__all__ = ["Pyramid"]


class Pyramid(nn.Module):
    """The feature maps of the stages of a GLNet, from high to low resolution, without classifier and final norm.

    The pyramid contains a copy of the model's modules that shares parameters and buffers with the model. The head, the
    training mode and the slot grid of `model` do not change. Training the pyramid changes the weights of both, also
    with an optimiser that was created with the parameters of the model. Move the model to its device and dtype before
    creating the pyramid: moving the pyramid does not move the buffers of the model.

    Args:
        model: the backbone. The pyramid starts in its training or evaluation mode.
        out_indices: the stages whose feature maps are returned.
        norm: apply a separate LayerNorm to each returned feature map; the next stage gets the map without it.
        frozen_statistics: keep the running statistics of BatchNorm fixed during training, for small or padded batches.
            Its weights and biases are trained.
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
        self.model = copy.deepcopy(model, shared)  # objects in the second argument are not copied
        indices = self.model.prune_intermediate_layers(list(out_indices), prune_norm=True)
        self.out_indices = tuple(indices)
        self.frozen_statistics = frozen_statistics
        self.channels: list[int] = [model.feature_info[i]["num_chs"] for i in indices]
        self.reductions: list[int] = [model.feature_info[i]["reduction"] for i in indices]
        self.norms = nn.ModuleList(LayerNorm2d(dim, eps=1e-6) if norm else nn.Identity() for dim in self.channels)
        reference = next(model.parameters())
        self.norms.to(reference.device, reference.dtype).train(model.training)
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
        """Enable or disable gradient checkpointing, which saves memory in training."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Return the feature maps of the selected stages.

        Args:
            x: images (B, C, H, W).
            mask: for a padded batch: (B, H, W), true for image pixels.

        Returns:
            [(B, C_i, H_i, W_i), ...], one per selected stage.
        """
        maps = self.model.forward_intermediates(x, list(self.out_indices), intermediates_only=True, mask=mask)
        return [norm(features) for norm, features in zip(self.norms, maps, strict=True)]
