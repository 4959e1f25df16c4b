"""Time two implementations of clustering and dispatching: shared logits, as in glmix, and fused attention.

python -m studies.timing.bridge
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from glmix.layers.slots import cluster, cosine_logits, dispatch, soft_pair

BATCH, SLOTS, RUNS = 8, 64, 15


def shared(seeds: torch.Tensor, pixels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Cluster pixels (B, N, C) into slots and dispatch them, with logits that both steps share."""
    clustering, assignment = soft_pair(cosine_logits(seeds, pixels, scale), pixels.dtype)
    return dispatch(assignment, cluster(clustering, pixels))


def attention(seeds: torch.Tensor, pixels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Compute the same with one scaled dot product attention per direction."""
    queries, keys = scale * F.normalize(seeds, dim=-1)[:, None], F.normalize(pixels, dim=-1)[:, None]
    slots = F.scaled_dot_product_attention(queries, keys, pixels[:, None], scale=1.0)
    return F.scaled_dot_product_attention(keys, queries, slots, scale=1.0)[:, 0]


def main() -> None:
    print("| pixels | channels | shared logits | attention | ratio |\n|---|---|---|---|---|")
    for side, channels in ((56, 64), (28, 128), (14, 256)):
        arguments = (
            torch.randn(BATCH, SLOTS, channels),
            torch.randn(BATCH, side * side, channels),
            torch.full((1,), 8.0),
        )
        implementations: list[Callable[..., torch.Tensor]] = [shared, attention]
        times: list[list[float]] = [[], []]
        with torch.inference_mode():
            torch.testing.assert_close(shared(*arguments), attention(*arguments), rtol=1e-4, atol=1e-5)
            for _ in range(RUNS):
                for implementation, measured in zip(implementations, times, strict=True):
                    start = time.perf_counter()
                    implementation(*arguments)
                    measured.append(1e3 * (time.perf_counter() - start))
        ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
        shared_ms, attention_ms = map(statistics.median, times)
        print(f"| {side} x {side} | {channels} | {shared_ms:.2f} ms | {attention_ms:.2f} ms | {ratio:.2f} |")


if __name__ == "__main__":
    main()
