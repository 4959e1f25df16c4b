"""Time per operator of one pass: by kind of operator, and the operators that take the most time."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

__all__ = ["operator_kind", "profile_pass"]

# {kind: words}: an operator has the first kind of which a word occurs in its name.
KINDS = {
    "generated kernels": ("cpp_fused", "triton_"),
    "convolutions": ("conv",),
    "attention": ("attention",),
    "products of activations": ("bmm",),
    "linear layers": ("linear", "addmm", "aten::mm"),
    "softmax": ("softmax",),
    "norms": ("norm",),
    "activation functions": ("gelu", "relu", "silu", "sigmoid"),
    "pooling": ("pool", "aten::mean"),
    "sums and products by element": ("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::exp"),
    "copies": ("copy_", "aten::cat", "aten::clone"),
}
OTHER = "other operators and calls"


def profile_pass(run: Callable[[], object], device: str = "cpu", rows: int = 20) -> dict[str, list[dict[str, Any]]]:
    """Profile one pass.

    Args:
        run: the pass, which must have run before (warm-up).
        device: cpu or cuda.
        rows: number of operators in the result.

    Returns:
        `operators`: the operators (on a GPU, the kernels) with the most self time, with `name`, `share` of the time,
        `calls` and `seconds`. `kinds`: the same sums by kind of operator, for all operators; empty for a GPU, because
        the names of its kernels depend on the libraries.
    """
    on_cpu = device == "cpu"
    activities = [ProfilerActivity.CPU, *([] if on_cpu else [ProfilerActivity.CUDA])]
    with profile(activities=activities, record_shapes=on_cpu) as profiler:
        run()
    return {
        "kinds": _sums(profiler.key_averages(group_by_input_shape=True), operator_kind, on_cpu) if on_cpu else [],
        "operators": _sums(profiler.key_averages(), lambda event: str(event.key), on_cpu)[:rows],
    }


def operator_kind(event: FunctionEventAvg) -> str:
    """Return the kind of an operator, with the kind of convolution if the profile has the shapes of its inputs."""
    name, shapes = str(event.key), event.input_shapes or []
    kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), OTHER)
    # the image, sometimes a second image that a compiled model adds to the result, and the weight
    images = [shape for shape in shapes[:3] if len(shape) == 4]
    if kind != "convolutions" or len(images) < 2:
        return kind
    weight = images.pop()
    if list(weight[2:]) == [1, 1]:
        return "1 x 1 convolutions"
    return "depthwise convolutions" if weight[1] == 1 and images[0][1] > 1 else "other convolutions"


def _sums(
    events: Iterable[FunctionEventAvg], name: Callable[[FunctionEventAvg], str], on_cpu: bool
) -> list[dict[str, Any]]:
    """Return the share of the time, the calls and the seconds by name, the longest time first."""
    seconds: dict[str, float] = {}
    calls: dict[str, int] = {}
    for event in events:
        if not on_cpu and event.device_type == DeviceType.CPU:
            continue  # the operator that starts kernels; their time is in their own rows
        own = 1e-6 * (event.self_cpu_time_total if on_cpu else event.self_device_time_total)
        key = name(event)
        seconds[key] = seconds.get(key, 0.0) + own
        calls[key] = calls.get(key, 0) + event.count
    total = sum(seconds.values())
    return [
        {"name": key, "share": seconds[key] / total, "calls": calls[key], "seconds": seconds[key]}
        for key in sorted(seconds, key=lambda key: -seconds[key])
        if seconds[key] > 0
    ]
