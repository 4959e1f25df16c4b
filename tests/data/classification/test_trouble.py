"""Errors and warnings for invalid image data."""

import io
import shutil
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from glmix.data.classification.datamodule import ImageData
from glmix.data.classification.source import ImageSource, TokenLabelConfig
from glmix.data.classification.transforms import TransformConfig
from glmix.data.core.decoding import BadImages, decode, reduced_side
from glmix.data.scenes import SceneConfig, draw_scene
from glmix.errors import InputError
from tests.data.conftest import same, take
from tests.processes import WITHOUT_LIGHTNING, Command


def module(
    root: Path, reader: Any = "folder", token_labels: TokenLabelConfig | None = None, **kwargs: Any
) -> ImageData:
    source = ImageSource(str(root), reader, **kwargs)
    data = ImageData(source, TransformConfig(size=24), batch_size=4, num_workers=0, token_labels=token_labels)
    data.setup("fit")
    return data


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def bomb() -> bytes:
    """Return a small PNG whose header claims 400 million pixels (a decompression bomb)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def truncated() -> bytes:
    """Return the first half of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(draw_scene(SceneConfig(), "train", 0).image).save(buffer, "JPEG")
    return buffer.getvalue()[: buffer.tell() // 2]


BAD = {"no_image.jpg": b"this is text", "empty.jpg": b"", "truncated.jpg": truncated(), "bomb.png": bomb()}


def add_bad_images(root: Path, split: str = "train", names: tuple[str, ...] = tuple(BAD)) -> Path:
    folder_of_class = sorted((root / split).iterdir())[0]
    for name in names:
        (folder_of_class / name).write_bytes(BAD[name])
    return folder_of_class


def test_missing_root_and_split(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere"):
        module(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no dev; it has train, val"):
        module(folder, val="dev")


def test_empty_class_folder_and_no_classes(copy: Path, tmp_path: Path) -> None:
    (copy / "train" / "99_nothing").mkdir()
    (copy / "train" / "99_nothing" / "readme.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"class folder .*99_nothing has no image"):
        module(copy)
    (tmp_path / "bare" / "train").mkdir(parents=True)
    (tmp_path / "bare" / "val").mkdir()
    with pytest.raises(ValueError, match="has no class folders"):
        module(tmp_path / "bare")


def test_class_missing_in_the_training_split(copy: Path) -> None:
    first = sorted((copy / "val").iterdir())[0]
    first.rename(copy / "val" / "unheard_of")
    with pytest.raises(ValueError, match=r"unheard_of is a class that the training data do not have"):
        module(copy)


def test_class_numbers_do_not_change_if_validation_lacks_a_class(copy: Path) -> None:
    folders = sorted((copy / "val").iterdir())
    shutil.rmtree(folders[0])
    labels = torch.cat([y for _, y in module(copy).val_dataloader()])
    assert 0 not in labels.tolist()
    assert labels.max() == 3


def test_wrong_number_of_classes(folder: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match=r"num_classes is 7, but the split train of .* has 4 classes"):
        module(folder, num_classes=7)
    data = module(shards, "wds", num_classes=2, shuffle_buffer=4)
    with pytest.raises(ValueError, match=r"has the label [23], but num_classes is 2: .* 0 to 1"):
        take(data.train_dataloader(), 6)


@pytest.mark.parametrize("name", list(BAD))
def test_bad_image_is_skipped_and_counted(copy: Path, name: str) -> None:
    add_bad_images(copy, names=(name,))
    data = module(copy, max_bad_images=1)
    with pytest.warns(UserWarning, match=rf"{name} cannot be read as an image .* 1 of at most 1"):
        batches = take(data.train_dataloader(), 12)
    assert all(len(y) == 4 for _, y in batches)


def test_too_many_bad_images_are_an_error_with_a_file_name(copy: Path) -> None:
    add_bad_images(copy)
    data = module(copy, max_bad_images=3)
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(InputError, match=r"cannot be read .* 4 unreadable files.* allows 3"),
    ):
        take(data.train_dataloader(), 14)


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_bad_images_are_skipped_in_evaluation_and_resume_is_exact(copy: Path) -> None:
    add_bad_images(copy)
    add_bad_images(copy, "val")
    assert sum(len(y) for _, y in module(copy).val_dataloader()) == 11
    whole = take(module(copy).train_dataloader(), 10)
    first = module(copy).train_dataloader()
    take(first, 5)
    second = module(copy).train_dataloader()
    second.load_state_dict(first.state_dict())
    assert same(whole[5:], take(second, 5))


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_bad_images_in_a_stream(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "copy")
    root = tmp_path / "copy"
    for split in ("train", "val"):
        with tarfile.open(root / f"scenes-{split}-0.tar", "a") as tar:
            for name, content in (("bad.jpg", b"no image"), ("bad.cls", b"0")):
                (tmp_path / name).write_bytes(content)
                tar.add(tmp_path / name, name)
    data = module(root, "wds", num_classes=4, shuffle_buffer=4)
    assert all(len(y) == 4 for _, y in take(data.train_dataloader(), 12))
    assert sum(len(y) for _, y in data.val_dataloader()) == 11
    data = module(root, "wds", num_classes=4, shuffle_buffer=4, max_bad_images=0)
    with pytest.raises(InputError, match=r"bad in .*scenes-val-0.tar cannot be read"):
        list(data.val_dataloader())


def test_missing_label_map(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder of label maps at .*maps"):
        module(folder, token_labels=TokenLabelConfig(str(tmp_path / "maps")))
    (tmp_path / "maps").mkdir()
    with pytest.raises(FileNotFoundError, match=r"24 of 24 images have no label map .* which needs"):
        module(folder, token_labels=TokenLabelConfig(str(tmp_path / "maps")))


def test_too_few_shards(shards: Path) -> None:
    data = ImageData(ImageSource(str(shards), "wds", num_classes=4), num_workers=5)
    with pytest.raises(ValueError, match="4 shards are too few for 5 workers"):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"needs source\.num_classes"):
        ImageSource(str(shards), "wds")


def test_each_bad_file_counts_once() -> None:
    bad = BadImages(1)
    with pytest.warns(UserWarning, match="is skipped"):
        bad.add("a.jpg", OSError("cut off"))
    bad.add("a.jpg", OSError("cut off"))
    assert len(bad) == 1
    with pytest.raises(InputError, match=r"b.jpg cannot be read .*OSError: cut off"):
        bad.add("b.jpg", OSError("cut off"))


def test_draft_keeps_the_resolution_of_the_smallest_crop() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(buffer, "JPEG")
    side = reduced_side(224, 0.08)
    assert side == 792
    assert decode(buffer.getvalue()).size == (4000, 3000)
    assert min(decode(buffer.getvalue(), side).size) >= side
    assert decode(buffer.getvalue(), side).size == (2000, 1500)


def test_missing_extra_is_reported_with_its_pip_command() -> None:
    program = (
        f"{WITHOUT_LIGHTNING}\nimport glmix, glmix.data\n"
        "try:\n    import glmix.data.classification.datamodule\n"
        "except ImportError as error:\n    print(error)"
    )
    printed, errors = Command(code=program).communicate()
    assert "pip install 'glmix[train]'" in printed, errors
