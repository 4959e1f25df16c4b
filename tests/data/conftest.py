import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from glmix.data.scenes import SceneConfig, draw_scene, write_scenes

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the data sets of these tests are local

CONFIG = SceneConfig(size=32, objects=(1, 1), shapes=("disc", "cross"))  # 4 classes
COUNTS = {"train": 24, "val": 11}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train/CLASS/*.png and val/CLASS/*.png."""
    root = tmp_path_factory.mktemp("images") / "scenes"
    write_scenes(root, "imagefolder", CONFIG, COUNTS)
    return root


@pytest.fixture(scope="session")
def tars(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train/CLASS.tar and val.tar: both formats of the tar reader."""
    root = tmp_path_factory.mktemp("tars")
    (root / "train").mkdir()
    for folder_of_class in sorted((folder / "train").iterdir()):
        with tarfile.open(root / "train" / f"{folder_of_class.name}.tar", "w") as tar:
            for file in sorted(folder_of_class.iterdir()):
                tar.add(file, file.name)
    with tarfile.open(root / "val.tar", "w") as tar:
        tar.add(folder / "val", ".")
    return root


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with WebDataset shards of JPEGs and the _info.json of timm."""
    root = tmp_path_factory.mktemp("shards")
    splits = {}
    for split, count, pieces in (("train", 24, 4), ("val", 11, 3)):
        names = [f"scenes-{split}-{n}.tar" for n in range(pieces)]
        lengths = []
        for n, name in enumerate(names):
            indices = range(n, count, pieces)
            lengths.append(len(indices))
            with tarfile.open(root / name, "w") as tar:
                for index in indices:
                    scene = draw_scene(CONFIG, split, index)  # type: ignore[arg-type]
                    file = root / "part"
                    Image.fromarray(scene.image).save(file, "JPEG", quality=95)
                    tar.add(file, f"{index:04d}.jpg")
                    file.write_text(str(int(scene.labels[0])))
                    tar.add(file, f"{index:04d}.cls")
        splits[split] = {"name": split, "num_samples": count, "filenames": names, "shard_lengths": lengths}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    return root


@pytest.fixture(scope="session")
def parquet(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a Hugging Face data set in parquet files, two per split."""
    datasets = pytest.importorskip("datasets")
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.01  # seconds after every pass of a stream; the default is 5
    root = tmp_path_factory.mktemp("parquet")
    names = list(CONFIG.class_names)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    for split, name in (("train", "train"), ("val", "validation")):
        files = sorted((folder / split).rglob("*.png"))
        for n in range(2):
            rows = [
                {"image": {"bytes": file.read_bytes(), "path": file.name}, "label": int(file.parent.name[:2])}
                for file in files[n::2]
            ]
            data = datasets.Dataset.from_list(rows, features=features)
            data.to_parquet(str(root / f"{name}-0000{n}-of-00002.parquet"))
    return root


def take(loader: Any, count: int) -> list[Any]:
    """Return `count` batches of a loader, from as many epochs as necessary."""
    batches: list[Any] = []
    while len(batches) < count:
        for batch in loader:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


def same(a: list[Any], b: list[Any]) -> bool:
    """Return whether two lists of batches are bit-identical."""
    return len(a) == len(b) and all(
        len(x) == len(y) and all(torch.equal(p, q) for p, q in zip(x, y, strict=True))
        for x, y in zip(a, b, strict=True)
    )


def resumes_exactly(make: Callable[[], Any], stops: list[int], total: int) -> None:
    """Assert that a loader restored from its state after `stops` batches continues with the same batches."""
    whole = take(make(), total)
    for stop in stops:
        first = make()
        before = take(first, stop)
        state = first.state_dict()
        del first
        second = make()
        second.load_state_dict(state)
        assert same(whole, before + take(second, total - stop)), f"stopped after {stop}"
