"""Shipped recipes: YAML configuration files, named by their path in this folder without `.yaml`.

The first folder is the task. It may be left out: `scenes/single` is `classification/scenes/single`.

A recipe starts with a comment. The first line is a summary. The paragraphs `Command:`, `Data:`, `Cost:` and `Expected:`
follow.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..errors import InputError, nearest

__all__ = ["Header", "config_names", "config_path", "find_config", "read_header"]

FOLDER = Path(__file__).parent
SUFFIX = ".yaml"
# parts of recipe names in the first version of glmix: configs/scenes/single.yaml, weakseg/voc
OLD_FOLDER = "configs"
RENAMED = {"weakseg": "weak_segmentation"}
_FIELD = re.compile(r"^(Command|Data|Cost|Expected): +", re.MULTILINE)


@dataclass(frozen=True)
class Header:
    """Content of the first comment of a recipe. A missing paragraph is an empty string.

    Args:
        summary: short description of the recipe.
        command: command that runs it.
        data: data that it reads.
        cost: training time and hardware.
        expected: expected result.
    """

    summary: str
    command: str = ""
    data: str = ""
    cost: str = ""
    expected: str = ""


def config_names() -> list[str]:
    """Return the names of the shipped recipes, such as `classification/scenes/single`."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob(f"*{SUFFIX}"))


def config_path(name: str) -> Path:
    """Return the path of a shipped recipe.

    Args:
        name: name of the recipe, with or without the task and `.yaml`, or its path in the first version of glmix,
            `configs/NAME.yaml`.

    Raises:
        InputError: if there is no such recipe.
    """
    found = _shipped(name)
    if found is None:
        raise InputError(f"There is no shipped recipe {name!r}.{_suggestion(name)}")
    return found


def find_config(name: str | Path) -> Path:
    """Return the configuration file for a `--config` option: an existing file, or else a shipped recipe.

    Args:
        name: path of a file, or name of a shipped recipe, see `config_path`.

    Raises:
        InputError: if there is neither such a file nor such a recipe.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        return path
    found = _shipped(str(name))
    if found is None:
        raise InputError(f"There is no file and no shipped recipe {str(name)!r}.{_suggestion(str(name))}")
    return found


def read_header(text: str) -> Header:
    """Parse the first comment of a recipe."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    summary, _, rest = "\n".join(lines).partition("\n")
    _, *fields = _FIELD.split(rest)
    found = {name.lower(): _joined(value) for name, value in zip(fields[::2], fields[1::2], strict=True)}
    return Header(summary.strip(), **found)


def _key(name: str) -> str:
    """Return the current name of a recipe for a name with `.yaml` or from the first version."""
    parts = PurePath(name.removesuffix(SUFFIX)).parts
    parts = parts[1:] if parts[:1] == (OLD_FOLDER,) else parts
    return "/".join([*(RENAMED.get(part, part) for part in parts[:1]), *parts[1:]])


def _shipped(name: str) -> Path | None:
    """Return the path of a shipped recipe; None if there is none or the name is ambiguous."""
    key = _key(name)
    found = [full for full in config_names() if full == key or ("/" in key and full.partition("/")[2] == key)]
    return FOLDER / f"{found[0]}{SUFFIX}" if len(found) == 1 else None


def _suggestion(name: str) -> str:
    names = config_names()
    known = [*names, *(full.partition("/")[2] for full in names)]
    return f"{nearest(_key(name), known)} `glmix configs` lists the shipped recipes."


def _joined(paragraph: str) -> str:
    """Remove indentation, and join command lines that end with a backslash."""
    lines = re.sub(r"\\\n *", "", paragraph.partition("\n\n")[0]).splitlines()
    return "\n".join(line.strip() for line in lines)
