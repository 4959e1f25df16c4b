"""Functions that open the readers of timm and check the data before training starts."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from ...errors import InputError, MissingExtraError
from ..core.arrays import ARRAY_SUFFIXES
from .files import FileReader

__all__ = ["ReaderKind", "open_folder", "open_hfds", "open_hfds_streaming", "open_images", "open_tar", "open_wds"]

ReaderKind = Literal["folder", "list", "images", "tar", "wds", "hfds", "hfds-streaming"]


OTHER_SUFFIXES = (".bmp", ".tif", ".tiff", ".webp")  # suffixes of images, in addition to those of timm


def _suffixes(arrays: bool) -> set[str]:
    """Return the suffixes of image files, with `arrays` also those of files with other channels than RGB."""
    return {*get_img_extensions(), *OTHER_SUFFIXES, *(ARRAY_SUFFIXES if arrays else ())}


def require(module: str) -> Any:
    """Import and return an optional package. Raise MissingExtraError with the pip command if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"This reader needs {module}: pip install {module}") from error


def open_folder(path: Path, class_map: Mapping[str, int] | str | None = None, *, arrays: bool = False) -> FileReader:
    """Open a folder with one subfolder per class.

    Args:
        path: folder of the split.
        class_map: numbers of the classes, or a text file with the class names; None for the alphabetical order.
        arrays: also find `.npy` files.

    Raises:
        InputError: if there is an empty class folder, an unknown class, or an image outside the class folders.
    """
    known = _suffixes(arrays)
    classes = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    if not classes:
        raise InputError(f"{path} has no class folders: images must be in {path / 'CLASS'}.")
    for name in classes:
        if not any(Path(file).suffix.lower() in known for _, _, files in os.walk(path / name) for file in files):
            raise InputError(
                f"The class folder {path / name} has no image ({', '.join(sorted(known))}): add images or remove it."
            )
    if any(Path(entry.name).suffix.lower() in known for entry in os.scandir(path) if entry.is_file()):
        raise InputError(f"{path} has images outside its class folders ({', '.join(classes[:8])}).")
    if isinstance(class_map, Mapping):
        unknown = [name for name in classes if name not in class_map]
        if unknown:
            raise InputError(f"{path / unknown[0]} is a class that the training data do not have.")
    reader = ReaderImageFolder(str(path), class_map=class_map or "", input_key=";".join(sorted(known)))
    files = [os.path.relpath(file, path) for file, _ in reader.samples]
    targets = np.array([target for _, target in reader.samples], dtype=np.int64)
    return FileReader(path, files, targets, reader.class_to_idx)


def open_images(path: Path, arrays: bool = False) -> FileReader:
    """Open all images in a folder and its subfolders, in alphabetical order, as images without labels.

    All labels are 0.

    Args:
        path: folder.
        arrays: also open files with other channels than RGB.
    """
    known = _suffixes(arrays)
    found = sorted(
        os.path.relpath(os.path.join(folder, file), path)
        for folder, _, files in os.walk(path)
        for file in files
        if Path(file).suffix.lower() in known
    )
    if not found:
        raise InputError(f"{path} has no image ({', '.join(sorted(known))}).")
    return FileReader(path, found, np.zeros(len(found), dtype=np.int64), {})


class _TarReader(ReaderImageInTar):  # type: ignore[misc]
    """Reader of timm for tar files, whose file names include the class also with one tar file per class."""

    samples: Any
    targets: Any

    def __init__(self, path: Path, class_map: Mapping[str, int] | str | None) -> None:
        # no cached file: workers that share an open file would change each other's read position
        super().__init__(str(path), class_map=class_map or "", cache_tarfiles=False)
        # the order of timm for files of the same name depends on the directory listing
        order = sorted(range(len(self)), key=lambda i: (str(self.samples[i][1]), self.samples[i][0].path))
        self.samples, self.targets = self.samples[order], self.targets[order]
        self.class_to_idx = self.class_name_to_idx

    # timm's private method, because the public filename and filenames call it
    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        entry, tar, _ = self.samples[index]
        name = os.path.join(os.path.splitext(tar or "")[0], entry.path)
        return os.path.basename(name) if basename else os.path.join(self.root, name) if absolute else name


def open_tar(path: Path, class_map: Mapping[str, int] | str | None = None) -> Any:
    """Open one tar file with a folder per class, or a folder with one tar file per class."""
    if path.is_dir() and not any(path.glob("*.tar")):
        raise InputError(f"{path} has no .tar files.")
    try:
        return _TarReader(path, class_map)
    except ValueError as error:
        raise InputError(f"{path} has no images in folders of the known classes.") from error


def open_hfds(name: str, root: str | None, split: str, input_key: str, target_key: str) -> Any:
    """Open a Hugging Face data set with random access; `root` is the cache folder."""
    require("datasets")
    from timm.data.readers.reader_hfds import ReaderHfds

    return ReaderHfds(name, root=root, split=split, input_key=input_key, target_key=target_key)


def open_hfds_streaming(
    name: str,
    root: str | None,
    split: str,
    input_key: str,
    target_key: str,
    *,
    training: bool,
    num_samples: int | None,
    seed: int,
    shuffle_buffer: int | None,
) -> Any:
    """Open a Hugging Face data set in streaming mode.

    Args:
        name: name or folder of the data set.
        root: cache folder.
        split: split to open.
        input_key: key of the image.
        target_key: key of the label.
        training: shuffle the samples.
        num_samples: number of training samples, for data sets that do not contain it.
        seed: seed of the shuffling.
        shuffle_buffer: size of the shuffle buffer; None for the default of timm.
    """
    require("datasets")
    from timm.data.readers.reader_hfids import ReaderHfids

    return ReaderHfids(
        name,
        root=root,
        split=split,
        is_training=training,
        num_samples=num_samples or (None if training else 1),  # only training uses the length
        seed=seed,
        input_key=input_key,
        target_key=target_key,
        shuffle_size=shuffle_buffer,
    )


def open_wds(
    root: str,
    split: str,
    *,
    training: bool,
    num_samples: int | None,
    seed: int,
    target_key: str | None,
    shuffle_buffer: int | None,
    processes: int,
) -> Any:
    """Open WebDataset shards.

    Args:
        root: folder of the shards, or its URL.
        split: split in `_info.json`, or a pattern of file names such as `train-{000..127}.tar`.
        training: shuffle the samples.
        num_samples: number of samples, for shards without `_info.json`.
        seed: seed of the shuffling.
        target_key: field of the json part with the label; None for the cls part.
        shuffle_buffer: size of the shuffle buffer; None for the default of timm.
        processes: number of training processes times the number of workers, each of which needs a shard.

    Raises:
        FileNotFoundError: if the folder or a shard is missing.
        InputError: if there are fewer shards than workers in training.
    """
    require("webdataset")
    from timm.data.readers.reader_wds import ReaderWds

    if "://" not in root and not Path(root).is_dir():
        raise FileNotFoundError(f"There is no folder {root}: root must be the folder of the shards.")
    reader = ReaderWds(
        root,
        split=split,
        is_training=training,
        num_samples=num_samples,
        seed=seed,
        target_key=target_key,
        sample_shuffle_size=shuffle_buffer,
        sample_initial_size=shuffle_buffer,
    )
    shards = reader.split_info.filenames
    if "://" not in root:
        missing = [shard for shard in shards if not Path(root, shard).is_file()]
        if missing:
            raise FileNotFoundError(f"{len(missing)} of {len(shards)} shards are missing: {Path(root, missing[0])}.")
    if training and len(shards) < processes:
        raise InputError(
            f"{len(shards)} shards are too few for {processes} workers (num_workers per training process): each worker "
            "needs at least one shard."
        )
    return reader
