"""Reading, recognition and conversion of the authors' checkpoints, and errors for malformed files."""

import argparse
import json
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

import glmix
from glmix.deploy import fuse
from glmix.errors import InputError
from glmix.models import OFFICIAL_VARIANTS
from glmix.models.official import read_checkpoint, recognise, to_glmix_names
from tests.parity.official_weights import image_batch, official_shapes, official_state_dict

X = image_batch(1, 64, 64)


@pytest.fixture(scope="module")
def weights():
    return official_state_dict("glnet_stl")


@pytest.fixture(scope="module")
def expected(weights):
    model = timm.create_model("glnet_stl").eval()
    model.load_state_dict(to_glmix_names(weights))
    with torch.inference_mode():
        return model(X)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(X)


@pytest.mark.parametrize("variant", OFFICIAL_VARIANTS)
def test_each_variant_is_recognised_by_the_names_and_shapes_of_its_weights(variant):
    shapes = official_shapes(variant)
    types = {name: torch.int64 if name.endswith("num_batches_tracked") else torch.float32 for name in shapes}
    weights = {name: torch.empty(shape, dtype=types[name], device="meta") for name, shape in shapes.items()}
    assert recognise(to_glmix_names(weights)) == variant


def with_prefix(weights, prefix):
    return {prefix + name: tensor for name, tensor in weights.items()}


LAYOUTS = {
    "released": lambda w: {"model": w, "epoch": 299, "args": argparse.Namespace(lr=2e-3)},
    "plain": lambda w: w,
    "ddp": lambda w: {"model": with_prefix(w, "module.")},
    "compiled": lambda w: with_prefix(w, "_orig_mod."),
    "ours": to_glmix_names,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_checkpoint_layout_loads_with_load_official_and_timm(layout, weights, expected, tmp_path):
    path = tmp_path / "glnet_stl.pth"
    torch.save(LAYOUTS[layout](weights), path)
    read = read_checkpoint(path)
    assert read.keys() == to_glmix_names(weights).keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in to_glmix_names(weights).items())
    if layout not in ("released", "ours"):  # both functions below use read_checkpoint
        return
    assert torch.equal(logits(glmix.load_official(path)), expected)
    model = timm.create_model("glnet_stl", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert torch.equal(logits(model), expected)
    assert "state_dict" not in model.pretrained_cfg


def test_safetensors_load(weights, expected, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(weights, path)
    assert torch.equal(logits(glmix.load_official(path)), expected)
    path.rename(tmp_path / "weights.bin")  # known by its content, too
    assert torch.equal(logits(glmix.load_official(tmp_path / "weights.bin")), expected)


def test_the_default_weights_are_those_that_the_authors_report(tmp_path):
    for variant, chosen in (("glnet_16g", "model_ema"), ("glnet_4g", "model")):
        raw = official_state_dict(variant, "downsample_layers.0")
        ema = {name: tensor + 1 for name, tensor in raw.items()}
        torch.save({"model": raw, "model_ema": ema}, tmp_path / "both.pth")
        taken = read_checkpoint(tmp_path / "both.pth")["stem.layers.conv1.bias"]
        assert torch.equal(taken, {"model": raw, "model_ema": ema}[chosen]["downsample_layers.0.1.bias"])
        averaged = read_checkpoint(tmp_path / "both.pth", use_ema=True)["stem.layers.conv1.bias"]
        assert torch.equal(averaged, ema["downsample_layers.0.1.bias"])
    torch.save({"model_ema": ema}, tmp_path / "ema.pth")
    assert torch.equal(
        read_checkpoint(tmp_path / "ema.pth")["stem.layers.conv1.bias"], ema["downsample_layers.0.1.bias"]
    )


def test_other_classes_channels_and_features_are_adapted(weights, tmp_path):
    path = tmp_path / "glnet_stl.pth"
    torch.save({"model": weights}, path)
    overlay = {"file": str(path)}
    model = timm.create_model("glnet_stl", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5, in_chans=1)
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 5)
    assert torch.equal(model.norm.weight, weights["norm.weight"])
    kwargs = {"pretrained": True, "pretrained_cfg_overlay": overlay, "features_only": True}
    whole = glmix.load_official(path).eval()
    with torch.inference_mode():
        stage = whole.forward_intermediates(X, intermediates_only=True)[0]
        for feature_class in ("list", "getter", "hook"):
            pyramid = timm.create_model("glnet_stl", feature_cls=feature_class, **kwargs).eval()
            torch.testing.assert_close(pyramid(X)[0], stage)
    fewer_slots = timm.create_model("glnet_stl", pretrained=True, pretrained_cfg_overlay=overlay, num_slots=16)
    assert fewer_slots.stages[0].blocks[0].mixer.bridge.rows == 4


def test_the_number_of_classes_is_inferred_from_the_file(weights, tmp_path):
    fewer = {**weights, "head.weight": weights["head.weight"][:9], "head.bias": weights["head.bias"][:9]}
    torch.save({"model": fewer}, tmp_path / "nine.pth")
    assert glmix.load_official(tmp_path / "nine.pth").num_classes == 9


def test_weights_that_do_not_fit_raise_an_error_with_a_list(weights, tmp_path):
    path = tmp_path / "damaged.pth"
    damaged = {name: tensor for name, tensor in weights.items() if name != "stages.1.blocks.0.norm1.bias"}
    damaged["norm.weight"] = damaged["norm.weight"][:-1]
    damaged["extra"] = torch.zeros(3)
    torch.save({"model": damaged}, path)
    lines = [
        r"missing: stages\.1\.blocks\.0\.norm1\.bias \(192,\)",
        r"not in the model: extra \(3,\)",
        r"wrong shape: norm\.weight is \(767,\), the model has \(768,\)",
    ]
    overlay = {"file": str(path)}
    for load in (
        lambda: glmix.load_official(path),
        lambda: timm.create_model("glnet_stl", pretrained=True, pretrained_cfg_overlay=overlay),
    ):
        with pytest.raises(ValueError, match="missing") as refusal:
            load()
        assert [line for line in lines if not re.search(line, str(refusal.value))] == []
    with pytest.raises(ValueError, match="does not fit glnet_4g"):
        glmix.load_official(path, "glnet_4g")


class Payload:
    """A malicious pickle; unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_that_would_run_code_raises_an_error_and_runs_nothing(new_format, weights, tmp_path):
    path, mark = tmp_path / "evil.pth", tmp_path / "the-payload-ran"
    torch.save({"model": weights, "x": Payload(mark)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match="contains Python objects other than weights"):
        glmix.load_official(path)
    with pytest.raises(ValueError, match="can run arbitrary code"):
        timm.create_model("glnet_stl", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not a PyTorch or safetensors checkpoint"), (b"\x89PNG and more bytes", "checkpoint|Python objects")],
)
def test_other_files_raise_an_error_with_their_name(content, words, tmp_path):
    path = tmp_path / "photo.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as refusal:
        glmix.load_official(path)
    assert "photo.pth" in str(refusal.value)


def test_checkpoints_without_weights_raise_an_error(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="contains no weights"):
        glmix.load_official(tmp_path / "none.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="contains a list, not a dict"):
        glmix.load_official(tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        glmix.load_official(tmp_path / "absent.pth")


def test_pretrained_without_a_file_raises_an_error_with_the_download_page():
    with pytest.raises(InputError, match=r"authors publish them at https://\S+: .*glmix convert glnet_4g.pth"):
        timm.create_model("glnet_4g", pretrained=True)
    with pytest.raises(InputError, match="no published weights for glnet_nano"):
        timm.create_model("glnet_nano", pretrained=True)


@pytest.mark.parametrize("variant", ["glnet_stl", "glnet_4g_tklb"])
def test_a_converted_folder_loads_offline_and_exactly(variant, tmp_path):
    torch.save({"model": official_state_dict(variant)}, tmp_path / "official.pth")
    model = glmix.load_official(tmp_path / "official.pth")
    folder = tmp_path / "converted"
    card = glmix.save_model(model, folder)
    assert (folder / "README.md").read_text() == card
    assert "num_classes" not in json.loads((folder / "config.json").read_text()).get("model_args", {})
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(logits(again), logits(model))
    fewer = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    assert logits(fewer).shape == (1, 3)


def test_a_saved_model_keeps_its_options(tmp_path):
    model = timm.create_model(
        "test_glnet", num_classes=6, slot_grid=3, clustering="kmeans", in_chans=1, global_pool="max"
    )
    model.eval().set_slot_grid((2, 3))
    model.reset_classifier(4)
    glmix.save_model(model, tmp_path / "saved")
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_a_fused_model_cannot_be_saved_to_a_folder(tmp_path):
    model = fuse(timm.create_model("test_glnet").eval())
    with pytest.raises(ValueError, match=r"not be loaded into test_glnet again .* Save the folder before"):
        glmix.save_model(model, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
    torch.save(model, tmp_path / "fused.pt")
    again = torch.load(tmp_path / "fused.pt", weights_only=False)
    assert torch.equal(logits(again), logits(model))
