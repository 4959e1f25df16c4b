"""Checks of training runs: resume after SIGKILL, DDP and FSDP2."""

import copy
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from .settings import Row, Settings

__all__ = ["distributed", "resume"]


class Batches:
    """A loader of random batches that depend only on their position, and that continues where a checkpoint ended."""

    def __init__(self, count: int, batch_size: int, size: int) -> None:
        self.count, self.batch_size, self.size = count, batch_size, size
        self.first = self.position = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self.first = self.first, 0
        for position in range(first, self.count):
            self.position = position
            generator = torch.Generator().manual_seed(position)
            shape = (self.batch_size, 3, self.size, self.size)
            yield torch.randn(shape, generator=generator), torch.randint(10, (self.batch_size,), generator=generator)

    def state_dict(self) -> dict[str, int]:
        return {"next": self.position + 1}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first = state["next"] % self.count


def train(settings: Settings, root: str, checkpoint: str | None = None, pause: float = 0.0) -> None:
    """Train a classifier with EMA, Mixup and autocast, with a checkpoint after every step.

    Args:
        settings: device and workload.
        root: the run folder.
        checkpoint: checkpoint to resume from.
        pause: seconds between steps, so that the training can be killed between its first and its last step.
    """
    import lightning.pytorch as L

    from glmix.tasks import Classification, MixConfig, OptimizerConfig, ScheduleConfig
    from glmix.training.checkpoint_io import AtomicCheckpointIO
    from glmix.training.checkpoints import Checkpoints
    from glmix.training.process import quiet

    class Data(L.LightningDataModule):
        num_classes, batch_size = 10, 8

        def train_dataloader(self) -> Any:
            return Batches(6, 2 if settings.smoke else self.batch_size, settings.size)

    class Pause(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            time.sleep(pause)

    # deterministic kernels: the same operations give the same bits
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    (name,) = settings.pick("glnet_nano")
    task = Classification(
        model=name,
        model_args={"drop_path_rate": 0.1},
        mix=MixConfig(),
        ema_decay=0.9,
        optimizer=OptimizerConfig(base_batch=None, lr=1e-4),
        schedule=ScheduleConfig(warmup_epochs=0),
    )
    # Lightning turns deterministic kernels on for the process
    deterministic = torch.are_deterministic_algorithms_enabled()
    with quiet():
        trainer = L.Trainer(
            default_root_dir=root,
            max_epochs=1,
            accelerator="gpu" if settings.on_gpu else "cpu",
            devices=1,
            precision="bf16-mixed",
            deterministic=True,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=5.0,
            use_distributed_sampler=False,
            callbacks=[Checkpoints(every_n_steps=1, keep=100), Pause()],
            plugins=[AtomicCheckpointIO()],
        )
        trainer.fit(task, datamodule=Data(), ckpt_path=checkpoint)
    torch.use_deterministic_algorithms(deterministic)


def _checkpoints(root: Path) -> list[Path]:
    return sorted((root / "checkpoints").glob("step-*.ckpt"))


def _weights(root: Path) -> dict[str, Tensor]:
    """Return the raw and averaged weights of the newest checkpoint."""
    state: dict[str, Tensor] = torch.load(_checkpoints(root)[-1], weights_only=True, map_location="cpu")["state_dict"]
    return state


def resume(settings: Settings) -> list[Row]:
    """Kill a training, resume it, and compare its weights bit for bit with those of a training that was not killed."""
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        process = multiprocessing.get_context("spawn").Process(target=train, args=(settings, str(killed), None, 0.5))
        process.start()
        train(settings, str(whole))
        deadline = time.monotonic() + 240
        while len(_checkpoints(killed)) < 2 and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.pid is not None
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        steps = len(_checkpoints(killed))
        if steps > 0:
            train(settings, str(killed), str(_checkpoints(killed)[-1]))
        expected = _weights(whole)
        found = _weights(killed) if steps else {}
        differing = [name for name in expected if name not in found or not torch.equal(found[name], expected[name])]
    return [
        {
            "killed after step": steps,
            "exit code": process.exitcode,
            "tensors": len(expected),
            "tensors that differ": len(differing),
            "passed": process.exitcode == -signal.SIGKILL and 0 < steps < 6 and not differing,
        }
    ]


def distributed(settings: Settings) -> list[Row]:
    """Train with DDP and with FSDP2 in one process, and compare the losses with those of a plain training."""
    from torch.nn.parallel import DistributedDataParallel

    from glmix.training.sharding import shard

    backend = "nccl" if settings.on_gpu else "gloo"
    (name,) = settings.pick("glnet_4g")
    model = settings.build(name, drop_path_rate=0.1)
    expected = _losses(copy.deepcopy(model).to(settings.device), settings)
    rows: list[Row] = []
    if settings.on_gpu:
        torch.cuda.set_device(torch.device(settings.device))
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        ddp = DistributedDataParallel(copy.deepcopy(model).to(settings.device))
        sharded = copy.deepcopy(model).to(settings.device)
        mesh = dist.device_mesh.init_device_mesh(settings.device.split(":")[0], (1,))
        shard(sharded, mesh)
        for way, network in (("DDP", ddp), ("FSDP2", sharded)):
            losses = _losses(network, settings)
            error = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
            rows.append(
                {
                    "way": f"{way} on {backend}",
                    "model": name,
                    "losses": ", ".join(f"{loss:.4f}" for loss in losses),
                    "largest difference": error,
                    "passed": error < 1e-3,
                }
            )
    finally:
        dist.destroy_process_group()
    return rows


def _losses(network: nn.Module, settings: Settings) -> list[float]:
    """Return the losses of three training steps, with the same random numbers on every call."""
    images = settings.images(4).to(settings.device)
    labels = torch.arange(4, device=settings.device)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(network.train().parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
