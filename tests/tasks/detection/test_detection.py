"""Detectors: padding, sizes, precision, training, evaluation and checkpoints."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from glmix.data.detection.datamodule import DetectionScenes
from glmix.data.scenes import SceneConfig
from glmix.errors import InputError
from glmix.models import GLNet
from glmix.tasks import Detection, DetectorConfig, OptimizerConfig, ScheduleConfig, load_trained, read_info
from glmix.tasks.detection import padding
from glmix.tasks.detection.backbones import build_backbone
from glmix.tasks.detection.models import build_detector
from glmix.tasks.detection.predictor import DetectionPredictor
from tests.runs import assert_same, trainer, weights

SMALL = {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "head_dim": 16, "num_slots": 4}
PARTS = {"channels": 16, "box_features": 16, "min_size": 64, "max_size": 96, "max_detections": 20}
KINDS = ["retinanet", "mask_rcnn"]


def config(kind: str, **changes: Any) -> DetectorConfig:
    return DetectorConfig(kind=kind, **{**PARTS, **changes})  # type: ignore[arg-type]


def detector(kind: str, model: str = "test_glnet", **changes: Any) -> Any:
    """Return a detector whose random weights and biases give many different detections."""
    torch.manual_seed(1)
    backbone: GLNet = timm.create_model(model, **({} if model == "test_glnet" else SMALL))
    built: Any = build_detector(config(kind, **changes), backbone, 3)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in built.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    if kind == "retinanet":
        built.score_thresh = 0.01
        built.head.classification_head.cls_logits.weight.data.mul_(30)
        built.head.regression_head.bbox_reg.weight.data.mul_(10)
    return built.eval()


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def detect(net: nn.Module, batch: list[Tensor]) -> list[dict[str, Tensor]]:
    with torch.inference_mode():
        predictions: list[dict[str, Tensor]] = net(batch)
    return predictions


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the maximum difference between two predictions, independent of the order of detections."""
    assert a.keys() == b.keys()
    if len(a["scores"]) != len(b["scores"]):
        return float("inf")

    def rows(prediction: dict[str, Tensor]) -> Tensor:
        columns = [prediction["boxes"] / 100, prediction["scores"][:, None], 10.0 * prediction["labels"][:, None]]
        if "masks" in prediction:
            columns.append(prediction["masks"].mean((2, 3)))
        return torch.cat(columns, 1)

    return float(torch.cdist(rows(a), rows(b), p=float("inf")).min(1).values.max())


# ---- padding


@pytest.mark.parametrize("model", ["test_glnet", "glnet_stl"])
@pytest.mark.parametrize("kind", KINDS)
def test_detections_do_not_depend_on_neighbours_in_the_batch(kind: str, model: str) -> None:
    net = detector(kind, model)
    net.transform.resize = lambda image, target=None: (image, target)
    batch = images((64, 96), (70, 50), (200, 120), (33, 190))
    together = detect(net, batch)
    for image, answer in zip(batch, together, strict=True):
        (alone,) = detect(net, [image])
        assert len(alone["scores"]) > 5
        assert distance(alone, answer) < 1e-4
        height, width = image.shape[-2:]
        assert (answer["boxes"] <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_mask_detections_depend_on_neighbours(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = detector(kind)
    net.transform.resize = lambda image, target=None: (image, target)
    batch = images((64, 96), (200, 120))
    monkeypatch.setattr("glmix.tasks.detection.models.split_mask", lambda x, channels: (x[:, :channels], None))
    assert distance(detect(net, batch)[0], detect(net, batch[:1])[0]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_batches_without_padding_have_no_mask(kind: str) -> None:
    net = detector(kind)
    seen: list[torch.Size] = []
    net.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    detect(net, images((64, 96), (64, 96)))
    detect(net, images((64, 96), (64, 64)))
    assert [shape[1] for shape in seen] == [3, 4]


def test_anchors_do_not_depend_on_the_size_of_the_batch() -> None:
    anchors = padding.Anchors((32, 64, 128), [[128], [256], [512]], (1.0,))
    small, large = (
        anchors(padding.ImageList(torch.zeros(1, 3, s, s), [(s, s)]), [torch.zeros(1, 1, n, n) for n in sizes])[0]
        for s, sizes in ((96, (3, 2, 1)), (192, (6, 3, 2)))
    )
    assert {tuple(box) for box in small.tolist()} <= {tuple(box) for box in large.tolist()}


@pytest.mark.parametrize("empty", [{1}, {0, 1}], ids=["one_empty", "all_empty"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_a_gradient(kind: str, empty: set[int]) -> None:
    """Also for images without objects, because distributed training synchronises every gradient."""
    net = detector(kind, frozen_statistics=True).train()
    statistics = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    batch = images((64, 96), (70, 50))
    targets = [
        {
            "boxes": torch.tensor([[10.0, 10, 40, 45]]),
            "labels": torch.tensor([2]),
            "masks": torch.ones(1, *image.shape[-2:], dtype=torch.uint8),
        }
        for image in batch
    ]
    for k in empty:
        targets[k] = {name: part[:0] for name, part in targets[k].items()}
    losses = net(batch, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    state = net.state_dict()
    assert all(torch.equal(state[name], before) for name, before in statistics.items())


# ---- sizes and precision


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_and_masks_are_in_pixels_of_the_original_image(kind: str) -> None:
    net = detector(kind)
    seen: list[torch.Size] = []
    net.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    (image,) = images((128, 160))
    (answer,) = detect(net, [image])
    assert seen[0][2:] == (64, 96)  # 64 x 80, padded
    assert answer["boxes"].max() > 128
    assert (answer["boxes"] <= torch.tensor([160, 128, 160, 128])).all()
    if kind == "mask_rcnn":
        assert answer["masks"].shape[1:] == (1, 128, 160)


def test_training_images_are_not_resized_again() -> None:
    net = detector("retinanet").train()
    seen: list[torch.Size] = []
    net.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    net(images((128, 160)), [{"boxes": torch.tensor([[1.0, 1, 90, 90]]), "labels": torch.tensor([1])}])
    assert seen[0][2:] == (128, 160)


@pytest.mark.parametrize("kind", KINDS)
def test_uint8_and_float_images_give_equal_detections(kind: str) -> None:
    net = detector(kind)
    pixels = (images((64, 96))[0] * 255).byte()
    assert distance(detect(net, [pixels])[0], detect(net, [pixels / 255])[0]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_float32_under_autocast(kind: str) -> None:
    """Around 1000, bfloat16 has a resolution of 4 pixels."""
    net = detector(kind)
    with torch.autocast("cpu", torch.bfloat16):
        (answer,) = detect(net, images((64, 96)))
    assert answer["boxes"].dtype == answer["scores"].dtype == torch.float32
    assert len(answer["boxes"]) > 5
    rounded = answer["boxes"].bfloat16().float()
    assert not torch.equal(rounded, answer["boxes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "yolo"}, "detector.kind must be one of retinanet, mask_rcnn, got 'yolo'"),
        ({"channels": 0}, "detector.channels must be at least 1"),
        ({"min_size": 800, "max_size": 600}, "detector.max_size must be at least min_size, 800, got 600"),
        ({"options": {"box_score_tresh": 1}}, "detector.options has no 'box_score_tresh'"),
        ({"kind": "retinanet", "options": {"rpn_nms_thresh": 1}}, "has no 'rpn_nms_thresh'.*nms_thresh"),
    ],
)
def test_invalid_configurations_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectorConfig(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "test_vit"}, r"strides 4, 8, 16, 32, but the maps of test_vit have 16, 16"),
        ({"model": "inception_v3"}, r"inception_v3 cannot be the backbone.*stride 2 has 45 x 61 .*96 x 128 pixels"),
        ({"model": "test_resnet", "model_args": {"depht": 3}}, "test_resnet cannot be the backbone.*depht"),
        ({"model": "test_resnet", "checkpoint": "weights.pth"}, "weights of a GLNet or .*model is test_resnet"),
        ({"model": "test_resmet"}, "No model is named 'test_resmet'.*test_resnet"),
    ],
)
def test_backbones_without_a_feature_pyramid_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detection(**changes).build(3)


def test_strides_and_anchor_sizes_equal_those_of_the_papers() -> None:
    one, two = (detector(kind).backbone for kind in KINDS)
    assert one.strides == (8, 16, 32, 64, 128)
    assert two.strides == (4, 8, 16, 32, 64)
    sizes = {kind: detector(kind) for kind in KINDS}
    assert [s[0] for s in sizes["retinanet"].anchor_generator.sizes] == [32, 64, 128, 256, 512]
    assert [s[0] for s in sizes["mask_rcnn"].rpn.anchor_generator.sizes] == [32, 64, 128, 256, 512]


# ---- other backbones of timm


@pytest.mark.parametrize(
    ("kind", "model"),
    [("mask_rcnn", "test_resnet"), ("retinanet", "test_convnext"), ("retinanet", "test_efficientnet")],
)
def test_a_detector_with_a_backbone_of_timm_trains_and_loads(kind: str, model: str, tmp_path: Path) -> None:
    chosen = task(kind, model=model, model_args={}, grad_checkpointing=True)
    module = data(train_count=4)
    trainer(tmp_path, max_steps=2).fit(chosen, module)
    (path,) = (tmp_path / "checkpoints").glob("step-*2.ckpt")
    net: Any = load_trained(path, use_ema=False)
    trained: Any = chosen.model.eval()
    assert_same(net.state_dict(), trained.state_dict())
    again = task(kind, model=model, model_args={}, checkpoint=str(path)).build(6)  # training starts from a detector
    assert_same(again.state_dict(), trained.state_dict())
    assert DetectionPredictor(net, ["a"] * 6, score=0.0)(Image.new("RGB", (80, 64))).boxes.shape[1:] == (4,)
    losses: dict[str, Tensor] = chosen.model.train()(*next(iter(module.train_dataloader())))
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in chosen.model.named_parameters() if p.grad is None] == []


def test_frozen_statistics_and_padding_with_a_backbone_of_timm() -> None:
    net: Any = build_detector(config("retinanet"), build_backbone("test_resnet", {}), 3)
    norms = [module for module in net.backbone.pyramid.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    net.eval().backbone.pyramid.model.requires_grad_(False)
    maps = net.backbone(
        torch.cat([torch.rand(1, 3, 64, 96), torch.ones(1, 1, 64, 96).index_fill(3, torch.arange(64, 96), 0)], 1)
    )
    for (name, features), stride in zip(maps.items(), net.backbone.strides, strict=True):
        assert not features[..., -(-64 // stride) :].any(), name  # zeros in the padding
        assert features[..., : -(-64 // stride)].any()


# ---- training


def task(kind: str, **changes: Any) -> Detection:
    options: dict[str, Any] = {
        "model": "test_glnet",
        "model_args": {**SMALL, "drop_path_rate": 0.2},
        "detector": config(kind, frozen_statistics=False),
        "optimizer": OptimizerConfig(lr=1e-3, base_batch=None),
        "schedule": ScheduleConfig(warmup_epochs=0),
    }
    return Detection(**{**options, **changes})


def data(**changes: Any) -> DetectionScenes:
    options: dict[str, Any] = {"scenes": SceneConfig(size=64), "train_count": 6, "val_count": 3, "batch_size": 2}
    return DetectionScenes(**{**options, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_has_the_same_weights_and_loads_as_a_detector(kind: str, tmp_path: Path) -> None:
    whole = task(kind, ema_decay=0.9)
    trainer(tmp_path / "whole", max_epochs=2).fit(whole, data())
    metrics = {f"val/{name}{suffix}" for name in ("box_AP", "box_AP50") for suffix in ("", "_ema")}
    assert metrics | {"val/best_box_AP"} <= set(whole.trainer.callback_metrics)
    middle = tmp_path / "whole" / "checkpoints" / "step-00000002.ckpt"
    trainer(tmp_path / "again", max_epochs=2).fit(task(kind, ema_decay=0.9), data(), ckpt_path=str(middle))
    assert_same(weights(tmp_path / "again"), weights(tmp_path / "whole"))

    path = tmp_path / "whole" / "checkpoints" / "step-00000006.ckpt"
    info = read_info(path)
    assert info["task"] == "Detection"
    assert info["category_ids"] == [1, 2, 3, 4, 5, 6]
    assert info["class_names"] == list(SceneConfig().class_names)
    net: Any = load_trained(path, use_ema=False)
    assert not net.training
    trained: Any = whole.model.eval()
    net.score_thresh = trained.score_thresh = 0.0  # after this short training RetinaNet has low scores
    (image,) = images((64, 64))
    answer = detect(net, [image])[0]
    assert len(answer["scores"])
    assert distance(answer, detect(trained, [image])[0]) < 1e-6


def test_fine_tuning_with_other_classes(tmp_path: Path) -> None:
    first = task("mask_rcnn")
    trainer(tmp_path, max_epochs=1).fit(first, data())
    path = str(tmp_path / "checkpoints" / "step-00000003.ckpt")
    second = task("mask_rcnn", checkpoint=path)
    state, before = second.build(2).state_dict(), first.model.state_dict()
    changed = {name.rsplit(".", 1)[0] for name in state if state[name].shape != before[name].shape}
    heads = {"box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits"}
    assert changed == {f"roi_heads.{name}" for name in heads}
    kept = [name for name in state if name.rsplit(".", 1)[0] not in changed]
    assert all(torch.equal(state[name], before[name]) for name in kept)
    with pytest.raises(ValueError, match="does not fit retinanet on test_glnet"):
        task("retinanet", checkpoint=path).build(2)


def test_training_starts_from_the_weights_of_a_classifier(tmp_path: Path) -> None:
    classifier = timm.create_model("test_glnet", **SMALL, num_classes=5)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    built: Any = task("retinanet", checkpoint=str(tmp_path / "weights.pth")).build(2)
    state = built.backbone.pyramid.model.state_dict()
    assert state
    assert all(torch.equal(tensor, classifier.state_dict()[name]) for name, tensor in state.items())


def test_frozen_statistics_do_not_change(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frozen = task("retinanet", detector=config("retinanet"))
        trainer(tmp_path, max_epochs=2).fit(frozen, data(masks=False))
    assert any("frozen_statistics" in str(w.message) for w in caught)
    norms = [m for m in frozen.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all((m.running_mean == 0).all() and (m.running_var == 1).all() for m in norms)
    assert any((m.weight != 1).any() for m in norms)


def test_slot_seeds_have_no_weight_decay() -> None:
    built: Any = task("retinanet", model_args={**SMALL, "seeds": "learned"}).build(2)
    named = dict(built.named_parameters())
    without_decay = built.no_weight_decay()
    assert without_decay
    assert without_decay <= set(named)
    assert any(name.endswith("bridge.seeds") for name in without_decay)


def test_layer_decay_is_rejected() -> None:
    with pytest.raises(ValueError, match="layer_decay is only supported in classification"):
        task("retinanet", optimizer=OptimizerConfig(layer_decay=0.8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_predictor_does_not_change_its_detector(kind: str) -> None:
    net = detector(kind).train()
    thresholded = getattr(net, "roi_heads", net)
    before = thresholded.score_thresh
    predictor = DetectionPredictor(net, ["a", "b", "c"], score=0.9)
    assert thresholded.score_thresh == before != 0.9
    assert net.training
    assert not predictor.network.training
    assert predictor(Image.new("RGB", (80, 64))).scores.min(initial=1.0) >= 0.9
