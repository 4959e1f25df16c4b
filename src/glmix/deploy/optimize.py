"""Optimisation of a model for fast inference on the current machine."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..compat import cpu_supports_bfloat16, freeze_weights, has_triton, wrap_compiled_call
from ..errors import InputError
from ..layers import Block, ConvMlp, ShortAttention, SoftBridge, Stem, has_cpp_compiler, is_plain_attention
from ..memory import keep_freed_memory
from .fuse import fuse
from .parts import BandedMlp, BoundedBridge

__all__ = ["can_compile", "fastest_dtype", "optimize_for_inference"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def optimize_for_inference(
    model: ModuleT,
    *,
    dtype: torch.dtype | None = None,
    compile: bool | None = None,
    keep_memory: bool = True,
    head: bool = True,
) -> ModuleT:
    """Return a copy of a model for fast inference on this machine: fused, channels-last, low precision, compiled.

    The copy takes the same inputs as `model` and returns logits in float32: the classifier stays in float32, because
    ties between low-precision logits would change predictions. The copy cannot be trained.

    Args:
        model: a GLNet, a module that contains one, or any other network, which is not fused.
        dtype: the dtype of the computation; None for `fastest_dtype`. With torch.float32 the results equal those of
            `model` up to rounding.
        compile: use torch.compile. Compilation takes about a minute at the first images of each size. None to
            compile if this machine supports it.
        keep_memory: on a CPU, keep freed memory in this process, see `glmix.memory`.
        head: merge the final norm into the classifier, see `fuse`. Pooled features need the norm.

    Raises:
        InputError: the dtype is not a floating-point type.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    dtype = fastest_dtype(device) if dtype is None else dtype
    if not dtype.is_floating_point:
        raise InputError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, got {dtype}.")
    if any(isinstance(part, Block) for part in model.modules()):
        fast = fuse(model, head=head)
    else:
        fast = copy.deepcopy(model).eval().requires_grad_(False)
    fast.to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        _convert(fast, dtype)
    _replace_layers(fast, dtype, device)
    if can_compile(device) if compile is None else compile:
        fast.compile()
        wrap_compiled_call(fast, _FrozenCall)
    if keep_memory and device.type == "cpu":
        keep_freed_memory()
    return fast


def fastest_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """Return bfloat16 if the device supports it in hardware, else float32."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and cpu_supports_bfloat16():
        return torch.bfloat16
    return torch.float32


def can_compile(device: torch.device | str = "cpu") -> bool:
    """Return whether torch.compile finds the compiler that it needs: Triton for CUDA, else a C++ compiler."""
    if torch.device(device).type == "cuda":
        return has_triton()
    return has_cpp_compiler()


def _replace_layers(model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Replace layers by the faster implementations in `parts`."""
    on_cpu = device.type == "cpu"
    short_attention = on_cpu and dtype == torch.bfloat16
    for part in model.modules():
        if (
            isinstance(part, SoftBridge)
            and not isinstance(part, BoundedBridge)
            and part.scale.abs().item() <= BoundedBridge.MAX_SCALE
        ):
            part.__class__ = BoundedBridge
        elif type(part) is ConvMlp and on_cpu:
            part.__class__ = BandedMlp
        elif short_attention and is_plain_attention(part):
            part.__class__ = ShortAttention


class _FrozenCall:
    """A call of a compiled model with frozen weights: constants in the memory layout that the kernels need.

    torch.compile reads this setting from its configuration at the time of the call, not from its options.
    """

    def __init__(self, call: Any) -> None:
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(), freeze_weights():
            return self.call(*args, **kwargs)


class _Cast:
    """A forward pre-hook that converts floating-point inputs to a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.to(self.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)


def _convert(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert a model to `dtype`, except for the scales of soft clustering and the classifier."""
    unchanged = [part.scale for part in model.modules() if isinstance(part, SoftBridge)]
    layers = model.get_classifier() if hasattr(model, "get_classifier") else ()  # type: ignore[operator]
    layers = layers if isinstance(layers, tuple) else (layers,)
    layers = [layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
    unchanged += [parameter for layer in layers for parameter in layer.parameters()]
    values = [parameter.data for parameter in unchanged]
    model.to(dtype)
    for parameter, value in zip(unchanged, values, strict=True):
        parameter.data = value
    stems: list[nn.Module] = [part for part in model.modules() if isinstance(part, Stem)]
    for part in stems or [model]:
        part.register_forward_pre_hook(_Cast(dtype))
    for layer in layers:
        layer.register_forward_pre_hook(_Cast(torch.float32))
