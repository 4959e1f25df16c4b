"""The programs in examples/ run, and do what they say."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

import glmix
from glmix.data import SceneConfig, draw_scene

FOLDER = Path(__file__).parents[1] / "examples"
sys.path.append(str(FOLDER))


def test_every_example_is_listed() -> None:
    listed = (FOLDER / "README.md").read_text()
    assert [path.name for path in FOLDER.glob("*.py") if f"]({path.name})" not in listed] == []


def test_the_restoration_network_removes_noise() -> None:
    restoration = importlib.import_module("restoration")
    before, after = restoration.main(["--steps", "15", "--size", "32", "--noise", "0.2"])
    assert after > before + 1
    model = restoration.Restorer((32, 64)).eval()
    model.leave.weight.data.normal_(std=0.1)
    images = torch.rand(2, 3, 33, 46)  # padded to 34 x 46
    with torch.inference_mode():
        assert model(images).shape == images.shape


def test_attributions_agree_with_the_network(tmp_path: Path) -> None:
    pytest.importorskip("captum", reason="captum is not installed: pip install captum")
    pytest.importorskip("pytorch_grad_cam")
    attribution = importlib.import_module("attribution")
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=4, depths=(1, 1, 2, 1)).eval()
    glmix.save_model(model, tmp_path / "model")
    Image.fromarray(draw_scene(SceneConfig(), "test", 3).image).save(tmp_path / "photo.png")
    out = tmp_path / "out.png"
    attribution.main([str(tmp_path / "photo.png"), "--checkpoint", str(tmp_path / "model"), "--out", str(out)])
    assert Image.open(out).size == (4 * 224, 224)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        logits = model(image)[0]
        grey = model(torch.zeros_like(image))[0]
    # integrated gradients sum to the difference of the logits, up to the number of steps
    gradients = attribution.integrated_gradients(model, image, 1, steps=24).sum()
    assert float(gradients) == pytest.approx(float(logits[1] - grey[1]), abs=0.15 * float(logits.abs().max()))
    evidence = attribution.evidence_map(model, image, 1)
    assert evidence.isfinite().all()


def run_in_process(name: str, *arguments: str, **environment: str) -> Any:
    """Return what `main` of an example returns in a new process, because its library changes settings of the process.

    The test is skipped if the library is not installed. No library may install packages or download weights.
    """
    library = {"yolo": "ultralytics", "patchcore": "anomalib"}[name]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    code = f"import json, {name}; print(json.dumps({name}.main({list(arguments)!r})))"
    offline = {"YOLO_AUTOINSTALL": "false", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=FOLDER,
        env={**os.environ, **offline, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_yolo_learns_with_a_glnet(tmp_path: Path) -> None:
    out = tmp_path / "out"
    glmix.save_model(timm.create_model("test_glnet"), tmp_path / "backbone")
    backbone = ["--backbone", f"local-dir:{tmp_path / 'backbone'}"]
    small = ["--epochs", "3", "--images", "160", "--out", str(out)]
    losses, precision = run_in_process("yolo", *backbone, *small, YOLO_CONFIG_DIR=str(tmp_path))
    assert len(losses) == 3
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= precision <= 1
    assert (out / "run" / "weights" / "best.pt").is_file()  # it was loaded for the last validation


@pytest.mark.slow
def test_patchcore_separates_images_with_and_without_defects(tmp_path: Path) -> None:
    scores = run_in_process("patchcore", "--out", str(tmp_path / "out"), "--steps", "40")
    assert scores["image_AUROC"] > 0.8
    assert scores["pixel_AUROC"] > 0.9
    assert list((tmp_path / "out" / "results").rglob("defect/*.png"))
