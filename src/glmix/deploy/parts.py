"""Parts of a network that compute the same in another order, each where that was measured to be faster.

A layer becomes one of these by its class; they have nothing of their own.
"""

import math

from timm.layers import Attention
from torch import Tensor, cat

from ..layers import ConvMlp, SoftBridge

__all__ = ["BandedMlp", "BoundedBridge", "ShortAttention"]


class BoundedBridge(SoftBridge):
    """Soft clustering whose two softmaxes share their exponentials, for a compiler to fuse.

    Logits are cosines by a scale, so they are never above it: no maximum has to be found first. Three times as fast
    as two softmaxes when compiled for a CPU, and as fast when not.
    """

    LARGEST = 40.0  # a scale: exp(-80) is a normal number of float32

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if mask is not None:
            return super().forward(y, x, mask)
        shares = (self.logits(y, x) - self.scale.abs()).exp()
        clustering, assignment = (shares * shares.sum(dim, keepdim=True).reciprocal() for dim in (2, 1))
        return clustering.to(y.dtype), assignment.to(y.dtype)


class BandedMlp(ConvMlp):
    """A ConvMlp that takes a few images, or a few rows of one, at a time: what lies between its layers stays in the
    cache of a CPU.

    With a depthwise convolution that is a fifth faster in float32, without one it needs less memory in the same time.
    The convolution looks beyond a band's borders, so the first layer gets those rows too.
    """

    CACHE = 5 << 20  # bytes between the layers: from 2 to 10 MiB measured alike
    MOST = 32  # bands, as a compiler unrolls them

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        images, _, height, width = x.shape
        each = self.fc1.out_channels * height * width * x.element_size()  # bytes between the layers
        if mask is not None or images * each <= self.CACHE:
            return super().forward(x, mask)
        if each <= self.CACHE or images >= self.MOST:
            parts = min(math.ceil(images / max(1, self.CACHE // each)), self.MOST)
            return cat([self.band(part, 0, height) for part in x.split(math.ceil(images / parts))])
        rows = math.ceil(height / min(math.ceil(each / self.CACHE), self.MOST // images))
        return cat([cat([self.band(one, row, row + rows) for row in range(0, height, rows)], 2) for one in x.split(1)])

    def band(self, x: Tensor, first: int, last: int) -> Tensor:
        """The rows from `first` to before `last`."""
        if self.depthwise is None:
            return self.fc2(self.act(self.fc1(x[:, :, first:last])))
        beyond = int(self.depthwise.padding[0])
        above = min(first, beyond)
        h = self.act(self.depthwise(self.fc1(x[:, :, first - above : last + beyond])))
        return self.fc2(h[:, :, above : above + last - first])


class ShortAttention(Attention):  # type: ignore[misc]
    """Attention in bfloat16 on a CPU that multiplies matrices among few tokens: fused attention makes blocks for many.

    In float32 there is nothing to gain.
    """

    FEW = 256  # tokens: among 196 this is 1.6 times as fast, among 784 half as fast

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) to the same; the mask is added to logits (B, heads, N, N)."""
        if x.shape[1] > self.FEW:
            mixed: Tensor = super().forward(x, attn_mask)
            return mixed
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim))  # (B, N, 3, heads, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        logits = (q * self.scale) @ k.transpose(2, 3)
        weights = (logits if attn_mask is None else logits + attn_mask).softmax(3)
        few: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return few
