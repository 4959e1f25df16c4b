"""The photographs of the study: download of their Debian packages, division into splits, and credits."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml
from tqdm import tqdm

from glmix.data.scenes import Split
from glmix.errors import InputError

__all__ = ["Photographs", "Sources", "credits", "divide", "download", "read_sources"]

TABLE = Path(__file__).with_name("sources.yaml")
SHARES: dict[Split, float] = {"test": 0.2, "val": 0.2}  # the rest is for training


@dataclass(frozen=True)
class Photographs:
    """Photographs of one split.

    Args:
        objects: (group, file) of each cut-out.
        backgrounds: files.
    """

    objects: tuple[tuple[str, Path], ...]
    backgrounds: tuple[Path, ...]


@dataclass(frozen=True)
class Sources:
    """All photographs, as in `sources.yaml`.

    Args:
        packages: names of the Debian packages.
        objects: files of each group, relative to the folder of the unpacked packages.
        backgrounds: files of the backgrounds, relative to the same folder.
    """

    packages: tuple[str, ...]
    objects: Mapping[str, tuple[Path, ...]]
    backgrounds: tuple[Path, ...]


def read_sources(path: Path = TABLE) -> Sources:
    """Read the table of the photographs."""
    table: dict[str, Any] = yaml.safe_load(path.read_text())
    objects = {
        group: tuple(Path(folder, f"{name}.png") for folder, names in folders.items() for name in str(names).split())
        for group, folders in table["objects"].items()
    }
    backgrounds = tuple(Path(folder, name) for folder, names in table["backgrounds"].items() for name in names.split())
    return Sources(tuple(table["packages"]), objects, backgrounds)


def download(sources: Sources, folder: Path) -> None:
    """Download the Debian packages and unpack each to `folder/PACKAGE`. Packages that are there already are kept.

    Nothing is installed, and no root permissions are needed.

    Raises:
        InputError: if the commands of Debian are missing, or a package cannot be downloaded.
    """
    for command in ("apt-get", "dpkg"):
        if shutil.which(command) is None:
            raise InputError(f"The photographs are in Debian packages, and {command} is missing: use Debian or Ubuntu.")
    folder.mkdir(parents=True, exist_ok=True)
    for package in tqdm(sources.packages, unit="package"):
        if (folder / package).is_dir():
            continue
        files = sorted(folder.glob(f"{package}_*.deb"))
        if not files:
            result = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True)
            files = sorted(folder.glob(f"{package}_*.deb"))
            if result.returncode or not files:
                reason = (result.stderr.strip().splitlines() or ["no reason given"])[0]
                raise InputError(
                    f"apt-get cannot download {package} ({reason}): run apt-get update, or copy the package."
                )
        unpack(files[-1], folder / package)


def unpack(package: Path, folder: Path) -> None:
    """Unpack a `.deb` file to a folder, which is complete if it exists."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    subprocess.run(["dpkg", "-x", str(package), str(part)], check=True)
    part.rename(folder)


def divide(sources: Sources, folder: Path, seed: int = 0) -> dict[Split, Photographs]:
    """Divide objects and backgrounds into splits. No object and no background is in two splits.

    Objects of a group whose names begin with the same word, such as the five apples, are in the same split.

    Args:
        sources: the photographs.
        folder: folder of the unpacked packages.
        seed: seed of the division.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    rng = np.random.default_rng(seed)
    objects: dict[Split, list[tuple[str, Path]]] = {split: [] for split in get_args(Split)}
    for group, files in sorted(sources.objects.items()):
        families: dict[str, list[Path]] = {}
        for file in files:
            families.setdefault(file.stem.lower().replace("-", "_").split("_")[0], []).append(_found(folder, file))
        for split, chosen in _shares(list(families.values()), rng).items():
            objects[split] += [(group, file) for file in chosen]
    backgrounds = _shares([[_found(folder, file)] for file in sources.backgrounds], rng)
    return {split: Photographs(tuple(objects[split]), tuple(backgrounds[split])) for split in get_args(Split)}


def _found(folder: Path, file: Path) -> Path:
    if not (folder / file).is_file():
        raise FileNotFoundError(f"There is no {folder / file}: run `python -m studies.cutouts download` first.")
    return folder / file


def _shares(families: Sequence[list[Path]], rng: np.random.Generator) -> dict[Split, list[Path]]:
    """Divide families by `SHARES`: each of val and test takes families in random order until it has its share."""
    total = sum(map(len, families))
    shuffled = [families[index] for index in rng.permutation(len(families))]
    chosen: dict[Split, list[Path]] = {}
    for split, share in SHARES.items():
        chosen[split] = []
        while len(chosen[split]) < share * total and len(shuffled) > 1:
            chosen[split] += shuffled.pop()
    chosen["train"] = [file for family in shuffled for file in family]
    return chosen


def credits(sources: Sources, folder: Path) -> str:
    """Return the copyright files of all packages, with the photographs used from each."""
    used = [file for files in sources.objects.values() for file in files] + list(sources.backgrounds)
    parts = ["The images of this folder were made from photographs of these Debian packages. Their licences apply.\n"]
    for package in sources.packages:
        path = folder / package / "usr/share/doc" / package / "copyright"
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}: the package {package} is not unpacked completely.")
        names = [f"  {file.relative_to(package)}" for file in used if file.parts[0] == package]
        parts.append("\n".join([f"{package}: {len(names)} photographs", *names, "", path.read_text(errors="replace")]))
    return f"\n{'-' * 80}\n".join(parts)
