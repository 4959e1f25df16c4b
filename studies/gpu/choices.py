"""Measurements of alternative implementations, from which the faster one is chosen: `python -m studies.gpu choices`."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from glmix.compat import has_triton
from glmix.layers.slots import pool_by_products, pool_to_grid
from studies.timing.bridge import attention, shared

from .settings import Row, Settings

__all__ = ["choices"]

SLOTS = 64


def choices(settings: Settings) -> list[Row]:
    """Time alternatives in bfloat16: bridge, pooling, attention among slots, convolution layout, optimizer."""
    rows: list[Row] = []
    for measure in (_bridge, _pooling, _slot_attention, _depthwise, _cudnn, _optimizer):
        rows += measure(settings)
    return rows


def _milliseconds(run: Callable[[], Any], settings: Settings) -> float:
    """Return the median time of a call. The timer synchronises the GPU."""
    run()
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return 1e3 * float(timer.blocked_autorange(min_run_time=1e-3 if settings.smoke else 0.15).median)


def _timed(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], settings: Settings) -> dict[str, float]:
    """Return the time of a function without gradients, and with a backward pass."""
    trained = [tensor.detach().requires_grad_() for tensor in inputs]
    gradient = torch.randn_like(function(*inputs))

    def forward() -> None:
        with torch.inference_mode():
            function(*inputs)

    def backward() -> None:
        torch.autograd.grad(function(*trained), trained, gradient)

    return {"forward, ms": _milliseconds(forward, settings), "with backward, ms": _milliseconds(backward, settings)}


def _grids(settings: Settings) -> tuple[tuple[int, int], ...]:
    """Return (side of the pixel grid, channels) of the stages."""
    return ((8, 32),) if settings.smoke else ((56, 96), (28, 192), (14, 384), (7, 768))


def _random(settings: Settings, *shape: int) -> Tensor:
    return torch.randn(*shape, device=settings.device, dtype=torch.bfloat16)


def _batch(settings: Settings) -> int:
    return 2 if settings.smoke else 64


def _bridge(settings: Settings) -> list[Row]:
    """Compare clustering and dispatching: shared logits, fused attention, and shared logits compiled."""
    ways: dict[str, Callable[..., Tensor]] = {"shared logits": shared, "fused attention": attention}
    if settings.on_gpu and has_triton():
        ways["shared logits, compiled"] = torch.compile(shared, dynamic=False)
    rows: list[Row] = []
    for side, channels in _grids(settings):
        seeds = _random(settings, _batch(settings), SLOTS, channels)
        pixels = _random(settings, _batch(settings), side * side, channels)
        scale = torch.full((1,), 8.0, device=settings.device, dtype=torch.bfloat16)
        rows += [
            _row("clustering and dispatching", name, side, channels, _timed(way, (seeds, pixels, scale), settings))
            for name, way in ways.items()
        ]
    return rows


def _row(choice: str, way: str, side: int, channels: int, times: dict[str, float]) -> Row:
    return {"choice": choice, "way": way, "shape": f"{side} x {side} x {channels}", **times}


def _pooling(settings: Settings) -> list[Row]:
    """Compare adaptive pooling to 8 x 8 seeds with products with two averaging matrices."""
    ways: dict[str, Callable[..., Tensor]] = {"adaptive pooling": pool_to_grid, "two products": pool_by_products}
    rows: list[Row] = []
    for side, channels in _grids(settings):
        x = _random(settings, _batch(settings), channels, side, side).to(memory_format=torch.channels_last)
        for name, way in ways.items():
            times = _timed(lambda x, way=way: way(x, 8, 8), (x,), settings)
            rows.append(_row("pooled seeds", name, side, channels, times))
    return rows


def _slot_attention(settings: Settings) -> list[Row]:
    """Compare fused attention among slots with plain matrix products."""

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v

    ways: dict[str, Callable[..., Tensor]] = {"fused attention": F.scaled_dot_product_attention, "two products": plain}
    rows: list[Row] = []
    for side, channels in _grids(settings):
        q, k, v = (_random(settings, _batch(settings), channels // 32, SLOTS, 32) for _ in range(3))
        for name, way in ways.items():
            rows.append(_row("attention among slots", name, side, channels, _timed(way, (q, k, v), settings)))
    return rows


def _depthwise(settings: Settings) -> list[Row]:
    """Compare the memory formats of depthwise convolutions, with and without cuDNN's search for the fastest kernel."""
    rows: list[Row] = []
    kernels = (5,) if settings.smoke else (3, 5, 7)
    formats = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
    before = torch.backends.cudnn.benchmark
    grids = _grids(settings)[:3]
    for kernel, (side, channels), (name, memory), search in itertools.product(
        kernels, grids, formats.items(), (False, True)
    ):
        torch.backends.cudnn.benchmark = search
        x = _random(settings, _batch(settings), channels, side, side).to(memory_format=memory)
        weight = _random(settings, channels, 1, kernel, kernel)
        times = _timed(lambda x, w: F.conv2d(x, w, None, 1, w.shape[2] // 2, 1, len(w)), (x, weight), settings)
        way = f"{name}, cudnn.benchmark {'on' if search else 'off'}"
        rows.append(_row(f"depthwise convolution {kernel} x {kernel}", way, side, channels, times))
    torch.backends.cudnn.benchmark = before
    return rows


def _cudnn(settings: Settings) -> list[Row]:
    """Compare passes of whole networks with and without cuDNN's search for the fastest kernels."""
    rows: list[Row] = []
    before = torch.backends.cudnn.benchmark
    images = settings.images(_batch(settings)).to(settings.device)
    for name in settings.pick("glnet_stl", "glnet_4g", "convnext_tiny"):
        model = settings.build(name).to(settings.device).to(memory_format=torch.channels_last)
        for search in (False, True):
            torch.backends.cudnn.benchmark = search

            def forward(model: nn.Module = model) -> None:
                with torch.inference_mode(), torch.autocast(settings.device.split(":")[0], torch.bfloat16):
                    model.eval()(images)

            def step(model: nn.Module = model) -> None:
                with torch.autocast(settings.device.split(":")[0], torch.bfloat16):
                    model.train()(images).float().square().mean().backward()
                model.zero_grad()

            times = {
                "forward, ms": _milliseconds(forward, settings),
                "with backward, ms": _milliseconds(step, settings),
            }
            way = f"cudnn.benchmark {'on' if search else 'off'}"
            rows.append({"choice": name, "way": way, "shape": f"{len(images)} images", **times})
    torch.backends.cudnn.benchmark = before
    return rows


def _optimizer(settings: Settings) -> list[Row]:
    """Compare the implementations of AdamW on the weights of a network."""
    (name,) = settings.pick("glnet_stl")
    model = settings.build(name).to(settings.device)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    rows: list[Row] = []
    for way, option in {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}.items():
        options: dict[str, Any] = option
        optimizer = torch.optim.AdamW(copy.deepcopy(model).parameters(), lr=1e-4, **options)
        for copied, parameter in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True):
            copied.grad = parameter.grad
        times = {"step, ms": _milliseconds(optimizer.step, settings)}
        rows.append({"choice": "AdamW", "way": way, "shape": name, **times})
    return rows
