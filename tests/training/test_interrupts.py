"""Signals: training finishes and saves the current step, and global process state is restored."""

import logging
import os
import random
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from glmix_cli import main
from tests.processes import WITHOUT_COMPILER, Command
from tests.runs import assert_same, start, weights, write_config

WORKERS = ("--data.num_workers", "1", "--trainer.max_epochs", "2")


def wait_for_checkpoint(process: Command, root: Path) -> None:
    while process.poll() is None and not list((root / "checkpoints").glob("step-*.ckpt")):
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signal_to_the_process_group_saves_with_workers_and_resumes_exactly(
    tmp_path: Path, signum: signal.Signals
) -> None:
    config = str(write_config(tmp_path / "c.yaml", tmp_path / "run"))
    process = start("fit", "--config", config, *WORKERS, new_session=True)
    wait_for_checkpoint(process, tmp_path / "run")
    os.killpg(process.pid, signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, output
    assert f"{signum.name} received: stopped after step" in output
    assert "Traceback" not in output
    with pytest.raises(ProcessLookupError):  # all worker processes have ended
        os.killpg(process.pid, 0)
    processes = [
        start("fit", "--config", config, *WORKERS),
        start("fit", "--config", config, *WORKERS, "--trainer.default_root_dir", str(tmp_path / "whole")),
    ]
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_workers_end_when_the_main_process_is_killed_or_fails() -> None:
    code = (
        "import os, signal\n"
        "from torch.utils.data._utils import worker\n"
        "from glmix.data.core.loaders import eval_loader\n"
        "worker.MP_STATUS_CHECK_INTERVAL = 0.5  # seconds until a worker notices that the main process was killed\n"
        "loader = iter(eval_loader(list(range(100)), 100, 1, num_workers=1))\n"
        "next(loader)\n"
        "print(loader._workers[0].pid, flush=True)\n"
        "os.kill(loader._workers[0].pid, signal.SIGINT)\n"
    )
    for how, end_of_code in (("killed", "os.kill(os.getpid(), signal.SIGKILL)"), ("fails", "1 / 0")):
        process = Command(code=code + end_of_code)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == {"killed": -signal.SIGKILL, "fails": 1}[how]
        worker, end = int(output), time.monotonic() + 20
        while Path(f"/proc/{worker}").exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert not Path(f"/proc/{worker}").exists(), how


def test_second_ctrl_c_ends_immediately(tmp_path: Path) -> None:
    """The first Ctrl-C waits for a training step that does not end."""
    code = (
        "import time\n"
        "from glmix.tasks import Classification\n"
        "def step(self, batch, batch_idx):\n"
        "    print('in a step', flush=True)\n"
        "    time.sleep(300)\n"
        "Classification.training_step = step\n"
    )
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", num_sanity_val_steps=0)
    process = Command("fit", "--config", config, code=code)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_demo_ends_on_signals(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    process = Command("demo", tmp_path / "demo", "--scenes", "200", code=WITHOUT_COMPILER)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("epoch 1/")
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("fails", [False, True])
def test_fit_restores_the_global_state_of_the_process(tmp_path: Path, fails: bool) -> None:
    def state() -> tuple[object, ...]:
        loggers = [logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict) if "lightning" in name]
        handlers = [signal.getsignal(n) for n in sorted(signal.valid_signals() - {signal.SIGCHLD})]
        generators = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
        settings = (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.get_num_threads(),
        )
        return (
            handlers,
            generators,
            list(warnings.filters),
            {k.name: k.level for k in loggers},
            dict(os.environ),
            settings,
        )

    config = write_config(tmp_path / "c.yaml", tmp_path / "run", max_epochs=2, limit_train_batches=1)
    arguments = ["--trainer.deterministic", "true", "--seed_everything", "3"]
    import glmix.tasks.cli  # noqa: F401 - imports change global state permanently

    before = state()
    if fails:
        arguments += ["--data.train_count", "1"]
    assert main(["fit", "--config", str(config), *arguments]) == (2 if fails else 0)
    after = state()
    for index, (a, b) in enumerate(zip(before, after, strict=True)):
        assert a == b, index


def test_concurrent_runs_in_one_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", max_epochs=1000)
    process = start("fit", "--config", str(config))
    wait_for_checkpoint(process, tmp_path / "run")
    assert main(["fit", "--config", str(config)]) == 2
    message = capsys.readouterr().err
    assert f"process {process.pid} on" in message
    assert str(tmp_path / "run") in message
    process.kill()  # the lock ends with the process
    process.communicate()
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", max_epochs=2)
    assert main(["fit", "--config", str(config)]) == 0
    assert (tmp_path / "run" / "run.lock").read_text() == ""
