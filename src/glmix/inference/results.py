"""Folders of results: shards of rows in Parquet, JSON Lines or CSV, written atomically, and a manifest."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from .._version import __version__
from ..data.core.tables import pyarrow
from ..errors import InputError
from ..files import PART, atomic_write, write_atomically

__all__ = ["Format", "ResultFolder", "Shard", "model_fingerprint"]

Format = Literal["parquet", "jsonl", "csv"]
MANIFEST = "_manifest.json"  # readers of Parquet folders skip names that begin with _
IMAGE_COLUMNS = {
    "key": "string",
    "width": "int32",
    "height": "int32",
    "error": "string",
    "input_width": "int32",
    "input_height": "int32",
}


def model_fingerprint(model: nn.Module) -> str:
    """Return a hash of the names, shapes and values of the weights of a model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy() if values.numel() else b"")
    return digest.hexdigest()


@dataclass(frozen=True)
class Shard:
    """A file of results.

    Args:
        path: the file.
        positions: positions of its images in the source.
    """

    path: Path
    positions: range


class ResultFolder:
    """A folder with the results of one computation on one source.

    Args:
        path: the folder. It is created if it does not exist.
        identity: JSON entries that identify the computation. A folder with another identity is an error.
        images: number of images in the source.
        columns: columns of the output and their types, such as `list<float32>` or `float16[768]`.
        format: file format of the shards.
        shard_size: number of images in a shard.
        overwrite: delete earlier results first.
        exclusive: no other process writes to the folder, so temporary files of killed runs can be deleted.
        subfolder: name of a subfolder for the shards if `path` also gets other files, which Parquet readers reject.
        others: names of these other files and subfolders; `overwrite` deletes them too.

    Raises:
        InputError: the folder contains results of another computation, or other files.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any],
        images: int,
        columns: Mapping[str, str],
        *,
        format: Format = "parquet",
        shard_size: int = 2048,
        overwrite: bool = False,
        exclusive: bool = True,
        subfolder: str = "",
        others: Sequence[str] = (),
    ) -> None:
        if shard_size < 1:
            raise InputError(f"shard_size must be at least 1, got {shard_size}.")
        if format == "parquet":
            pyarrow()  # report a missing package before the computation
        if format == "csv" and any("[" in kind for kind in columns.values()):
            raise InputError("csv has no column type for vectors: use the format parquet or jsonl.")
        self.path, self.format, self.columns, self.others = Path(path), format, dict(columns), tuple(others)
        self.subfolder, self.shard_size = subfolder, shard_size
        manifest = {
            "glmix": __version__,
            "format": format,
            "images": images,
            "shard_size": shard_size,
            **identity,
        }
        starts = range(0, images, shard_size)
        digits = max(5, len(str(len(starts))))
        self.shards = [
            Shard(
                self.path / subfolder / f"part-{number:0{digits}d}.{format}",
                range(start, min(start + shard_size, images)),
            )
            for number, start in enumerate(starts)
        ]
        self._open(json.loads(json.dumps(manifest)), overwrite, exclusive)

    def _open(self, manifest: dict[str, Any], overwrite: bool, exclusive: bool) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / MANIFEST
        if file.exists():
            try:
                found = json.loads(file.read_text())
            except ValueError as error:
                raise InputError(f"{file} cannot be read ({error}): use another folder.") from error
            differences = [
                f"{name} was {found.get(name)!r} and is now {manifest.get(name)!r}"
                for name in [*manifest, *(name for name in found if name not in manifest)]
                if found.get(name) != manifest.get(name) and name != "glmix"
            ]
            if differences and not overwrite:
                raise InputError(
                    f"{self.path} contains results of another run ({'; '.join(differences)}): use another folder, or "
                    "--overwrite to delete them."
                )
        elif any(entry.name[:1] != "." for entry in self.path.iterdir()):
            raise InputError(f"{self.path} contains other files: use a new folder.")
        if overwrite:
            for old in [file, *(self.path / self.subfolder).glob("part-*.*")]:
                old.unlink(missing_ok=True)
            for other in (self.path / name for name in self.others):
                shutil.rmtree(other) if other.is_dir() else other.unlink(missing_ok=True)
        if exclusive:
            folders = [(self.path / name).rglob(f".*{PART}") for name in self.others]
            for part in chain(self.path.glob(f".*{PART}"), (self.path / self.subfolder).glob(f".*{PART}"), *folders):
                part.unlink(missing_ok=True)
        if not file.exists():
            write_atomically(file, json.dumps(manifest, indent=2))

    def shard_of(self, position: int) -> Shard:
        """Return the shard of an image, given its position in the source."""
        return self.shards[position // self.shard_size]

    def write(self, shard: Shard, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of a shard atomically."""
        with atomic_write(shard.path, flush=True) as part:
            if self.format == "parquet":
                arrow, parquet = pyarrow()
                schema = arrow.schema([(name, _arrow_type(arrow, kind)) for name, kind in self.all_columns.items()])
                columns = [[_for_arrow(row.get(name)) for row in rows] for name in self.all_columns]
                parquet.write_table(arrow.table(dict(zip(self.all_columns, columns, strict=True)), schema), part)
            elif self.format == "jsonl":
                lines = (json.dumps({name: _plain(row.get(name)) for name in self.all_columns}) for row in rows)
                part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            else:
                part.write_text(self._csv(rows), encoding="utf-8", newline="")

    @property
    def all_columns(self) -> dict[str, str]:
        """Names and types of the columns of every row."""
        return {**IMAGE_COLUMNS, **self.columns}

    def _csv(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return rows as CSV. A list becomes the columns NAME_1, NAME_2 and so on."""
        table = []
        for row in rows:
            flat: dict[str, Any] = {}
            for name, kind in self.all_columns.items():
                if kind.startswith("list"):
                    flat |= {f"{name}_{place}": value for place, value in enumerate(row.get(name) or (), 1)}
                else:
                    flat[name] = _valid_text(row.get(name))
            table.append(flat)
        text = io.StringIO()
        writer = csv.DictWriter(text, max(table, key=len))
        writer.writeheader()
        writer.writerows(table)
        return text.getvalue()

    def finished_shards(self) -> list[Shard]:
        """Return the shards that are written."""
        return [shard for shard in self.shards if shard.path.exists()]

    def rows(self, shards: Sequence[Shard] | None = None) -> Iterator[dict[str, Any]]:
        """Yield all rows, or those of some shards, in the order of the source. The values of CSV files are strings."""
        for shard in self.shards if shards is None else shards:
            if self.format == "parquet":
                yield from pyarrow()[1].read_table(shard.path).to_pylist()
                continue
            with open(shard.path, encoding="utf-8", newline="") as file:
                yield from map(json.loads, file) if self.format == "jsonl" else csv.DictReader(file)

    def errors(self, shards: Sequence[Shard] | None = None) -> Iterator[dict[str, str]]:
        """Yield the images that have an error, as {"file": key, "error": reason}."""
        for shard in self.shards if shards is None else shards:
            if self.format == "parquet":
                rows = pyarrow()[1].read_table(shard.path, columns=["key", "error"]).to_pylist()
            else:
                rows = self.rows([shard])
            yield from ({"file": row["key"], "error": row["error"]} for row in rows if row["error"])


def _arrow_type(arrow: Any, kind: str) -> Any:
    """Return the type of Arrow for a name such as `int32`, `list<string>`, `float16[768]` or `list<float16[256]>`.

    Vectors are lists of any size, because pyarrow before 26 cannot read missing lists of fixed size.
    """
    if kind.startswith("list<"):
        return arrow.list_(_arrow_type(arrow, kind[5:-1]))
    if kind.endswith("]"):
        return arrow.list_(_arrow_type(arrow, kind.partition("[")[0]))
    return getattr(arrow, kind)()


def _valid_text(value: Any) -> Any:
    """Escape the bytes of file names that are not valid UTF-8, which Parquet and CSV cannot store."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _for_arrow(value: Any) -> Any:
    """Convert a matrix to a list of vectors, because Arrow converts only arrays of one dimension."""
    return list(value) if isinstance(value, np.ndarray) and value.ndim > 1 else _valid_text(value)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
