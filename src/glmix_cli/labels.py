"""Labels of images for the commands on embeddings: names of folders, or a table."""

import argparse
from collections.abc import Sequence
from pathlib import Path

__all__ = ["add_labels_argument", "image_labels"]


def add_labels_argument(parser: argparse.ArgumentParser, images: str) -> None:
    """Add --labels to a parser."""
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help=f"table (.csv, .tsv, .jsonl or .parquet) with the columns path and label, for {images} (default: the "
        "label of an image is the name of the folder that contains it)",
    )


def image_labels(keys: Sequence[str], file: Path | None) -> list[str]:
    """Return the label of each image.

    Args:
        keys: names of the images.
        file: table of labels; None for the names of the folders.

    Raises:
        InputError: an image has no label in the table, or the table cannot be read.
    """
    from glmix.data.core.tables import read_table
    from glmix.errors import InputError

    if file is None:
        return [Path(key).parent.name for key in keys]
    table = read_table(file)
    option = "--labels to a table with the columns path and label"
    names = dict(zip(table.column("path", option), table.column("label", option), strict=True))
    missing = [key for key in keys if names.get(key) is None]
    if missing:
        raise InputError(f"{file} has no label for {len(missing)} images, such as {missing[0]}.")
    return [str(names[key]) for key in keys]
