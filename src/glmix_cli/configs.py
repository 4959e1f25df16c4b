"""`glmix configs`: list, print or copy the recipes that the package contains."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

HELP = "List the recipes (YAML files in the package) for fit and weakseg, or print or copy one of them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Pass a name to --config: `glmix fit --config classification/scenes/single`. To change a recipe, copy it with "
        "`glmix configs classification/scenes/single -o mine.yaml` and run `glmix fit --config mine.yaml`."
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="print this recipe, such as classification/scenes/single"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="copy the recipe to FILE instead of printing it")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--long", action="store_true", help="also list the command, cost and expected result of each recipe"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from glmix.configs import config_names, config_path
    from glmix.errors import InputError

    if args.name is None:
        if args.out is not None:
            raise InputError(
                "-o needs the name of a recipe, as in `glmix configs classification/scenes/single -o mine.yaml`."
            )
        entries = [_entry(name, config_path(name)) for name in config_names()]
        print(json.dumps(entries, indent=2) if args.json else _listing(entries, args.long))
        return 0
    path = config_path(args.name)
    if args.out is not None:
        from glmix.files import check_writable, write_atomically

        check_writable([args.out], args.overwrite)
        write_atomically(args.out, path.read_bytes())
        print(f"Written to {args.out}.")
    elif args.json:
        print(json.dumps({**_entry(args.name, path), "text": path.read_text(encoding="utf-8")}, indent=2))
    else:
        print(path.read_text(encoding="utf-8"), end="")
    return 0


def _entry(name: str, path: Path) -> dict[str, Any]:
    from glmix.configs import read_header

    return {"name": name, **dataclasses.asdict(read_header(path.read_text(encoding="utf-8")))}


def _listing(entries: list[dict[str, Any]], long: bool) -> str:
    """Format one line per recipe, or one paragraph with its command, cost and expected result."""
    if long:
        return "\n\n".join(_paragraph(entry) for entry in entries)
    width = max(len(entry["name"]) for entry in entries)
    lines = [f"{entry['name']:<{width}}  {entry['summary']}" for entry in entries]
    return "\n".join(
        [*lines, "", "`glmix configs NAME` prints a recipe; --long also lists the command, cost and expected result."]
    )


def _paragraph(entry: dict[str, Any]) -> str:
    lines = [entry["name"], f"  {entry['summary']}"]
    for field in ("command", "cost", "expected"):
        if entry[field]:
            text = entry[field].replace("\n", f"\n{' ' * 13}")
            lines.append(f"  {field.capitalize() + ':':<11}{text}")
    return "\n".join(lines)
