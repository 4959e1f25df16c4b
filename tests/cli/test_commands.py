"""Tests of the help, `glmix models`, `glmix predict` and `glmix convert`."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image

import glmix as library
from glmix.models import MODEL_NAMES, MODEL_SIZES
from tests.parity.official_weights import official_state_dict
from tests.processes import WITHOUT_LIGHTNING, Command

# Prints the help of every command, and fails if one imports a package that takes long to import.
HELP = """
import contextlib, io, sys, time, glmix_cli
for words in ["--help"], *([name, "--help"] for name in (*glmix_cli.COMMANDS, *glmix_cli.fit.COMMANDS)):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            code = glmix_cli.main(words)
        except SystemExit as stopped:
            code = stopped.code
    assert not code, words
    assert "usage: glmix" in printed.getvalue(), words
    assert not {"torch", "numpy", "PIL", "lightning", "glmix"} & set(sys.modules), words
print(time.process_time())
"""


def test_help_is_fast_and_does_not_import_torch():
    result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 2, "seconds of CPU time for the help of all commands"


def test_the_command_is_installed():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="glmix")
    assert script.value == "glmix_cli:main"


def test_the_error_for_an_unknown_command_lists_the_commands(glmix):
    result = glmix("modles")
    assert result.returncode == 2
    assert "invalid choice: 'modles'" in result.stderr
    assert "models" in result.stderr


def test_the_environment_is_printed(glmix):
    found = json.loads(glmix("env", "--json").stdout)
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["timm"] == timm.__version__
    assert found["machine"]["instructions"].startswith(torch.backends.cpu.get_cpu_capability())
    assert torch.__version__ in glmix("env").stdout


def test_models_are_listed_as_text_and_json(glmix):
    table = glmix("models")
    assert table.returncode == 0
    assert all(name in table.stdout for name in MODEL_NAMES)
    rows = {row["name"]: row for row in json.loads(glmix("models", "--json").stdout)}
    assert set(rows) == set(MODEL_NAMES)
    assert rows["glnet_4g"]["published_top1"] == 83.7
    assert (rows["glnet_4g"]["parameters"], rows["glnet_4g"]["macs"]) == MODEL_SIZES["glnet_4g"]
    assert rows["test_glnet"]["input_size"] == [3, 160, 160]
    assert rows["glnet_nano"]["macs"] < 1e9
    assert 4.5e6 < rows["glnet_nano"]["parameters"] < 5.5e6
    assert rows["glnet_nano"]["published_top1"] is None


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=4)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    for name, size in (("a.png", (40, 90)), ("b.jpg", (200, 64)), ("deep/c.webp", (64, 64))):
        Image.effect_noise(size, 60).convert("RGB").save(folder.parent / name)
    return folder.parent


def test_folders_and_files_are_classified_with_the_models_own_preprocessing(glmix, checkpoint, images):
    result = glmix("predict", images, "--model", "test_glnet", "--checkpoint", checkpoint, "--topk", 2, "--json")
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert [r["file"] for r in printed["results"]] == sorted(map(str, images.rglob("*.*")))
    model = library.load_official(checkpoint, "test_glnet").eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    for r in printed["results"]:
        image = transform(Image.open(r["file"]).convert("RGB"))
        with torch.inference_mode():
            probabilities = model(image[None]).softmax(1)[0]
        assert len(r["predictions"]) == 2
        best = r["predictions"][0]
        assert best["class"] == probabilities.argmax().item()
        assert best["probability"] == pytest.approx(probabilities.max().item(), abs=1e-5)
        assert best["label"] == f"class {best['class']}"


def test_an_invalid_image_is_reported_and_the_others_are_processed(glmix, checkpoint, images):
    (images / "broken.jpg").write_bytes(b"not a JPEG")
    whole = (images / "b.jpg").read_bytes()
    (images / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    result = glmix("predict", images, "absent.png", "--model", "test_glnet", "--checkpoint", checkpoint, "--json")
    assert result.returncode == 1
    printed = json.loads(result.stdout)
    assert len(printed["results"]) == 3
    assert {e["file"].rsplit("/")[-1] for e in printed["errors"]} == {"broken.jpg", "truncated.jpg", "absent.png"}
    assert "broken.jpg" in result.stderr


def test_predictions_are_printed_as_text(glmix, checkpoint, images):
    result = glmix("predict", images / "a.png", "--model", "test_glnet", "--checkpoint", checkpoint)
    assert result.returncode == 0
    assert "a.png" in result.stdout
    assert result.stdout.count("%") == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.png", "--model", "glnet_4g"], "No weights were given for"),
        (["x.png", "--model", "glnet_4g", "--checkpoint", "absent.pth"], "No checkpoint at absent.pth"),
        (["x.png", "--model", "glnet_4g", "--topk", "0"], "--topk: expected an integer of at least 1"),
        (["x.png", "--model", "glnet_5g", "--checkpoint", "weights.pth"], "glnet_5g is not a registered model"),
    ],
)
def test_invalid_arguments_of_predict_are_reported(glmix, checkpoint, arguments, words):
    result = glmix("predict", *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_an_official_checkpoint_is_converted_and_used(glmix, tmp_path, images):
    torch.save({"model": official_state_dict("glnet_stl")}, tmp_path / "glnet_stl.pth")
    result = glmix("convert", "glnet_stl.pth", "converted")
    assert result.returncode == 0, result.stderr
    assert "# glnet_stl" in result.stdout
    assert {p.name for p in (tmp_path / "converted").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    again = glmix("convert", "glnet_stl.pth", "converted")
    assert again.returncode == 2
    assert "already contains a model" in again.stderr
    predicted = glmix("predict", images / "a.png", "--model", "local-dir:converted", "--topk", 1)
    assert predicted.returncode == 0, predicted.stderr
    assert "%" in predicted.stdout


def test_an_invalid_checkpoint_is_not_converted(glmix, tmp_path):
    (tmp_path / "notes.pth").write_text("hello")
    result = glmix("convert", "notes.pth", "converted")
    assert result.returncode == 2
    assert "notes.pth" in result.stderr
    assert not (tmp_path / "converted").exists()


def test_a_missing_extra_is_reported_with_the_install_command():
    code = (
        f"{WITHOUT_LIGHTNING}\nimport glmix_cli\n"
        "print([glmix_cli.main(words) for words in (['demo'], ['fit', '--config', 'x.yaml'])])"
    )
    printed, errors = Command(code=code).communicate()
    assert printed == "[2, 2]\n"
    assert errors.count("pip install 'glmix[train]'") == 2
    assert "Traceback" not in errors
