"""Tables of speed and memory, measured with `glmix.bench`, and profiles by operator."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from glmix.bench import Plan, measure

from .settings import Row, Settings

__all__ = ["MODELS", "inference", "profiles", "scaling", "training"]

GLNETS = ("glnet_stl", "glnet_4g", "glnet_9g")
PEERS = ("swin_tiny_patch4_window7_224", "convnext_tiny", "maxvit_tiny_tf_224", "rdnet_tiny", "mambaout_tiny")
MODELS = (*GLNETS, *PEERS)
LINEAR = 'glnet_stl(mixers=("glmix","glmix","glmix","glmix"))'
BUILD_JOBS = 8  # models that are built and compiled at the same time


def _measured(
    settings: Settings, plans: Sequence[tuple[Sequence[str], Sequence[str]]], **options: Any
) -> Iterator[dict[str, Any]]:
    """Measure pairs of models and forms one pair after the other; yield one result with all rows so far.

    Models that are not in the installed version of timm are left out.
    """
    result: dict[str, Any] = {}
    for names, forms in plans:
        models = [name for name in names if timm.is_model(name.partition("(")[0])]
        jobs = BUILD_JOBS if settings.on_gpu else 1
        found = measure(Plan(models, forms, device=settings.device, build_jobs=jobs, **options), _progress)
        found["rows"] = result.get("rows", []) + found["rows"]
        result = found
        yield result


def _progress(items: Sequence[Any], what: str) -> Iterable[Any]:
    bar: Iterable[Any] = tqdm(items, desc=what, disable=None, leave=False)
    return bar


def inference(settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure the latency with batch size 1 and the throughput with batch size 256, in bfloat16."""
    if settings.smoke:
        small: dict[str, Any] = {"batch": 2, "sizes": (64,), "runs": 1, "latency_runs": 1}
        return _measured(settings, [(("test_glnet",), ("plain+bf16", "optimized+bf16"))], **small)
    plans: list[tuple[Sequence[str], Sequence[str]]] = [
        (GLNETS, ("plain+bf16", "plain")),
        (MODELS, ("channels_last+bf16",)),
        (MODELS, ("optimized+bf16+compiled+cuda_graphs",)),
        (("glnet_stl", "glnet_4g", *PEERS[:2]), ("optimized+bf16+compiled",)),
    ]
    return _measured(settings, plans, batch=256, runs=20, latency_runs=50)


def training(settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure training steps with autocast to bfloat16: time and memory."""
    if settings.smoke:
        small: dict[str, Any] = {"kind": "training", "batch": 2, "sizes": (64,), "runs": 1}
        return _measured(
            settings, [(("test_glnet",), ("plain+bf16",)), (("test_glnet",), ("optimized+bf16",))], **small
        )
    compiled = ("optimized+bf16+compiled",)
    plans: list[tuple[Sequence[str], Sequence[str]]] = [
        (GLNETS, ("plain+bf16",)),
        (MODELS, ("optimized+bf16",)),
        (("glnet_stl", *PEERS[:2]), compiled),
        ((*GLNETS[1:], *PEERS[2:]), compiled),
    ]
    return _measured(settings, plans, kind="training", batch=64, runs=10)


def scaling(settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure time and memory per megapixel from 224 to 2048 pixels, in bfloat16."""
    if settings.smoke:
        small: dict[str, Any] = {"batch": 1, "sizes": (64, 96), "runs": 1}
        return _measured(settings, [(("test_glnet",), ("bf16",))], kind="scaling", **small)
    models = ("glnet_stl", LINEAR, "glnet_4g", *PEERS[:2])
    plans = [(models, ("channels_last+bf16",))]
    return _measured(settings, plans, kind="scaling", sizes=(224, 512, 1024, 2048), batch=4, runs=10)


def profiles(settings: Settings) -> list[Row]:
    """Return the operators that take most of the time of a forward pass and of a training step, in bfloat16."""
    rows: list[Row] = []
    batch = 2 if settings.smoke else 64
    images = settings.images(batch).to(settings.device)
    labels = torch.arange(batch, device=settings.device)
    for name in settings.pick("glnet_stl", "glnet_4g"):
        model = settings.build(name).to(settings.device).to(memory_format=torch.channels_last)

        def infer(model: nn.Module = model) -> None:
            with torch.inference_mode(), torch.autocast(settings.device.split(":")[0], torch.bfloat16):
                model.eval()(images)
            settings.synchronize()

        def step(model: nn.Module = model) -> None:
            with torch.autocast(settings.device.split(":")[0], torch.bfloat16):
                loss = F.cross_entropy(model.train()(images).float(), labels)
            loss.backward()
            settings.synchronize()

        for what, run in (("inference", infer), ("training", step)):
            rows += [{"model": name, "pass": what, **row} for row in _operators(run, settings)]
    return rows


def _operators(run: Any, settings: Settings, count: int = 15) -> list[Row]:
    """Profile a pass; return the operators with the most time of their own, on the device that computes."""
    run()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if settings.on_gpu else [])
    with profile(activities=activities) as profiler:
        run()
    kind = "self_device_time_total" if settings.on_gpu else "self_cpu_time_total"
    # on a GPU, rows of kernels and rows of the operators that start them count the same time twice
    events = [e for e in profiler.key_averages() if not settings.on_gpu or e.key.startswith("aten::")]
    total = sum(getattr(event, kind) for event in events)
    events.sort(key=lambda event: -getattr(event, kind))
    return [
        {
            "operator": event.key,
            "ms": getattr(event, kind) / 1e3,
            "share": getattr(event, kind) / total,
            "calls": event.count,
        }
        for event in events[:count]
    ]
