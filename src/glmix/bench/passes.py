"""The measured passes: forward passes in PyTorch, training steps and a reference matrix product."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..deploy import fuse
from ..deploy.optimize import optimize_for_inference
from ..errors import InputError
from ..layers import optimize_for_training
from ..memory import keep_freed_memory
from ..models import GLNet
from .forms import Form
from .plain import plain_form
from .prepared import Pass, Prepared
from .runtimes import prepare_exported
from .specs import ModelSpec

__all__ = ["matmul_passes", "prepare", "prepare_training"]


def prepare(
    spec: ModelSpec,
    form: Form,
    size: tuple[int, int],
    *,
    folder: Path,
    device: str = "cpu",
    threads: int | None = None,
) -> Prepared:
    """Prepare the forward pass of a model.

    Args:
        spec: the model.
        form: the execution mode.
        size: image height and width.
        folder: folder for exported files, which must exist while the model runs.
        device: cpu or cuda.
        threads: number of CPU threads; None for the default of the library.

    Raises:
        InputError: the form is not supported for the model or the device.
    """
    torch.manual_seed(0)
    model = spec.build("cpu", size).eval()
    channels = spec.input_size()[0]
    network = _network(model, form)
    if form.is_exported:
        if device != "cpu":
            raise InputError(f"The form {form} is supported only on the CPU, but the device is {device}.")
        return prepare_exported(network, form, (channels, *size), folder, threads)
    input_dtype = dtype = torch.bfloat16 if "bf16" in form.words else torch.float32
    if form.network == "optimized":
        network = optimize_for_inference(network.to(device), dtype=dtype, compile=form.runtime == "compiled")
        input_dtype = torch.float32  # the optimised model converts its inputs
    else:
        network = network.to(device, dtype)
        if form.runtime == "compiled":
            network.compile(options={"freezing": True})
    channels_last = form.network == "optimized" or "channels_last" in form.words
    kind: dict[str, Any] = {
        "device": device,
        "dtype": input_dtype,
        "memory_format": torch.channels_last if channels_last else torch.contiguous_format,
    }

    def passes(batch: int) -> Pass:
        x = torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0)).to(**kind)

        def run() -> None:
            with torch.inference_mode():
                network(x)
            _synchronize(device)

        return run

    return Prepared(passes, network)


def _network(model: nn.Module, form: Form) -> nn.Module:
    """Return the module that implements a form of a model."""
    if form.needs_glnet and not isinstance(model, GLNet):
        raise InputError(f"The form {form} is supported only for GLNets, got a {type(model).__name__}.")
    if "keep_memory" in form.words:
        keep_freed_memory()
    if form.network == "plain":
        return plain_form(cast(GLNet, model))
    if form.network == "fused":
        model = fuse(model)
    if "channels_last" in form.words:
        model = model.to(memory_format=torch.channels_last)
    return model


def prepare_training(spec: ModelSpec, form: Form, size: tuple[int, int], *, device: str = "cpu") -> Prepared:
    """Prepare training steps (forward, backward, AdamW) with random images and labels; see `prepare`."""
    torch.manual_seed(0)
    model = spec.build("cpu", size)
    network = _network(model, form).to(device).train()
    optimized = form.network == "optimized"
    if optimized:
        optimize_for_training(network).to(memory_format=torch.channels_last)
        keep_freed_memory()
    if form.runtime == "compiled":
        network.compile()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.05, fused=optimized or None)
    channels = spec.input_size()[0]
    kind: dict[str, Any] = {"device": device}
    if optimized or "channels_last" in form.words:
        kind["memory_format"] = torch.channels_last
    autocast = "bf16" in form.words

    def passes(batch: int) -> Pass:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, channels, *size, generator=generator).to(**kind)
        labels = torch.randint(0, model.num_classes, (batch,), generator=generator).to(device)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
                output = network(x)
                logits: Tensor = output[0] if isinstance(output, tuple) else output
            nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            _synchronize(device)

        return step

    return Prepared(passes, network, release=lambda: optimizer.zero_grad(set_to_none=True))


def matmul_passes(precision: str, device: str = "cpu") -> tuple[Prepared, int]:
    """Prepare a large square matrix product, which measures the attainable rate of the machine.

    Args:
        precision: a dtype name, such as "float32".
        device: cpu or cuda.

    Returns:
        The prepared product and its number of multiply-accumulates.
    """
    side = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(getattr(torch, precision)) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        with torch.inference_mode():
            torch.mm(a, b, out=out)
        _synchronize(device)

    return Prepared(lambda batch: run), side**3


def _synchronize(device: str) -> None:
    """Wait for the GPU, which computes asynchronously."""
    if device != "cpu":
        torch.cuda.synchronize(device)
