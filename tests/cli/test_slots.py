"""`glmix slots`: tables and figures on scenes and on folders, and error messages."""

import json
import shutil

import pytest
import timm
import torch
from PIL import Image

from glmix import InputError, load
from glmix.data.scenes import SceneConfig, write_scenes
from glmix.models import save_model
from glmix.slots import GroupingData, discover, score
from glmix_cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    network = timm.create_model("test_glnet", num_classes=6)
    network.pretrained_cfg["input_size"] = (3, 48, 48)
    save_model(network, folder)
    return f"local-dir:{folder}"


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run the command in this process, and return its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "voc"
    write_scenes(folder, "voc", SceneConfig(size=64), {"val": 4})
    return folder


def test_score_scenes_writes_table_plot_and_json(glmix, here, model, tmp_path):
    command = ("slots", "score", "--data", "scenes", "--model", model, "--count", 4, "-o", "out")
    result = glmix(*command)
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "out" / "scores.md").read_text()
    assert text in result.stdout
    assert "Means over 4 images (scenes, val, 48 pixels)" in text
    for word in ("untrained", "grid", "SLIC blurred", "k-means", "mBO", "ARI-FG", "dead", "stages.2.blocks.0"):
        assert word in text
    contents = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert len(contents["blocks"]) == 3
    assert [part["place"] for part in contents["joint"]] == [4, 8, 16]
    assert all(Image.open(tmp_path / "out" / name).width > 800 for name in ("scores.png", "segments.png"))

    code, _, complaint = here(*command)
    assert code == 2
    assert "scores.md exists" in complaint
    code, text, _ = here(*command, "--overwrite", "--json", "--controls", "grid", "--blocks", -1, "--segments")
    assert code == 0
    assert [block["place"] for block in json.loads(text)["blocks"]] == [2]


def test_voc_layout_has_object_scores(here, model, voc):
    code, text, _ = here(
        "slots", "score", "--data", voc, "--layout", "voc", "--model", model, "--blocks", 0, "-o", "out"
    )
    assert code == 0
    assert "oracle IoU" in text
    assert "no object instances" not in text


def test_unreadable_image_is_skipped(glmix, model, voc, tmp_path):
    shutil.copytree(voc, tmp_path / "bad")
    (tmp_path / "bad" / "JPEGImages" / "scene_val_00000002.jpg").write_bytes(b"no image")
    result = glmix(
        *("slots", "discover", "--data", "bad", "--layout", "voc", "--model", model, "--blocks", 0, "-o", "found")
    )
    assert result.returncode == 1, result.stderr
    assert "scene_val_00000002" in result.stderr
    assert "means over 3 images" in result.stdout
    (error,) = json.loads((tmp_path / "found" / "discovery.json").read_text())["errors"]
    assert error["image"] == "scene_val_00000002"


def test_missing_object_instances_are_reported(here, model, voc, tmp_path):
    shutil.copytree(voc, tmp_path / "classes", ignore=shutil.ignore_patterns("SegmentationObject"))
    arguments = ("--data", "classes", "--layout", "voc", "--model", model, "--blocks", 0, "-o", "out")
    code, text, _ = here("slots", "score", *arguments, "--controls", "grid")
    assert code == 0
    assert "have no object instances" in text
    assert "mBO |" not in text
    code, text, _ = here("slots", "discover", *arguments)
    assert code == 0
    assert "mBO, CorLoc and ARI-FG are left out" in text


def test_discover_objects_in_scenes(here, model, tmp_path):
    arguments = ("--data", "scenes", "--model", model, "--count", 4, "--objects", 2, "-o", "out")
    code, text, _ = here("slots", "discover", *arguments)
    assert code == 0
    for word in ("CorLoc", "features cut", "2 x 2 grid", "ARI-FG is not reliable"):
        assert word in text
    assert Image.open(tmp_path / "out" / "discovery.png").width > 400
    contents = json.loads((tmp_path / "out" / "discovery.json").read_text())
    assert contents["settings"]["clusters"] == 4
    assert contents["methods"]["cut"]["scores"]["corloc"]["images"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], "nowhere needs a layout: ade20k, voc, folder"),
        (["--data", "nowhere", "--layout", "voc"], "There is no folder nowhere"),
        (["--data", "scenes", "--layout", "voc"], "./scenes is a folder"),
        (["--data", "scenes", "--count", "0"], "count must be 1 or more, got 0"),
        (["--data", "scenes", "--batch-size", "0"], "batch_size must be 1 or more, got 0"),
        (["--data", "scenes", "--size", "16"], "size must be at least 32 pixels, got 16"),
        (["--data", "scenes", "--split", "all"], "split must be one of train, val, test, got 'all'"),
        (["--data", "scenes", "--blocks", "7"], "The model has 3 blocks with slots, numbered 0 to 2"),
        (["--data", "scenes", "--objects", "3", "1"], "objects must be two numbers"),
        (["--data", "scenes", "--device", "cuda:99"], "--device cuda:99"),
    ],
)
def test_invalid_input_is_reported(here, model, tmp_path, arguments, words):
    code, _, complaint = here("slots", "score", "--model", model, "-o", "out", *arguments)
    assert code == 2
    assert words in complaint
    assert not list(tmp_path.rglob("scores.*"))


def test_model_without_weights_and_data_without_background_raise(here, model, tmp_path):
    code, _, complaint = here("slots", "score", "--data", "scenes", "--model", "glnet_4g", "-o", "out")
    assert code == 2
    assert "--checkpoint" in complaint
    assert "use --checkpoint, or --model local-dir:FOLDER" in here("slots", "score", "--data", "scenes", "-o", "out")[2]
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / "ade" / kind / "validation").mkdir(parents=True)
        Image.new("L", (64, 64), 1).save(tmp_path / "ade" / kind / "validation" / f"a.{suffix}")
    (tmp_path / "ade" / "classes.txt").write_text("wall\n")
    code, _, complaint = here("slots", "discover", "--data", "ade", "--layout", "ade20k", "--model", model, "-o", "out")
    assert code == 2
    assert "has no background class" in complaint


def test_reports_are_made_from_python(model, tmp_path):
    network = load(model.removeprefix("local-dir:")).network
    data = GroupingData("scenes", count=2, objects=(2, 2))
    assert len(data) == 2
    done = []
    report = score(network, data, blocks=[-1], segments=(4,), controls=["grid"], progress=done.append)
    assert done == [2]
    assert report.contents["settings"]["size"] == 48
    assert report.contents["errors"] == []
    assert set(report.figures) == {"scores.png", "segments.png"}
    files = report.save(tmp_path / "new" / "folder")
    assert all(file.stat().st_size for file in files)
    assert (tmp_path / "new" / "folder" / "scores.md").read_text() == report.text
    with pytest.raises(InputError, match="has no classes"):
        discover(timm.create_model("test_glnet", num_classes=0), data)
