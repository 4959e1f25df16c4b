"""The GLNet variant for token labelling, with an auxiliary classifier for each position of the final feature map."""

from typing import Any

import torch
from torch import Tensor, nn

from .glnet import GLNet, init_linear

__all__ = ["Box", "GLNetTokenLabel", "random_box", "swap_in_box"]

Box = tuple[int, int, int, int]  # (top, bottom, left, right) on the grid of the final features


def random_box(rows: int, cols: int) -> Box:
    """Draw a box whose area is a uniformly drawn fraction of the grid, clipped to the grid, as in CutMix.

    Random numbers come from torch's default generator.
    """
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
    """Exchange the content of a box between each image and its partner at the mirrored batch position.

    A second call with the same box undoes the first one.

    Args:
        x: features (B, C, H, W).
        box: the box on the grid of the final features.
        scale: side length in pixels of x of one cell of that grid.
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
        """Return the auxiliary logits for each position: (B, C, H, W) -> (B, N, num_classes)."""
        return self.aux_head(x.flatten(2).transpose(1, 2))

    def forward_dense(self, x: Tensor, box: Box | None = None) -> tuple[Tensor, Tensor, Box | None]:
        """Return the outputs for training with token labels.

        In training mode the images are mixed within a box after the stem (CutMix). cls is the classification of the
        mixed images. aux is swapped back, so that each of its positions belongs to the original image.

        Args:
            x: images (B, C, H, W).
            box: the box on the grid of the final features; None to draw one.

        Returns:
            cls (B, K), aux (B, h, w, K) and the box; in evaluation mode the given box.
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
        """Return the logits for final features (B, C, H, W), or the pooled features if `pre_logits` is true."""
        cls = self.head(x, pre_logits=pre_logits)
        if pre_logits or self.num_classes == 0:
            return cls
        peak = self.forward_aux(x).amax(dim=1)
        if (
            self.head.use_conv
        ):  # no pooling: cls is a map (B, K, h, w), whose mean over positions equals the pooled logits
            peak = peak[:, :, None, None]
        return cls + 0.5 * peak
