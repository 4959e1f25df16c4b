"""The pages of the reference: the API from docstrings, and the command line from its parsers."""

import argparse
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, get_args

import jsonargparse

from glmix_cli import build_parser, fit

# a module, and what its page says first
MODULES = {
    "glmix": "Importing `glmix` registers the models with timm. It needs torch and timm only.",
    "glmix.layers": "The layers of GLNet, for your own networks. They depend on no model, task or data set.",
    "glmix.slots": "Inspection of slots. [Visualising slots](../slots.md) has examples.",
    "glmix.inference": "Predictions and embeddings of many images, which "
    "[Inference on many images](../inference.md) describes.",
    "glmix.deploy": "Fusion, fast inference and export, which [Deployment](../deploy.md) describes.",
    "glmix.data": "The generated data set, which [Scenes](../scenes.md) describes. The data modules of all tasks are "
    "in [Options of training](training.md).",
    "glmix.tasks": "Lightning modules for training. Needs `pip install 'glmix[train]'`.",
}
# classes that `--model` and `--data` of `glmix fit` accept, by their module
TASKS = {
    "Classification": "glmix.tasks",
    "TokenLabelling": "glmix.tasks",
    "Segmentation": "glmix.tasks",
    "Detection": "glmix.tasks",
}
DATA_MODULES = {
    "ImageData": "glmix.data.classification.datamodule",
    "ScenesData": "glmix.data.classification.datamodule",
    "MaskData": "glmix.data.segmentation.datamodule",
    "SceneMaskData": "glmix.data.segmentation.datamodule",
    "CocoData": "glmix.data.detection.datamodule",
    "DetectionScenes": "glmix.data.detection.datamodule",
}


def pages() -> dict[str, str]:
    """Return the text of each page by its path in docs/."""
    found = {f"reference/{name.rpartition('.')[2]}.md": api_page(name) for name in MODULES}
    found["reference/cli.md"] = command_page()
    found["reference/training.md"] = training_page()
    return found


def api_page(name: str) -> str:
    """Return the page of a module, with every public name of it."""
    module = importlib.import_module(name)
    parts = [f"# {name}", MODULES[name], f"```python\nimport {name}\n```"]
    for public in module.__all__:
        value = getattr(module, public)
        if public == "__version__":
            parts.append(f'<h2 id="{name}.{public}"><code>{name}.{public}</code></h2>\n\nThe version, a string.')
        else:
            # a name is documented where it is defined, and so has one place that all pages link to
            parts.append(f"::: {name}.{public}")
            if inspect.isclass(value) and not inspect.getdoc(value):
                raise ValueError(f"{name}.{public} has no docstring.")
    return "\n\n".join(parts) + "\n"


def command_page() -> str:
    """Return the page with all commands, their arguments and options."""
    parser = build_parser()
    parts = [
        "# Command line",
        "`glmix COMMAND --help` prints the same in a terminal. Every command accepts `--debug`, which shows the full "
        "traceback of every error. Exit codes: 0 success; 1 partial success, or a bug with its traceback; 2 failure "
        "for a reason that you can fix; 130 interrupted; 141 the reader of the output closed the pipe.",
    ]
    for name, command in subcommands(parser):
        if name in fit.COMMANDS:
            parts += describe(fit.short_help(name), 2)
            parts.append("[Options of training](training.md) lists all keys.")
        else:
            parts += describe(command, 2)
    return "\n\n".join(parts) + "\n"


def subcommands(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    """Return the subcommands of a parser in their order."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return list(action.choices.items())
    return []


def describe(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """Yield the parts of the section of a command: heading, usage, arguments and options."""
    yield f"{'#' * level} {parser.prog}"
    yield escape(parser.description or "")
    formatter = argparse.HelpFormatter(parser.prog, width=88)
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    formatter.add_usage(parser.usage, actions, parser._mutually_exclusive_groups)
    yield f"```text\n{formatter.format_help().strip()}\n```"
    expand = argparse.HelpFormatter(parser.prog)
    for action in actions:
        if action.dest in ("help", "debug") or isinstance(action, argparse._SubParsersAction):
            continue
        yield f"`{synopsis(action)}`\n:   {escape(expand._expand_help(action))}"
    if parser.epilog:
        yield escape(parser.epilog)
    for _, command in subcommands(parser):
        yield from describe(command, level + 1)


def synopsis(action: argparse.Action) -> str:
    """Return how an argument is written: `--topk N`, `images [images ...]`."""
    formatter = argparse.HelpFormatter("")
    if not action.option_strings:
        return formatter._format_args(action, str(action.metavar or action.dest))
    value = "" if action.nargs == 0 else " " + formatter._format_args(action, action.dest.upper())
    return ", ".join(action.option_strings) + value


def escape(text: str) -> str:
    """Escape what Markdown would interpret in a help text, outside of its code."""
    code = text.split("`")
    for index in range(0, len(code), 2):
        for character in "*_<[":
            code[index] = code[index].replace(character, f"\\{character}")
    return "`".join(code)


def training_page() -> str:
    """Return the page with all keys of a training's YAML file: of the command, the tasks and the data modules."""
    parts = [
        "# Options of training",
        "Every key of the YAML file of `glmix fit`, `validate` and `test` is also a command-line option. "
        "[Training](../training.md) explains them with examples; `glmix fit --config NAME --print_config` prints them "
        "with the values of a recipe. `trainer` has the arguments of Lightning's `Trainer`.",
        "## Run",
        *options(run_parser(), lambda dest: not dest.startswith(("trainer", "model", "data", "config", "help"))),
    ]
    for prefix, classes in (("model", TASKS), ("data", DATA_MODULES)):
        for name, module in classes.items():
            task = getattr(importlib.import_module(module), name)
            parser = jsonargparse.ArgumentParser()
            parser.add_class_arguments(task, prefix)
            parts += [f"## {prefix}: {name}", escape(summary(task)), *options(parser, lambda dest: "." in dest)]
    return "\n\n".join(parts) + "\n"


def summary(value: type) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


def run_parser() -> argparse.ArgumentParser:
    """Return the parser of `glmix fit`, which LightningCLI builds."""
    from glmix.tasks.cli import CLI

    class Built(Exception):  # noqa: N818 - it carries the parser out of the constructor, before anything is created
        pass

    class Capture(CLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise Built(parser)

    with ExitStack() as resources:
        try:
            Capture(["fit"], resources)
        except Built as built:
            (commands,) = (a for a in built.args[0]._actions if isinstance(a, argparse._SubParsersAction))
            return commands._name_parser_map["fit"]
    raise AssertionError("LightningCLI did not parse its arguments")


def options(parser: argparse.ArgumentParser, wanted: Any) -> Iterator[str]:
    """Yield the keys of a parser whose destination is wanted, with defaults and help."""
    for action in parser._actions:
        text = action.help or ""
        if not wanted(action.dest) or text == argparse.SUPPRESS or action.dest.endswith(".help"):
            continue
        if isinstance(action, jsonargparse._actions._ActionConfigLoad):
            continue
        default = "" if action.default in (None, argparse.SUPPRESS) else f" Default: `{action.default}`."
        text = "" if text == argparse.SUPPRESS else escape(" ".join(text.split()))
        yield f"`--{action.dest}`\n:   {text or 'no description'}{default}"
        # an optional configuration, such as `OptimizerConfig | None`, has options of its own
        for part in get_args(getattr(action, "_typehint", None)):
            if dataclasses.is_dataclass(part):
                nested = jsonargparse.ArgumentParser()
                nested.add_class_arguments(part, action.dest)
                yield from options(nested, lambda dest: "." in dest)
