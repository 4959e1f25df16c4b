"""Lists of images in CSV, JSON lines and Parquet files, and random splits of lists and folders."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glmix.data.classification.datamodule import ImageData
from glmix.data.classification.lists import ListConfig
from glmix.data.classification.source import ImageSource
from glmix.data.classification.transforms import TransformConfig
from glmix.data.core.partition import SplitConfig
from glmix.errors import InputError
from tests.data.conftest import resumes_exactly

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
ROWS = [
    {"file": f"photos/{name}{index}.png", "name": name, "place": f"p{index % 4}", "part": "train" if index else "val"}
    for name in COLOURS
    for index in range(8)
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 24 images of three colours, photos/NAME*.png."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "photos").mkdir()
    for row in ROWS:
        Image.new("RGB", (24, 20), COLOURS[row["name"]]).save(folder / row["file"])
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of the suffix."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def source(file: Path, root: Path | None, random: SplitConfig | None = None, **columns: Any) -> ImageSource:
    config = ListConfig(str(file), **{"path": "file", "label": "name", **columns})
    return ImageSource(None if root is None else str(root), "list", list=config, split=random)


def opened(source: ImageSource, stage: str = "fit", **options: Any) -> ImageData:
    data = ImageData(source, TransformConfig(size=16), batch_size=4, num_workers=0, **options)
    data.setup(stage)
    return data


def files(data: ImageData, split: str) -> list[str]:
    return sorted(data.splits[split].reader.filenames())  # type: ignore[index]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_list_with_a_split_column(root: Path, tmp_path: Path, suffix: str) -> None:
    data = opened(source(write(tmp_path / f"all{suffix}", ROWS), root, split="part"))
    assert data.class_names == ["blue", "green", "red"]
    assert (len(data.splits["train"].reader), len(data.splits["val"].reader)) == (21, 3)
    assert files(data, "val") == sorted(row["file"] for row in ROWS if row["part"] == "val")
    images, targets = next(iter(data.val_dataloader()))
    assert targets.dtype == torch.int64
    brightest = images.mean((2, 3)).argmax(1)  # red, green, blue are the channels 0, 1, 2
    assert targets.tolist() == [2 - channel for channel in brightest.tolist()]
    data.setup("test")
    assert files(data, "test") == files(data, "val")


def test_one_list_per_split_with_paths_relative_to_the_list(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(root, folder)
    write(folder / "train.csv", [row for row in ROWS if row["part"] == "train"])
    write(folder / "validation.jsonl", [row for row in ROWS if row["part"] == "val" and row["name"] != "blue"])
    config = ListConfig(path="file", label="name")
    data = opened(ImageSource(str(folder), "list", list=config), "validate")
    assert data.class_names == ["blue", "green", "red"]  # those of the training list
    targets = torch.cat([y for _, y in data.val_dataloader()])
    assert sorted(targets.tolist()) == [1, 2]
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    ordered = ImageSource(str(folder), "list", list=config, class_map=str(folder / "classes.txt"))
    assert opened(ordered).class_names == ["red", "green", "blue"]
    (folder / "other").mkdir()
    moved = shutil.move(folder / "train.csv", folder / "other" / "train.csv")
    with pytest.raises(InputError, match=rf"{moved}, line 2: there is no file .*red1.png; 21 of 21 files are missing"):
        opened(source(Path(moved), None, split="part"))


@pytest.mark.parametrize("kind", ["text", "list", "columns"])
def test_several_labels(root: Path, tmp_path: Path, kind: str) -> None:
    labels = [["red"], ["red", "blue"], []]
    named = [{**row, "labels": labels[index % 3]} for index, row in enumerate(ROWS)]
    columns: dict[str, Any] = {"label": "labels"}
    if kind == "text":
        path = write(tmp_path / "all.csv", [{**row, "labels": " | ".join(row["labels"])} for row in named])
        columns["separator"] = "|"
    elif kind == "list":
        path = write(tmp_path / "all.jsonl", named)
    else:
        shown = [{f"has_{name}": int(name in row["labels"]) for name in ("blue", "red")} for row in named]
        path = write(tmp_path / "all.csv", [{**row, **own} for row, own in zip(named, shown, strict=True)])
        columns["label"] = "has_*"
    data = opened(source(path, root, split="part", targets="classes", **columns))
    assert data.multi_label
    assert data.class_names == (["has_blue", "has_red"] if kind == "columns" else ["blue", "red"])
    _, targets = next(iter(data.val_dataloader()))
    assert targets.tolist() == [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]  # rows 0, 8 and 16
    assert data.class_counts.tolist() == [7.0, 14.0]


def test_scores_are_divided_by_their_sum(root: Path, tmp_path: Path) -> None:
    votes = [{**row, "cat": index % 3, "dog": 1} for index, row in enumerate(ROWS)]
    path = write(tmp_path / "votes.csv", votes)
    data = opened(source(path, root, split="part", targets="scores", label=["dog", "cat"]))
    assert data.soft_targets
    assert not data.multi_label
    _, targets = next(iter(data.val_dataloader()))
    expected = torch.tensor([[1.0, 0.0], [1 / 3, 2 / 3], [0.5, 0.5]])
    assert torch.allclose(targets, expected)


def test_a_random_split_of_a_list_is_reproduced_by_its_table(root: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "all.csv", ROWS)
    split = SplitConfig(val=0.25, seed=4)
    data = opened(source(path, root, split))
    assert len(files(data, "val")) == 6
    assert np.bincount(data.splits["val"].targets).tolist() == [2, 2, 2]
    shuffled = opened(source(write(tmp_path / "shuffled.csv", ROWS[::-1]), root, split))
    assert files(shuffled, "val") == files(data, "val")
    (tmp_path / "split.csv").write_text(data.source.split_table())
    again = opened(source(tmp_path / "split.csv", root, path="path", label="label", split="split"))
    assert {split: files(again, split) for split in ("train", "val")} == {
        split: files(data, split) for split in ("train", "val")
    }
    grouped = opened(source(path, root, SplitConfig(val=0.25, group="place")))
    places = {row["file"]: row["place"] for row in ROWS}
    train, val = ({places[file] for file in files(grouped, split)} for split in ("train", "val"))
    assert train | val == {"p0", "p1", "p2", "p3"}
    assert not train & val


def test_a_random_split_of_a_folder(root: Path, tmp_path: Path) -> None:
    for row in ROWS:
        target = tmp_path / row["name"] / Path(row["file"]).name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(root / row["file"], target)
    data = opened(ImageSource(str(tmp_path), split=SplitConfig(val=3, test=6)), None)  # type: ignore[arg-type]
    parts = [files(data, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [15, 3, 6]
    assert len(set().union(*parts)) == 24
    saved = data.state_dict()
    data.load_state_dict(saved)
    (tmp_path / "red" / "red0.png").unlink()
    changed = opened(ImageSource(str(tmp_path), split=SplitConfig(val=3, test=6)))
    with pytest.raises(InputError, match="random split differs"):
        changed.load_state_dict(saved)
    with pytest.raises(InputError, match="only a list has columns"):
        opened(ImageSource(str(tmp_path), split=SplitConfig(group="place")))


def test_balanced_batches_resume_exactly(root: Path, tmp_path: Path) -> None:
    rows = [row for row in ROWS if row["name"] != "red" or row["file"].endswith(("0.png", "1.png"))]
    path = write(tmp_path / "all.csv", rows)

    def loader() -> Any:
        return opened(source(path, root, split="part"), balanced=True).train_dataloader()

    targets = torch.cat([y for _, y in loader()])
    assert targets.bincount().min() >= 3  # 12 draws of 15 training images, of which one is red
    resumes_exactly(loader, [2, 3, 4], total=7)


def change(index: int, **values: Any) -> Callable[[], list[dict[str, Any]]]:
    return lambda: [{**row, **values} if place == index else row for place, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (change(3, file="photos/none.png"), {}, "line 5: there is no file .*none.png; 1 of 24"),
        (change(3, file=""), {}, "line 5 has no path in the column 'file'"),
        (change(3, name=" "), {}, "line 5 has no label in the column 'name'"),
        (change(0, name="pink"), {}, r"line 2 has the class 'pink', which is not among the 3 classes .* 'blue'|'pink'"),
        (change(3, part="fold 2"), {}, "line 5 has 'fold 2' in the column 'part'; expected train, val or test"),
        (change(3, file="photos/red0.png"), {}, "line 5 has the image photos/red0.png of .*line 2 again"),
        (lambda: ROWS, {"label": "nam"}, "has no column 'nam'. Did you mean 'name'.* set list.label"),
        (lambda: ROWS, {"path": "path"}, "has no column 'path'"),
        (lambda: ROWS, {"label": "pl*", "targets": "scores"}, "line 2 has 'p0' in the column 'place'; .* 0 or more"),
        (lambda: ROWS, {"label": ["x", "y"], "targets": "classes"}, "has no column 'x'"),
        (lambda: ROWS, {"label": "name;", "targets": "scores"}, "needs columns, one per class"),
        (lambda: ROWS, {"label": ["x", "y"]}, "needs one column in list.label"),
        (lambda: ROWS, {"split": None}, "set list.split to its column with the splits, or set split"),
    ],
)
def test_an_invalid_row_or_column_is_named(
    root: Path, tmp_path: Path, rows: Callable[[], list[dict[str, Any]]], columns: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "all.csv", rows())
    with pytest.raises(InputError, match=words) as caught:
        opened(source(path, root, **{"split": "part", **columns}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"file,name\nx.png\n", "a.csv, line 2 has 1 fields, but the first line names 2 columns"),
        ("a.csv", b'file,name\n"x.png,red\n', "a.csv, line 2 cannot be read"),
        ("a.csv", b"file,file\nx.png,red\n", "two columns of the same name"),
        ("a.csv", b"file,name\n\xff\xfe,red\n", "not a text file in UTF-8"),
        ("a.csv", b"file,name\n", "has no rows"),
        ("a.jsonl", b'{"file": "x"}\n{"file"\n', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is not a JSON object, but list"),
        ("a.parquet", b"PAR1", "cannot be read as a Parquet file"),
        ("a.txt", b"", "accepted suffixes: .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_an_unreadable_list_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        opened(source(tmp_path / name, None, split="part"))
    assert "\n" not in str(caught.value)


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"pyarrow.*pip install 'glmix\[inference\]'"):
        opened(source(tmp_path / "a.parquet", None, split="part"))


def test_contradicting_options(tmp_path: Path) -> None:
    listed = ListConfig(str(tmp_path / "a.csv"), split="part")
    for options, words in (
        ({"reader": "list"}, "needs list.file"),
        ({"root": "x", "list": listed}, "source.list needs source.reader 'list'"),
        ({"reader": "list", "list": listed, "split": SplitConfig()}, "split needs list.file"),
        (
            {"root": "x", "reader": "tar", "split": SplitConfig()},
            "source.split needs source.reader 'folder' or 'list', got 'tar'",
        ),
    ):
        with pytest.raises(InputError, match=words):
            ImageSource(**options)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="There is no list"):
        opened(source(tmp_path / "none.csv", None, split="part"))
