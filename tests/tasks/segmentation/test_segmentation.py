"""Segmentation: networks with every decoder, loss, training, metrics, inference and exact resume."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmix.data.scenes import SceneConfig
from glmix.data.segmentation.datamodule import SceneMaskData
from glmix.models import Pyramid
from glmix.tasks import Inference, OptimizerConfig, ScheduleConfig, Segmentation, load_trained, read_info
from glmix.tasks.segmentation.inference import label_map
from glmix.tasks.segmentation.network import SegmentationNet
from glmix.tasks.segmentation.task import pixel_cross_entropy
from glmix.training.optim import build_optimizer
from tests.runs import assert_same, trainer, weights

DECODERS = {
    "upernet": {"decoder_channels": 16},
    "fpn": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
    "unet": {"decoder_channels": (32, 16, 16, 16, 8)},
    "unetplusplus": {"decoder_channels": (32, 16, 16, 16, 8)},
    "manet": {"decoder_channels": (32, 16, 16, 16, 8)},
    "linknet": {},
    "pspnet": {},
    "deeplabv3": {"decoder_channels": 32},
    "deeplabv3plus": {"decoder_channels": 32},
    "segformer": {"decoder_segmentation_channels": 32},
}
TINY = {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "num_slots": 4}
FPN = {"decoder": "fpn", "decoder_args": DECODERS["fpn"]}
UPERNET = {"decoder": "upernet", "decoder_args": DECODERS["upernet"], "auxiliary": 0.4}
SCENES = SceneConfig(size=48, shapes=("disc",), objects=(1, 2))


def net(decoder: str, **options: Any) -> SegmentationNet:
    return SegmentationNet("test_glnet", {**TINY, **options.pop("args", {})}, 5, decoder, DECODERS[decoder], **options)


def task(**options: Any) -> Segmentation:
    """Return a task with all random and stateful parts: dropout, drop path, auxiliary head, EMA, schedule."""
    usual: dict[str, Any] = {
        "model": "test_glnet",
        "model_args": {**TINY, "drop_path_rate": 0.2},
        **UPERNET,
        "dropout": 0.1,
        "ema_decay": 0.9,
        "optimizer": OptimizerConfig(base_batch=None),
        "schedule": ScheduleConfig(kind="poly", warmup_steps=2),
    }
    return Segmentation(**{**usual, **options})


def data(**options: Any) -> SceneMaskData:
    return SceneMaskData(
        SCENES, **{"train_count": 12, "val_count": 5, "batch_size": 4, "eval_batch_size": 2, **options}
    )


# ---- networks


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_predicts_at_the_size_of_the_image(decoder: str) -> None:
    network = net(decoder)
    for mode in (True, False):
        network.train(mode)
        for size in ((64, 96), (75, 50)):
            assert network(torch.randn(2, 3, *size)).shape == (2, 5, *size)
    loss = pixel_cross_entropy(network.train()(torch.randn(2, 3, 64, 64)), torch.randint(5, (2, 64, 64)))
    loss.backward()
    assert all(p.grad is not None for p in network.head.parameters())


@pytest.mark.parametrize("decoder", ["upernet", "fpn"])
def test_the_decoder_receives_the_normalised_feature_pyramid(decoder: str) -> None:
    network = net(decoder).eval()
    assert isinstance(network.encoder.pyramid, Pyramid)
    seen: list[list[Tensor]] = []
    network.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.randn(2, 3, 64, 96)
    network(images)
    assert [tuple(m.shape) for m in seen[0]] == [
        (2, 3, 64, 96),
        (2, 0, 32, 48),
        (2, 16, 16, 24),
        (2, 16, 8, 12),
        (2, 32, 4, 6),
        (2, 32, 2, 3),
    ]
    for found, expected in zip(seen[0][2:], network.encoder.pyramid(images), strict=True):
        assert torch.equal(found, expected)
        assert found.mean(1).abs().max() < 1e-4, "normalised over channels"


def test_decoders_keep_pixel_centres_aligned() -> None:
    """With align_corners=True predictions shift, and the shift depends on the size of the image."""
    for decoder in ("upernet", "fpn"):
        for module in net(decoder).modules():
            assert not getattr(module, "align_corners", False)
            assert not getattr(module, "upsample", False), "FPN blocks must not upsample themselves"
    network = net("fpn").eval()
    network.decoder.register_forward_hook(lambda module, args, out: torch.arange(16.0).expand(1, 32, 16, 16))
    nn.init.constant_(network.head.weight, 1 / 32)
    nn.init.zeros_(network.head.bias)
    found = network(torch.randn(1, 3, 64, 64))[0, 0, 0]
    position = (torch.arange(64) + 0.5) / 4 - 0.5
    assert torch.allclose(found[2:-2], position[2:-2], atol=1e-4), "pixel x is at (x + 1/2) / 4 - 1/2 of the map"


def test_padding_is_masked_for_the_slots() -> None:
    network = net("fpn").eval()
    images = torch.randn(1, 3, 64, 64)
    expected = network.encoder(images)
    padded = F.pad(images, (0, 32, 0, 0))
    mask = torch.ones(1, 64, 96, dtype=torch.bool)
    mask[:, :, 64:] = False
    for found, alone in zip(network.encoder(padded, mask)[2:], expected[2:], strict=True):
        assert torch.allclose(found[..., : alone.shape[3]], alone, atol=1e-4)
    odd = torch.randn(1, 3, 64, 70)
    seen: list[Any] = []
    network.encoder.register_forward_pre_hook(lambda module, args: seen.append(args))
    network(odd)
    padded, mask = seen[0]
    assert torch.equal(padded[..., :70], odd)
    assert torch.equal(mask, torch.arange(96).expand(1, 64, 96) < 70)


def test_auxiliary_head_is_on_stride_16_and_optional() -> None:
    network = net("upernet", auxiliary=True)
    assert network.auxiliary is not None
    seen: list[tuple[int, ...]] = []
    network.auxiliary.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    images = torch.randn(2, 3, 64, 96)
    assert network(images).shape == (2, 5, 64, 96)
    assert seen == []
    logits, second = network(images, auxiliary=True)
    assert logits.shape == second.shape == (2, 5, 64, 96)
    assert seen == [(2, 32, 4, 6)]
    with pytest.raises(ValueError, match="built without an auxiliary head"):
        net("upernet")(images, auxiliary=True)
    with pytest.raises(ValueError, match="no map of stride 16"):
        net("pspnet", auxiliary=True)


def test_gradient_checkpointing_drop_path_and_weight_decay_of_the_backbone() -> None:
    network = net("upernet", args={"drop_path_rate": 0.3}).train()
    rates = {m.drop_prob for m in network.modules() if type(m).__name__ == "DropPath"}
    assert sorted(rates) == pytest.approx([0.1, 0.2, 0.3])
    network = net("upernet")
    images, masks = torch.randn(2, 3, 64, 64), torch.randint(5, (2, 64, 64))
    network.eval()
    gradients = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        network.zero_grad()
        pixel_cross_entropy(network(images), masks).backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    names = dict(network.named_parameters())
    assert network.no_weight_decay() <= set(names)
    groups = build_optimizer(network, OptimizerConfig(weight_decay=0.01, base_batch=None), 1).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, p in names.items():
        assert (id(p) in decayed) == (p.ndim > 1 and name not in network.no_weight_decay()), name


def test_timm_backbones_are_supported() -> None:
    network = SegmentationNet("resnet18", {"drop_path_rate": 0.1}, 4, "unet", DECODERS["unet"])
    assert network(torch.randn(2, 3, 64, 40)).shape == (2, 4, 64, 40)
    network.set_grad_checkpointing(True)
    assert network.no_weight_decay() == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "upernett"}, r"No decoder is named 'upernett'\. Did you mean 'upernet'\? Known: unet, "),
        ({"decoder": "dpt"}, "No decoder is named 'dpt'"),
        ({"decoder_args": {"channels": 3}}, "'upernet' has no argument 'channels'.* It takes .*decoder_channels"),
        ({"decoder": "fpn", "decoder_args": {"encoder_depth": 3}}, "'fpn' needs encoder_depth 5, got 3"),
        ({"model_args": {"output_stride": 16}}, "model_args.output_stride .*decoder_args.encoder_output_stride"),
        ({"model_args": {"depth": 3}}, "depth"),
        ({"model": "resnet18", "checkpoint": "x.pth"}, "checkpoint must hold the weights of a GLNet .*resnet18"),
        ({"auxiliary": -1.0}, "auxiliary .*at least 0, got -1"),
        ({"optimizer": OptimizerConfig(layer_decay=0.9)}, "layer_decay is only supported in classification"),
    ],
)
def test_invalid_arguments_are_rejected(options: dict[str, Any], message: str) -> None:
    usual = {"model": "test_glnet", "model_args": {}, "decoder": "upernet"}
    with pytest.raises((ValueError, TypeError), match=message):
        Segmentation(**{**usual, **options}).build(3)


# ---- the loss


def test_a_batch_too_small_for_batch_norm_is_rejected() -> None:
    task = Segmentation(model="test_glnet", decoder_args={"decoder_channels": 16})
    task.model = task.build(3).train()
    with pytest.raises(ValueError, match=r"upernet .*BatchNorm.*: set data\.batch_size to at least 2"):
        task.training_step((torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long)), 0)


def test_the_loss_excludes_ignored_pixels() -> None:
    logits, masks = torch.randn(2, 4, 6, 5), torch.randint(4, (2, 6, 5))
    masks[0, :3] = 255
    valid = masks != 255
    expected = F.cross_entropy(logits.permute(0, 2, 3, 1)[valid], masks[valid])
    assert torch.allclose(pixel_cross_entropy(logits, masks), expected)
    assert pixel_cross_entropy(logits, torch.full_like(masks, 255)) == 0, "and not NaN"


# ---- the task


def fit(root: Path, segmentation: Segmentation, module: Any, **options: Any) -> L.Trainer:
    run = trainer(root, **{"max_epochs": 1, **options})
    run.fit(segmentation, module)
    return run


def brute_force(network: nn.Module, module: SceneMaskData) -> tuple[float, float]:
    """Return mean IoU and pixel accuracy on the validation data."""
    intersection, union, correct, total = torch.zeros(3), torch.zeros(3), 0, 0
    for images, masks in module.val_dataloader():
        for image, mask in zip(images, masks, strict=True):
            with torch.no_grad():
                predicted = network(image.unsqueeze(0))[0].argmax(0)
            for k in range(3):
                intersection[k] += int(((predicted == k) & (mask == k)).sum())
                union[k] += int(((predicted == k) | (mask == k)).sum())
            correct, total = correct + int((predicted == mask).sum()), total + mask.numel()
    return float((intersection / union)[union > 0].mean()), correct / total


def test_validation_equals_brute_force_and_checkpoints_are_complete(tmp_path: Path) -> None:
    chosen, module = task(), data()
    run = fit(tmp_path, chosen, module)
    expected, accuracy = brute_force(chosen.model.eval(), module)
    assert float(run.callback_metrics["val/mIoU"]) == pytest.approx(expected, abs=1e-6)
    assert float(run.callback_metrics["val/pixel_accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    ema_score, _ = brute_force(chosen.ema.module.eval(), module)  # type: ignore[union-attr]
    assert float(run.callback_metrics["val/mIoU_ema"]) == pytest.approx(ema_score, abs=1e-6)
    assert {f"val/IoU/{name}" for name in module.class_names} <= set(run.callback_metrics)

    path = tmp_path / "checkpoints" / "best.ckpt"
    info = read_info(path)
    assert info["task"] == "Segmentation"
    assert info["class_names"] == ["background", "disc_stripes", "disc_checks"]
    assert info["build_args"]["decoder"] == "upernet"
    network = load_trained(path, use_ema=False)
    images = next(iter(module.val_dataloader()))[0]
    assert torch.allclose(network(images), chosen.model(images), atol=1e-5)
    assert network.pretrained_cfg["label_names"] == info["class_names"]

    # training can start from a whole network, also with another number of classes
    same_classes = task(checkpoint=str(path)).build(3)
    other_classes = task(checkpoint=str(path)).build(4)
    raw, other_state = network.state_dict(), other_classes.state_dict()
    if not read_info(path)["ema_is_better"]:
        assert_same(raw, same_classes.state_dict())
    assert other_state["head.weight"].shape[0] == other_state["auxiliary.classifier.weight"].shape[0] == 4
    assert (
        other_state["encoder.pyramid.model.stem.layers.conv1.weight"].shape
        == raw["encoder.pyramid.model.stem.layers.conv1.weight"].shape
    )


def test_training_starts_from_the_weights_of_a_classifier(tmp_path: Path) -> None:
    classifier = timm.create_model("test_glnet", num_classes=7, **TINY)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    network = task(checkpoint=str(tmp_path / "weights.pth")).build(3)
    assert isinstance(network, SegmentationNet)
    backbone = network.encoder.pyramid.model.state_dict()  # type: ignore[union-attr]
    whole = classifier.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in backbone.items())
    assert len(backbone) > 0.9 * len(whole)


def test_validation_with_sliding_windows_and_test_time_augmentation(tmp_path: Path) -> None:
    chosen, module = task(ema_decay=None), data()
    fit(tmp_path, chosen, module)
    run = trainer(tmp_path / "other")
    plain = run.validate(chosen, module, verbose=False)[0]
    for how in (Inference("slide", window=48), Inference("slide", window=32), Inference(scales=(0.5, 1.0), flip=True)):
        chosen.inference = how
        found = run.validate(chosen, module, verbose=False)[0]
        if how.window == 48:
            assert found == plain, "one window covers the image"
        assert 0 <= found["val/mIoU"] <= 1
        assert found["val/loss"] > 0


def test_images_in_lists_are_evaluated_at_the_size_of_their_masks() -> None:
    chosen = task(ema_decay=None)
    chosen.num_classes = 3
    chosen.model = chosen.build(3).eval()
    chosen.configure_metrics()
    images = [torch.randn(3, 32, 40), torch.randn(3, 64, 33)]
    masks = [torch.randint(3, (50, 60)), torch.randint(3, (64, 33))]
    with torch.no_grad():
        chosen.evaluate((images, masks))
        counts = torch.zeros(3, 3)
        for image, mask in zip(images, masks, strict=True):
            labels = label_map(chosen.model(image.unsqueeze(0)), tuple(mask.shape))[0]  # type: ignore[arg-type]
            counts += torch.bincount(3 * mask.flatten() + labels.flatten(), minlength=9).view(3, 3)
    assert torch.equal(chosen.confusions["of"].compute().float(), counts)  # type: ignore[operator]


def test_a_resumed_run_has_the_same_weights(tmp_path: Path) -> None:
    fit(tmp_path / "whole", task(), data(), max_epochs=2)
    expected = weights(tmp_path / "whole")
    for step in (2, 3, 4):
        resumed = trainer(tmp_path / f"from{step}", max_epochs=2)
        path = tmp_path / "whole" / "checkpoints" / f"step-{step:08d}.ckpt"
        resumed.fit(task(), data(), ckpt_path=str(path))
        assert_same(expected, weights(tmp_path / f"from{step}"))


def test_a_run_with_max_steps_resumes_and_ends_with_a_validation(tmp_path: Path) -> None:
    options = {"max_epochs": -1, "max_steps": 8, "check_val_every_n_epoch": None, "val_check_interval": 4}
    whole = fit(tmp_path / "whole", task(), data(), **options)
    assert "val/mIoU" in whole.callback_metrics
    assert (tmp_path / "whole" / "checkpoints" / "best.ckpt").is_file()
    expected = weights(tmp_path / "whole")
    for step in (3, 4, 7):  # the end of an epoch of three steps, a validation, and neither
        resumed = task()
        path = tmp_path / "whole" / "checkpoints" / f"step-{step:08d}.ckpt"
        run = trainer(tmp_path / f"from{step}", **options)
        run.fit(resumed, data(), ckpt_path=str(path))
        assert run.global_step == 8
        assert_same(expected, weights(tmp_path / f"from{step}"))
        assert float(run.callback_metrics["val/mIoU"]) == float(whole.callback_metrics["val/mIoU"])
