"""Representative slots: a few whose maps stand for all."""

import torch
from torch import Tensor

from ...errors import InputError, MissingExtraError

__all__ = ["representative_slots"]


def representative_slots(assignment: Tensor, count: int) -> list[int]:
    """The medoids of one image's slot maps (S, N), at most `count` of them, those with most pixels first.

    The distance between two slots is how many pixels they would have to hand over to become alike. Slots that are
    exactly alike are represented once, and nothing is left to chance: the same maps give the same slots.
    """
    try:
        import kmedoids  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(
            f"Representative slots need the extra `slots` ({error}): pip install 'glmix[slots]'."
        ) from error
    if count < 1:
        raise InputError(f"The number of representative slots must be at least 1, got {count}.")
    maps = assignment.detach().float().cpu()
    distances = torch.cdist(maps, maps, p=1)
    # a slot that is a copy of an earlier one can never be a second medoid
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
