"""Small trainings for the tests, in this process or as child processes."""

import socket
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import yaml

from glmix.data.classification.datamodule import ScenesData
from glmix.data.scenes import SceneConfig
from glmix.tasks import Classification, MixConfig, OptimizerConfig, ScheduleConfig
from glmix.training.checkpoint_io import AtomicCheckpointIO
from glmix.training.checkpoints import Checkpoints
from tests.processes import Command

SCENES = SceneConfig(size=32, objects=(1, 1))
# One block with slots and one with attention: checkpoints of many tensors take more time than the steps.
FEW: dict[str, Any] = {"widths": [32, 48], "depths": [1, 1], "mixers": ["glmix", "attn"], "drop_path_rate": 0.2}


def task(**kwargs: Any) -> Classification:
    """Return a task with all sources of randomness and state: stochastic depth, Mixup, EMA and a schedule."""
    options: dict[str, Any] = {
        "model": "test_glnet",
        "model_args": FEW,
        "mix": MixConfig(),
        "smoothing": 0.1,
        "ema_decay": 0.9,
        "optimizer": OptimizerConfig(base_batch=None),
        "schedule": ScheduleConfig(warmup_epochs=1),
    }
    return Classification(**{**options, **kwargs})


def data(**kwargs: Any) -> ScenesData:
    return ScenesData(**{"scenes": SCENES, "train_count": 20, "val_count": 8, "batch_size": 4, **kwargs})


def trainer(root: Path, every: int = 1, keep: int = 100, **kwargs: Any) -> L.Trainer:
    options: dict[str, Any] = {
        "default_root_dir": root,
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "gradient_clip_val": 5.0,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "callbacks": [],
    }
    options.update(kwargs)
    options["callbacks"] = [Checkpoints(every, keep), *options["callbacks"]]
    return L.Trainer(plugins=[AtomicCheckpointIO()], **options)


def newest(root: Path) -> dict[str, Any]:
    """Return the newest checkpoint of a run."""
    path = max((root / "checkpoints").glob("step-*.ckpt"))
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def weights(root: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of the newest checkpoint: raw and EMA weights."""
    state: dict[str, torch.Tensor] = newest(root)["state_dict"]
    return state


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


CONFIG: dict[str, Any] = {
    "model": {
        "class_path": "Classification",
        "init_args": {
            "model": "test_glnet",
            "model_args": FEW,
            "mix": {"mixup": 0.8},
            "smoothing": 0.1,
            "ema_decay": 0.9,
            "optimizer": {"base_batch": None},
            "schedule": {"warmup_epochs": 1},
        },
    },
    "data": {
        "class_path": "glmix.data.classification.datamodule.ScenesData",
        "init_args": {
            "scenes": {"size": 32, "objects": [1, 1]},
            "train_count": 80,
            "val_count": 16,
            "batch_size": 8,
        },
    },
    "trainer": {"max_epochs": 3, "accelerator": "cpu", "devices": 1, "gradient_clip_val": 5.0, "logger": False},
    "checkpoints": {"every_n_steps": 3},
}


def write_config(path: Path, root: Path, **trainer: Any) -> Path:
    """Write CONFIG with the run folder `root` and return its path."""
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], "default_root_dir": str(root), **trainer}}
    path.write_text(yaml.safe_dump(config))
    return path


def start(*args: str, **options: Any) -> Command:
    """Start `glmix ARGS` as a process whose stderr goes to stdout."""
    return Command(*args, merge=True, **options)


def together(count: int, *args: str) -> str:
    """Run `glmix ARGS` as `count` distributed processes, like torchrun, and return their output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"NODE_RANK": "0", "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [start(*args, env={**shared, "LOCAL_RANK": str(rank)}) for rank in range(count)]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(outputs)
    return "\n".join(outputs)
