"""Options, messages and exit codes of `glmix fit`, `glmix validate` and `glmix test`."""

import importlib.util
import os
import re
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image

from glmix.errors import InputError
from glmix_cli import main
from glmix_cli.fit import main as run_command
from tests.runs import FEW, start, write_config


def fit(config: Path, *args: str) -> int:
    return main(["fit", "--config", str(config), *args])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "c.yaml", tmp_path / "run", max_epochs=2, limit_train_batches=2)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model.smoothin", "0.2", "Classification has no key 'smoothin'. Did you mean 'smoothing'?"),
        ("model.optimizer.lrr", "0.2", "OptimizerConfig has no key 'lrr'. Did you mean 'lr'?"),
        ("model.optimizer.lr", "abc", "lr: Expected a <class 'float'>. Got value: abc"),
        ("data.batch_sise", "3", "ScenesData has no key 'batch_sise'. Did you mean 'batch_size'?"),
        ("data.scenes.sise", "3", "SceneConfig has no key 'sise'. Did you mean 'size'?"),
        ("trainer.max_epoks", "3", "There is no key 'trainer.max_epoks'. Did you mean 'trainer.max_epochs'?"),
        ("model.seed", "null", "model.seed must not be null"),
        ("data.scenes.size", "null", "size: Expected a <class 'int'>"),
        ("trainer.max_epochs", "abc", "trainer.max_epochs: expected one of int, null. Got value: abc"),
        ("model.ema_decay", "2", "ema_decay must lie in [0, 1)"),
        ("model.multi_label", "true", "needs one label per image"),
        ("resume", "nowhere.ckpt", "there is no file 'nowhere.ckpt'"),
    ],
)
def test_invalid_options_are_reported(config: Path, option: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        run_command(["fit", "--config", str(config), f"--{option}", value])


def test_unknown_key_in_yaml(config: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("model:\n  class_path: Classification\n  init_args: {mix: {mixupp: 0.8}}\n")
    with pytest.raises(ValueError, match=r"MixConfig has no key 'mixupp'\. Did you mean 'mixup'"):
        run_command(["fit", "--config", str(config), "--config", str(more)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_accelerator_without_a_cuda_device(config: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.accelerator is 'gpu', but torch .* finds no CUDA device"):
        run_command(["fit", "--config", str(config), "--trainer.accelerator", "gpu"])


def test_fit_resumes_validates_and_tests(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="There are no weights"):
        run_command(["validate", "--config", str(config)])
    assert fit(config, "--trainer.max_steps", "2", "--model.schedule.warmup_epochs", "0") == 0
    assert "epoch 1/" in capsys.readouterr().err
    assert fit(config) == 0
    assert "Resuming from" in capsys.readouterr().err
    assert fit(config) == 0
    assert "is finished" in capsys.readouterr().err
    with pytest.raises(ValueError, match="already contains a run"):
        run_command(["fit", "--config", str(config), "--resume", "never"])
    assert main(["validate", "--config", str(config)]) == 0
    captured = capsys.readouterr()
    assert "best.ckpt: val/NAME is for the raw weights, val/NAME_ema for the EMA weights" in captured.err
    assert "val/top1_ema" in captured.out
    newest = str(max((tmp_path / "run" / "checkpoints").glob("step-*.ckpt")))
    assert main(["test", "--config", str(config), "--weights", newest, "--data.test_count", "5"]) == 0
    assert "test/top1" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["optimizer.base_batch", "optimizer.layer_decay", "ema_decay", "schedule.warmup_steps"])
def test_null_is_accepted_for_optional_arguments(config: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        fit(config, f"--model.{key}", "null", "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    for part in key.split("."):
        printed = printed[part]
    assert printed is None


def test_validate_evaluates_the_run_and_not_the_initial_weights(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    initial = tmp_path / "initial.safetensors"
    safetensors.torch.save_model(timm.create_model("test_glnet", **FEW, num_classes=6), initial)
    both = ("--config", str(config), "--model.checkpoint", str(initial))
    (tmp_path / "run").mkdir()
    assert main(["validate", *both]) == 2
    assert "has no checkpoint" in capsys.readouterr().err
    assert main(["fit", *both]) == 0
    initial.unlink()  # not read when a checkpoint of the run is evaluated
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    score = torch.load(best, weights_only=True)["glmix"]["best"]
    for newest in (False, True):
        if newest:
            best.unlink()
            best = max(best.parent.glob("step-*.ckpt"))
        capsys.readouterr()
        assert main(["validate", *both]) == 0
        captured = capsys.readouterr()
        assert f"Evaluating {best}" in captured.err
        if not newest:
            assert f" {score:g} " in captured.out


def test_weights_option_evaluates_any_file(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for classes in (6, 7):
        safetensors.torch.save_model(
            timm.create_model("test_glnet", **FEW, num_classes=classes), tmp_path / f"{classes}.safetensors"
        )
    arguments = ["validate", "--config", str(config), "--weights"]
    assert main([*arguments, str(tmp_path / "6.safetensors")]) == 0
    captured = capsys.readouterr()
    assert f"Evaluating the weights of {tmp_path / '6.safetensors'}" in captured.err
    assert "val/top1" in captured.out
    assert "_ema" not in captured.out
    assert main([*arguments, str(tmp_path / "7.safetensors")]) == 2
    assert "classifier is not for the 6 classes" in capsys.readouterr().err


def test_missing_logger_package_is_one_line_with_its_pip_command(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    assert fit(config, "--trainer.logger", "WandbLogger") == 2
    message = capsys.readouterr().err
    assert "pip install -U 'wandb" in message
    assert len(message.splitlines()) == 1


def test_wrong_number_of_channels_is_an_error_at_the_start(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(config, "--model.model_args.in_chans", "4") == 2
    assert "model.model_args.in_chans is 4, but the images of ScenesData have 3 channels" in capsys.readouterr().err


def test_checkpoint_of_another_model_is_skipped_with_a_warning(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(config, "--checkpoints.keep", "1") == 0
    folder = tmp_path / "run" / "checkpoints"
    (own,) = folder.glob("step-*.ckpt")
    other, junk = folder / "step-00000100.ckpt", folder / "step-00000200.ckpt"
    content = torch.load(own, weights_only=True)
    torch.save({**content, "glmix": {**content["glmix"], "model": "glnet_4g"}}, other)
    with zipfile.ZipFile(junk, "w") as archive:
        archive.writestr("a.txt", "no checkpoint")
    capsys.readouterr()
    with (
        pytest.warns(UserWarning, match=f"{other.name} contains Classification with glnet_4g"),
        pytest.warns(UserWarning, match=rf"{junk.name} .*checkpoint.* skipped"),
    ):
        assert fit(config, "--checkpoints.keep", "1", "--trainer.max_epochs", "3") == 0
    assert f"Resuming from {own}" in capsys.readouterr().err
    # new checkpoints are kept although files of later steps exist
    (new,) = set(folder.glob("step-*.ckpt")) - {other, junk}
    assert new.name == "step-00000006.ckpt"

    new.unlink()
    assert fit(config) == 2
    assert "glnet_4g" in capsys.readouterr().err
    assert other.exists()


def test_resume_with_other_ema_or_model_arguments_is_an_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(config) == 0
    capsys.readouterr()
    for option, value, message in (
        ("ema_decay", "null", "see model.ema_decay"),
        ("model_args", "{widths: [16, 16, 32, 48]}", "does not fit the configuration"),
    ):
        assert fit(config, f"--model.{option}", value, "--trainer.max_epochs", "3") == 2
        assert message in capsys.readouterr().err


def test_errors_in_image_folders_are_one_line_also_from_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (64, 64)).save(tmp_path / "images" / split / name / f"{index}.png")
    (tmp_path / "images" / "train" / "a" / "4.png").write_bytes(b"no image")
    config = tmp_path / "c.yaml"
    model = {
        "class_path": "Classification",
        "init_args": {"model": "test_glnet", "schedule": {"warmup_epochs": 0}, "fine_tuning": True},
    }
    data = {
        "source": {"root": str(tmp_path / "images"), "max_bad_images": 0},
        "transforms": {"size": 32},
        "batch_size": 3,
        "num_workers": 1,
    }
    trainer = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "default_root_dir": str(tmp_path / "run")}
    config.write_text(
        yaml.safe_dump({"model": model, "data": {"class_path": "ImageData", "init_args": data}, "trainer": trainer})
    )
    with pytest.warns(UserWarning, match="test_glnet starts from random weights.*--model.checkpoint to"):
        assert fit(config) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "4.png cannot be read as an image" in line

    assert fit(config, "--model.multi_label", "true") == 2
    assert "model.multi_label is true, but ImageData" in capsys.readouterr().err


def test_too_many_workers_cause_one_warning(tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", max_epochs=2, limit_train_batches=1)
    process = start("fit", "--config", str(config), "--data.num_workers", str(2 * (os.cpu_count() or 1)))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert output.count("Warning: ") == 1
    assert "data.num_workers is" in output


@pytest.mark.parametrize("name", ["glmix.data.modules.ScenesData", "glmix.data.coco.modules.CocoData"])
def test_class_path_of_the_first_version_is_an_error_with_the_new_path(tmp_path, capsys, name):
    (tmp_path / "old.yaml").write_text(f"model: Classification\ndata:\n  class_path: {name}\n")
    assert main(["fit", "--config", str(tmp_path / "old.yaml")]) == 2
    error = capsys.readouterr().err
    assert name in error
    assert f"datamodule.{name.rpartition('.')[2]}" in error
