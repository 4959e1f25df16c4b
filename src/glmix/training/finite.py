"""Detection of losses that are not finite, without synchronising the device at every step."""

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

__all__ = ["NO_STEP", "NonFiniteLossError", "raise_if_not_finite"]

NO_STEP = 2**62  # the number of the first bad step while all losses are finite


class NonFiniteLossError(InputError):
    """The loss is infinite or NaN."""


def raise_if_not_finite(bad_step: Tensor, trainer: Any) -> None:
    """Raise NonFiniteLossError if a loss so far was not finite on any process. This synchronises the device.

    Args:
        bad_step: number of the first step of this process with such a loss, or `NO_STEP`.
        trainer: the trainer.
    """
    if trainer.world_size > 1:
        bad_step = bad_step.clone()
        torch.distributed.all_reduce(bad_step, op=torch.distributed.ReduceOp.MIN)
    step = int(bad_step)
    if step < NO_STEP:
        raise NonFiniteLossError(
            f"The loss of step {step} (epoch {trainer.current_epoch}) is not finite, so the training stops. "
            "The last checkpoint was saved before this step. Lower the learning rate, train in float32 "
            "(trainer.precision), or check the data."
        )
