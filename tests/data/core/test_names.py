"""Data modules name the samples of evaluation in the order of the loader, and give their images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glmix.data.classification.datamodule import ImageData
from glmix.data.classification.source import ImageSource
from glmix.data.classification.transforms import TransformConfig
from glmix.data.core.datamodule import DataModule
from glmix.data.detection.datamodule import CocoData, DetectionScenes
from glmix.data.scenes import SceneConfig, draw_scene, write_scenes
from glmix.data.segmentation.datamodule import MaskData, MaskSource
from tests.data.conftest import COUNTS

SCENES = SceneConfig(size=32)


def pixels(image: Image.Image | None) -> Any:
    assert image is not None
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("reader", ["folder", "tar", "hfds"])
def test_names_of_images(request: pytest.FixtureRequest, reader: str, tmp_path: Path) -> None:
    root = str(request.getfixturevalue({"folder": "folder", "tar": "tars", "hfds": "parquet"}[reader]))
    if reader == "hfds":
        source = ImageSource(str(tmp_path), "hfds", root, val="validation")
    else:
        source = ImageSource(root, reader)  # type: ignore[arg-type]
    data = ImageData(source, TransformConfig(size=24), batch_size=4, num_workers=0)
    data.setup("validate")
    names = [data.sample_name("val", k) for k in range(COUNTS["val"])]
    assert len(set(names)) == COUNTS["val"]
    targets = [int(target) for batch in data.val_dataloader() for target in batch[1]]
    if reader != "hfds":  # the folder of an image starts with the number of its class
        assert [int(Path(name or "").parent.name[:2]) for name in names] == targets
    assert pixels(data.sample_picture("val", 0)).shape == (32, 32, 3)


def test_streams_have_no_names(shards: Path) -> None:
    pytest.importorskip("webdataset")
    data = ImageData(ImageSource(str(shards), "wds", num_classes=4), TransformConfig(size=24), num_workers=0)
    data.setup("validate")
    assert data.sample_name("val", 0) is None
    assert data.sample_picture("val", 0) is None


def test_names_of_images_with_masks(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", "segmentation", SCENES, {"train": 1, "val": 3})
    data = MaskData(MaskSource(str(tmp_path / "data")), batch_size=1, num_workers=0)
    data.setup("validate")
    name = data.sample_name("val", 2)
    (file,) = (tmp_path / "data" / "images").rglob(f"{name}.*")
    with Image.open(file) as image:
        assert np.array_equal(pixels(data.sample_picture("val", 2)), pixels(image))


def test_names_of_images_with_boxes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", "coco", SCENES, {"train": 1, "val": 3})
    data: DataModule = CocoData(str(tmp_path / "data"), num_workers=0)
    data.setup("validate")
    name = data.sample_name("val", 2)
    (file,) = (tmp_path / "data").rglob(str(name))
    with Image.open(file) as image:
        assert np.array_equal(pixels(data.sample_picture("val", 2)), pixels(image))
    data = DetectionScenes(SCENES, val_count=3)
    data.setup("validate")
    assert data.sample_name("val", 2) == "scene 2"
    assert np.array_equal(pixels(data.sample_picture("val", 2)), draw_scene(SCENES, "val", 2).image)
