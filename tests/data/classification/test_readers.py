"""All readers on small data sets."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from glmix.data.classification.datamodule import ImageData
from glmix.data.classification.source import ImageSource
from glmix.data.classification.transforms import TransformConfig
from tests.data.conftest import CONFIG, COUNTS, resumes_exactly


@pytest.fixture(params=["folder", "tar", "wds", "hfds", "hfds-streaming"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ImageSource:
    reader = request.param
    if reader == "wds":
        pytest.importorskip("webdataset")
        return ImageSource(str(request.getfixturevalue("shards")), reader, num_classes=4, shuffle_buffer=6)
    if reader.startswith("hfds"):
        name = str(request.getfixturevalue("parquet"))
        more = {"train_samples": 24, "num_classes": 4, "shuffle_buffer": 6} if reader == "hfds-streaming" else {}
        return ImageSource(str(tmp_path), reader, name, val="validation", **more)  # type: ignore[arg-type]
    return ImageSource(str(request.getfixturevalue("folder" if reader == "folder" else "tars")), reader)


def module(source: ImageSource, workers: int = 0) -> ImageData:
    data = ImageData(source, TransformConfig(size=24), batch_size=4, num_workers=workers)
    data.setup("fit")
    return data


def labels(loader: Any) -> Counter[int]:
    return Counter(label for batch in loader for label in batch[1].tolist())


def test_reader_yields_every_image_with_its_class(source: ImageSource) -> None:
    from glmix.data.scenes import draw_scene

    data = module(source)
    assert data.num_classes == 4
    assert data.class_names is None or len(data.class_names) == 4
    expected = {
        split: Counter(int(draw_scene(CONFIG, split, n).labels[0]) for n in range(count))  # type: ignore[arg-type]
        for split, count in COUNTS.items()
    }
    assert labels(data.val_dataloader()) == expected["val"]
    train = labels(data.train_dataloader())
    assert train.total() == 24
    if source.reader != "wds":  # shards differ in length: an epoch may contain a sample twice
        assert train == expected["train"]


@pytest.mark.parametrize("workers", [0, 2])
def test_reader_resumes_exactly(source: ImageSource, workers: int) -> None:
    if source.reader == "folder":
        pytest.skip("tested in test_modules.py")
    resumes_exactly(lambda: module(source, workers).train_dataloader(), [3, 8] if workers == 0 else [8], total=10)
