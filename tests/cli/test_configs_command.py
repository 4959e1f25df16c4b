"""`glmix configs`, and recipe names as arguments of --config."""

import json
import re
from pathlib import Path

import pytest
import yaml

from glmix.configs import config_names, config_path, find_config, read_header
from glmix.errors import InputError
from glmix_cli import main

TINY = {
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 1,
    "trainer.limit_val_batches": 1,
    "data.train_count": 8,
    "data.val_count": 4,
    "data.batch_size": 4,
    "model.schedule.warmup_epochs": 0,
}
OPTIONS = [part for name, value in TINY.items() for part in (f"--{name}", str(value))]


def printed(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_the_list_has_every_recipe_with_its_first_line(capsys):
    listed = printed(capsys, "configs")
    entries = {entry["name"]: entry for entry in json.loads(printed(capsys, "configs", "--json"))}
    assert sorted(entries) == config_names()
    for name, entry in entries.items():
        assert f"{name} " in listed
        assert entry["summary"] in listed
        assert config_path(name).read_text().splitlines()[0] == f"# {entry['summary']}"
    assert entries["classification/scenes/single"]["command"] == "glmix fit --config classification/scenes/single"
    assert entries["classification/scenes/single"]["cost"] in printed(capsys, "configs", "--long")


@pytest.mark.parametrize("name", config_names())
def test_every_header_names_the_command_with_the_recipes_name(name):
    header = read_header(config_path(name).read_text())
    assert all((header.summary, header.command, header.data, header.cost, header.expected))
    assert name in header.command.split()
    assert "\\" not in header.command


def test_a_recipe_is_printed_and_copied(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = config_path("scenes/single").read_text()
    assert printed(capsys, "configs", "scenes/single") == text
    printed(capsys, "configs", "scenes/single.yaml", "-o", "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == text
    (tmp_path / "mine.yaml").write_text("changed")
    assert main(["configs", "scenes/single", "-o", "mine.yaml"]) == 2
    assert "mine.yaml" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "changed"
    printed(capsys, "configs", "scenes/single", "-o", "mine.yaml", "--overwrite")
    assert (tmp_path / "mine.yaml").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_an_output_without_a_recipe_raises_an_error(capsys):
    assert main(["configs", "-o", "mine.yaml"]) == 2
    assert "needs the name of a recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--config", "scenes/singel"],
        ["fit", "--config=configs/scenes/singel.yaml"],
        ["validate", "-c", "scenes/singel"],
        ["test", "--config", "scenes/singel"],
        ["weakseg", "fit", "--config", "scenes/singel"],
        ["configs", "scenes/singel"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_the_error_for_an_unknown_name_suggests_the_most_similar_one(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "Did you mean 'scenes/single'?" in error
    assert "glmix configs" in error


@pytest.mark.parametrize(
    "name", ["classification/scenes/single", "scenes/single", "scenes/single.yaml", "configs/scenes/single.yaml"]
)
def test_a_name_is_the_shipped_recipe_and_an_existing_file_wins(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == config_path("scenes/single")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).mkdir()
    assert find_config(name) == config_path("scenes/single"), "a folder is no configuration"
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("trainer: {}")
    assert find_config(name) == Path(name)


@pytest.mark.parametrize("name", ["../configs/scenes/single", "scenes", "", "configs", "scenes/../scenes/single"])
def test_other_strings_are_not_recipe_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no shipped recipe"):
        find_config(name)


def test_every_recipe_that_the_docs_name_exists():
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *root.glob("docs/*.md"), *root.glob("studies/**/*.py")]
    pages += [config_path(name) for name in config_names()]
    named = [
        (page.name, name)
        for page in pages
        for name in re.findall(r"(?:--config|glmix configs)[ =]([a-z0-9_]+(?:/[\w-]+)+)", page.read_text())
    ]
    assert len(named) > 60
    assert [(page, name) for page, name in named if name not in config_names()] == []
    assert [page.name for page in pages if re.search(r"--config configs/", page.read_text())] == []


def printed_config(capsys, *arguments: str) -> dict:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *arguments, "--print_config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_fit_merges_a_shipped_recipe_with_files_and_yaml_in_their_order(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("trainer: {max_epochs: 7, default_root_dir: out/own}")
    config = printed_config(capsys, "--config=scenes/single", "--config", "own.yaml", "-c", "trainer: {max_epochs: 9}")
    assert config["trainer"]["max_epochs"] == 9
    assert config["trainer"]["default_root_dir"] == "out/own"
    assert config["data"]["init_args"]["train_count"] == 3000


def test_a_recipe_includes_another_file_by_its_relative_path(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    recipe = yaml.safe_load(config_path("scenes/single").read_text())
    (tmp_path / "mine" / "model.yaml").write_text(yaml.safe_dump(recipe["model"]))
    (tmp_path / "mine" / "all.yaml").write_text(yaml.safe_dump({**recipe, "model": "model.yaml"}))
    config = printed_config(capsys, "--config", "mine/all.yaml")
    assert config["model"]["init_args"]["optimizer"]["lr"] == recipe["model"]["init_args"]["optimizer"]["lr"]


def test_fit_validate_and_test_run_a_shipped_recipe_by_its_name_in_any_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "scenes/single", *OPTIONS]) == 0
    assert (tmp_path / "out" / "scenes" / "single" / "checkpoints" / "best.ckpt").is_file()
    assert main(["validate", "--config", "configs/scenes/single.yaml", *OPTIONS]) == 0
    assert main(["test", "--config=scenes/single", "--data.test_count", "4", *OPTIONS]) == 0
    assert "test/top1" in capsys.readouterr().out


def test_the_demo_and_the_help_name_shipped_recipes(glmix):
    source = Path(__file__).parents[2] / "src" / "glmix_cli"
    advice = (source / "demo.py").read_text()
    assert "fit --config classification/scenes/several" in advice
    assert "scenes/segmentation_fpn" in advice
    assert {"classification/scenes/several", "segmentation/scenes/segmentation_fpn"} <= set(config_names())
    for arguments, name in (
        (["--help"], "classification/scenes/single"),
        (["fit", "--help"], "classification/scenes/single"),
        (["validate", "--help"], "classification/scenes/single"),
        (["weakseg", "--help"], "weak_segmentation/scenes"),
    ):
        text = " ".join(glmix(*arguments).stdout.split())
        assert name in text
        assert name in config_names()
        assert "glmix configs" in text
