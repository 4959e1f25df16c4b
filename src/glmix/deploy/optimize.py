"""The fastest form of a model on the machine at hand, in one call."""

import copy
import shutil
from typing import Any, TypeVar

import torch
from timm.layers import Attention
from torch import Tensor, nn

from ..compat import cpu_supports_bfloat16, freeze_weights, has_triton, wrap_compiled_call
from ..errors import InputError
from ..layers import Block, ConvMlp, GLMix, GridAttention, SoftBridge, Stem
from ..memory import keep_freed_memory
from .fuse import fuse
from .parts import BandedMlp, BoundedBridge, ShortAttention

__all__ = ["can_compile", "fastest_dtype", "optimize_for_inference"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def optimize_for_inference(
    model: ModuleT, *, dtype: torch.dtype | None = None, compile: bool | None = None, keep_memory: bool = True
) -> ModuleT:
    """A copy of `model` that infers as fast as this machine can: fused, channels-last, narrow and compiled.

    It takes images as `model` does and gives logits in float32: the classifier stays in float32, as ties between
    narrow logits would change answers. It cannot be trained.

    Args:
        model: a GLNet, what is built on one, or any other network, of which nothing is fused.
        dtype: what to compute in; None for `fastest_dtype`. torch.float32 gives the model's own answers.
        compile: let torch.compile build kernels, on the first images of each size, which takes about a minute; None
            for whether this machine can.
        keep_memory: on a CPU, let this process keep memory that it frees, see `glmix.memory`.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    dtype = fastest_dtype(device) if dtype is None else dtype
    if not dtype.is_floating_point:
        raise InputError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, got {dtype}.")
    if any(isinstance(part, Block) for part in model.modules()):
        fast = fuse(model)
    else:
        fast = copy.deepcopy(model).eval().requires_grad_(False)
    fast.to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        _narrow(fast, dtype)
    _reorder(fast, dtype, device)
    if can_compile(device) if compile is None else compile:
        fast.compile()
        wrap_compiled_call(fast, _Frozen)
    if keep_memory and device.type == "cpu":
        keep_freed_memory()
    return fast


def fastest_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, else float32."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and cpu_supports_bfloat16():
        return torch.bfloat16
    return torch.float32


def can_compile(device: torch.device | str = "cpu") -> bool:
    """Whether torch.compile finds what it builds kernels with."""
    if torch.device(device).type == "cuda":
        return has_triton()
    return any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))


def _reorder(model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Let parts compute the same in another order, see `parts`."""
    on_cpu = device.type == "cpu"
    short = on_cpu and dtype == torch.bfloat16
    # New modules would lose the hooks on these, and the constructor of timm's Attention differs between its versions.
    for part in model.modules():
        if type(part) is SoftBridge and part.scale.abs().item() <= BoundedBridge.LARGEST:
            part.__class__ = BoundedBridge
        elif type(part) is ConvMlp and on_cpu:
            part.__class__ = BandedMlp
        elif isinstance(part, GLMix | GridAttention) and type(part.attn) is Attention and short:
            part.attn.__class__ = ShortAttention


class _Frozen:
    """A compiled call in whose graph the weights are constants, packed as the kernels want them.

    torch.compile takes that from its configuration at the time of the call, not from its options.
    """

    def __init__(self, call: Any) -> None:
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(), freeze_weights():
            return self.call(*args, **kwargs)


class _Cast:
    """A hook in front of a module: what goes in gets a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.to(self.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)


def _narrow(model: nn.Module, dtype: torch.dtype) -> None:
    """Compute in `dtype`, but for scales of the assignments and the classifier."""
    wide = [part.scale for part in model.modules() if isinstance(part, SoftBridge)]
    layers = model.get_classifier() if hasattr(model, "get_classifier") else ()  # type: ignore[operator]
    layers = layers if isinstance(layers, tuple) else (layers,)
    layers = [layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
    wide += [parameter for layer in layers for parameter in layer.parameters()]
    values = [parameter.data for parameter in wide]
    model.to(dtype)
    for parameter, value in zip(wide, values, strict=True):
        parameter.data = value
    entries: list[nn.Module] = [part for part in model.modules() if isinstance(part, Stem)]
    for part in entries or [model]:
        part.register_forward_pre_hook(_Cast(dtype))
    for layer in layers:
        layer.register_forward_pre_hook(_Cast(torch.float32))
