"""Data modules for segmentation: transforms keep images and masks aligned, and samples depend only on their `Draw`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from glmix.data.core.sampling import Draw
from glmix.data.scenes import SceneConfig, draw_scene, write_scenes
from glmix.data.segmentation.datamodule import MaskData, MaskSource, SceneMaskData
from glmix.data.segmentation.dataset import MaskSamples
from glmix.data.segmentation.files import IGNORE, open_masks
from glmix.data.segmentation.transforms import MaskTransformConfig, PhotometricDistortion, fitted_size
from tests.data.conftest import resumes_exactly, same, take

SCENES = SceneConfig(size=48)
SMALL = MaskTransformConfig(resize=(96, 48), crop=32)


@pytest.fixture(scope="module")
def ade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ade") / "data"
    write_scenes(root, "segmentation", SCENES, {"train": 12, "val": 5})
    return root


def data(root: Path, **options: Any) -> MaskData:
    found = MaskData(MaskSource(str(root)), SMALL, **{"batch_size": 3, "num_workers": 0, **options})
    found.setup()
    return found


def two_coloured(width: int, height: int, column: int) -> tuple[Image.Image, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return an image that is blue left of a column and red from it on, with a mask of the classes 0 and 1."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, column:] = 1
    return Image.fromarray(np.array([[0, 0, 255], [255, 0, 0]], np.uint8)[mask]), mask


# ---- transforms


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 150), st.integers(20, 150), st.integers(0, 2**16))
def test_training_transform_keeps_image_and_mask_aligned(width: int, height: int, seed: int) -> None:
    torch.manual_seed(seed)
    image, mask = two_coloured(width, height, width // 3)
    config = MaskTransformConfig(resize=(120, 60), crop=40, photometric=0, mean=(0.5,) * 3, std=(0.5,) * 3)
    x, y = config.train()(image, mask)
    assert x.shape == (3, 40, 40)
    assert y.shape == (40, 40)
    assert y.dtype == torch.int64
    red = x[0] > x[2]
    border = F.max_pool2d(y.float().unsqueeze(0), 9, 1, 4)[0] != -F.max_pool2d(-y.float().unsqueeze(0), 9, 1, 4)[0]
    clear = (y != IGNORE) & ~border
    assert torch.equal(red[clear], y[clear] == 1)
    assert (x[:, y == IGNORE] == 0).all(), "padding is the mean colour"


def test_fitted_size() -> None:
    assert fitted_size((480, 640), (2048, 512)) == (512, 683)
    assert fitted_size((640, 480), (2048, 512)) == (683, 512)
    assert fitted_size((100, 1000), (2048, 512)) == (205, 2048), "limited by the longer side"
    assert fitted_size((480, 640), (2048, 512), 0.5) == (256, 341)
    assert fitted_size((48, 64), None, 1.5) == (72, 96)


def test_crops_respect_category_max_ratio() -> None:
    image, mask = two_coloured(200, 200, 100)
    config = MaskTransformConfig(resize=None, scale=(1, 1), crop=60)
    free = MaskTransformConfig(resize=None, scale=(1, 1), crop=60, category_max_ratio=1)

    def shares(chosen: MaskTransformConfig) -> list[float]:
        found = []
        for seed in range(40):
            torch.manual_seed(seed)
            found.append(float((chosen.train()(image, mask)[1] == 1).float().mean()))
        return found

    with_limit, without = shares(config), shares(free)
    assert sum(0.25 < share < 0.75 for share in with_limit) > 30
    assert sum(0.25 < share < 0.75 for share in without) < 20
    one_class = np.zeros((200, 200), np.uint8)
    assert config.train()(image, one_class)[1].unique().tolist() == [0], "there is no other class"


def test_ignored_pixels_do_not_count_for_category_max_ratio() -> None:
    image, mask = two_coloured(40, 40, 4)
    mask[:, 8:] = IGNORE  # the other 8 columns are half and half
    _, y = MaskTransformConfig(resize=None, scale=(1, 1), crop=40).train()(image, mask)
    assert set(y.unique().tolist()) == {0, 1, IGNORE}


def test_photometric_distortion_does_not_permute_channels() -> None:
    torch.manual_seed(0)
    red = torch.zeros(3, 8, 8, dtype=torch.uint8)
    red[0] = 150
    found = [PhotometricDistortion(p=1)(red) for _ in range(30)]
    assert len({int(x.sum()) for x in found}) > 10
    assert all((x[0] >= x[1]).all() and (x[0] >= x[2]).all() for x in found)


def test_evaluation_transform_does_not_change_the_mask() -> None:
    image, mask = two_coloured(100, 50, 30)
    x, y = MaskTransformConfig(resize=(64, 64)).eval()(image, mask)
    assert x.shape == (3, 32, 64)
    assert np.array_equal(y.numpy(), mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": (512, 2048)}, "resize must be two sides in pixels, longer and shorter"),
        ({"scale": (2.0, 0.5)}, "scale must be two factors, 0 < smallest <= largest"),
        ({"crop": 0}, "crop must be at least 1 pixel, got 0"),
        ({"category_max_ratio": 75}, "category_max_ratio must be .*, got 75"),
        ({"hflip": 1.5}, "hflip must be a probability"),
        ({"photometric": -1}, "photometric must be a probability"),
    ],
)
def test_invalid_transform_configurations_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskTransformConfig(**options)


# ---- loaders


def test_shapes_and_types_of_batches(ade: Path) -> None:
    module = data(ade)
    assert (module.num_classes, module.class_names) == (6, list(SCENES.class_names))
    images, masks = next(iter(module.train_dataloader()))
    assert (images.shape, images.dtype) == ((3, 3, 32, 32), torch.float32)
    assert (masks.shape, masks.dtype) == ((3, 32, 32), torch.int64)
    assert set(masks.unique().tolist()) <= {*range(6), IGNORE}
    batches = list(module.val_dataloader())
    assert len(batches) == 5, "each image once"
    for index, (images, masks) in enumerate(batches):
        assert images.shape == (1, 3, 48, 48)
        assert np.array_equal(masks[0].numpy(), module.splits["val"].files.mask(index))


def test_images_of_different_sizes_are_collated_into_lists(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind / "val").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("a\nb")
    for index, width in enumerate((40, 50)):
        image, mask = two_coloured(width, 30, 10)
        image.save(tmp_path / "images" / "val" / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / "val" / f"{index}.png")
    module = MaskData(MaskSource(str(tmp_path), "folder"), SMALL, eval_batch_size=2, num_workers=0)
    module.setup("validate")
    images, masks = next(iter(module.val_dataloader()))
    assert [tuple(image.shape) for image in images] == [(3, 48, 64), (3, 48, 80)]
    assert [tuple(mask.shape) for mask in masks] == [(30, 40), (30, 50)]


def test_a_training_sample_depends_only_on_its_draw(ade: Path) -> None:
    files = open_masks(ade, "train")
    samples = MaskSamples(files, SMALL.train(), seed=3)
    first = samples[Draw(1, 5, 2)]
    torch.manual_seed(99)
    assert same([first], [MaskSamples(files, SMALL.train(), seed=3)[Draw(1, 5, 2)]])
    for other in (Draw(2, 5, 2), Draw(1, 6, 2)):
        assert not same([first], [samples[other]])
    state = torch.get_rng_state()
    samples[Draw(0, 0, 0)]
    assert torch.equal(state, torch.get_rng_state()), "the generator is restored"


@pytest.mark.parametrize("workers", [0, 2])
def test_training_resumes_exactly(ade: Path, workers: int) -> None:
    resumes_exactly(lambda: data(ade, num_workers=workers).train_dataloader(), [1, 4, 6], 8)


def test_the_number_of_workers_does_not_change_the_batches(ade: Path) -> None:
    assert same(take(data(ade).train_dataloader(), 5), take(data(ade, num_workers=2).train_dataloader(), 5))


def scenes(**options: Any) -> SceneMaskData:
    found = SceneMaskData(SCENES, **{"train_count": 12, "val_count": 5, "batch_size": 4, **options})
    found.setup("fit")
    return found


def test_scenes_in_memory_match_their_masks() -> None:
    module = scenes(eval_batch_size=5)
    assert module.class_names == ["background", *SCENES.class_names]
    assert module.num_classes == 7
    images, masks = next(iter(module.val_dataloader()))
    assert images.shape == (5, 3, 48, 48)
    for index in range(5):
        scene = draw_scene(SCENES, "val", index)
        assert np.array_equal(masks[index].numpy(), scene.semantic)
        pixels = torch.from_numpy(scene.image).permute(2, 0, 1) / 255
        expected = (pixels - torch.tensor(module.mean).view(3, 1, 1)) / torch.tensor(module.std).view(3, 1, 1)
        assert torch.allclose(images[index], expected, atol=1e-5)


def test_scenes_are_augmented_together_with_their_masks() -> None:
    config = SceneConfig(size=48, camouflage=0, noise=0, objects=(1, 1))
    module = SceneMaskData(config, train_count=16, val_count=1, batch_size=16)
    module.setup("fit")
    images, masks = next(iter(module.train_dataloader()))
    plain = {tuple(draw_scene(config, "train", k).semantic.flatten().tolist()) for k in range(16)}
    assert sum(tuple(mask.flatten().tolist()) in plain for mask in masks) < 8
    for image, mask in zip(images, masks, strict=True):
        edges = (image[:, 1:, :-1] - image[:, :-1, :-1]).abs().sum(0) + (
            image[:, :-1, 1:] - image[:, :-1, :-1]
        ).abs().sum(0)
        rim = (mask[1:, :-1] != mask[:-1, :-1]) | (mask[:-1, 1:] != mask[:-1, :-1])
        assert edges[rim].mean() > 2 * edges[mask[:-1, :-1] == 0].mean(), "class boundaries are edges"


def test_scenes_resume_exactly() -> None:
    resumes_exactly(lambda: scenes().train_dataloader(), [1, 3, 5], 7)


# ---- invalid data and arguments


def test_invalid_masks_are_found_before_training(ade: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", "segmentation", SCENES, {"train": 4, "val": 2})
    mask = tmp_path / "data" / "annotations" / "validation" / "scene_val_00000002.png"
    Image.new("L", (48, 48), 7).save(mask)
    with pytest.raises(ValueError, match=r"scene_val_00000002\.png has the class id 7 .* from 1 to 6"):
        data(tmp_path / "data")
    unchecked = MaskData(MaskSource(str(tmp_path / "data"), check=0), SMALL, num_workers=0)
    unchecked.setup("fit")
    with pytest.raises(ValueError, match="class id 7"):
        list(unchecked.val_dataloader())


def open_source(**options: Any) -> Callable[[Path], Any]:
    return lambda root: MaskSource(str(root), **options).open("train")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (open_source(classes=["a", "b"], num_classes=3), "num_classes is 3, but classes names 2"),
        (open_source(check=-1), "check must be 0 or more, or null for all masks, got -1"),
        (open_source(num_classes=3), "has the class id .* 3 classes"),
        (lambda root: MaskData(MaskSource(str(root)), batch_size=0), "batch_size must be at least 1"),
        (lambda root: MaskData(MaskSource(str(root)), num_workers=-1), "num_workers must be 0 or more"),
        (lambda root: SceneMaskData(eval_batch_size=0), "eval_batch_size must be at least 1"),
    ],
)
def test_invalid_arguments_are_rejected(call: Callable[[Path], Any], message: str, ade: Path) -> None:
    with pytest.raises(ValueError, match=message):
        call(ade)


def test_data_modules_are_lightning_data_modules(ade: Path) -> None:
    assert isinstance(data(ade), L.LightningDataModule)
    assert isinstance(scenes(), L.LightningDataModule)
