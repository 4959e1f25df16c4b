"""SceneDataset: targets, transforms, cache and errors."""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from glmix.data.scenes import SceneConfig, SceneDataset, collate_instances, dataset, draw_scene

MANY = SceneConfig()
ONE = SceneConfig(objects=(1, 1))


def test_images_are_channels_first() -> None:
    image, _ = SceneDataset(ONE, "val", 5)[3]
    assert isinstance(image, tv_tensors.Image)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), draw_scene(ONE, "val", 3).image)


def test_label_is_the_class_of_the_object() -> None:
    data = SceneDataset(ONE, "train", 8)
    assert [data[i][1] for i in range(8)] == [int(draw_scene(ONE, "train", i).labels[0]) for i in range(8)]


def test_labels_are_one_for_present_classes() -> None:
    data = SceneDataset(MANY, "train", 8, target="labels")
    for index in range(8):
        present = data[index][1]
        assert present.dtype == torch.float32
        assert present.nonzero().flatten().tolist() == sorted(set(draw_scene(MANY, "train", index).labels.tolist()))


def test_semantic_masks_have_class_indices() -> None:
    mask = SceneDataset(MANY, "train", 8, target="semantic")[2][1]
    assert isinstance(mask, tv_tensors.Mask)
    assert mask.dtype == torch.int64
    assert np.array_equal(mask.numpy(), draw_scene(MANY, "train", 2).semantic)


def test_instances_have_the_format_of_torchvision_detectors() -> None:
    data = SceneDataset(MANY, "train", 20, target="instances")
    for index in range(20):
        target = data[index][1]
        n = len(target["labels"])
        assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
        assert target["boxes"].shape == (n, 4)
        assert target["masks"].shape == (n, 64, 64)
        assert target["labels"].min() >= 1, "0 is the background"
        # the maximum of torchvision's boxes is inclusive, that of scenes exclusive
        assert torch.equal(
            masks_to_boxes(target["masks"]) + torch.tensor([0, 0, 1, 1]), target["boxes"].as_subclass(torch.Tensor)
        )
        assert torch.equal(target["masks"].sum((1, 2)).float(), target["area"])


def test_joint_transforms_apply_to_image_boxes_and_masks() -> None:
    plain = SceneDataset(MANY, "train", 4, target="instances")
    flipped = SceneDataset(MANY, "train", 4, target="instances", transforms=v2.RandomHorizontalFlip(1.0))
    (image, target), (mirror, mirrored) = plain[1], flipped[1]
    assert torch.equal(image.flip(2), mirror)
    assert torch.equal(target["masks"].flip(2), mirrored["masks"])
    assert torch.equal(64 - target["boxes"][:, [2, 0]], mirrored["boxes"][:, [0, 2]])


def test_image_transform_with_pil() -> None:
    transform = v2.Compose([v2.ToPILImage(), v2.Resize(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    image, label = SceneDataset(ONE, "train", 4, transform=transform)[0]
    assert image.shape == (3, 32, 32)
    assert 0 <= image.min() <= image.max() <= 1
    assert isinstance(label, int)


@pytest.mark.parametrize("target", ["labels", "semantic", "instances"])
def test_samples_do_not_depend_on_workers_and_order(target: Any) -> None:
    data = SceneDataset(MANY, "train", 24, target=target)
    here = [data[index] for index in range(24)]
    loader = DataLoader(data, batch_size=None, num_workers=2, sampler=list(range(24))[::-1])
    for (image, found), (expected_image, expected) in zip(loader, reversed(here), strict=True):
        assert torch.equal(image, expected_image)
        if target == "instances":
            assert all(torch.equal(torch.as_tensor(found[k]), torch.as_tensor(expected[k])) for k in expected)
        else:
            assert torch.equal(found, expected)


def test_batches_collate() -> None:
    images, labels = next(iter(DataLoader(SceneDataset(ONE, "train", 8), batch_size=8)))
    assert images.shape == (8, 3, 64, 64)
    assert labels.dtype == torch.int64
    detection = SceneDataset(MANY, "train", 8, target="instances")
    images, targets = next(iter(DataLoader(detection, batch_size=4, collate_fn=collate_instances)))
    assert images.shape == (4, 3, 64, 64)
    assert [target["image_id"] for target in targets] == [0, 1, 2, 3]


def test_the_cache_draws_each_scene_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def counted(config: SceneConfig, split: Any, index: int) -> Any:
        drawn.append(index)
        return draw_scene(config, split, index)

    monkeypatch.setattr(dataset, "draw_scene", counted)
    data = SceneDataset(ONE, "train", 6, cache=True)
    data[4]
    data.preload()
    assert [data[index][1] for index in range(6)]
    assert sorted(drawn) == list(range(6))


def test_in_place_changes_do_not_affect_the_cache() -> None:
    data = SceneDataset(MANY, "train", 2, target="semantic", cache=True)
    image, mask = data[0]
    image.zero_()
    mask.zero_()
    again_image, again_mask = data[0]
    assert again_image.sum() > 0
    assert again_mask.sum() > 0


def test_pickling() -> None:
    data = SceneDataset(ONE, "val", 3, cache=True)
    data.preload()
    assert torch.equal(pickle.loads(pickle.dumps(data))[2][0], data[2][0])


def test_iteration_ends() -> None:
    data = SceneDataset(ONE, "train", 3)
    assert len(list(data)) == len(data) == 3  # type: ignore[call-overload]
    with pytest.raises(IndexError, match="Scene 3 of a data set with 3"):
        data[3]
    with pytest.raises(IndexError, match="Scene -1 of"):
        data[-1]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((ONE, "validation", 3), {}, "split must be one of train, val, test, got 'validation'"),
        ((ONE, "val", 0), {}, "length must be at least 1, got 0"),
        ((ONE, "val", 3), {"target": "mask"}, "target must be one of label, labels, semantic, instances, got 'mask'"),
        ((MANY, "val", 3), {}, "The target 'label' needs scenes of one object"),
        ((ONE, "val", 3), {"transform": abs, "transforms": max}, "not both"),
    ],
)
def test_invalid_arguments_are_errors(arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneDataset(*arguments, **options)


def test_preload_without_a_cache_is_an_error() -> None:
    with pytest.raises(ValueError, match="build it with cache=True"):
        SceneDataset(replace(ONE, seed=1), "train", 2).preload()
