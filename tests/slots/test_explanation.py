"""`glmix.slots.explain`: files and numbers of one image, and invalid input."""

import pytest
import timm
import torch
from PIL import Image

from glmix.slots import ExplainedModel, explain, last_blocks


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=4).eval()
    model.pretrained_cfg.update(input_size=(3, 64, 64))
    return model


def test_explain_writes_files_and_returns_numbers(model, tmp_path):
    image = Image.effect_noise((96, 64), 60).convert("RGB")
    models = [ExplainedModel("trained", model), ExplainedModel("random", model, warning="Random weights.")]
    result = explain(image, models, tmp_path / "photo.slots", title="photo", top_k=2, svg=True, html=True)
    assert result["written"] == [str(tmp_path / f"photo.slots.{kind}") for kind in ("png", "svg", "html")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "photo.slots.html",
        "photo.slots.png",
        "photo.slots.svg",
    ]
    assert (result["view"], result["size"]) == ("whole", {"width": 96, "height": 64})
    trained, random = result["models"]
    assert [block["index"] for block in trained["blocks"]] == last_blocks(model)
    assert [len(entry["predictions"]) for entry in (trained, random)] == [2, 0]
    assert {prediction["label"] for prediction in trained["predictions"]} <= {f"class {k}" for k in range(4)}
    assert random["untrained"]


def test_view_size_and_blocks(model, tmp_path):
    image = Image.effect_noise((96, 48), 60).convert("RGB")
    large = explain(image, [ExplainedModel("m", model, blocks=[0])], tmp_path / "large", shorter_side=80)
    assert large["size"] == {"width": 160, "height": 80}
    assert [block["index"] for block in large["models"][0]["blocks"]] == [0]
    crop = explain(image, [ExplainedModel("m", model, blocks=[0])], tmp_path / "crop", view="crop", multi_label=True)
    assert crop["size"] == {"width": 64, "height": 64}
    assert sum(p["probability"] for p in crop["models"][0]["predictions"]) > 1  # sigmoids


def test_invalid_images_and_models_raise(model, tmp_path):
    with pytest.raises(ValueError, match=r"330 x 10 pixels.*32 times"):
        explain(Image.new("RGB", (330, 10)), [ExplainedModel("m", model)], tmp_path / "long")
    other = timm.create_model("test_glnet", num_classes=4).eval()
    other.pretrained_cfg.update(input_size=(3, 96, 96))
    models = [ExplainedModel("small", model), ExplainedModel("large", other)]
    with pytest.raises(ValueError, match=r"64 x 64.*96 x 96"):
        explain(Image.new("RGB", (64, 64)), models, tmp_path / "crops", view="crop")
    assert not list(tmp_path.iterdir())
