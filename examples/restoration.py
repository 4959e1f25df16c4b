"""A U-shaped network for image restoration from the layers of GLNet: it removes noise from generated images.

    python examples/restoration.py --steps 60

The blocks are those of GLNet. Four changes make them a restoration network: the image itself is added to the output,
so that the network predicts only the noise; each level of the decoder gets the features of the same encoder level; the
resolution is halved by `glmix.layers.transition` and doubled by PixelShuffle; images of any size are padded to a
multiple of the stride, and a mask keeps the padding out of the slots.
"""

import argparse
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmix.data import SceneConfig, SceneDataset
from glmix.layers import Block, GLMix, LocalBranch, make_bridge, self_attention, transition


def glmix_block(dim: int, slots: int = 4) -> Block:
    """Return a GLMix block with slots x slots slots."""
    bridge = make_bridge(
        dim,
        clustering="soft",
        seeds="pooled",
        grid=(slots, slots),
        follow_aspect=False,
        scale=8.0,
        kmeans_iterations=0,
    )
    mixer = GLMix(LocalBranch(dim, 5), bridge, self_attention(dim, head_dim=32))
    return Block(dim, mixer, mlp_ratio=2)


class Restorer(nn.Module):
    """U-shaped network: noisy images (B, 3, H, W) -> restored images (B, 3, H, W)."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        pairs = list(pairwise(widths))
        self.enter = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(glmix_block(dim) for dim in widths)
        self.down = nn.ModuleList(transition(dim, wider) for dim, wider in pairs)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wider, 4 * dim, 1), nn.PixelShuffle(2)) for dim, wider in reversed(pairs)
        )
        self.decoder = nn.ModuleList(glmix_block(dim) for dim, _ in reversed(pairs))
        self.leave = nn.Conv2d(widths[0], 3, 3, padding=1)
        nn.init.zeros_(self.leave.weight)  # the untrained network returns its input
        nn.init.zeros_(self.leave.bias)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        pad = (0, -width % self.stride, 0, -height % self.stride)
        x = self.enter(F.pad(images, pad))
        mask = None
        if any(pad):
            mask = F.pad(torch.ones(len(x), height, width, dtype=torch.bool, device=x.device), pad)
        kept: list[tuple[Tensor, Tensor | None]] = []
        for level, block in enumerate(self.encoder):
            if level > 0:
                x = self.down[level - 1](x)
                mask = None if mask is None else mask[:, ::2, ::2]
            x = block(x, mask)
            kept.append((x, mask))
        for (skip, mask), up, block in zip(reversed(kept[:-1]), self.up, self.decoder, strict=True):
            x = block(up(x) + skip, mask)
        return images + self.leave(x)[:, :, :height, :width]


def psnr(images: Tensor, truth: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of images with values from 0 to 1."""
    return float(-10 * (images - truth).square().mean().log10())


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Train for some steps and return the PSNR of noisy and of restored images that were not trained on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--noise", type=float, default=0.1)
    args = parser.parse_args(arguments)
    torch.manual_seed(0)

    def images(split: str, count: int) -> Tensor:
        scenes = SceneDataset(SceneConfig(size=args.size, noise=0.0), split, count, target="labels")
        return torch.stack([scenes[index][0] for index in range(count)]).float() / 255

    clean, held_out = images("train", 64), images("test", 16)
    noisy = held_out + args.noise * torch.randn_like(held_out)
    model = Restorer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(args.steps):
        truth = clean[torch.randint(len(clean), (8,))]
        loss = F.l1_loss(model(truth + args.noise * torch.randn_like(truth)), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step}: loss {float(loss):.4f}")
    model.eval()
    with torch.inference_mode():
        before, after = psnr(noisy, held_out), psnr(model(noisy), held_out)
    print(f"PSNR of 16 held-out images: {before:.2f} dB before, {after:.2f} dB after")
    return before, after


if __name__ == "__main__":
    main()
