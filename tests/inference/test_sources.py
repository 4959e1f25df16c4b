"""Sources of images: every kind gives the same images, and a wrong one is named."""

import csv
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glmix.errors import InputError, MissingExtraError
from glmix.inference import Source, open_source
from glmix.inference.sources import PackedStrings

NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images and a list of them in every format."""
    root = tmp_path_factory.mktemp("sources")
    (root / "images").mkdir()
    for number, name in enumerate(NAMES):
        Image.fromarray(np.full((4, 6, 3), 50 * number, np.uint8)).save(root / "images" / name)
    paths = [f"images/{name}" for name in NAMES]
    (root / "list.txt").write_text("\n".join(paths) + "\n")
    with open(root / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([["label", "path"], *(["x", path] for path in paths)])
    (root / "list.jsonl").write_text("".join(json.dumps({"file": path}) + "\n" for path in paths))
    pyarrow.parquet.write_table(pyarrow.table({"photo": paths}), root / "list.parquet")
    for shard, names in enumerate([NAMES[:2], NAMES[2:]]):
        with tarfile.open(root / f"shard-{shard:03d}.tar", "w") as archive:
            for name in names:
                archive.add(root / "images" / name, name)
            archive.add(root / "list.txt", f"{shard}.txt")
    return root


def shades(source: Source) -> list[int]:
    """Return the first value of each image, read by a copy of the source as in a worker process."""
    source = pickle.loads(pickle.dumps(source))
    return [int(np.asarray(Image.open(source.read(index)))[0, 0, 0]) for index in range(len(source))]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("images", None),
        ("images/*.png", None),
        ("list.txt", None),
        ("list.csv", "path"),
        ("list.jsonl", None),
        ("list.parquet", "photo"),
        ("shard-{000..001}.tar", None),
        ("shard-*.tar", None),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_every_kind_of_source_gives_the_same_images(folder, name, column, scheme):
    source = open_source(f"{scheme}{folder}/{name}", column)
    assert source.problems == []
    assert shades(source) == [0, 50, 100]
    assert [Path(source.key(index)).name for index in range(3)] == NAMES


def test_memory_file_system(folder):
    files = fsspec.filesystem("memory")
    files.pipe({f"/photos/{name}": (folder / "images" / name).read_bytes() for name in NAMES})
    files.pipe("/all.tar", (folder / "shard-000.tar").read_bytes())
    source = open_source(["memory://photos", "memory://photos/c.png", "memory://all.tar"])
    read = [Image.open(source.read(index)).getpixel((0, 0))[0] for index in range(len(source))]
    assert read == [0, 50, 100, 100, 0, 50]


def test_hugging_face_data_set(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [str(folder / "images" / name) for name in NAMES]
    data = datasets.Dataset.from_dict({"picture": files, "label": [0, 1, 2]}).cast_column("picture", datasets.Image())
    datasets.DatasetDict({"train": data, "test": data.select([2])}).save_to_disk(str(tmp_path / "data"))
    source = open_source([f"hf-dataset:{tmp_path}/data#test", f"hf-dataset:{tmp_path}/data#train"])
    assert shades(source) == [100, 0, 50, 100]
    with pytest.raises(InputError, match=r"train, test"):
        open_source(f"hf-dataset:{tmp_path}/data")
    with pytest.raises(InputError, match="label"):
        open_source(f"hf-dataset:{tmp_path}/data#test", "label")


def test_inputs_without_images_are_listed(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.heic").write_bytes(b"")
    inputs = [tmp_path / "empty", tmp_path, folder / "images" / "a.png", tmp_path / "*.gif", folder / "images"]
    source = open_source(inputs)
    assert len(source) == 4
    assert {Path(problem["file"]).name for problem in source.problems} == {"empty", "photo.heic", "*.gif"}


@pytest.mark.parametrize(
    ("name", "content", "facts"),
    [
        ("list.csv", b"label,photo\nx,a.png\n", ["label, photo"]),
        ("list.csv", b"label,path\nx,a.png\n\ny,\n", ["line 4", "path"]),
        ("short.csv", b"label,path\nx\n", ["line 2"]),
        ("list.csv", b"\xff\xfe\x00", ["UTF-8"]),
        ("list.jsonl", b'{"path": "a.png"}\n{"path"', ["line 2"]),
        ("list.jsonl", b'{"path": 3}\n', ["line 1"]),
        ("list.jsonl", b'"a.png"\n', ["line 1", "object"]),
        ("list.parquet", b"PAR1", ["Parquet"]),
        ("photos.tar", b"no tar file" * 100, ["tar"]),
    ],
)
def test_a_wrong_list_or_tar_file_is_named(tmp_path, name, content, facts):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        open_source(tmp_path / name)
    assert all(fact in str(raised.value) for fact in [name, *facts])


def test_a_line_separator_of_unicode_is_part_of_a_path(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"path": "a\u2028b.png"}\n', encoding="utf-8")
    assert open_source(tmp_path / "list.jsonl").key(0) == f"{tmp_path}/a\u2028b.png"


def test_compressed_tar_files_and_unknown_protocols_are_refused(folder, tmp_path):
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(folder / "images" / "a.png", "a.png")
    with pytest.raises(InputError, match=r"packed\.tar"):
        open_source(tmp_path / "packed.tar")
    with pytest.raises((InputError, MissingExtraError), match="nosuch"):
        open_source("nosuch://bucket/a.png")
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        open_source("memory://absent.csv")


def test_a_file_name_with_a_glob_character_is_a_file(tmp_path):
    Image.new("RGB", (2, 2), (7, 0, 0)).save(tmp_path / "photo[1].png")
    assert shades(open_source(tmp_path / "photo[1].png")) == [7]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))) | st.binary().map(os.fsdecode)))
def test_packed_strings_equal_a_list(strings):
    packed = pickle.loads(pickle.dumps(PackedStrings(strings)))
    assert len(packed) == len(strings)
    assert list(packed) == strings
    assert packed[1:-1] == strings[1:-1]
    assert strings == [] or packed[-1] == strings[-1]


def test_packed_strings_are_small():
    names = [f"folder/{number:09d}.jpg" for number in range(10_000)]
    assert len(pickle.dumps(PackedStrings(names))) < 31 * len(names)
    assert io.BytesIO(pickle.dumps(PackedStrings([]))).getbuffer().nbytes < 2000
