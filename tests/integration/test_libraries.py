"""GLNet as a backbone in other libraries."""

import pytest
import timm
import torch

import glmix
from tests.parity.official_weights import official_state_dict

X = torch.randn(2, 3, 64, 96)


@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [
        ("UPerNet", "tu-glnet_stl"),
        ("FPN", "tu-test_glnet"),
        ("DeepLabV3Plus", "tu-test_glnet"),
        ("UPerNet", "tu-test_glnet"),
        ("Segformer", "tu-test_glnet"),
        ("PAN", "tu-test_glnet"),
    ],
)
def test_segmentation_models_train_a_step(decoder, encoder):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = getattr(smp, decoder)(encoder, encoder_weights=None, classes=3).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(2, 3, 128, 128)
    before = model(x)
    assert before.shape == (2, 3, 128, 128)
    loss = torch.nn.functional.cross_entropy(before, torch.randint(3, (2, 128, 128)))
    loss.backward()
    optimiser.step()
    assert not torch.equal(model(x), before)


def test_the_dpt_decoder_can_be_exported():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.DPT("tu-test_glnet", encoder_weights=None, decoder_readout="ignore", classes=3).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        found = torch.export.export(model, (x,)).module()(x)
    # Not equal: an exported graph pools seeds in another order of summation and keeps the images' own memory format.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("depth", [3, 4, 5])
def test_segmentation_encoders_give_the_features_they_announce(depth, output_stride):
    smp = pytest.importorskip("segmentation_models_pytorch")
    encoder = smp.encoders.get_encoder(
        "tu-test_glnet", in_channels=4, depth=depth, weights=None, output_stride=output_stride
    ).eval()
    features = encoder(torch.randn(1, 4, 64, 64))
    assert [f.shape[1] for f in features] == encoder.out_channels
    assert [64 // f.shape[-1] for f in features] == [min(2**i, output_stride) for i in range(depth + 1)]


def test_torchvision_builds_a_feature_pyramid_on_it():
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    model = timm.create_model("test_glnet")
    stages = {f"{i}": f"{i}" for i in range(4)}

    class Body(torch.nn.Sequential):
        """The stem with the first stage, then the other stages, as torchvision's IntermediateLayerGetter needs them."""

        def __init__(self) -> None:
            super().__init__(torch.nn.Sequential(model.stem, model.stages[0]), *list(model.stages)[1:])

    pyramid = BackboneWithFPN(Body(), stages, [32, 48, 64, 96], 32)
    features = pyramid(X)
    assert [f.shape[-2:] for f in features.values()] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def test_torchvision_extracts_features_by_name():
    from torchvision.models.feature_extraction import create_feature_extractor

    model = timm.create_model("test_glnet").eval()
    extracted = create_feature_extractor(model, {"stages.1": "p3", "norm": "last"})(X)
    assert extracted["p3"].shape == (2, 48, 8, 12)
    torch.testing.assert_close(extracted["last"], model.forward_features(X))


def test_transformers_reads_and_writes_a_converted_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.save({"model": official_state_dict("glnet_stl")}, tmp_path / "official.pth")
    model = glmix.load_official(tmp_path / "official.pth").eval()
    glmix.save_model(model, tmp_path / "converted")
    wrapped = transformers.TimmWrapperForImageClassification.from_pretrained(tmp_path / "converted").eval()
    with torch.inference_mode():
        expected = model(X)
        assert torch.equal(wrapped(X).logits, expected)
        wrapped.save_pretrained(tmp_path / "again")
        again = transformers.TimmWrapperForImageClassification.from_pretrained(tmp_path / "again").eval()
        assert torch.equal(again(X).logits, expected)


def test_transformers_uses_it_as_a_backbone():
    transformers = pytest.importorskip("transformers", minversion="5")
    config = transformers.TimmBackboneConfig(backbone="test_glnet", out_indices=[0, 1, 2, 3])
    backbone = transformers.AutoBackbone.from_config(config).eval()
    maps = backbone(X).feature_maps
    assert backbone.channels == [m.shape[1] for m in maps] == [32, 48, 64, 96]


def test_transformers_segments_with_it_and_saves_exactly(tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5")
    config = transformers.UperNetConfig(
        backbone_config=transformers.TimmBackboneConfig(backbone="test_glnet", out_indices=[0, 1, 2, 3]),
        hidden_size=32,
        auxiliary_in_channels=64,
        auxiliary_channels=16,
        num_labels=3,
    )
    model = transformers.UperNetForSemanticSegmentation(config).eval()
    labels = torch.randint(3, (2, 64, 96))
    output = model(pixel_values=X, labels=labels)
    assert output.logits.shape == (2, 3, 64, 96)
    output.loss.backward()
    model.save_pretrained(tmp_path / "upernet")
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path / "upernet").eval()
    saved, loaded = model.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    with torch.inference_mode():  # the alignment of the loaded weights in memory may change the last bit
        torch.testing.assert_close(again(X).logits, model(X).logits, rtol=1e-5, atol=1e-7)
