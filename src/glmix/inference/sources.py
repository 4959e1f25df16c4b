"""Sources of images for inference: files and URLs, tar files and Hugging Face data sets.

A source is a fixed sequence of images with random access, so that any part of it can be processed by any process and
in any order. It is small when it is pickled for a worker process.
"""

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from ..errors import InputError, MissingExtraError

__all__ = ["Files", "HuggingFace", "PackedStrings", "Source", "Sources", "Tar", "find_images", "fingerprint"]

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

# suffixes of images that Pillow cannot decode, unless a plugin adds a decoder
OTHER_IMAGES = {
    *(".ai", ".avif", ".exr", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".svgz", ".webp", ".xcf"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),  # camera raw formats
}


class Source(Protocol):
    """A sequence of images.

    `problems` are the inputs that contain no readable image and therefore have no position, as
    {"file": name, "error": reason}.
    """

    problems: list[dict[str, str]]

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Return the name of an image in the results."""

    def read(self, index: int) -> Path | BinaryIO:
        """Return the file of an image, or its content."""


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings in two arrays.

    A list of millions of str objects takes much more memory, and every worker process would copy it, because reading
    an object changes its reference count.

    Args:
        strings: the strings. Bytes of file names that are not valid UTF-8 are kept.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        parts = [os.fsencode(string) for string in strings]
        self._bytes = np.frombuffer(b"".join(parts), np.uint8)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[start : int(self._ends[index])].tobytes())


class Files:
    """Image files, on this machine or at URLs that fsspec can read.

    Args:
        paths: paths or URLs, in the order of the results.
        problems: see `Source`.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]], problems: list[dict[str, str]] | None = None) -> None:
        self.problems = problems or []
        self._paths = PackedStrings(os.fspath(path) for path in paths)

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, index: int) -> str:
        path: str = self._paths[index]
        return path

    def read(self, index: int) -> Path | BinaryIO:
        path = self.key(index)
        if not URL.match(path):
            return Path(path)
        return io.BytesIO(read_url(path))


class Tar:
    """Images in an uncompressed tar file, such as a WebDataset shard.

    Args:
        path: path or URL of the tar file. The keys of its images are `path/name in the tar file`.
        arrays: also find `.npy` files.

    Raises:
        InputError: the file is not an uncompressed tar file.
    """

    def __init__(self, path: str | os.PathLike[str], arrays: bool = False) -> None:
        self.path = os.fspath(path)
        self.problems: list[dict[str, str]] = []
        names: list[str] = []
        places: list[tuple[int, int]] = []
        with self._open() as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    for member in archive:
                        if member.isfile() and can_be_decoded(Path(member.name), arrays):
                            names.append(member.name)
                            places.append((member.offset_data, member.size))
                        elif member.isfile() and has_image_suffix(Path(member.name)):
                            reason = f"{Path(member.name).suffix.lower()} files cannot be decoded here"
                            self.problems.append({"file": f"{self.path}/{member.name}", "error": reason})
                        end = -(-(member.offset_data + member.size) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if names and (file.seek(end) != end or file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError("the end-of-archive marker is missing")  # tarfile stops at a damaged header
            except tarfile.TarError as error:
                if not names:
                    raise InputError(
                        f"{self.path} cannot be read as an uncompressed tar file ({error}). Compressed tar files have "
                        "no random access: unpack them, or write them without compression."
                    ) from error
                reason = f"the tar file is damaged after {names[-1]} ({error})"
                self.problems.append({"file": self.path, "error": reason})
        if not names:
            self.problems.append({"file": self.path, "error": "no images in this tar file"})
        self._names = PackedStrings(names)
        self._places = np.array(places, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        return f"{self.path}/{self._names[index]}"

    def read(self, index: int) -> BinaryIO:
        start, size = self._places[index].tolist()
        with self._open() as file:
            file.seek(start)
            return io.BytesIO(file.read(size))

    def _open(self) -> Any:
        return open_url(self.path) if URL.match(self.path) else open(self.path, "rb")


class HuggingFace:
    """Images of a Hugging Face data set with random access.

    Args:
        dataset: a `datasets.Dataset`.
        column: name of the image column; None for the first column of images.
        name: name of the data set, for the keys `name/index`.

    Raises:
        InputError: the data set has no such column of images.
    """

    def __init__(self, dataset: Any, column: str | None = None, name: str = "dataset") -> None:
        import datasets

        self.problems: list[dict[str, str]] = []
        images = [key for key, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
        if not images or (column is not None and column not in images):
            raise InputError(
                f"{name} has no column of images{'' if column is None else f' {column!r}'}: its columns are "
                f"{', '.join(dataset.features)}."
            )
        self._column, self._name = column or images[0], name
        self._data = dataset.select_columns([self._column]).cast_column(self._column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self._data)

    def key(self, index: int) -> str:
        return f"{self._name}/{index}"

    def read(self, index: int) -> Path | BinaryIO:
        image = self._data[index][self._column]
        return Path(image["path"]) if image["bytes"] is None else io.BytesIO(image["bytes"])


class Sources:
    """Several sources, one after the other.

    Args:
        parts: the sources.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        self.problems = [problem for part in parts for problem in part.problems]
        self._parts = [part for part in parts if len(part)]
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _locate(self, index: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part], index - (int(self._ends[part - 1]) if part else 0)

    def key(self, index: int) -> str:
        part, position = self._locate(index)
        return part.key(position)

    def read(self, index: int) -> Path | BinaryIO:
        part, position = self._locate(index)
        return part.read(position)


def fingerprint(source: Source) -> str:
    """Return a hash of the keys of a source, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for index in range(len(source)):
        digest.update(os.fsencode(source.key(index)) + b"\0")
    return digest.hexdigest()


def find_images(paths: Iterable[Path], problems: list[dict[str, str]], *, arrays: bool = False) -> dict[Path, Path]:
    """Find images in files and folders; folders are searched recursively for files with an image suffix.

    Args:
        paths: files and folders.
        problems: a list to which an entry is added for each image in an unsupported format and each folder without
            images.
        arrays: also find `.npy` files.

    Returns:
        {file: its path relative to the given folder, or its name if the file itself was given}
    """
    found: dict[Path, Path] = {}
    for path in paths:
        try:
            is_folder = path.is_dir()
        except OSError as error:  # for example a file name that is too long
            problems.append({"file": str(path), "error": error.strerror or str(error)})
            continue
        if not is_folder:
            found[path] = Path(path.name)
            continue
        inside = sorted(file for file in path.rglob("*") if has_image_suffix(file, arrays) and not file.is_dir())
        if not inside:
            problems.append({"file": str(path), "error": "no images in this folder"})
        for file in inside:
            if can_be_decoded(file, arrays):
                found[file] = file.relative_to(path)
            else:
                problems.append({"file": str(file), "error": f"{file.suffix.lower()} files cannot be decoded here"})
    return found


def has_image_suffix(file: Path, arrays: bool = False) -> bool:
    """Return whether a file has the suffix of an image format, supported or not."""
    return file.suffix.lower() in OTHER_IMAGES or can_be_decoded(file, arrays)


def can_be_decoded(file: Path, arrays: bool = False) -> bool:
    """Return whether there is a decoder for files with this suffix: one of Pillow, or with `arrays` also `.npy`."""
    suffix = file.suffix.lower()
    return Image.registered_extensions().get(suffix) in Image.OPEN or (arrays and suffix == ".npy")


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL, and the path in it."""
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError(f"{url} needs the package fsspec: pip install 'glmix[inference]'") from error
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # the message names the package of the protocol
        raise MissingExtraError(f"{url}: {error}") from error
    except ValueError as error:  # an unknown protocol
        raise InputError(f"{url}: {error}") from error
    return files, str(path)


def open_url(url: str) -> Any:
    """Open a file at a URL with fsspec for reading bytes. Raise FileNotFoundError if it does not exist."""
    files, path = file_system(url)
    try:
        return files.open(path, "rb")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no file {url}.") from error


def read_url(url: str) -> bytes:
    """Return the content of a file at a URL; see `open_url`."""
    with open_url(url) as file:
        content: bytes = file.read()
    return content
