"""Tables in CSV, JSON lines and Parquet files, with the place of each row for error messages."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ...errors import InputError, nearest, needs_extra

__all__ = ["TABLE_SUFFIXES", "Table", "pyarrow", "read_table", "text_rows"]

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Table:
    """Rows of a file.

    Args:
        path: the file.
        columns: names of the columns.
        rows: values by column. Values of CSV files are strings.
        numbers: number of each row in the file: its line in a text file, or its position from 1 in a Parquet file.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    numbers: list[int]

    def place(self, index: int) -> str:
        """Return the file and the line or row of a row, for messages."""
        return f"{self.path}, {'row' if self.path.suffix == '.parquet' else 'line'} {self.numbers[index]}"

    def column(self, name: str, option: str) -> list[Any]:
        """Return the values of a column; None where a row has no value.

        Args:
            name: name of the column.
            option: configuration key that sets the name, for messages.

        Raises:
            InputError: if there is no such column.
        """
        if name not in self.columns:
            raise InputError(
                f"{self.path} has no column {name!r}.{nearest(name, self.columns)} Its columns are "
                f"{', '.join(self.columns)}; set {option}."
            )
        return [row.get(name) for row in self.rows]


def read_table(path: Path) -> Table:
    """Read a table: `.csv` (comma, semicolon or tab), `.tsv`, `.jsonl` (one object per line) or `.parquet`.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if a row cannot be read, or there are no rows.
        MissingExtraError: for a Parquet file, if pyarrow is not installed.
    """
    if path.suffix not in TABLE_SUFFIXES:
        raise InputError(f"{path} is not a list in a known format; accepted suffixes: {', '.join(TABLE_SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no list {path}.")
    if path.suffix == ".parquet":
        columns, rows = _read_parquet(path)
        numbers = list(range(1, len(rows) + 1))
    else:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                numbered = list(text_rows(str(path), file))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error
        numbers, rows = [number for number, _ in numbered], [row for _, row in numbered]
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise InputError(f"{path} has no rows.")
    return Table(path, columns, rows, numbers)


def text_rows(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and the values by column of each row of a `.csv`, `.tsv` or `.jsonl` file.

    Args:
        name: path or URL of the file, whose suffix decides the format.
        file: its text, opened with newline="".

    Raises:
        InputError: if a row cannot be read.
    """
    return _json_rows(name, file) if name.lower().endswith(".jsonl") else _csv_rows(name, file)


def pyarrow() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet.

    Raises:
        MissingExtraError: if pyarrow is not installed.
    """
    with needs_extra("inference", "Parquet files"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


def _csv_rows(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    header = file.readline()
    file.seek(0)
    delimiter = "\t" if name.lower().endswith(".tsv") else max(",;\t", key=header.count)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    names: list[str] = []
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if not names:
                names = [field.strip() for field in fields]
                if len(set(names)) != len(names):
                    raise InputError(f"{name} has two columns of the same name in its first line: {', '.join(names)}.")
                continue
            if len(fields) != len(names):
                raise InputError(
                    f"{name}, line {reader.line_num} has {len(fields)} fields, but the first line names {len(names)} "
                    "columns."
                )
            yield reader.line_num, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num} cannot be read ({error}).") from error


def _json_rows(name: str, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number} is not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise InputError(f"{name}, line {number} is not a JSON object, but {type(row).__name__}.")
        yield number, row


def _read_parquet(path: Path) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    arrow, parquet = pyarrow()
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as a Parquet file ({reason}).") from error
    return tuple(table.column_names), table.to_pylist()
