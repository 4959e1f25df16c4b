"""The variant trained with token labelling: an auxiliary classifier on every position of the final features."""

from typing import Any

import torch
from torch import Tensor, nn

from .glnet import GLNet, init_linear

__all__ = ["Box", "GLNetTokenLabel", "random_box", "swap_in_box"]

Box = tuple[int, int, int, int]  # rows from, to and columns from, to, on the grid of the final features


def random_box(rows: int, cols: int) -> Box:
    """A box with a uniformly drawn share of the grid, cut off at its edges, from torch's default generator."""
    share, up, left = torch.rand(3).tolist()
    height, width = int(rows * share**0.5), int(cols * share**0.5)
    row, col = int(up * rows), int(left * cols)
    return (
        max(row - height // 2, 0),
        min(row + height // 2, rows),
        max(col - width // 2, 0),
        min(col + width // 2, cols),
    )


def swap_in_box(x: Tensor, box: Box, scale: int = 1) -> Tensor:
    """Inside the box every image shows what its partner, counted from the batch's other end, shows there.

    x is (B, C, H, W) and its own inverse is the same call again, whatever `scale` cells the box's cells have.
    """
    top, bottom, left, right = (scale * edge for edge in box)
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
    return mixed


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
            init_linear(self.aux_head)
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

    def forward_dense(self, x: Tensor, box: Box | None = None) -> tuple[Tensor, Tensor, Box | None]:
        """What training with token labels needs: images (B, C, H, W) to cls (B, K), aux (B, h, w, K) and the box.

        In training mode images are mixed behind the stem, within a box of the final grid, which is drawn unless it
        is given. cls sees the mixture; aux is sorted back, so that each of its cells belongs to its own image.
        """
        x = self.stem(x)
        if self.training:
            scale = self.feature_info[-1]["reduction"] // self.feature_info[0]["reduction"]
            box = random_box(x.shape[2] // scale, x.shape[3] // scale) if box is None else box
            x = swap_in_box(x, box, scale)
        x = self.norm(self.stages(x))
        cls = self.head(x)
        aux = self.forward_aux(x).transpose(1, 2).unflatten(2, x.shape[2:])  # (B, K, h, w)
        if self.training and box is not None:
            aux = swap_in_box(aux, box)
        return cls, aux.permute(0, 2, 3, 1), box

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        cls = self.head(x, pre_logits=pre_logits)
        if pre_logits or self.num_classes == 0:
            return cls
        peak = self.forward_aux(x).amax(dim=1)
        if self.head.use_conv:  # nothing is pooled: cls is a map, whose mean over positions are the pooled logits
            peak = peak[:, :, None, None]
        return cls + 0.5 * peak
