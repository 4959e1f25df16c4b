"""Use of checkpoints of `glmix fit` in other commands: convert, predict and export."""

import json
import os
import stat
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import glmix as library
import glmix_cli
from glmix.models import load_folder
from glmix.tasks import (
    Classification,
    Detection,
    DetectorConfig,
    ScheduleConfig,
    Segmentation,
    TokenLabelling,
    load_trained,
)
from tests.runs import assert_same, data, task, trainer
from tests.training.test_hostile_checkpoints import SMALL, checkpoint_of

NAMES = ["cat", "dog", "cow"]


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    """best.ckpt of a short training."""
    root = tmp_path_factory.mktemp("run")
    short = task(ema_decay=None, schedule=ScheduleConfig(warmup_epochs=0))
    trainer(root, max_epochs=1, limit_train_batches=1, limit_val_batches=1).fit(short, data())
    return root / "checkpoints" / "best.ckpt"


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run `glmix ...` in this process in an empty folder, which avoids the import time of a new process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        try:
            code = glmix_cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # of --help
            code = end.code
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=printed.out, stderr=printed.err)

    return run


@pytest.fixture
def multi(tmp_path):
    """A checkpoint of a multi-label classifier."""
    content = checkpoint_of(Classification(model="test_glnet", model_args=SMALL, multi_label=True))
    content["glmix"]["class_names"] = NAMES
    torch.save(content, tmp_path / "multi.ckpt")
    return tmp_path / "multi.ckpt"


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((48, 40), 60).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def predictions(result):
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(result.stdout)["results"]
    return {one["label"]: one["probability"] for one in found["predictions"]}


def test_the_documented_conversion_of_a_run_keeps_all_metadata(best, tmp_path):
    model = load_trained(best)
    library.save_model(model, tmp_path / "saved")
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    names = list(data().class_names)
    assert list(again.pretrained_cfg["label_names"]) == names
    config = timm.data.resolve_model_data_config(again)
    before = timm.data.resolve_model_data_config(model)
    assert {k: np.array(v).tolist() for k, v in config.items()} == {k: np.array(v).tolist() for k, v in before.items()}
    assert tuple(config["input_size"]) == (3, 32, 32)
    assert config["crop_pct"] == 1.0
    transformers = pytest.importorskip("transformers")
    wrapped = transformers.TimmWrapperForImageClassification.from_pretrained(tmp_path / "saved")
    assert wrapped.config.id2label == dict(enumerate(names))


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_the_files_of_a_folder_have_the_permissions_of_the_umask(umask, best, tmp_path):
    before = os.umask(umask)
    try:
        library.save_model(load_trained(best), tmp_path / "saved")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "saved").iterdir()}
    assert modes == dict.fromkeys(("config.json", "model.safetensors", "README.md"), 0o666 & ~umask)


def test_convert_creates_a_folder_from_a_training_checkpoint(glmix, here, best, photo, tmp_path):
    result = glmix("convert", best, "folder")
    assert result.returncode == 0, result.stderr
    names = list(data().class_names)
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["label_names"] == names
    direct = predictions(here("predict", photo, "--checkpoint", best, "--json"))
    assert predictions(here("predict", photo, "--model", "local-dir:folder", "--json")) == pytest.approx(direct)
    assert set(direct) <= set(names)
    assert sum(direct.values()) <= 1 + 1e-6
    refused = here("convert", best, "other", "--variant", "glnet_4g")
    assert refused.returncode == 2
    assert "not a glnet_4g" in refused.stderr


def test_multi_label_classifiers_are_converted_and_predict_with_sigmoids(here, multi, photo, tmp_path):
    assert here("convert", multi, "folder").returncode == 0
    model = load_folder(tmp_path / "folder")
    assert model.multi_label
    again = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True)
    assert list(again.pretrained_cfg["label_names"]) == NAMES
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        expected = model(transform(Image.open(photo))[None])[0].sigmoid()
    for source in (["--checkpoint", multi], ["--model", "local-dir:folder"]):
        found = predictions(here("predict", photo, *source, "--json"))
        assert found == pytest.approx(dict(zip(NAMES, expected.tolist(), strict=True)), abs=1e-5)


def test_token_labelling_converts_too(tmp_path):
    torch.save(checkpoint_of(TokenLabelling(model="glnet_4g_tklb", model_args=SMALL)), tmp_path / "t.ckpt")
    library.save_model(load_trained(tmp_path / "t.ckpt"), tmp_path / "folder")
    assert type(load_folder(tmp_path / "folder")).__name__ == "GLNetTokenLabel"


def dense(kind):
    args = {**SMALL, "mixers": ("attn", "attn", "glmix", "attn"), "pos_conv": False, "mlp_conv": False}
    if kind == "segment":
        return Segmentation("fpn", {"decoder_pyramid_channels": 16}, model="test_glnet", model_args=args)
    detector = DetectorConfig("retinanet", channels=16, min_size=32, max_size=64)
    return Detection(detector, model="test_glnet", model_args=args)


@pytest.mark.parametrize("kind", ["segment", "detect"])
def test_dense_checkpoints_are_converted(kind, here, tmp_path):
    torch.save(checkpoint_of(dense(kind)), tmp_path / "dense.ckpt")
    converted = here("convert", "dense.ckpt", "folder")
    assert converted.returncode == 0, converted.stderr
    assert f"`glmix {kind} " in converted.stdout
    assert_same(
        library.load(tmp_path / "folder").network.state_dict(), load_trained(tmp_path / "dense.ckpt").state_dict()
    )


# deploy/test_export.py exports a pyramid, and deploy/test_export_tasks.py networks of such checkpoints
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "file"), [("detect", "features.pt2"), ("segment", "features.onnx")])
def test_dense_checkpoints_export_features(kind, file, here, tmp_path):
    pytest.importorskip("onnxruntime")
    torch.save(checkpoint_of(dense(kind)), tmp_path / "dense.ckpt")
    result = here("export", "--checkpoint", "dense.ckpt", "--outputs", "features", "-o", file)
    assert result.returncode == 0, result.stderr
    from glmix.deploy import load_exported

    network = load_trained(tmp_path / "dense.ckpt")
    pyramid = next(module for module in network.modules() if isinstance(module, library.Pyramid))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = pyramid(x)
    found = load_exported(tmp_path / file)(x.numpy())
    assert list(found) == [f"stage{index}" for index in pyramid.out_indices]
    for one, other in zip(found.values(), expected, strict=True):
        assert np.abs(one - other.numpy()).max() <= 1e-4 * float(other.abs().max())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "No model was given: use --checkpoint"),
        (["--model", "glnet_4g", "--checkpoint", "multi.ckpt"], "multi.ckpt contains a test_glnet"),
        (["--model", "local-dir:folder", "--checkpoint", "multi.ckpt"], "already contains weights"),
    ],
)
def test_contradicting_model_and_checkpoint_raise_an_error(arguments, words, here, multi, photo):
    result = here("predict", photo, *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_model_and_checkpoint_that_agree_are_accepted(here, multi, photo):
    result = here("predict", photo, "--model", "test_glnet", "--checkpoint", multi, "--json")
    assert set(predictions(result)) == set(NAMES)


def test_the_help_for_models_and_checkpoints_is_the_same_everywhere(here):
    pages = [here(*command, "--help").stdout for command in (["predict"], ["explain"], ["export"], ["slots", "score"])]
    texts = {" ".join(page.split("--checkpoint PATH")[-1].split()[:12]) for page in pages}
    assert len(texts) == 1
    assert "a .ckpt written by `glmix fit`" in texts.pop()
