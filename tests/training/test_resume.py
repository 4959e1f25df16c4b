"""Resume: an interrupted training ends with the same weights as an uninterrupted one."""

import copy
import os
import random
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from glmix.layers import DepthwiseConv2d, ShortAttention
from glmix.tasks import Classification, ScheduleConfig
from glmix.training.checkpoint_io import AtomicCheckpointIO, is_intact, newest_intact
from glmix.training.checkpoints import Checkpoints
from glmix.training.run_folder import checkpoint_to_resume
from glmix_cli import main
from tests.processes import Command
from tests.runs import CONFIG, assert_same, data, newest, start, task, trainer, weights, write_config


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_every_checkpoint_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, accumulate: int
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    save = Checkpoints._save

    def save_and_keep(self: Checkpoints, trainer: object) -> None:
        save(self, trainer)  # type: ignore[arg-type]
        path = self._path(trainer)  # type: ignore[arg-type]
        # the last step of an epoch is saved twice, before and after validation
        shutil.copy(path, kept / f"{path.stem}-{'before' if self.unvalidated else 'after'}.ckpt")

    monkeypatch.setattr(Checkpoints, "_save", save_and_keep)
    options = {"max_epochs": 2, "accumulate_grad_batches": accumulate}
    few = {"train_count": 12, "num_workers": workers}  # three batches per epoch
    trainer(tmp_path / "whole", **options).fit(task(), data(**few))
    monkeypatch.undo()
    expected = newest(tmp_path / "whole")
    files = sorted(kept.iterdir())
    assert len(files) == 2 * (4 if accumulate == 1 else 3)
    last = f"step-{expected['global_step']:08d}"
    seen = _images_of_each_validation(monkeypatch)
    for index, file in enumerate(files):
        if file.name == f"{last}-after.ckpt":
            continue
        resumed = trainer(tmp_path / f"{index}", **options)
        resumed.fit(task(), data(**few), ckpt_path=str(file))
        found = newest(tmp_path / f"{index}")
        assert_same(found["state_dict"], expected["state_dict"])
        assert _position(found) == _position(expected)
    assert len(seen) >= len(files)
    assert set(seen[:-1]) == {8}  # two batches


def test_optimized_training_resumes_exactly_and_agrees_with_plain_training(tmp_path: Path) -> None:
    """The layers are replaced, and gradients are clipped with the fused optimizer under autocast."""
    options = {"max_epochs": 1, "precision": "bf16-mixed"}
    few = {"train_count": 12}  # three batches
    losses = {}
    for name, optimize in (("fast", True), ("plain", False)):
        trained = task(optimize_training=optimize, schedule=ScheduleConfig(warmup_epochs=0))
        trainer(tmp_path / name, **options).fit(trained, data(**few))
        losses[name] = float(trained.last_loss)
        kinds = {type(layer) for layer in trained.model.modules()}
        assert ({DepthwiseConv2d, ShortAttention} <= kinds) == optimize
        assert bool(trained.trainer.optimizers[0].defaults["fused"]) == optimize
    first = min((tmp_path / "fast" / "checkpoints").glob("step-*.ckpt"))
    again = task(schedule=ScheduleConfig(warmup_epochs=0))
    trainer(tmp_path / "resumed", **options).fit(again, data(**few), ckpt_path=str(first))
    assert_same(weights(tmp_path / "resumed"), weights(tmp_path / "fast"))
    assert losses["fast"] == pytest.approx(losses["plain"], rel=1e-2)


def _images_of_each_validation(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every validation adds the number of images that it evaluates."""
    seen, evaluate, compute_scores = [0], Classification.evaluate, Classification.compute_scores

    def count(self: Classification, batch: Any) -> Any:
        seen[-1] += len(batch[0])
        return evaluate(self, batch)

    def end(self: Classification) -> Any:
        seen.append(0)
        return compute_scores(self)

    monkeypatch.setattr(Classification, "evaluate", count)
    monkeypatch.setattr(Classification, "compute_scores", end)
    return seen


def _position(checkpoint: dict[str, Any]) -> object:
    """Return the loop state of Lightning in a checkpoint, which a later resume depends on."""
    loops = checkpoint["loops"]["fit_loop"]
    return loops["epoch_progress"], loops["epoch_loop.batch_progress"], loops["state_dict"]


def test_interrupted_validation_is_repeated_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = task()
    trainer(tmp_path / "whole", max_epochs=2).fit(whole, data())
    cut = task()

    def stop(*args: object) -> None:
        raise KeyError("cut off")

    monkeypatch.setattr(type(cut), "on_validation_epoch_end", stop)
    with pytest.raises(KeyError):
        trainer(tmp_path / "cut", max_epochs=2).fit(cut, data())
    monkeypatch.undo()
    again = task()
    newest = newest_intact(tmp_path / "cut" / "checkpoints")
    trainer(tmp_path / "cut", max_epochs=2).fit(again, data(), ckpt_path=str(newest))
    assert again.best == whole.best
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def _finish(process: Command, seconds: float = 240) -> str:
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Return the weights of a training in this process, whose hash seed differs from that of the killed processes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["fit", "--config", str(write_config(folder / "c.yaml", folder / "run"))]) == 0
    torch.set_num_threads(threads)
    return weights(folder / "run")


def _killed_and_resumed(config: str, root: Path, kills: int) -> str:
    """Kill a training after it has saved a checkpoint, `kills` times, finish it and return its last output."""
    draw = random.Random(kills)
    folder = root / "checkpoints"
    killed = 0
    for _ in range(kills):
        process = start("fit", "--config", config)
        before = set(folder.glob("step-*.ckpt"))
        while process.poll() is None and not set(folder.glob("step-*.ckpt")) - before:
            time.sleep(0.01)  # until the training has saved another checkpoint
        time.sleep(draw.uniform(0, 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    output = _finish(start("fit", "--config", config))
    assert killed > 0
    assert "Resuming from" in output
    return output


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_resume_after_repeated_sigkill(tmp_path: Path, uninterrupted: dict[str, torch.Tensor], kills: int) -> None:
    _killed_and_resumed(str(write_config(tmp_path / "c.yaml", tmp_path / "run")), tmp_path / "run", kills)
    assert_same(weights(tmp_path / "run"), uninterrupted)


@pytest.mark.slow  # test_freezing.py resumes LoRA, data/core/test_partition.py balanced sampling
def test_lora_with_balanced_sampling_resumes_after_sigkill(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    draw = np.random.default_rng(0)
    for split, name, count in (("train", "many", 18), ("train", "few", 3), ("val", "many", 2), ("val", "few", 2)):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    content = copy.deepcopy(CONFIG)
    content["model"]["init_args"] |= {"lora": {"rank": 2, "dropout": 0.1}, "mix": None}
    content["data"] = {
        "class_path": "ImageData",
        "init_args": {
            "source": {"root": str(tmp_path)},
            "transforms": {"size": 32},
            "balanced": True,
            "batch_size": 2,
            "num_workers": 0,
        },
    }
    for name in ("whole", "killed"):
        content["trainer"]["default_root_dir"] = str(tmp_path / name)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    _finish(start("fit", "--config", str(tmp_path / "whole.yaml")))
    _killed_and_resumed(str(tmp_path / "killed.yaml"), tmp_path / "killed", 1)
    expected = weights(tmp_path / "whole")
    assert any("lora" in name for name in expected)
    assert_same(weights(tmp_path / "killed"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_finish_the_step_and_save(
    tmp_path: Path, uninterrupted: dict[str, torch.Tensor], signum: signal.Signals
) -> None:
    config = str(write_config(tmp_path / "c.yaml", tmp_path / "run"))
    process = start("fit", "--config", config, "--checkpoints.every_n_steps", "4")
    folder = tmp_path / "run" / "checkpoints"
    while process.poll() is None and not list(folder.glob("step-*.ckpt")):
        time.sleep(0.01)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, output
    assert f"{signum.name} received: stopped after step" in output
    _finish(start("fit", "--config", config))
    assert_same(weights(tmp_path / "run"), uninterrupted)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_saves_the_current_step(tmp_path: Path, signum: signal.Signals) -> None:
    from lightning.pytorch.callbacks import Callback

    from glmix.training.checkpoints import Preempted

    class Interrupt(Callback):
        def on_before_backward(self, trainer: object, *args: object) -> None:
            if trainer.global_step == 6:  # type: ignore[attr-defined]
                os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    with pytest.raises(Preempted, match="stopped after step 7"):
        trainer(tmp_path, every=100, callbacks=[Interrupt()]).fit(task(), data())
    assert signal.getsignal(signum) == before
    newest = newest_intact(tmp_path / "checkpoints")
    assert newest is not None
    assert torch.load(newest, weights_only=True)["global_step"] == 7


def test_corrupted_checkpoint_is_skipped(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=2, limit_train_batches=2).fit(task(), data())
    newest, second = sorted((tmp_path / "checkpoints").glob("step-*.ckpt"), reverse=True)[:2]
    content = newest.read_bytes()
    for corrupted in (content[: len(content) // 2], b"", content[:5000] + b"x" * 100 + content[5100:], b"#" + content):
        newest.write_bytes(corrupted)
        assert not is_intact(newest)
        assert newest_intact(tmp_path / "checkpoints") == second
        with pytest.warns(UserWarning, match=f"{newest.name} is incomplete or corrupted"):
            assert checkpoint_to_resume(tmp_path, "auto", task()) == second


def test_sigkill_while_writing_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from glmix.training.checkpoint_io import AtomicCheckpointIO\n"
        "io = AtomicCheckpointIO()\n"
        "for step in range(10**6):\n"
        "    io.save_checkpoint({'step': step, 'x': torch.full((300000,), float(step))}, 'step-1.ckpt')\n"
        "    print(step, flush=True)\n"
    )
    path = tmp_path / "step-1.ckpt"
    process = Command(cwd=tmp_path, code=code)
    for _ in range(3):
        process.stdout.readline()
    time.sleep(random.Random(1).uniform(0, 0.05))
    process.kill()
    output, _ = process.communicate()
    reported = int((output.split() or ["2"])[-1])
    assert is_intact(path)
    saved = torch.load(path, weights_only=True)
    assert saved["step"] >= reported
    assert (saved["x"] == saved["step"]).all()


def test_full_disk_keeps_the_last_intact_checkpoint(tmp_path: Path) -> None:
    mount = shutil.which("mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=5m", "tmpfs", disk], check=False).returncode:
        pytest.skip("a small tmpfs cannot be mounted here (it takes root)")
    try:
        io = AtomicCheckpointIO()
        io.save_checkpoint({"x": torch.zeros(2**19)}, disk / "step-1.ckpt")  # 2 MiB
        assert io.error is None
        with pytest.warns(UserWarning, match=r"step-2\.ckpt could not be written"):
            io.save_checkpoint({"x": torch.ones(2**20)}, disk / "step-2.ckpt")  # 4 MiB
        assert io.error is not None
        assert [path.name for path in disk.iterdir()] == ["step-1.ckpt"]
        assert newest_intact(disk) == disk / "step-1.ckpt"

        (disk / "step-1.ckpt").unlink()
        # a checkpoint of this training takes about 4 MB: only one fits on the disk
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(OSError, match="could not be saved"):
                trainer(disk, every=2, max_epochs=2).fit(task(), data())
        good = newest_intact(disk / "checkpoints")
        assert good is not None
        assert torch.load(good, weights_only=True)["global_step"] < 10
    finally:
        subprocess.run(["umount", disk], check=False)


def test_non_finite_loss_stops_the_training_and_reports_the_step(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import Callback

    from glmix.tasks import NonFiniteLossError

    class Poison(Callback):
        def on_train_batch_start(self, trainer: object, pl_module: object, batch: object, batch_idx: int) -> None:
            if trainer.global_step == 3:  # type: ignore[attr-defined]
                batch[0].fill_(float("nan"))  # type: ignore[index]

    with pytest.raises(NonFiniteLossError, match="loss of step 3"):
        trainer(tmp_path, callbacks=[Poison()]).fit(task(), data())
    newest = newest_intact(tmp_path / "checkpoints")
    assert newest is not None
    checkpoint = torch.load(newest, weights_only=True)
    assert checkpoint["global_step"] == 3
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
