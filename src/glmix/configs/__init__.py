"""The recipes that the package ships: YAML files, each named by its path below this folder without `.yaml`.

The first folder is the task. A name may leave it out: `classification/scenes/single` is `classification/scenes/single`.

A recipe begins with a comment whose first line says what it is. Paragraphs `Command:`, `Data:`, `Cost:` and `Expected:`
follow.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..errors import InputError, nearest

__all__ = ["Header", "config_names", "config_path", "find_config", "read_header"]

FOLDER = Path(__file__).parent
SUFFIX = ".yaml"
# names of the first version: configs/scenes/single.yaml, weakseg/voc
OLD_FOLDER = "configs"
RENAMED = {"weakseg": "weak_segmentation"}
_FIELD = re.compile(r"^(Command|Data|Cost|Expected): +", re.MULTILINE)


@dataclass(frozen=True)
class Header:
    """What the first comment of a recipe says; a paragraph that is not there is empty.

    Args:
        summary: what the recipe is.
        command: how it is run.
        data: what it reads.
        cost: how long it takes.
        expected: the result.
    """

    summary: str
    command: str = ""
    data: str = ""
    cost: str = ""
    expected: str = ""


def config_names() -> list[str]:
    """List the names of the shipped recipes, such as `classification/scenes/single`."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob(f"*{SUFFIX}"))


def config_path(name: str) -> Path:
    """Return the file of a shipped recipe.

    Args:
        name: its name, with or without the task and `.yaml`, or its path in a checkout of the first version,
            `configs/NAME.yaml`.

    Raises:
        InputError: there is no such recipe.
    """
    found = _shipped(name)
    if found is None:
        raise InputError(f"There is no shipped recipe {name!r}.{_suggestion(name)}")
    return found


def find_config(name: str | Path) -> Path:
    """Return the file that a `--config` option means: an existing file, or else the shipped recipe of this name.

    Args:
        name: a path, or the name of a shipped recipe as `config_path` takes it.

    Raises:
        InputError: there is neither.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        return path
    found = _shipped(str(name))
    if found is None:
        raise InputError(f"There is no file and no shipped recipe {str(name)!r}.{_suggestion(str(name))}")
    return found


def read_header(text: str) -> Header:
    """Read the first comment of a recipe."""
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
    parts = PurePath(name.removesuffix(SUFFIX)).parts
    parts = parts[1:] if parts[:1] == (OLD_FOLDER,) else parts
    return "/".join([*(RENAMED.get(part, part) for part in parts[:1]), *parts[1:]])


def _shipped(name: str) -> Path | None:
    key = _key(name)
    found = [full for full in config_names() if full == key or ("/" in key and full.partition("/")[2] == key)]
    return FOLDER / f"{found[0]}{SUFFIX}" if len(found) == 1 else None


def _suggestion(name: str) -> str:
    names = config_names()
    known = [*names, *(full.partition("/")[2] for full in names)]
    return f"{nearest(_key(name), known)} `glmix configs` lists the shipped ones."


def _joined(paragraph: str) -> str:
    """Remove indentation, and join a command that a backslash continues on the next line."""
    lines = re.sub(r"\\\n *", "", paragraph.partition("\n\n")[0]).splitlines()
    return "\n".join(line.strip() for line in lines)
