"""The commands and the Python code of docs/fine-tuning.md run on a few small images."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from glmix_cli import main
from tests.test_docs import ROOT, code_blocks, shell_lines

PAGE = ROOT / "docs" / "fine-tuning.md"
COMMANDS = [shlex.split(line) for block in code_blocks(PAGE, "sh") for line in shell_lines(block)]
SMALL = {
    "model.model": "test_glnet",
    "model.schedule.warmup_epochs": "0",
    "data.transforms.size": "64",
    "data.batch_size": "2",
    "data.num_workers": "0",
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": "1",
    "trainer.limit_train_batches": "1",
    "trainer.limit_val_batches": "1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos and starting weights, in which the commands of the page were run."""
    folder = tmp_path_factory.mktemp("page")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / "photos" / split / name).mkdir(parents=True)
            Image.fromarray(random.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(
                folder / "photos" / split / name / "0.png"
            )
    torch.save(timm.create_model("test_glnet").state_dict(), folder / "glnet_4g.pth")
    small = [part for name, value in SMALL.items() for part in (f"--{name}", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for program, *arguments in COMMANDS:
            assert program == "glmix"
            if "--find_lr" not in arguments:  # training/test_lr_finder.py
                assert main([*arguments, *(small if arguments[0] == "fit" else [])]) == 0, arguments
    return folder


def test_every_training_has_its_own_run_folder(folder: Path) -> None:
    runs = {path.parent.parent.name for path in folder.glob("out/*/checkpoints/best.ckpt")}
    assert runs == {"all", "probe", "last-stage", "warm-up", "lora", "progressive", "stopping"}
    assert (folder / "plain" / "model.safetensors").is_file()
    adapter = (folder / "adapter" / "adapter_model.safetensors").stat().st_size
    assert adapter < 0.2 * (folder / "plain" / "model.safetensors").stat().st_size


def test_python_code_gives_the_trained_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import glmix

    (code,) = code_blocks(PAGE, "python")
    monkeypatch.chdir(folder)
    names: dict[str, torch.nn.Module] = {}
    load = glmix.load
    monkeypatch.setattr("glmix.load", lambda path: load(path, "test_glnet"))
    exec(code, names)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = timm.create_model("local-dir:plain", pretrained=True).eval()(images)
        torch.testing.assert_close(names["network"].eval()(images), expected, rtol=1e-4, atol=1e-5)
