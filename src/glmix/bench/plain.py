"""A reference implementation of GLNet that follows the formulas literally, as a baseline for faster implementations.

It uses NCHW memory, normalised copies of pixels and seeds, permutations for LayerNorm, `nn.MultiheadAttention`, and
separate additions for residual convolutions. The tests compare all other forms with it.
"""

import copy

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..layers import Block, GLMix, GridAttention, LocalBranch, ResidualConv2d, SoftBridge, without_identity
from ..models import GLNet
from ..models.stage import Stage

__all__ = ["PlainGLNet", "plain_form"]


def plain_form(model: GLNet) -> "PlainGLNet":
    """Return a trainable copy of a GLNet as reference implementation.

    Args:
        model: a GLNet with soft clustering on a fixed slot grid, or without slots.

    Raises:
        InputError: the model is not supported.
    """
    return PlainGLNet(copy.deepcopy(model)).train(model.training)


class PlainGLNet(nn.Module):
    """The reference implementation of a GLNet classifier: images (B, C, H, W) to logits (B, K)."""

    def __init__(self, model: GLNet) -> None:
        super().__init__()
        if not isinstance(model, GLNet):
            raise InputError(f"The form plain is supported only for GLNets, got {type(model).__name__}.")
        self.stem = model.stem.layers
        stages = [stage for stage in model.stages if isinstance(stage, Stage)]
        self.downsamples = nn.ModuleList([stage.downsample for stage in stages])
        self.stages = nn.ModuleList(
            [nn.Sequential(*[PlainBlock(b) for b in stage.blocks if isinstance(b, Block)]) for stage in stages]
        )
        self.norm = model.norm
        self.classify = model.forward_head
        self.heads = nn.ModuleList([model.head, getattr(model, "aux_head", nn.Identity())])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.contiguous())
        for downsample, stage in zip(self.downsamples, self.stages, strict=True):
            x = stage(downsample(x))
        return self.classify(self.norm(x))


class PlainBlock(nn.Module):
    """The reference implementation of a block; layers that need no change are reused."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.position = None if block.pos_conv is None else _convolution(block.pos_conv)
        self.norm1, self.norm2 = _norm(block.norm1), _norm(block.norm2)
        mixer = block.mixer
        self.local = mixer.local if isinstance(mixer, GLMix) else None
        self.slots = None if isinstance(mixer, GLMix) and mixer.bridge is None else PlainAttention(mixer)
        self.ls1, self.drop1, self.ls2, self.drop2 = block.ls1, block.drop_path1, block.ls2, block.drop_path2
        self.expand, self.project = block.mlp.fc1, block.mlp.fc2
        self.depthwise = None if block.mlp.depthwise is None else _convolution(block.mlp.depthwise)

    def forward(self, x: Tensor) -> Tensor:
        block_input = x
        if self.position is not None:
            x = x + self.position(x)
        x = x + self.drop1(self.ls1(self.mix(_normalise(x, self.norm1), block_input)))
        h = self.expand(_normalise(x, self.norm2))
        if self.depthwise is not None:
            h = h + self.depthwise(h)
        return x + self.drop2(self.ls2(self.project(F.gelu(h))))

    def mix(self, y: Tensor, block_input: Tensor) -> Tensor:
        """Return the sum of the global and local features, or the one that exists."""
        mixed = None if self.slots is None else self.slots(y, block_input)
        if isinstance(self.local, LocalBranch):
            local = self.local.pointwise_out(self.local.depthwise(self.local.pointwise_in(y)))
            mixed = local if mixed is None else mixed + local
        assert mixed is not None
        return mixed


class PlainAttention(nn.Module):
    """Attention over slots with clustering and dispatching, or over all pixels."""

    def __init__(self, mixer: GLMix | GridAttention) -> None:
        super().__init__()
        bridge = mixer.bridge if isinstance(mixer, GLMix) else None
        if bridge is not None and (not isinstance(bridge, SoftBridge) or bridge.follow_aspect):
            raise InputError(f"The form plain supports only soft clustering on a fixed slot grid, got {bridge}.")
        self.bridge = bridge
        self.attention = None if mixer.attn is None else _multihead(mixer.attn)

    def forward(self, y: Tensor, block_input: Tensor) -> Tensor:
        pixels = y.flatten(2).transpose(1, 2)  # (B, N, C)
        if self.bridge is None:
            return self.attend(pixels).transpose(1, 2).reshape(y.shape)
        if self.bridge.seeds is None:
            seeds = F.adaptive_avg_pool2d(block_input, (self.bridge.rows, self.bridge.cols)).flatten(2).transpose(1, 2)
        else:
            seeds = self.bridge.seeds.expand(len(y), -1, -1)  # (B, S, C)
        cosine = torch.einsum(
            "bsc,bnc->bsn", F.normalize(seeds, dim=-1, eps=1e-12), F.normalize(pixels, dim=-1, eps=1e-12)
        )
        logits = self.bridge.scale * cosine
        slots = self.attend(torch.einsum("bsn,bnc->bsc", logits.softmax(2), pixels))
        return torch.einsum("bsn,bsc->bnc", logits.softmax(1), slots).transpose(1, 2).reshape(y.shape)

    def attend(self, tokens: Tensor) -> Tensor:
        """Apply self-attention, if there is any, to tokens (B, N, C)."""
        if self.attention is None:
            return tokens
        mixed: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return mixed


def _norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """Convert timm's LayerNorm2d to nn.LayerNorm with the same parameters."""
    plain = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    plain.weight, plain.bias = norm.weight, norm.bias
    return plain


def _normalise(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise the channels of (B, C, H, W) and keep NCHW memory."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


def _multihead(attn: Attention) -> nn.MultiheadAttention:
    """Convert timm's attention to nn.MultiheadAttention with the same parameters."""
    dim = attn.qkv.in_features
    plain = nn.MultiheadAttention(dim, attn.num_heads, batch_first=True)
    plain.in_proj_weight, plain.in_proj_bias = attn.qkv.weight, attn.qkv.bias
    plain.out_proj.weight, plain.out_proj.bias = attn.proj.weight, attn.proj.bias
    return plain


def _convolution(conv: nn.Conv2d) -> nn.Conv2d:
    """Remove the residual connection of a convolution, if it has one."""
    return without_identity(conv) if isinstance(conv, ResidualConv2d) else conv
