"""Sharded training with FSDP2, for models that do not fit on one device."""

from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

__all__ = ["shard"]


def shard(net: nn.Module, mesh: Any) -> None:
    """Shard weights, gradients and optimizer state over a device mesh: one FSDP2 unit per stage, one for the rest."""
    for stage in getattr(net, "stages", []):
        fully_shard(stage, mesh=mesh)
    fully_shard(net, mesh=mesh)
    if hasattr(net, "forward_dense"):
        register_fsdp_forward_method(net, "forward_dense")
