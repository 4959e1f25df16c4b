"""The code blocks and the tables of docs/ecosystem.md are correct."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import glmix
from glmix_cli import main
from tests.parity.official_weights import official_state_dict

PAGE = (Path(__file__).parents[2] / "docs" / "ecosystem.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines()]


def rows_below(heading: str, table: int = 0) -> list[list[str]]:
    """Return the cells of the table below a heading of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[table].splitlines()[2:]]


def imported(code: str) -> list[str]:
    return sorted(set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)))


def what_it_is_about(code: str) -> str:
    return "-".join([*imported(code), *re.findall(r"= (\w+)\(", code)[:2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a checkpoint of the authors, in which the commands of the page were run."""
    folder = tmp_path_factory.mktemp("ecosystem")
    torch.save({"model": official_state_dict("glnet_4g")}, folder / "glnet_4g.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in SHELL:
            program, *arguments = shlex.split(line)
            assert program == "glmix"
            assert main(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def trained(folder) -> dict[str, Tensor]:
    """The parameters of the stages in the checkpoint of the authors."""
    model = glmix.load_official(folder / "glnet_4g.pth")
    return {name: value.detach() for name, value in model.named_parameters() if name.startswith("stages.")}


def of_the_stages(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of the stages of a backbone, independent of how a library wraps and splits them."""
    found = {}
    for name, parameter in module.named_parameters():
        place = re.search(r"\bstages[._]\d.*", name)
        if place:
            found[place.group().replace("stages_", "stages.")] = parameter
    return found


def assert_each_image_is_seen_as_if_alone(detector) -> None:
    found: list[list[Tensor]] = []
    detector.eval().backbone.pyramid.register_forward_hook(lambda module, inputs, maps: found.append(maps))
    images = [torch.rand(3, 96, 128), torch.rand(3, 96, 96)]
    with torch.inference_mode():
        detector(images)
        detector(images[1:])
    for together, alone in zip(*found, strict=True):
        height, width = alone.shape[2:]
        assert together.shape[3] > width
        torch.testing.assert_close(together[1:, :, :height, :width], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("code", PYTHON, ids=what_it_is_about)
def test_blocks_run_with_the_authors_weights_and_train_all_of_the_backbone(code, folder, trained, monkeypatch):
    for name in imported(code):
        pytest.importorskip(name, minversion="5" if name == "transformers" else None)
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(compile(code, "docs/ecosystem.md", "exec"), names)

    if "record_sizes" in code:
        assert_each_image_is_seen_as_if_alone(names["model"])
    built = names.get("detectors") or [names.get("model") or names["task"]]
    for model in built:
        parameters = of_the_stages(model)
        assert parameters
        assert set(parameters) <= set(trained)
        for name, parameter in parameters.items():
            if "trainer" not in code.lower():  # the others make no step
                assert torch.equal(parameter, trained[name]), name
                assert parameter.grad is not None, name
            assert parameter.isfinite().all()


DECODERS = rows_below("segmentation-models-pytorch")


def test_the_table_lists_every_decoder():
    smp = pytest.importorskip("segmentation_models_pytorch")
    assert sorted(row[0].lower() for row in DECODERS) == sorted(smp.MODEL_ARCHITECTURES_MAPPING)


@pytest.mark.parametrize(("name", "sides", "taken"), DECODERS)
def test_decoders_work_as_the_table_says(name, sides, taken):
    smp = pytest.importorskip("segmentation_models_pytorch")
    options = {"decoder_readout": "ignore"} if name == "DPT" else {}
    model = getattr(smp, name)("tu-test_glnet", encoder_weights=None, classes=3, **options)
    numbers = [int(n) for n in re.findall(r"\d+", sides)]
    multiple = numbers[0] if numbers else 1
    least = numbers[1] if len(numbers) > 1 else 64
    logits = model(torch.randn(2, 3, least, least + multiple))
    assert logits.shape == (2, 3, least, least + multiple)
    logits.mean().backward()
    assert all(parameter.grad is not None for parameter in of_the_stages(model).values())
    if multiple > 1:
        with pytest.raises(RuntimeError, match=f"divisible by {multiple}"):
            model(torch.randn(2, 3, least, least + multiple // 2))
    strides = [int(n) for n in re.findall(r"stride (\d+)", taken) if "dilated" in taken]
    if strides:
        assert model.encoder.output_stride == strides[0]


def test_a_saved_segmentation_model_is_loaded_without_the_backbones_folder(folder, monkeypatch, tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    monkeypatch.chdir(folder)
    model = smp.FPN("tu-local-dir:glnet_4g", encoder_weights=True, classes=3).eval()
    model.save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    again = smp.from_pretrained("saved", encoder_name="tu-glnet_4g", encoder_weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), model(x))


def small_transformer(name: str, out_indices: list[int]) -> nn.Module:
    """Return a small model of transformers with a small GLNet."""
    import transformers

    detr = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    detr |= {"d_model": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 10}
    flat = {"neck_hidden_sizes": [16] * 4, "fusion_hidden_size": 16}
    masks = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 64}
    masks |= {"dim_feedforward": 64, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4}
    rt = {**detr, "encoder_hidden_dim": 32, "encoder_in_channels": [48, 64, 96], "decoder_in_channels": [32] * 3}
    options = {
        "UperNet": {"hidden_size": 32, "auxiliary_in_channels": 64, "auxiliary_channels": 16},
        "Mask2Former": masks,
        "MaskFormer": {"fpn_feature_size": 32, "mask_feature_size": 32},
        "DabDetr": {**detr, "hidden_size": 32},
        "RTDetr": {**rt, "num_denoising": 0},
        "RTDetrV2": {**rt, "num_denoising": 0},
        "DFine": {**rt, "num_denoising": 0},
        "DPT": {**flat, "is_hybrid": False, "readout_type": "ignore"},
        "DepthAnything": flat,
    }
    kind = re.split("For(?=[A-Z])", name)[0]
    backbone = transformers.TimmBackboneConfig(backbone="test_glnet", out_indices=out_indices)
    chosen = dict(options.get(kind, detr))
    if kind == "DabDetr":
        chosen.pop("d_model")
    if kind == "MaskFormer":
        chosen["decoder_config"] = transformers.DetrConfig(**detr)
    config = getattr(transformers, f"{kind}Config")(backbone_config=backbone, num_labels=3, **chosen)
    return getattr(transformers, name)(config)


def targets_of(name: str) -> dict[str, object]:
    if "Segmentation" in name and "Former" not in name:
        return {"labels": torch.randint(3, (2, 64, 96))}
    if "Former" in name:
        masks = torch.zeros(2, 64, 96)
        masks[0, :30], masks[1, 30:] = 1, 1
        return {"mask_labels": [masks] * 2, "class_labels": [torch.tensor([0, 1])] * 2}
    box = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2]])}
    return {"labels": [box, box]}


@pytest.mark.parametrize(("name", "indices", "works"), rows_below("transformers"))
def test_transformers_work_as_the_table_says(name, indices, works):
    pytest.importorskip("transformers", minversion="5")
    images = torch.randn(2, 3, 64, 96)
    if works.startswith("no"):
        model = small_transformer(name, [0, 1, 2, 3])
        with pytest.raises((RuntimeError, ValueError), match=r"unpack|invalid for input"):
            model(pixel_values=images)
        return
    model = small_transformer(name, [int(i) for i in indices.split(",")])
    model(pixel_values=images, **targets_of(name)).loss.backward()
    parameters = of_the_stages(model)
    assert "stages.3.blocks.0.mlp.fc2.bias" in parameters
    assert all(parameter.grad is not None for parameter in parameters.values())


def test_a_converted_folder_is_a_pipeline(folder, monkeypatch):
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    monkeypatch.chdir(folder)
    classify = transformers.pipeline("image-classification", "glnet_4g")
    assert len(classify(Image.new("RGB", (80, 60)))) == 5


def test_ssd_takes_a_pyramid():
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pyramid = glmix.Pyramid(timm.create_model("test_glnet"), (1, 2, 3))
            self.out_channels = self.pyramid.channels

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {str(i): features for i, features in enumerate(self.pyramid(x))}

    model = SSD(Backbone(), DefaultBoxGenerator([[2, 3]] * 3), (128, 128), num_classes=4)
    targets = [{"boxes": torch.tensor([[10.0, 10.0, 60.0, 60.0]]), "labels": torch.tensor([1])}]
    sum(model([torch.rand(3, 100, 128)], targets).values()).backward()
    assert all(parameter.grad is not None for parameter in of_the_stages(model).values())
