"""Time training steps with and without the optimisations of `glmix fit` for CPUs.

    OMP_NUM_THREADS=1 python -m studies.timing.training_step

A step is forward, backward and AdamW. All combinations of model and optimisations take turns in one process. The table
has the shortest CPU time of a step, which other load on the machine changes little, the time relative to the first
of these combinations, the loss after all steps, and the memory that autograd keeps for the backward pass.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import glmix
from glmix.bench.machine import describe_machine, versions
from glmix.layers import CompactSoftBridge, DepthwiseConv2d, PointwiseConv2d, ShortAttention
from glmix.memory import keep_freed_memory
from studies.timing.freezing import kept_for_backward

MODELS = ("glnet_stl", "swin_tiny_patch4_window7_224", "convnext_tiny", "glnet_4g")
ALL = {DepthwiseConv2d, ShortAttention, CompactSoftBridge, PointwiseConv2d}
# The optimisations of each row: classes of layers, a fused optimizer, and torch.compile.
WAYS: dict[str, tuple[set[type], bool, bool]] = {
    "none": (set(), False, False),
    "depthwise": ({DepthwiseConv2d}, False, False),
    "attention": ({ShortAttention}, False, False),
    "soft clustering": ({CompactSoftBridge}, False, False),
    "1x1 convolutions": ({PointwiseConv2d}, False, False),
    "fused AdamW": (set(), True, False),
    "all": (ALL, True, False),
    "compiled": (set(), True, True),
    "all, compiled": (ALL, True, True),
}


@dataclass
class Training:
    """A model with its optimizer, the CPU times of its steps, and its last loss."""

    step: Callable[[], float]
    kept: int
    times: list[float]
    loss: float = 0.0

    def run(self) -> None:
        torch.manual_seed(len(self.times))  # stochastic depth
        start = time.process_time()
        self.loss = self.step()
        self.times.append(time.process_time() - start)


def prepare(name: str, way: str, images: Tensor, precision: torch.dtype) -> Training:
    """Return a training of a model with random weights, the same for every way."""
    kinds, fused, compiled = WAYS[way]
    torch.manual_seed(0)
    size = {"img_size": images.shape[-1]} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    model: nn.Module = timm.create_model(name, **size).train()
    before = {part: type(part) for part in model.modules()}
    glmix.optimize_for_training(model)
    for part, kind in before.items():
        if type(part) not in kinds:
            part.__class__ = kind
    if compiled:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=fused or None)
    labels = torch.arange(len(images))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16)

    def step() -> float:
        optimizer.zero_grad()
        with autocast:
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    with autocast:
        kept = kept_for_backward(model, images, labels)
    model.zero_grad()
    return Training(step, kept, [])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all models in all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL", help="timm models")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=["none", "all", "all, compiled"], help="optimisations"
    )
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each row, in turn, after one more")
    args = parser.parse_args(argv)
    keep_freed_memory()  # as `glmix fit` does
    images = torch.randn(args.batch, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    trainings = {
        (name, way): prepare(name, way, images, getattr(torch, args.precision))
        for name in args.models
        for way in args.ways
    }
    for _ in range(args.rounds + 1):
        for training in trainings.values():
            training.run()
    machine = describe_machine("cpu", torch.get_num_threads())
    print(
        f"{machine['cpu']} ({machine['instructions']}), {machine['threads']} threads, torch {versions()['torch']}, "
        f"{args.precision}, batches of {args.batch} at {args.size}\n"
    )
    print("| model | optimisations | CPU time of a step | relative | kept for backward | loss |")
    print("|---|---|---|---|---|---|")
    for (name, way), training in trainings.items():
        shortest = min(training.times[1:])
        first = min(trainings[name, args.ways[0]].times[1:])
        print(
            f"| {name} | {way} | {1e3 * shortest:.0f} ms | {shortest / first:.2f} | {training.kept / 2**20:.0f} MiB | "
            f"{training.loss:.4f} |"
        )


if __name__ == "__main__":
    main()
