"""The variant trained with token labelling: an auxiliary classifier on every position of the final features."""

from typing import Any

import torch
from torch import Tensor, nn

from .glnet import GLNet

__all__ = ["GLNetTokenLabel"]


class GLNetTokenLabel(GLNet):
    """GLNet with a dense auxiliary head. The logits are cls + 0.5 * max over positions of aux."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aux_head: nn.Module = nn.Identity()
        self._reset_aux_head()

    @torch.jit.ignore
    def _reset_aux_head(self) -> None:
        if self.num_classes > 0:
            self.aux_head = nn.Linear(self.num_features, self.num_classes)
            nn.init.trunc_normal_(self.aux_head.weight, std=0.02)
            nn.init.zeros_(self.aux_head.bias)
        else:
            self.aux_head = nn.Identity()
        self._match(self.aux_head)

    @torch.jit.ignore
    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        return self.head.fc, self.aux_head

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self._reset_aux_head()

    def forward_aux(self, x: Tensor) -> Tensor:
        """Final features to a classification of each position: (B, C, H, W) -> (B, N, num_classes)."""
        return self.aux_head(x.flatten(2).transpose(1, 2))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        cls = self.head(x, pre_logits=pre_logits)
        if pre_logits or self.num_classes == 0:
            return cls
        return cls + 0.5 * self.forward_aux(x).amax(dim=1)
