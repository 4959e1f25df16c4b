"""The programs in examples/ run, and do what they say."""

import importlib
import sys
from pathlib import Path

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
    pytest.importorskip("captum")
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
