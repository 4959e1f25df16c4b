"""Inference throughput of the networks of an ablation study."""

import time

import torch
from torch import nn

from glmix.models import GLNet
from studies.ablation.study import Ablation, variants

__all__ = ["IMAGES", "measure_speed"]

IMAGES = 64  # batch size


@torch.inference_mode()
def measure_speed(config: Ablation, rounds: int = 16, batches: int = 3) -> dict[str, float]:
    """Return {variant: images per second}, measured on the fastest of all batches.

    The variants run in alternation, so that other load on the machine affects all of them. Other load only makes a
    batch slower, so the fastest batch is the best estimate.

    Args:
        config: the study.
        rounds: number of times that each variant gets its turn.
        batches: batches per turn.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(IMAGES, 3, config.scenes.size, config.scenes.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    models: dict[str, nn.Module] = {}
    for variant in variants(config):
        network = GLNet(**variant.args, num_classes=config.scenes.num_classes, device=device)
        models[variant.name] = network.eval().to(memory_format=torch.channels_last)
    best = dict.fromkeys(models, float("inf"))
    for _ in range(rounds):
        for name, model in models.items():
            for _ in range(batches):
                start = time.perf_counter()
                model(images).sum().item()  # .item() waits for the device
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: IMAGES / seconds for name, seconds in best.items()}
