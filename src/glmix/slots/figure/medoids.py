"""Choice of representative slots by k-medoids."""

import torch
from torch import Tensor

from ...errors import InputError, needs_extra

__all__ = ["representative_slots"]


def representative_slots(assignment: Tensor, count: int) -> list[int]:
    """Return the medoids of the slot maps (S, N) of one image, at most `count`, sorted by size, the largest first.

    The distance between two slots is the L1 distance of their maps. Identical slots count once. The result is
    deterministic.

    Args:
        assignment: softmax over slots (S, N).
        count: number of representative slots, at least 1.
    """
    with needs_extra("slots", "representative slots"):
        import kmedoids  # type: ignore[import-untyped]
    if count < 1:
        raise InputError(f"The number of representative slots must be at least 1, got {count}.")
    maps = assignment.detach().float().cpu()
    distances = torch.cdist(maps, maps, p=1)
    # a copy of an earlier slot cannot be a second medoid
    copies = (distances == 0).float().argmax(1)
    distinct = torch.unique(copies)
    distances = distances[distinct][:, distinct]
    if count >= len(distinct):
        chosen = list(range(len(distinct)))
    else:
        result = kmedoids.fasterpam(distances.numpy(), count, init="build", random_state=0, n_cpu=1)
        chosen = [int(slot) for slot in result.medoids]
    slots = [int(distinct[slot]) for slot in chosen]
    share = maps.sum(1)
    return sorted(slots, key=lambda slot: (-float(share[slot]), slot))
