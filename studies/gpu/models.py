"""Checks of the models: agreement with the CPU, training with autocast, and compiled graphs."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmix import fuse, optimize_for_inference
from glmix.bench import plain_form

from .settings import Row, Settings, relative_error

__all__ = ["agreement", "autocast", "compiled"]

# Largest |difference| / |reference| of the logits.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _logits(output: Any) -> Tensor:
    """Return the logits of a model; token labelling returns a tuple in training."""
    logits: Tensor = output[0] if isinstance(output, tuple) else output
    return logits


def agreement(settings: Settings) -> list[Row]:
    """Compare logits and gradients on the device with those on the CPU in float32, for every variant and dtype."""
    rows: list[Row] = []
    images = settings.images(2)
    for name in settings.variants:
        model = settings.build(name).eval()
        with torch.inference_mode():
            expected = model(images)
        forms: list[tuple[str, nn.Module, torch.dtype]] = [
            ("eager", model, torch.float32),
            ("eager", model, torch.bfloat16),
            ("eager", model, torch.float16),
            ("fused", fuse(model), torch.float32),
            ("plain", plain_form(model), torch.float32),  # type: ignore[arg-type]
        ]
        for form, network, dtype in forms:
            moved = copy.deepcopy(network).to(settings.device, dtype)
            with torch.inference_mode():
                found = moved(images.to(settings.device, dtype))
            rows.append(_compared(name, f"logits, {form}", dtype, relative_error(found, expected), TOLERANCES[dtype]))
        fast = optimize_for_inference(copy.deepcopy(model).to(settings.device), dtype=torch.bfloat16, compile=False)
        error = relative_error(fast(images.to(settings.device)), expected)
        rows.append(_compared(name, "logits, optimized", torch.bfloat16, error, TOLERANCES[torch.bfloat16]))
        error = relative_error(_gradient(model, images, settings.device), _gradient(model, images, "cpu"))
        rows.append(_compared(name, "gradients, eager", torch.float32, error, 1e-3))
    return rows


def _compared(model: str, what: str, dtype: torch.dtype, error: float, limit: float) -> Row:
    return {
        "model": model,
        "compared": what,
        "dtype": _name(dtype),
        "relative error": error,
        "limit": limit,
        "passed": error <= limit,
    }


def _gradient(model: nn.Module, images: Tensor, device: str) -> Tensor:
    """Return the gradient of the mean logit variance with respect to all weights, as one vector."""
    network = copy.deepcopy(model).to(device)
    network(images.to(device)).square().mean().backward()
    return torch.cat([p.grad.detach().flatten().cpu() for p in network.parameters() if p.grad is not None])


def autocast(settings: Settings) -> list[Row]:
    """Train every variant for a few steps with autocast, and check that losses, gradients and weights stay finite."""
    rows: list[Row] = []
    steps, batch = (2, 2) if settings.smoke else (4, 16)
    images = settings.images(batch).to(settings.device)
    for name in settings.variants:
        for dtype in (torch.bfloat16, torch.float16):
            model = settings.build(name, drop_path_rate=0.1).to(settings.device).train()
            labels = torch.arange(batch, device=settings.device) % 10
            optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
            scaler = torch.amp.GradScaler(settings.device.split(":")[0], enabled=dtype == torch.float16)
            losses = []
            for _ in range(steps):
                with torch.autocast(settings.device.split(":")[0], dtype):
                    loss = F.cross_entropy(_logits(model(images)).float(), labels)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                losses.append(loss.item())
            without = [n for n, p in model.named_parameters() if p.grad is None and "aux_head" not in n]
            finite = all(bool(p.isfinite().all()) for p in model.parameters()) and all(map(math.isfinite, losses))
            rows.append(
                {
                    "model": name,
                    "dtype": _name(dtype),
                    "first loss": losses[0],
                    "last loss": losses[-1],
                    "weights without gradient": len(without),
                    "passed": finite and not without,
                }
            )
    return rows


def compiled(settings: Settings) -> list[Row]:
    """Compile whole networks with CUDA graphs, and compare logits, loss and gradients with eager mode.

    Graph breaks are errors. On a CPU, the graphs are captured but not compiled.
    """
    options: dict[str, Any] = {"mode": "reduce-overhead"} if settings.on_gpu else {"backend": "eager"}
    rows: list[Row] = []
    for name in settings.pick("glnet_stl", "glnet_4g"):
        model = settings.build(name).to(settings.device).eval()
        network: Any = torch.compile(model, fullgraph=True, **options)
        errors = []
        with torch.no_grad():
            for seed in range(3):  # warm-up, capture and replay of the graph
                images = settings.images(4).roll(seed, 0).to(settings.device)
                errors.append(relative_error(network(images).clone(), model(images)))
        rows.append(_compared(name, "logits, compiled", torch.float32, max(errors), 1e-4))
        rows.append(_compared_training(settings, name, options))
        torch.compiler.reset()
    return rows


def _compared_training(settings: Settings, name: str, options: dict[str, Any]) -> Row:
    """Compare the gradients of compiled training steps with eager mode."""
    images = settings.images(4).to(settings.device)
    labels = torch.arange(4, device=settings.device)
    model = settings.build(name).to(settings.device).train()
    network: Any = torch.compile(copy.deepcopy(model), fullgraph=True, **options)
    errors = []
    for _ in range(3):
        gradients = []
        for net in (model, network):
            net.zero_grad()
            torch.compiler.cudagraph_mark_step_begin()
            F.cross_entropy(net(images), labels).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
        errors.append(relative_error(gradients[1], gradients[0]))
    return _compared(name, "gradients, compiled", torch.float32, max(errors), 1e-3)
