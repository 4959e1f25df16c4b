"""Transforms: the defaults are the published recipe."""

import pytest
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import MaybeToTensor, RandomResizedCropAndInterpolation
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from glmix.data.classification.transforms import TransformConfig
from glmix.data.core.sampling import seeded
from glmix.data.scenes import SceneConfig, draw_scene

PICTURE = Image.fromarray(draw_scene(SceneConfig(size=300), "train", 0).image)


def test_training_transform_is_the_published_recipe() -> None:
    crop, flip, augment, tensor, normalise, erase = TransformConfig().train().transforms  # type: ignore[attr-defined]
    assert isinstance(crop, RandomResizedCropAndInterpolation)
    assert tuple(crop.size) == (224, 224)
    assert crop.scale == (0.08, 1.0)
    assert crop.ratio == (3 / 4, 4 / 3)
    assert crop.interpolation == InterpolationMode.BICUBIC
    assert isinstance(flip, transforms.RandomHorizontalFlip)
    assert flip.p == 0.5
    assert isinstance(augment, RandAugment)
    assert augment.num_layers == 2
    assert len(augment.ops) == 15
    assert all(op.magnitude == 9 and op.magnitude_std == 0.5 for op in augment.ops)
    assert {"PosterizeIncreasing", "SolarizeIncreasing"} <= {op.name for op in augment.ops}  # inc1
    assert isinstance(tensor, MaybeToTensor)
    assert isinstance(normalise, transforms.Normalize)
    assert torch.allclose(torch.as_tensor(normalise.mean), torch.tensor([0.485, 0.456, 0.406]))
    assert torch.allclose(torch.as_tensor(normalise.std), torch.tensor([0.229, 0.224, 0.225]))
    assert isinstance(erase, RandomErasing)
    assert erase.probability == 0.25
    assert erase.per_pixel


def test_evaluation_transform_is_the_published_crop() -> None:
    resize, crop, *_ = TransformConfig().eval().transforms  # type: ignore[attr-defined]
    assert resize.size == 248  # floor(224 / 0.9)
    assert resize.interpolation == InterpolationMode.BICUBIC
    assert tuple(crop.size) == (224, 224)


def test_colour_jitter_is_used_without_auto_augment() -> None:
    kinds = [type(step) for step in TransformConfig(auto_augment=None).train().transforms]  # type: ignore[attr-defined]
    assert transforms.ColorJitter in kinds
    assert RandAugment not in kinds


def test_hyperparameters_are_arguments() -> None:
    config = TransformConfig(
        size=96, scale=(0.5, 1.0), hflip=0, vflip=1, auto_augment=None, color_jitter=None, erasing=0
    )
    assert [type(step).__name__ for step in config.train().transforms] == [  # type: ignore[attr-defined]
        "RandomResizedCropAndInterpolation",
        "RandomVerticalFlip",
        "MaybeToTensor",
        "Normalize",
    ]
    assert config.eval()(PICTURE).shape == (3, 96, 96)
    with pytest.raises(ValueError, match="scale must be two fractions"):
        TransformConfig(scale=(0.5, 2.0))
    with pytest.raises(ValueError, match="erasing must be a probability"):
        TransformConfig(erasing=3)


def test_the_same_seed_gives_the_same_pixels() -> None:
    transform = TransformConfig(size=64).train()
    results = []
    for _ in range(2):
        with seeded(7):
            results.append(transform(PICTURE))
        torch.rand(3)
    assert torch.equal(*results)


def test_posterize_with_zero_bits_gives_a_black_image() -> None:
    augment = TransformConfig().train().transforms[2]  # type: ignore[attr-defined]
    posterise = next(op for op in augment.ops if op.name == "PosterizeIncreasing")
    posterise.prob, posterise.magnitude, posterise.magnitude_std = 1, 10, 0
    assert posterise(PICTURE).getextrema() == ((0, 0),) * 3
    policy = TransformConfig(auto_augment="original").train().transforms[2]  # type: ignore[attr-defined]
    assert policy(PICTURE).size == PICTURE.size
