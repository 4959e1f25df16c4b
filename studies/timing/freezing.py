"""Measure the cost of a training step with frozen layers and with LoRA.

    OMP_NUM_THREADS=1 python -m studies.timing.freezing

It prints the CPU time of a step (forward, backward and optimizer) and the memory of the tensors that autograd keeps for
the backward pass, both relative to training all layers.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

import glmix  # noqa: F401 - registers the models
from glmix.tasks import OptimizerConfig, build_optimizer
from glmix.training.freezing import Freezing
from glmix.training.lora import LoraConfig

WAYS: dict[str, Freezing] = {
    "all layers": Freezing(None, 0, None),
    "last two stages": Freezing(2, 0, None),
    "last stage": Freezing(1, 0, None),
    "head (linear probe)": Freezing(0, 0, None),
    "LoRA, rank 8": Freezing(None, 0, LoraConfig()),
}


def kept_for_backward(network: nn.Module, images: Tensor, targets: Tensor) -> int:
    """Return the bytes of the tensors, without the weights, that a forward pass keeps for its backward pass."""
    weights = {p.data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(network(images), targets)
    total = sum(kept.values())
    loss.backward()
    return total


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all ways in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="glnet_4g", help="name of the model")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each way, in turn")
    args = parser.parse_args(argv)
    images, targets = torch.rand(args.batch, 3, args.size, args.size), torch.arange(args.batch)
    setups: dict[str, tuple[nn.Module, Any]] = {}
    memory: dict[str, int] = {}
    for way, freezing in WAYS.items():
        network = timm.create_model(args.model, num_classes=max(10, args.batch)).to(memory_format=torch.channels_last)
        freezing.prepare(network)
        setups[way] = network.train(), build_optimizer(network, OptimizerConfig(), args.batch)
        memory[way] = kept_for_backward(network, images, targets)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, (network, optimizer) in setups.items():
            start = time.process_time()
            nn.functional.cross_entropy(network(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            times[way].append(time.process_time() - start)
    print(f"{args.model}, {args.size} pixels, batches of {args.batch}\n")
    print("| trained | weights | time of a step | kept for the backward pass |\n|---|---|---|---|")
    for way, (network, _) in setups.items():
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        share = statistics.median(times[way]) / statistics.median(times["all layers"])
        print(f"| {way} | {trained / 1e6:.2f} M | {share:.0%} | {memory[way] / memory['all layers']:.0%} |")


if __name__ == "__main__":
    main()
