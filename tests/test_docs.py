"""The pages of the documentation: links, commands, YAML and Python blocks.

`integration/test_ecosystem_page.py` runs the blocks of docs/ecosystem.md and, with the same large checkpoint, the calls
in the README's section on pretrained weights. `deploy/test_export*.py` runs the blocks on export of docs/deploy.md.
"""

import argparse
import importlib.util
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from PIL import Image

from glmix.configs import config_names, config_path, find_config, read_header
from glmix.models import save_model
from glmix_cli import build_parser, fit, main
from tests.checkpoints import detector, segmenter

ROOT = Path(__file__).parents[1]
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
PAGES = [*(ROOT / name for name in TOP), *sorted(ROOT.glob("docs/*.md")), ROOT / "studies" / "README.md"]
PAGES += [ROOT / "docs" / "tutorials" / "index.md", ROOT / "examples" / "README.md"]
VARIABLES = {"IMAGENET": "imagenet", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "2"}  # of a Slurm job
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n)+)")
COMMAND = re.compile(r"(?:^|\s)(?:glmix|\$\(which glmix\))\s+(?=[a-z-])(.*)")
MODULE = re.compile(r"python -m ((?:glmix|studies)[.\w]*)")
TEST = re.compile(r"\btests/[\w/]+\.py(?:::(\w+))?")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def code_blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCED.findall(page.read_text()) if language in languages]


def shell_lines(text: str) -> list[str]:
    """Return the lines of a shell block, with continued lines joined and commands after `&&` on their own."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [part.strip() for line in joined.splitlines() for part in line.split(" && ")]


def documented_commands() -> list[tuple[str, str]]:
    """Return (page or recipe, arguments after `glmix`) of every command in a code block or a recipe's header, once."""
    found = []
    for page in PAGES:
        blocks = [*code_blocks(page, "sh", "bash"), *INDENTED.findall(FENCED.sub("", page.read_text()))]
        found += [(name_of(page), line) for block in blocks for line in shell_lines(block)]
    for name in config_names():
        header = read_header(config_path(name).read_text())
        found += [(name, line) for line in header.command.splitlines() if re.match("glmix|torchrun", line)]
    commands: dict[str, str] = {}
    for place, line in found:
        match = COMMAND.search(line)
        if match and " ... " not in match[0]:
            commands.setdefault(re.sub(r"\s+[#>].*", "", match[1]), place)
    return [(place, command) for command, place in commands.items()]


COMMANDS = documented_commands()


class _CapturedError(Exception):
    """Carries a parser out of LightningCLI before it parses."""


@pytest.fixture(scope="module")
def parse_training() -> Callable[[list[str]], Any]:
    """Return the parser of `glmix fit`, `validate` and `test`, which checks all options and creates nothing."""
    from glmix.tasks.cli import CLI

    class Capture(CLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise _CapturedError(parser)

    with pytest.raises(_CapturedError) as captured:
        Capture(["fit"], ExitStack())
    parse: Callable[[list[str]], Any] = captured.value.args[0].parse_args
    return parse


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = FENCED.sub("", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_names_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name_of(page) for page in PAGES if page.name != "README.md" and f"({name_of(page)})" not in text] == []


def test_all_pictures_are_shown_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [path.name for path in (ROOT / "docs" / "images").iterdir() if f"images/{path.name})" not in text] == []


def test_named_modules_and_tests_exist() -> None:
    modules = {name for page in PAGES for name in MODULE.findall(page.read_text())}
    assert len(modules) > 8
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []
    for page in PAGES:
        for file in TEST.finditer(page.read_text()):
            path, _, function = file[0].partition("::")
            assert (ROOT / path).exists(), f"{name_of(page)}: {path}"
            assert function in (ROOT / path).read_text(), f"{name_of(page)}: {file[0]}"


def parse_other(words: list[str]) -> None:
    """Parse the arguments of a command other than fit, validate and test; argparse prints the error if there is one."""
    args: argparse.Namespace = build_parser().parse_args(words)
    if args.command == "configs" and args.name is not None:
        config_path(args.name)
    elif args.command == "weakseg":
        from glmix.tasks.weak_segmentation.config import read_weakseg

        read_weakseg(find_config(args.config), [word for key, value in args.changes for word in (f"--{key}", value)])


@pytest.mark.parametrize(("place", "command"), COMMANDS, ids=[f"{place}: {command}" for place, command in COMMANDS])
def test_documented_commands_are_accepted_by_their_parsers(
    place: str,
    command: str,
    parse_training: Callable[[list[str]], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(config_path("classification/scenes/single").read_text())
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    words = shlex.split(os.path.expandvars(command))
    if words[0] in fit.COMMANDS:
        parse_training(words)
    else:
        parse_other(words)


def test_every_command_is_documented() -> None:
    assert len(COMMANDS) > 90
    text = "".join(page.read_text() for page in PAGES)
    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert [name for name in commands.choices if not re.search(rf"\bglmix {name}\b", text)] == []


YAML = [(page, code) for page in PAGES for code in code_blocks(page, "yaml")]


@pytest.mark.parametrize(
    ("page", "code"), YAML, ids=[f"{name_of(page)}-{index}" for index, (page, _) in enumerate(YAML)]
)
def test_documented_yaml_is_accepted(
    page: Path, code: str, parse_training: Callable[[list[str]], Any], tmp_path: Path
) -> None:
    config = yaml.safe_load(code)
    if page.name == "scale.md":
        check_ray_job(config)
        return
    if page.name == "weak_segmentation.md":
        from glmix.tasks.weak_segmentation.config import read_weakseg

        (tmp_path / "own.yaml").write_text(yaml.safe_dump({"out": "out", **config}))
        read_weakseg(tmp_path / "own.yaml", [])
        return
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    parse_training(["fit", "--config", "classification/scenes/single", "--config", str(tmp_path / "own.yaml")])


def check_ray_job(job: dict[str, Any]) -> None:
    """Check the command of a RayJob of KubeRay, and that its cluster can run it."""
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, *words = shlex.split(job["spec"]["entrypoint"])
    args = build_parser().parse_args(words)
    assert (program, args.engine) == ("glmix", "ray")
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    mounts = [mount for container in head["containers"] for mount in container["volumeMounts"]]
    assert {mount["name"] for mount in mounts} == {volume["name"] for volume in head["volumes"]}
    assert all(str(path).startswith(mounts[0]["mountPath"]) for path in (args.output, args.checkpoint))
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["image"] == head["containers"][0]["image"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    gpus = worker["resources"]["limits"]["nvidia.com/gpu"] / args.ray_gpus
    assert args.ray_actors == (gpus * group["minReplicas"], gpus * group["maxReplicas"])


def small_model() -> Any:
    return timm.create_model("test_glnet", num_classes=4, depths=(1, 2, 2, 1), mixers="glmix").eval()


def segmentation_names(folder: Path) -> dict[str, Any]:
    segmenter(folder).rename(folder / "best.ckpt")
    return {
        "network": lambda images: torch.randn(len(images), 5, *images.shape[2:]),
        "images": torch.rand(2, 3, 80, 64),
    }


def detection_names(folder: Path) -> dict[str, Any]:
    detector(folder, "mask_rcnn").rename(folder / "best.ckpt")
    return {}


def slot_names(folder: Path) -> dict[str, Any]:
    model, images = small_model(), torch.rand(2, 3, 64, 64)
    return {
        "model": model,
        "images": images,
        "image": Image.new("RGB", (64, 64)),
        "criterion": torch.nn.CrossEntropyLoss(),
        "targets": torch.tensor([0, 3]),
        "names": ["a", "b", "c", "d"],
        "one": model,
        "other": model,
    }


def inference_names(folder: Path) -> dict[str, Any]:
    """Make one photograph, and results in Parquet files."""
    pandas = pytest.importorskip("pandas")
    for name in ("photos", "predictions"):
        (folder / name).mkdir()
    Image.new("RGB", (90, 60)).save(folder / "photos" / "a.jpg")
    pandas.DataFrame({"key": ["a.jpg"]}).to_parquet(folder / "predictions" / "part-00000.parquet")
    return {}


def embedding_names(folder: Path) -> dict[str, Any]:
    """Store the slots of one photograph."""
    save_model(small_model(), folder / "model")
    Image.effect_noise((640, 240), 60).save(folder / "wide.png")
    arguments = ["wide.png", "--model", "local-dir:model", "--slots", "--view", "whole", "-o", "slots"]
    assert main(["embed", *arguments]) == 0
    return {}


def score_names(folder: Path) -> dict[str, Any]:
    """Save a network under the name of the checkpoint; `glmix.load` reads folders too."""
    save_model(small_model(), folder / "best.ckpt")
    return {}


PREPARE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "README.md": lambda folder: {},
    "docs/scenes.md": lambda folder: {},
    "docs/segmentation.md": segmentation_names,
    "docs/detection.md": detection_names,
    "docs/slots.md": slot_names,
    "docs/weak_segmentation.md": slot_names,
    "docs/deploy.md": lambda folder: {},
    "docs/inference.md": inference_names,
    "docs/embeddings.md": embedding_names,
    "docs/reports.md": lambda folder: {"folder": folder / "report"},
    "docs/slot-scores.md": score_names,
}
ELSEWHERE = {"docs/ecosystem.md", "docs/fine-tuning.md", "docs/own-images.md"}  # tests in integration/


def test_every_page_with_python_code_is_run() -> None:
    assert {name_of(page) for page in PAGES if code_blocks(page, "python")} == {*PREPARE, *ELSEWHERE}


def runnable(page: str) -> Iterator[str]:
    """Yield the Python blocks of a page that this file runs."""
    text = (ROOT / page).read_text()
    if page == "README.md":
        text = text.split("### Pretrained weights")[0].replace('"glnet_4g"', '"test_glnet"')
    elif page == "docs/deploy.md":
        text = text.split("## Export")[0]
    elif page == "docs/slot-scores.md":
        text = text.replace("count=20", "count=2")
    yield from (code for language, code in FENCED.findall(text) if language == "python")


@pytest.mark.parametrize("page", PREPARE)
def test_python_blocks_run_in_their_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((90, 60), 60).save("photo.jpg")
    names = PREPARE[page](tmp_path)
    for code in runnable(page):
        exec(compile(code, page, "exec"), names)
