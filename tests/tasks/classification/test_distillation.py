"""Distillation: the teacher, the terms of the loss, images without labels, and exact resume."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from glmix.data.classification.datamodule import ImageData
from glmix.data.classification.source import ImageSource
from glmix.data.classification.transforms import TransformConfig
from glmix.data.scenes import draw_scene
from glmix.errors import InputError
from glmix.models import save_model
from glmix.tasks.classification.distillation import (
    Distillation,
    Teacher,
    TeacherConfig,
    feature_distance,
    soft_target_loss,
)
from glmix.tasks.token_labelling.task import TokenLabelling
from glmix.weights import load
from tests.runs import SCENES, data, task, trainer

NAMES = list(SCENES.class_names)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an untrained teacher for the classes of the scenes, with its own normalisation and input size."""
    torch.manual_seed(1)
    model: Any = timm.create_model("test_glnet", num_classes=len(NAMES))
    torch.nn.init.normal_(model.head.fc.weight)  # different answers for different images
    model.pretrained_cfg |= {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7), "input_size": (3, 64, 64)}
    model.pretrained_cfg["label_names"] = NAMES
    folder = tmp_path_factory.mktemp("teacher")
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the splits train and val, which have images and no class folders."""
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 12), ("val", 4)):
        for index in range(count):
            file = root / split / ("deeper" if index % 2 else "") / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_scene(SCENES, split, index).image).save(file)  # type: ignore[arg-type]
    return root


def unlabelled(root: Path) -> ImageData:
    transforms = TransformConfig(size=32, auto_augment=None, erasing=0.0)
    return ImageData(ImageSource(str(root), reader="images"), transforms, batch_size=4, num_workers=0)


def test_soft_targets_are_the_divergence_of_softened_distributions() -> None:
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    expected = 0.0
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    for k in range(5):
        expected += float((p[k] * (p[k] / q[k]).log()).sum()) / 5
    assert soft_target_loss(student, teacher, 3.0, False).item() == pytest.approx(9 * expected, rel=1e-5)
    assert soft_target_loss(teacher, teacher, 3.0, False).item() == pytest.approx(0, abs=1e-6)
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    entropy = -(p * q.log() + (1 - p) * (1 - q).log()).mean()
    assert soft_target_loss(student, teacher, 2.0, True).item() == pytest.approx(4 * float(entropy), rel=1e-5)


def test_feature_distance_is_one_minus_the_cosine_on_the_grid_of_the_student() -> None:
    features = torch.randn(2, 6, 4, 4)
    assert torch.allclose(feature_distance(features, 3 * features), torch.zeros(2), atol=1e-6)
    assert torch.allclose(feature_distance(features, -features), torch.full((2,), 2.0))
    finer = F.interpolate(features, scale_factor=2)  # nearest: its mean over each cell is the coarse map
    assert float(feature_distance(features, finer).mean()) < 0.1


def test_teacher_sees_the_same_image_in_its_own_normalisation_and_size(teacher: Path) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = Teacher(TeacherConfig(str(teacher), size=(32, 32), feature_weight=1.0))
    images = (pixels - mean[:, None, None]) / std[:, None, None]
    own = (pixels - found.mean[:, None, None]) / found.std[:, None, None]
    assert torch.allclose(found.converted(images, mean, std), own, atol=1e-6)
    logits, features = found(images, mean, std)
    with torch.no_grad():
        assert torch.allclose(logits, load(teacher).network(own), atol=1e-4)
    assert features is not None
    assert features.shape == (2, 96, 1, 1)
    assert not logits.requires_grad
    own_size = Teacher(TeacherConfig(str(teacher)))
    assert own_size.size == (64, 64)
    assert own_size.converted(images, mean, std).shape == (2, 3, 64, 64)


def test_teacher_from_timm_with_a_weights_file(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = timm.create_model("test_efficientnet", num_classes=5)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    config = TeacherConfig(str(tmp_path / "weights.pth"), model="test_efficientnet", num_classes=5, feature_weight=1.0)
    found = Teacher(config)
    images = torch.randn(2, 3, *found.size)
    logits, features = found(images, found.mean, found.std)
    with torch.no_grad():
        assert torch.allclose(logits, model.eval()(images), atol=1e-5)
    student = timm.create_model("test_glnet", num_classes=5)
    distillation = Distillation(found, student, False, found.mean, found.std)
    outputs = distillation.student_outputs(student, images)
    assert outputs[1] is not None
    assert features is not None
    assert outputs[1].shape[1] == features.shape[1]
    distillation.loss(outputs, (logits, features)).backward()
    assert all(parameter.grad is not None for parameter in distillation.parameters())
    assert all(parameter.grad is None for parameter in found.network.parameters())


def test_labels_and_teacher_resume_to_the_same_weights(teacher: Path, tmp_path: Path) -> None:
    config = TeacherConfig(str(teacher), temperature=2.0, soft_weight=0.5, feature_weight=1.0)
    whole = trainer(tmp_path / "whole", every=4, max_epochs=2)
    first = task(teacher=config)
    whole.fit(first, data())
    files = sorted((tmp_path / "whole" / "checkpoints").glob("step-*.ckpt"))
    saved = torch.load(files[0], weights_only=True)
    names = [name for name in saved["state_dict"] if name.startswith("distillation.")]
    assert sorted(names) == ["distillation.projection.bias", "distillation.projection.weight"]
    assert not any("teacher" in name for name in saved["state_dict"])
    second = task(teacher=config)
    trainer(tmp_path / "resumed", every=4, max_epochs=2).fit(second, data(), ckpt_path=str(files[0]))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    # a test of labelled images needs neither the teacher nor its projection
    missing = TeacherConfig("missing.ckpt", feature_weight=1.0)
    scores = trainer(tmp_path).test(task(teacher=missing), data(), ckpt_path=str(files[-1]), verbose=False)
    assert 0 <= scores[0]["test/top1"] <= 1


def test_images_without_labels_take_the_classes_of_the_teacher(
    teacher: Path, photographs: Path, tmp_path: Path
) -> None:
    run = trainer(tmp_path, every=100, max_epochs=2)
    student = task(teacher=TeacherConfig(str(teacher)), ema_decay=None)
    run.fit(student, unlabelled(photographs))
    assert student.num_classes == len(NAMES)
    assert 0 <= float(run.callback_metrics["val/agreement"]) <= 1
    loaded = load(next((tmp_path / "checkpoints").glob("step-*.ckpt")))
    assert loaded.info["class_names"] == NAMES
    assert loaded.info["teacher"] == str(teacher)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded.network(images), student.model.eval()(images), atol=1e-5)


def test_features_alone_train_a_student_with_other_classes(teacher: Path, photographs: Path, tmp_path: Path) -> None:
    config = TeacherConfig(str(teacher), soft_weight=0.0, feature_weight=1.0)
    student = task(teacher=config, num_classes=3, ema_decay=None, mix=None)
    run = trainer(tmp_path, every=100, max_epochs=6)
    similarities = []
    student.on_validation_end = lambda: similarities.append(float(run.callback_metrics["val/similarity"]))  # type: ignore[method-assign]
    run.fit(student, unlabelled(photographs))
    assert student.model.num_classes == 3
    assert similarities[-1] > similarities[0] + 0.1


def test_several_labels_agree_per_label(teacher: Path) -> None:
    found = Teacher(TeacherConfig(str(teacher)))
    distillation = Distillation(found, torch.nn.Identity(), True, found.mean, found.std)
    ours, theirs = torch.tensor([[1.0, -1, 1, 1]]), torch.tensor([[2.0, -3, -1, 5]])
    assert distillation.score((ours, None), (theirs, None)).tolist() == [0.75]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "teacher.temperature must be above 0"),
        ({"soft_weight": -1.0}, "teacher.soft_weight must be 0 or more"),
        ({"soft_weight": 0.0}, "set one of them above 0"),
        ({"size": (0, 32)}, r"teacher.size .* got \[0, 32\]"),
    ],
)
def test_invalid_configurations(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TeacherConfig("teacher.ckpt", **options)


def test_teacher_that_does_not_fit_the_data(teacher: Path, photographs: Path, tmp_path: Path) -> None:
    def fit(config: TeacherConfig | None, module: Any, **options: Any) -> None:
        trainer(tmp_path, max_epochs=1).fit(task(teacher=config, **options), module)

    with pytest.raises(InputError, match="need the same classes"):
        fit(TeacherConfig(str(teacher)), unlabelled(photographs), num_classes=3)
    with pytest.raises(InputError, match=r"no labels.*model\.teacher"):
        fit(None, unlabelled(photographs))
    found = Teacher(TeacherConfig(str(teacher)))
    with pytest.raises(InputError, match=f"Class 1 .* {NAMES[1]!r}, of the data 'cat'"):
        found.check(len(NAMES), [NAMES[0], "cat", *NAMES[2:]], found.mean, found.std, True)
    with pytest.raises(InputError, match="have 1 channels"):
        found.check(len(NAMES), None, (0.5,), (0.5,), True)
    with pytest.raises(InputError, match="mean and std"):
        found.check(len(NAMES), None, None, None, True)


def test_invalid_teachers(photographs: Path, tmp_path: Path) -> None:
    headless: Any = timm.create_model("test_glnet", num_classes=0)
    save_model(headless, tmp_path / "headless")
    with pytest.raises(InputError, match="no classifier"):
        Teacher(TeacherConfig(str(tmp_path / "headless")))
    features = TeacherConfig(str(tmp_path / "headless"), soft_weight=0.0, feature_weight=1.0)
    with pytest.raises(InputError, match=r"set model\.num_classes"):
        trainer(tmp_path, max_epochs=1).fit(task(teacher=features), unlabelled(photographs))
    found = Teacher(features)
    with pytest.raises(InputError, match="Linear has no feature maps"):
        Distillation(found, torch.nn.Linear(1, 1), False, found.mean, found.std)
    torch.save(timm.create_model("test_efficientnet", num_classes=5).state_dict(), tmp_path / "five.pth")
    with pytest.raises(InputError, match=r"not for 1000 classes: set teacher\.num_classes"):
        Teacher(TeacherConfig(str(tmp_path / "five.pth"), model="test_efficientnet"))
    with pytest.raises(InputError, match="set teacher to null"):
        TokenLabelling(model="glnet_4g_tklb", teacher=TeacherConfig("teacher.ckpt"))


def test_folder_without_images_and_options_without_meaning(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    module = unlabelled(tmp_path)
    with pytest.raises(InputError, match="train has no image"):
        module.setup("fit")
    with pytest.raises(InputError, match="reads no labels"):
        ImageSource(str(tmp_path), reader="images", num_classes=3)


def test_the_whole_folder_is_a_split(photographs: Path) -> None:
    module = ImageData(ImageSource(str(photographs), reader="images", train=".", val="."), num_workers=0)
    module.setup("fit")
    assert len(module.splits["train"].reader) == 16
