"""Time the weight gradient of depthwise convolutions: oneDNN, and the compiled reductions of `glmix.layers.depthwise`.

    OMP_NUM_THREADS=1 python -m studies.timing.depthwise

Both take turns. The times are the shortest CPU times, which other load on the machine changes little. The table shows
from which size of a feature map the reductions are faster.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glmix.bench.machine import describe_machine, versions
from glmix.errors import InputError
from glmix.layers import depthwise

# (batch, channels, height and width)
SHAPES = ((1, 32, 16), (1, 64, 28), (2, 96, 28), (8, 384, 7), (8, 96, 56), (8, 192, 28), (8, 384, 14), (8, 768, 7))


def shortest(functions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the shortest CPU time of each function in milliseconds; the functions run in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 1):
        for function, own in zip(functions, times, strict=True):
            start = time.process_time()
            function()
            own.append(time.process_time() - start)
    return [1e3 * min(own[1:]) for own in times]


def measure(batch: int, channels: int, side: int, kernel: int, dtype: torch.dtype, rounds: int) -> str:
    """Return a row of the table."""
    gradient = depthwise._weight_gradient(kernel, dtype)
    if gradient is None:
        raise InputError("This processor has no AVX-512, or no C++ compiler is installed: there is nothing to compare.")
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).to(memory_format=torch.channels_last)

    x, grad_output = random(batch, channels, side, side), random(batch, channels, side, side)
    weight = torch.zeros(channels, 1, kernel, kernel, dtype=dtype)
    padding = [kernel // 2] * 2

    def onednn(like: Tensor = x, grad: Tensor = grad_output, weight: Tensor = weight) -> Tensor:
        gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            grad, like, weight, [channels], [1, 1], padding, [1, 1], False, [0, 0], channels, [False, True, True]
        )
        return gradients[1]

    exact = onednn(x.double(), grad_output.double(), weight.double())
    errors = [
        float((found.double() - exact).norm() / exact.norm()) for found in (onednn(), gradient(x, grad_output)[0])
    ]
    before, after = shortest([onednn, lambda: gradient(x, grad_output)], rounds)
    name = str(dtype).removeprefix("torch.")
    used = "yes" if x.numel() >= depthwise.SMALLEST else "no"
    return (
        f"| {kernel} x {kernel} | {batch} x {channels} x {side} x {side} | {name} | {before:.2f} ms | {after:.2f} ms | "
        f"{before / after:.1f} | {errors[0]:.0e} | {errors[1]:.0e} | {used} |"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all shapes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="passes of each implementation, in turn")
    args = parser.parse_args(argv)
    machine = describe_machine("cpu", torch.get_num_threads())
    print(f"{machine['cpu']} ({machine['instructions']}), {machine['threads']} threads; torch {versions()['torch']}\n")
    print("| kernel | map | dtype | oneDNN | reductions | ratio | error | error of reductions | used |")
    print("|---|---|---|---|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        for kernel in depthwise.KERNELS:
            for shape in SHAPES:
                print(measure(*shape, kernel, dtype, args.rounds), flush=True)


if __name__ == "__main__":
    main()
