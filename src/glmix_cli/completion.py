"""`glmix completion`: print a script that completes commands, options, files and recipes in a shell."""

import argparse
from collections.abc import Iterator
from pathlib import Path

HELP = "Print a script for the shell that completes commands, options, file names and names of recipes."
SHELLS = ("bash", "zsh")
# words in the metavar of an argument that takes a folder or a file
_FOLDERS = ("FOLDER", "OUT", "ROOT")
_FILES = ("FILE", "PATH", "CHECKPOINT", "IMAGE", "INPUT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "bash: `glmix completion bash > ~/.local/share/bash-completion/completions/glmix`. zsh: `glmix completion zsh "
        "> FOLDER/_glmix`, with a FOLDER of $fpath. Needs `pip install 'glmix[completion]'`. Repeat it after an update."
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import needs_extra

    with needs_extra("completion", "completion in the shell"):
        import shtab

    from glmix.compat import parser_actions
    from glmix.configs import config_names

    from . import build_parser, fit

    parser = build_parser()
    commands = next(filter(None, map(_subcommands, parser_actions(parser))))
    for name in fit.COMMANDS:
        commands[name] = fit.short_help(name)
    for action in _actions(parser):
        if action.choices is not None or action.nargs == 0:
            action.choices = action.choices and list(action.choices)  # shtab takes a dict for subcommands
            continue
        words = str(action.metavar or action.dest).upper()
        if action.dest == "config" or ("recipe" in (action.help or "") and not action.option_strings):
            action.complete = {"bash": "_glmix_recipes", "zsh": "_glmix_recipes"}  # type: ignore[attr-defined]
        elif any(word in words for word in _FOLDERS):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type is Path or any(word in words for word in _FILES):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    recipes = " ".join(config_names())
    preamble = {
        "bash": f'_glmix_recipes() {{ compgen -W "{recipes}" -- "$1"; compgen -f -X "!*.yaml" -- "$1"; }}\n',
        "zsh": f"_glmix_recipes() {{ compadd -- {recipes}; _files -g '*.yaml' }}\n",
    }
    print(shtab.complete(parser, shell=args.shell, preamble=preamble))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments and options of a parser and of its subcommands."""
    from glmix.compat import parser_actions

    for action in parser_actions(parser):
        subcommands = _subcommands(action)
        for command in subcommands.values():
            yield from _actions(command)
        if not subcommands:
            yield action


def _subcommands(action: argparse.Action) -> dict[str, argparse.ArgumentParser]:
    """Return the subcommands that an argument chooses from, with their parsers."""
    choices = action.choices if isinstance(action.choices, dict) else {}
    return choices if all(isinstance(parser, argparse.ArgumentParser) for parser in choices.values()) else {}
