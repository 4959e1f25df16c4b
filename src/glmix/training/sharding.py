"""Sharded weights: FSDP2, for models that do not fit one device."""

from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

__all__ = ["shard"]


def shard(net: nn.Module, mesh: Any) -> None:
    """Split weights, gradients and optimiser state over the processes of a mesh: a shard a stage, one for the rest."""
    for stage in getattr(net, "stages", []):
        fully_shard(stage, mesh=mesh)
    fully_shard(net, mesh=mesh)
    if hasattr(net, "forward_dense"):
        register_fsdp_forward_method(net, "forward_dense")
