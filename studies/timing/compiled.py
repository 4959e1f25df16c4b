"""Time variants of compiled bfloat16 inference on a CPU, alone and in whole networks.

    OMP_NUM_THREADS=1 python -m studies.timing.compiled
    OMP_NUM_THREADS=1 python -m studies.timing.compiled --models glnet_stl glnet_4g

Without --models: the matrix products between pixels and slots with both layouts of their matrices, and a pointwise
convolution without GELU, with it, and with a polynomial in its place. With --models: batches of 8 images of 224 x 224
pixels. All variants run in one process in turns. The times are CPU times, which other load changes little.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import timm
import torch
from torch import Tensor, nn

from glmix.bench.machine import describe_machine, versions
from glmix.compat import freeze_weights
from glmix.deploy import optimize_for_inference
from glmix.deploy.parts import BandedMlp, BoundedBridge
from glmix.layers import ConvMlp
from glmix.layers.slots import pixels_of, pool_to_grid

BATCH, SLOTS = 8, 64
GRIDS = ((56, 96), (28, 192), (14, 384), (56, 64), (28, 128), (14, 256))  # side and channels of stl and 4g
# odd polynomial for the normal distribution function minus 1/2 on [-3.6, 3.6]: error of GELU 3.3e-4
NORMAL = (0.39716369, -0.063448484, 0.0081888356, -6.7501805e-4, 3.1238323e-5, -6.1091969e-7)


class PixelsBySlots(BoundedBridge):
    """The bridge with matrices in the memory layout (pixels, slots)."""

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pixels, seeds = pixels_of(y), pool_to_grid(x, self.rows, self.cols)
        seed_norm = torch.linalg.vector_norm(seeds, dim=-1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        pixel_norm = torch.linalg.vector_norm(pixels, dim=-1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        directions = (seeds * (self.scale / seed_norm)).to(pixels.dtype)
        logits = (pixels @ directions.transpose(1, 2)).float() / pixel_norm
        exponentials = (logits - self.scale.abs()).exp()
        pair = [exponentials * exponentials.sum(dim, keepdim=True).reciprocal() for dim in (1, 2)]
        return pair[0].to(y.dtype).transpose(1, 2), pair[1].to(y.dtype).transpose(1, 2)


# what is replaced in the model that `optimize_for_inference` returns
VARIANTS: dict[str, dict[type[nn.Module], type[nn.Module]]] = {
    "as it is": {},
    "matrices (pixels, slots)": {BoundedBridge: PixelsBySlots},
    "MLP of the whole batch": {BandedMlp: ConvMlp},
    "both": {BoundedBridge: PixelsBySlots, BandedMlp: ConvMlp},
}


def measure(functions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Return the CPU times of each function in milliseconds; the functions run in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, own in zip(functions, times, strict=True):
            function()  # reads its data into the cache
            start = time.process_time()
            function()
            own.append(1e3 * (time.process_time() - start))
    return times


def compiled(module: Callable[..., Tensor], *arguments: Tensor) -> Callable[[], Tensor]:
    """Compile a function with frozen weights, as `optimize_for_inference` does, and run it twice."""
    fast = torch.compile(module)

    def run() -> Tensor:
        with torch.inference_mode(), freeze_weights():
            return fast(*arguments)

    run()
    run()
    return run


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()


def products(rounds: int) -> None:
    """Print the times of the three products with both layouts."""
    print("| pixels | channels | product | (slots, pixels) | (pixels, slots) | ratio |\n|---|---|---|---|---|---|")
    for side, channels in GRIDS:
        pixels, slots = random(BATCH, side * side, channels), random(BATCH, SLOTS, channels)
        rows, columns = random(BATCH, SLOTS, side * side), random(BATCH, side * side, SLOTS)
        pairs: dict[str, list[Callable[[], Tensor]]] = {
            "logits": [partial(torch.matmul, slots, pixels.mT), partial(torch.matmul, pixels, slots.mT)],
            "clustering": [partial(torch.matmul, rows, pixels), partial(torch.matmul, columns.mT, pixels)],
            "dispatching": [partial(torch.matmul, rows.mT, slots), partial(torch.matmul, columns, slots)],
        }
        for name, pair in pairs.items():
            first, second = measure(pair, rounds)
            ratio = statistics.median(a / b for a, b in zip(first, second, strict=True))
            cells = (f"{side} x {side}", channels, name, f"{min(first):.2f} ms", f"{min(second):.2f} ms")
            print(f"| {' | '.join(map(str, cells))} | {ratio:.2f} |", flush=True)


def polynomial(h: Tensor) -> Tensor:
    """Return the GELU of h with a polynomial for the normal distribution function."""
    x = h.float()
    bounded = x.clamp(-3.6, 3.6)
    square, value = bounded * bounded, torch.full_like(x, NORMAL[-1])
    for coefficient in NORMAL[-2::-1]:
        value = value * square + coefficient
    return (x * (bounded * value + 0.5)).to(h.dtype)


def gelu(rounds: int) -> None:
    """Print the times of the first layer of an MLP with three functions after it."""
    x = random(2, 96, 56, 56).contiguous(memory_format=torch.channels_last)
    layer = nn.Conv2d(96, 384, 1).bfloat16().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    functions = {"nothing": nn.Identity(), "GELU": nn.GELU(), "polynomial": polynomial}
    runs = [compiled(lambda x, act=act: act(layer(x)), x) for act in functions.values()]
    print("\n| 1 x 1 convolution of 2 x 96 x 56 x 56 to 384 channels, then | time |\n|---|---|")
    for name, times in zip(functions, measure(runs, rounds), strict=True):
        print(f"| {name} | {min(times):.2f} ms |", flush=True)


def network(name: str, variants: Sequence[str], rounds: int) -> None:
    """Print the times of a whole network with several variants."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    x = torch.randn(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    runs = []
    for variant in variants:
        fast = optimize_for_inference(model, dtype=torch.bfloat16, compile=False)
        for part in fast.modules():
            part.__class__ = VARIANTS[variant].get(type(part), type(part))
        runs.append(compiled(fast, x))
    times = measure(runs, rounds)
    for variant, own in zip(variants, times, strict=True):
        speed = statistics.median(a / b for a, b in zip(times[0], own, strict=True))
        print(f"| {name} | {variant} | {min(own):.0f} ms | {speed:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="models of whole networks")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants of networks")
    parser.add_argument("--rounds", type=int, default=11, help="timed passes of each variant (%(default)s)")
    args = parser.parse_args()
    machine = describe_machine("cpu", torch.get_num_threads())
    print(f"{machine['cpu']} ({machine['instructions']}), {machine['threads']} threads; torch {versions()['torch']}\n")
    if args.models is None:
        products(args.rounds)
        gelu(args.rounds)
        return
    print("| model | variant | CPU time of 8 images | speed relative to the first |\n|---|---|---|---|")
    for name in args.models:
        network(name, args.variants, args.rounds)


if __name__ == "__main__":
    main()
