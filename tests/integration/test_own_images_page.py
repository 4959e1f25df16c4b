"""The commands and the Python code of docs/own-images.md run on a few small photographs, in their order."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import timm
import torch
from PIL import Image

from glmix_cli import main
from tests.deploy.models import ONE
from tests.test_docs import ROOT, code_blocks, shell_lines

PAGE = ROOT / "docs" / "own-images.md"
COMMANDS = [shlex.split(line) for block in code_blocks(PAGE, "sh") for line in shell_lines(block)]
SMALL = {
    "model.model": "test_glnet",
    "model.model_args.widths": "[64]",
    "model.model_args.depths": "[1]",
    "model.model_args.mixers": "[glmix]",
    "model.model_args.stem": "patch",
    "data.transforms.size": "64",
    "data.batch_size": "8",
    "data.num_workers": "0",
    "trainer.accelerator": "cpu",
}
SHORT = {"model.schedule.warmup_epochs": "0", "model.ema_decay": "null", "trainer.max_epochs": "2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs and starting weights, in which the commands of the page were run."""
    folder = tmp_path_factory.mktemp("page")
    generator = np.random.default_rng(0)
    for name, colour in (("cat", (200, 120, 40)), ("dog", (40, 90, 200))):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(1, 11):
            pixels = np.clip(generator.normal(colour, 30, (70, 90, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number:04d}.jpg")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_glnet", **ONE).state_dict(), folder / "glnet_4g.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for program, *arguments in COMMANDS:
            assert program == "glmix"
            options = {"fit": {**SMALL, **SHORT}, "validate": {**SMALL, "model.ema_decay": "null"}}
            small = options.get(arguments[0], {})
            assert main([*arguments, *(part for name, value in small.items() for part in (f"--{name}", value))]) == 0
    return folder


def test_every_command_writes_what_the_page_names(folder: Path) -> None:
    expected = set(re.findall(r"`(out/[\w/.]+)`", PAGE.read_text()))
    assert len(expected) >= 4
    assert [name for name in expected if not (folder / name).exists()] == []
    assert (folder / "out" / "similar.html").read_text().count("<section>") == 20
    assert list((folder / "out" / "slots").glob("*.html"))
    assert pyarrow.parquet.read_table(folder / "out" / "predictions").num_rows == 20


def test_the_exported_model_runs_without_torch_and_predicts_the_same(folder: Path) -> None:
    (code,) = code_blocks(PAGE, "python")
    (folder / "out" / "photo.jpg").write_bytes((folder / "photos" / "dog" / "0001.jpg").read_bytes())
    blocked = "import sys; sys.modules['torch'] = sys.modules['glmix'] = None\n"
    result = subprocess.run(
        [sys.executable, "-c", blocked + code], cwd=folder / "out", capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    label, probability = result.stdout.split()
    rows = pyarrow.parquet.read_table(folder / "out" / "predictions").to_pylist()
    (row,) = [row for row in rows if row["key"].endswith("dog/0001.jpg")]
    assert label == row["labels"][0]
    assert float(probability) == pytest.approx(row["probabilities"][0], abs=1e-3)
