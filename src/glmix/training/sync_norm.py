"""Synchronised BatchNorm that also works on CPUs, where torch's SyncBatchNorm does not."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins import LayerSync, TorchSyncBatchNorm
from torch import Tensor, nn

__all__ = ["SharedBatchNorm2d", "SyncNorm", "share_buffers"]


def _sum_over_processes(x: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(x)
    return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with training statistics over all processes, and the same parameters and buffers as BatchNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        count = _sum_over_processes(x.new_tensor(x.numel() / x.shape[1]))
        mean = _sum_over_processes(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        var = _sum_over_processes(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats and self.momentum is not None:
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * count / (count - 1), self.momentum)
                self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(var + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]


class SyncNorm(LayerSync):
    """Lightning plugin for `trainer.sync_batchnorm` on any device."""

    def __init__(self) -> None:
        self.torch_sync = TorchSyncBatchNorm()

    def apply(self, model: nn.Module) -> nn.Module:
        if torch.distributed.get_backend() == "nccl":
            synced: nn.Module = self.torch_sync.apply(model)
            return synced
        _replace(model, nn.BatchNorm2d, SharedBatchNorm2d)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        _replace(model, SharedBatchNorm2d, nn.BatchNorm2d)
        reverted: nn.Module = self.torch_sync.revert(model)
        return reverted


def share_buffers(wrapper: nn.Module | None, training: bool) -> None:
    """Under DDP, evaluate all processes with the buffers of the first process, which are saved in checkpoints.

    This replaces DDP's broadcast before every batch, which would wait forever for processes with fewer batches.

    Args:
        wrapper: the model as the strategy has wrapped it; only DistributedDataParallel is changed.
        training: whether training continues, or an evaluation starts.
    """
    if not isinstance(wrapper, nn.parallel.DistributedDataParallel):
        return
    if not training:
        for buffer in wrapper.buffers():
            dist.broadcast(buffer, 0)
    wrapper.broadcast_buffers = training


def _replace(model: nn.Module, old: type[nn.Module], new: Any) -> None:
    """Change the class of modules in place. This is safe because the two classes only differ in `forward`.

    Building new modules instead would mean copying settings, parameters, buffers, hooks, mode, device and dtype.
    """
    for module in model.modules():
        if type(module) is old:
            module.__class__ = new
