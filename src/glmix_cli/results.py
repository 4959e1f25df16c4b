"""Files with the results of images: their names, and JSON reports that are written from rows."""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmix.inference import ResultFolder, Source

__all__ = ["print_file", "result_names", "rows_with_names", "shortened", "write_report"]

LONGEST = 255  # bytes: the limit of common file systems for a file name


def result_names(source: "Source", inputs: Sequence[str], room: int = 0) -> Sequence[str]:
    """Return the relative path of the results for each image.

    Args:
        source: images.
        inputs: the arguments from which `open_source` opened them.
        room: number of bytes to keep free for a suffix.

    Returns:
        The path of each image relative to its folder, list or tar file, without its suffix, or with it if two images
        differ only in their suffix.

    Raises:
        InputError: the results of two images would have the same name.
    """
    import numpy as np

    from glmix.errors import InputError
    from glmix.inference.sources import PackedStrings

    def hashes(names: Sequence[str]) -> Any:
        # 64 bits per name take less memory than the names, and two names have the same hash once in 2^64 pairs
        return np.fromiter((hash(name) for name in names), np.int64, len(names))

    folders = [_plain(name) + "/" for name in inputs if os.path.isdir(name)]
    parents = [re.split(r"[*?\[{]", _plain(name))[0].rpartition("/")[0] + "/" for name in inputs]
    parents = sorted({parent if parent != "/" else "" for parent in parents}, key=len, reverse=True)
    bases = [*sorted(("" if folder == "./" else folder for folder in folders), key=len, reverse=True), *parents]
    keys = PackedStrings(source.key(index) for index in range(len(source)))
    relative = PackedStrings(_relative(key, bases) for key in keys)
    stems = PackedStrings(os.fspath(PurePosixPath(name).with_suffix("")) for name in relative)
    _, first = np.unique(hashes(keys), return_index=True)  # a list may name an image twice
    values, counts = np.unique(hashes(stems)[first], return_counts=True)
    ambiguous = set(values[counts > 1].tolist())
    names = PackedStrings(
        _shortened_path(name if hash(stem) in ambiguous else stem, room)
        for name, stem in zip(relative, stems, strict=True)
    )
    values, counts = np.unique(hashes(names)[first], return_counts=True)
    if (counts > 1).any():
        twice = values[counts > 1][0]
        one, two = [keys[index] for index in sorted(first) if hash(names[index]) == twice][:2]
        raise InputError(f"The results of {one} and {two} would have the same name; process them in separate commands.")
    return names


def _plain(name: str) -> str:
    """Return the prefix that the keys of the images of an input have."""
    return name if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", name) else os.fspath(Path(name))


def _relative(key: str, bases: Sequence[str]) -> str:
    """Return a key relative to the first of the bases that contains it, or its last part."""
    base = next((base for base in bases if key.startswith(base) and (base or not _is_absolute(key))), None)
    path = key.rpartition("/")[2] if base is None else key.removeprefix(base)
    return "/".join(part for part in path.split("/") if part not in ("", ".", "..")) or "image"


def _is_absolute(key: str) -> bool:
    return key.startswith("/") or ":/" in key


def _shortened_path(path: str, room: int) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + shortened(name, room)


def shortened(name: str, room: int) -> str:
    """Shorten a file name that is too long so that `room` bytes are left; a hash keeps shortened names unique."""
    encoded = os.fsencode(name)
    if len(encoded) + room <= LONGEST:
        return name
    end = "-" + hashlib.blake2b(encoded, digest_size=6).hexdigest()
    start = encoded[: LONGEST - room - len(end)].decode("utf-8", "ignore")  # drops an incomplete character
    return os.fsdecode(start.encode()) + end


def rows_with_names(folder: "ResultFolder", source: "Source") -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the position, the exact name and the row of each image without an error.

    The names in the rows are not exact if they are not valid UTF-8, which Parquet cannot store.
    """
    for position, row in enumerate(folder.rows()):
        if not row["error"]:
            yield position, source.key(position), row


def write_report(file: Path, contents: Mapping[str, Any] | Iterator[Any]) -> None:
    """Write a JSON object or list to a file atomically. Iterators are written item by item as lists."""
    from glmix.files import atomic_write

    with atomic_write(file) as part, part.open("w", encoding="utf-8") as output:
        output.writelines(_json_parts(contents))
        output.write("\n")


def _json_parts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for number, (name, item) in enumerate(value.items()):
            yield f"{',' if number else '{'}\n{json.dumps(name)}: "
            yield from _json_parts(item) if isinstance(item, Iterator) else [json.dumps(item)]
        yield "\n}"
    else:
        yield "["
        for number, item in enumerate(value):
            yield f"{',' if number else ''}\n{json.dumps(item)}"
        yield "\n]"


def print_file(file: Path) -> None:
    """Print a text file."""
    with file.open(encoding="utf-8") as content:
        shutil.copyfileobj(content, sys.stdout)
