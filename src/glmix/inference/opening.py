"""Opening of sources from paths, patterns, lists of images and URLs."""

import glob
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..data.core.tables import TABLE_SUFFIXES, pyarrow, text_rows
from ..errors import InputError, MissingExtraError
from .sources import (
    URL,
    Files,
    HuggingFace,
    Source,
    Sources,
    Tar,
    can_be_decoded,
    file_system,
    find_images,
    read_url,
)

__all__ = ["open_source"]

LISTS = (".txt", *TABLE_SUFFIXES)
HUGGING_FACE = "hf-dataset:"
KEY_COLUMNS = ("path", "file", "file_name", "filename", "image", "url", "key")


def open_source(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    column: str | None = None,
    *,
    arrays: bool = False,
) -> Source:
    """Open images from paths and URLs.

    Args:
        inputs: one or several of: an image file; a folder, which is searched recursively; a pattern such as
            `photos/*.jpg`; a list of images with the suffix .txt (one path per line), .csv, .tsv, .jsonl or .parquet,
            whose relative paths are relative to the list; a tar file, or a pattern `shard-{000..127}.tar`;
            `hf-dataset:NAME_OR_FOLDER`, optionally with `#SPLIT`; and URLs of any of these (except for data sets) that
            fsspec can read, such as `s3://bucket/folder`.
        column: column of paths in lists, or of images in data sets; None for a common name, such as `path`.
        arrays: also find `.npy` files, for models with other channels than RGB.

    Returns:
        The source. Inputs without an image are listed in its `problems`.

    Raises:
        InputError: a list, tar file or data set cannot be read.
        MissingExtraError: a library for an input is not installed.
    """
    names = [os.fspath(inputs)] if isinstance(inputs, str | os.PathLike) else [os.fspath(item) for item in inputs]
    parts: list[Source] = []
    plain: list[str] = []

    def flush() -> None:
        if plain:
            problems: list[dict[str, str]] = []
            parts.append(Files(find_images(map(Path, plain), problems, arrays=arrays), problems))
            plain.clear()

    for name in names:
        opened = _open_special(name, column, arrays)
        if opened is None:
            plain.append(name)
        else:
            flush()
            parts.append(opened)
    flush()
    return parts[0] if len(parts) == 1 else Sources(parts)


def _open_special(name: str, column: str | None, arrays: bool) -> Source | None:
    """Open an input that is neither an image file nor a folder on this machine; return None if it is one of these."""
    if name.startswith(HUGGING_FACE):
        return _open_data_set(name.removeprefix(HUGGING_FACE), column)
    shards = _expand_range(name)
    if len(shards) > 1:
        return Sources([_open_special(shard, column, arrays) or Files([shard]) for shard in shards])
    if URL.match(name):
        return _open_remote(name, column, arrays)
    path = Path(name)
    if path.suffix.lower() in LISTS and path.is_file():
        return Files(_resolve(_read_list(name, path.read_bytes(), column), str(path.parent)))
    if path.suffix.lower() == ".tar" and path.is_file():
        return Tar(path, arrays)
    if glob.has_magic(name) and not _exists(path):
        matches = sorted(glob.glob(name, recursive=True))
        problems = [] if matches else [{"file": name, "error": "no file matches this pattern"}]
        special = [_open_special(match, column, arrays) for match in matches]
        plain = [Path(match) for match, opened in zip(matches, special, strict=True) if opened is None]
        files = Files(find_images(plain, problems, arrays=arrays), problems)
        return Sources([files, *(opened for opened in special if opened is not None)])
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # for example a name that is too long
        return False


def _expand_range(name: str) -> list[str]:
    """Expand one range of numbers such as {000..127}."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", name)
    if match is None:
        return [name]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    return [f"{name[: match.start()]}{number:0{len(first)}d}{name[match.end() :]}" for number in numbers]


def _open_remote(url: str, column: str | None, arrays: bool) -> Source:
    files, path = file_system(url)
    suffix = Path(path).suffix.lower()
    if glob.has_magic(path):
        found = files.glob(path)
    elif files.isdir(path):
        found = files.find(path)
    elif suffix == ".tar":
        return Tar(url, arrays)
    elif suffix in LISTS:
        return Files(_resolve(_read_list(url, read_url(url), column), url.rpartition("/")[0]))
    else:
        return Files([url])
    urls = [files.unstrip_protocol(name) for name in sorted(found)]
    images = [name for name in urls if can_be_decoded(Path(name), arrays)]
    archives = [Tar(name, arrays) for name in urls if name.lower().endswith(".tar")] if glob.has_magic(path) else []
    problems = [] if images or archives else [{"file": url, "error": "no images at this URL"}]
    return Sources([Files(images, problems), *archives])


def _open_data_set(name: str, column: str | None) -> HuggingFace:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"{HUGGING_FACE}{name} needs the package datasets: pip install datasets") from error

    place, _, split = name.partition("#")
    if Path(place).is_dir() and any((Path(place) / file).exists() for file in ("state.json", "dataset_dict.json")):
        opened = datasets.load_from_disk(place)
    else:
        opened = datasets.load_dataset(place)
    if isinstance(opened, dict):
        if not split and len(opened) == 1:
            split = next(iter(opened))
        if split not in opened:
            raise InputError(
                f"{HUGGING_FACE}{place} has the splits {', '.join(opened)}: choose one as {HUGGING_FACE}{place}#SPLIT."
            )
        opened = opened[split]
    return HuggingFace(opened, column, name)


def _resolve(paths: Iterable[str], folder: str) -> Iterator[str]:
    """Make relative paths relative to the folder of their list."""
    for path in paths:
        yield path if URL.match(path) or os.path.isabs(path) else f"{folder}/{path}" if folder != "." else path


def _read_list(name: str, content: bytes, column: str | None) -> list[str]:
    """Return the paths in a list of images.

    Raises:
        InputError: the list cannot be parsed, or has no column of paths.
    """
    suffix = Path(name).suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(name, content, column)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not a list of images: it is not UTF-8 text ({error}).") from error
    if suffix == ".txt":
        return [line for line in text.splitlines() if line.strip()]
    paths = []
    for number, row in text_rows(name, io.StringIO(text, newline="")):
        path = row.get(_path_column(name, list(row), column))
        if not isinstance(path, str) or not path:
            raise InputError(f"{name}, line {number}: there is no path.")
        paths.append(path)
    return paths


def _read_parquet(name: str, content: bytes, column: str | None) -> list[str]:
    arrow, parquet = pyarrow()
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        column = _path_column(name, file.schema_arrow.names, column)
        paths = file.read([column]).column(column).to_pylist()
    except arrow.ArrowException as error:
        raise InputError(f"{name} cannot be read as Parquet ({error}).") from error
    if not all(isinstance(path, str) for path in paths):
        raise InputError(f"{name}: the column {column} contains values that are not paths.")
    return list(paths)


def _path_column(name: str, columns: Sequence[str], column: str | None) -> str:
    wanted = KEY_COLUMNS if column is None else (column,)
    found = next((key for key in wanted if key in columns), None)
    if found is None:
        raise InputError(
            f"{name} has no column {' or '.join(wanted)}: its columns are {', '.join(columns) or 'missing'}."
        )
    return found
