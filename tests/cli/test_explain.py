"""`glmix explain`: figures and pages of real files, including broken ones, for models from all kinds of weights."""

import json
import os
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import glmix
import glmix_cli
from glmix.models import save_model
from glmix.slots import slot_maps
from glmix.tasks import ScheduleConfig
from tests import runs
from tests.parity.official_weights import official_state_dict


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_glnet", num_classes=4).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def trained(checkpoint) -> list[str]:
    return ["--model", "test_glnet", "--checkpoint", str(checkpoint), "--size", "64"]


def picture(path: Path, size: tuple[int, int] = (64, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).convert("RGB").save(path)
    return path


@pytest.fixture
def explain(tmp_path, capsys):
    """Run the command in this process, and return its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = glmix_cli.main(["explain", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def written_files(out: str) -> list[Path]:
    """Return the files that the command lists, which are the indented lines."""
    return [Path(line.strip()) for line in out.splitlines() if line.startswith("  ")]


def test_figures_and_pages_are_written(glmix, tmp_path, trained):
    picture(tmp_path / "photo.jpg", (96, 70))
    result = glmix("explain", "photo.jpg", *trained, "--blocks", 2, 0, "--svg", "--html", "-o", "deep/out")
    assert result.returncode == 0, result.stderr
    written = [f"deep/out/photo.slots.{kind}" for kind in ("png", "svg", "html")]
    assert result.stdout.splitlines() == [
        "photo.jpg  (whole image, 88 x 64 pixels)",
        *(f"  {file}" for file in written),
    ]
    assert sorted(str(f.relative_to(tmp_path)) for f in (tmp_path / "deep/out").iterdir()) == sorted(written)
    assert "test_glnet" in (tmp_path / written[2]).read_text()


def test_json_output(explain, tmp_path, trained, checkpoint):
    photo = picture(tmp_path / "photo.png", (160, 100))
    code, out, err = explain(photo, *trained, "-o", tmp_path / "out", "--json", "--topk", 2, "--blocks", "all")
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    assert result["view"] == "whole"
    assert result["size"] == {"width": 102, "height": 64}
    (model,) = result["models"]
    assert not model["untrained"]
    assert model["title"].startswith("test_glnet, ")
    assert len(model["predictions"]) == 2
    grids = [(block["grid"]["width"], block["grid"]["height"]) for block in model["blocks"]]
    assert grids == [(26, 16), (13, 8), (7, 4)]
    assert [block["index"] for block in model["blocks"]] == [0, 1, 2]
    network = glmix.load_official(checkpoint, "test_glnet")
    scale = slot_maps(network, torch.randn(1, 3, 64, 64))[1].scale
    assert model["blocks"][1]["scale"] == pytest.approx(scale)
    assert all(1 <= block["effective_slots_per_pixel"] <= 16 for block in model["blocks"])


def test_unreadable_image_is_skipped(explain, tmp_path, trained):
    folder = picture(tmp_path / "images" / "a.png").parent
    whole = picture(folder / "b.jpg", (200, 100)).read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.png").write_text("no image")
    code, out, err = explain(folder, tmp_path / "absent.png", *trained, "--blocks", 0, "-o", tmp_path / "out")
    assert code == 1
    assert sorted(path.name for path in written_files(out)) == ["a.slots.png", "b.slots.png"]
    for name in ("half.jpg", "notes.png", "absent.png"):
        assert f"{name}: " in err
    code, out, err = explain(folder / "notes.png", *trained, "-o", tmp_path / "out")
    assert (code, out) == (2, "")


def test_output_names_are_unique_and_no_image_is_overwritten(explain, tmp_path, trained):
    files = [picture(tmp_path / name) for name in ("a/x.png", "a/x.jpg", "b/x.png", "a/x.slots.png")]
    before = [file.read_bytes() for file in files]
    code, out, err = explain(*files, files[0], *trained, "--blocks", 0, "-o", tmp_path / "a")
    assert code == 0, err
    written = written_files(out)
    assert [file.read_bytes() for file in files] == before
    assert [path.name for path in written] == [
        "x.png.slots.png",  # x.slots.png is an input image
        "x.jpg.slots.png",
        "b-x.png.slots.png",
        "x.slots.slots.png",
    ]


ODD = ["$x_{y}$ %s.png", "<img src=x onerror=alert(1)>.png", "Größe \u732b.png", "line\nbreak.png", "-o.png"]


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not allow")
def test_any_file_name_is_accepted(explain, tmp_path, trained, recwarn):
    folder = tmp_path / "odd"
    for name in (*ODD, "x" * 240 + ".png"):
        picture(folder / name)
    byte = folder / os.fsdecode(b"caf\xe9.png")
    byte.write_bytes((folder / ODD[0]).read_bytes())
    code, out, err = explain(folder, *trained, "--blocks", 0, "--html", "-o", tmp_path / "out")
    assert code == 0, err
    assert len(list((tmp_path / "out").iterdir())) == 2 * (len(ODD) + 2)
    assert r"caf\udce9.png  (whole image" in out  # the invalid byte is escaped
    page = (tmp_path / "out" / "<img src=x onerror=alert(1)>.slots.html").read_text()
    assert "<img src=x onerror" not in page
    files = [folder / ODD[0], folder / ODD[1], byte]
    code, out, err = explain(*files, *trained, "--blocks", 0, "--svg", "-o", tmp_path / "svg", "--json")
    assert code == 0, err
    assert [result["file"] for result in json.loads(out)["results"]] == [str(file) for file in files]
    xml.etree.ElementTree.parse(tmp_path / "svg" / "<img src=x onerror=alert(1)>.slots.svg")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_an_interrupted_run_continues_with_the_images_whose_files_are_missing(explain, tmp_path, trained, monkeypatch):
    import glmix.slots.explanation as explanation

    files = [picture(tmp_path / "images" / f"{number}.png") for number in range(5)]
    (tmp_path / "images" / "3.png").write_text("no image")
    options = [tmp_path / "images", *trained, "--blocks", 0, "-o", tmp_path / "out", "--json", "--workers", 2]
    whole, explained = explanation.explain, []

    def interrupted(image, models, output, **more):
        if output.name == "1.slots" and not explained:
            explained.append(output)
            raise KeyboardInterrupt
        return whole(image, models, output, **more)

    monkeypatch.setattr(explanation, "explain", interrupted)
    code, out, _ = explain(*options)
    assert code == 130
    assert [Path(result["file"]).name for result in json.loads(out)["results"]] == ["0.png"]
    code, out, err = explain(*options, "--skip-existing")
    assert (code, "3.png" in err) == (1, True)
    printed = json.loads(out)
    assert printed["skipped"] == [str(files[0])]
    assert [Path(result["file"]).name for result in printed["results"]] == [f"{n}.png" for n in (1, 2, 4)]
    assert explain(*options, "--skip-existing", "--html")[0] == 1
    assert len(list((tmp_path / "out").glob("*.html"))) == 4


def test_exif_orientation_is_applied(explain, tmp_path, trained):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.effect_noise((128, 64), 60).convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    _, out, _ = explain(tmp_path / "turned.jpg", *trained, "-o", tmp_path / "out", "--json")
    assert json.loads(out)["results"][0]["size"] == {"width": 64, "height": 128}


def test_16_bit_grey_images_are_scaled_and_rotated(tmp_path):
    from glmix.data.core.decoding import read_image

    exif = Image.Exif()
    exif[0x0112] = 6
    levels = np.arange(32, dtype=np.uint16).reshape(4, 8) * 2048
    Image.fromarray(levels).save(tmp_path / "deep.png", exif=exif)
    seen = np.asarray(read_image(tmp_path / "deep.png", "L"))
    assert np.array_equal(seen, np.rot90(levels >> 8, -1))


@pytest.mark.parametrize(("requested", "size"), [("96", (144, 96)), ("native", (120, 80)), (None, (96, 64))])
def test_whole_image_is_resized_to_the_requested_size(explain, tmp_path, requested, size):
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=3)
    model.pretrained_cfg.update(input_size=(3, 64, 64))
    save_model(model, tmp_path / "model")
    photo = picture(tmp_path / "photo.png", (120, 80))
    options = [] if requested is None else ["--size", requested]
    folder = f"local-dir:{tmp_path / 'model'}"
    code, out, err = explain(photo, "--model", folder, *options, "-o", tmp_path / "out", "--json", "--blocks", -1)
    assert code == 0, err
    assert json.loads(out)["results"][0]["size"] == {"width": size[0], "height": size[1]}


def test_model_with_one_input_channel(explain, tmp_path):
    weights = tmp_path / "grey.pth"
    torch.save(timm.create_model("test_glnet", num_classes=4, in_chans=1).state_dict(), weights)
    photo = picture(tmp_path / "photo.png")
    code, _, err = explain(
        photo, "--checkpoint", weights, "--model", "test_glnet", "--size", 64, "-o", tmp_path / "out"
    )
    assert code == 0, err


def test_compare_models(explain, tmp_path, trained):
    torch.manual_seed(1)
    torch.save(timm.create_model("test_glnet", num_classes=4).state_dict(), tmp_path / "other.pth")
    photo = picture(tmp_path / "photo.png")
    others = ["--compare", tmp_path / "other.pth", "untrained"]
    code, out, err = explain(photo, *trained, "-o", tmp_path / "out", "--json", "--blocks", 1, *others)
    assert code == 0, err
    models = json.loads(out)["results"][0]["models"]
    assert [model["untrained"] for model in models] == [False, False, True]
    assert len({model["blocks"][0]["effective_slots_per_pixel"] for model in models}) == 3
    alone = tmp_path / "alone"
    explain(photo, *trained, "--blocks", 1, "-o", alone)
    ours, theirs = (Image.open(folder / "photo.slots.png").size for folder in (tmp_path / "out", alone))
    assert ours[0] > 1.5 * theirs[0]
    pages = ["-o", tmp_path / "pages", "--html", "--blocks", 1]
    code, out, err = explain(photo, *trained, *pages, "--compare", "untrained")
    assert code == 0, err
    code, out, err = explain(photo, *trained, *pages, *others)
    assert code == 2
    assert "at most two models, got 3" in err


def test_random_weights_are_reproducible_and_labelled(explain, tmp_path):
    photo = picture(tmp_path / "photo.png")
    options = ["--model", "test_glnet", "--untrained", "--size", 64, "--blocks", 1, "--json"]
    found = [
        json.loads(explain(photo, *options, "--seed", seed, "-o", tmp_path / f"{n}")[1])["results"][0]["models"]
        for n, seed in enumerate((0, 0, 1))
    ]
    assert found[0] == found[1] != found[2]
    assert found[0][0]["untrained"]
    assert found[0][0]["predictions"] == []  # omitted for random weights
    ours, theirs = ((tmp_path / f"{n}" / "photo.slots.png").read_bytes() for n in (0, 1))
    assert ours == theirs


def test_an_official_checkpoint_is_recognised(explain, tmp_path):
    torch.save({"model": official_state_dict("glnet_stl")}, tmp_path / "glnet_stl.pth")
    photo = picture(tmp_path / "photo.png")
    code, out, err = explain(
        photo, "--checkpoint", tmp_path / "glnet_stl.pth", "--size", 64, "-o", tmp_path / "out", "--json"
    )
    assert code == 0, err
    (model,) = json.loads(out)["results"][0]["models"]
    assert model["title"].startswith("glnet_stl, ")
    assert [block["index"] for block in model["blocks"]] == [1, 3, 9]  # the last block of each stage
    assert model["blocks"][0]["slot_grid"] == {"width": 8, "height": 8}


def test_explain_photographs(explain, tmp_path):
    """Use the photographs in scikit-learn and scikit-image, and a published architecture."""
    datasets, data = pytest.importorskip("sklearn.datasets"), pytest.importorskip("skimage.data")
    photographs = [datasets.load_sample_image("china.jpg"), data.astronaut(), data.chelsea()]
    for number, pixels in enumerate(photographs):
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    torch.save(official_state_dict("glnet_stl"), tmp_path / "glnet_stl.pth")
    files = sorted(tmp_path.glob("*.jpg"))
    options = ["--size", 64, "--blocks", -1, "-o", tmp_path / "out"]
    code, out, err = explain(*files, "--checkpoint", tmp_path / "glnet_stl.pth", *options)
    assert code == 0, err
    assert len(written_files(out)) == 3


def test_lightning_checkpoint_provides_class_names(explain, tmp_path):
    trainer = runs.trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(runs.task(schedule=ScheduleConfig(warmup_epochs=0)), runs.data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    photo = picture(tmp_path / "photo.png")
    code, out, err = explain(photo, "--checkpoint", tmp_path / "last.ckpt", "-o", tmp_path / "out", "--json")
    assert code == 0, err
    result = json.loads(out)["results"][0]
    assert result["size"] == {"width": 32, "height": 32}
    assert {p["label"] for p in result["models"][0]["predictions"]} <= set(runs.SCENES.class_names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "use --checkpoint, --model local-dir:FOLDER, or --model NAME with --untrained"),
        (["--model", "glnet_4g"], "glnet_4g: use --checkpoint, or --untrained"),
        (["--model", "glnet_4g", "--checkpoint", "absent.pth"], "No checkpoint at absent.pth"),
        (["--model", "glnet_5g", "--untrained"], "glnet_5g is not a timm model"),
        (["--untrained"], "--untrained needs --model"),
        (["--model", "test_glnet", "--untrained", "--checkpoint", "x.pth"], "cannot be combined with --checkpoint"),
        (["--model", "test_resnet", "--untrained"], "ResNet has no block with slots"),
        (["--model", "test_glnet", "--untrained", "--blocks", "9"], "has 3 blocks with slots, numbered 0 to 2"),
        (["--model", "test_glnet", "--untrained", "--view", "crop", "--size", "96"], "--size needs --view whole"),
        (["--model", "test_glnet", "--untrained", "--topk", "0"], "--topk must be 1 or more, got 0"),
        (["--model", "test_glnet", "--untrained", "--device", "abacus"], "--device abacus: "),
        (["--model", "test_glnet", "--untrained", "--compare", "absent.pth"], "No checkpoint at absent.pth"),
        (["--model", "local-dir:absent", "--blocks", "0"], "absent"),
    ],
)
def test_errors_are_reported_before_anything_is_written(explain, tmp_path, arguments, words):
    photo = picture(tmp_path / "photo.png")
    code, _, err = explain(photo, *arguments, "-o", tmp_path / "out")
    assert code == 2
    assert words in err
    assert not (tmp_path / "out").exists()


def photograph(folder: Path, kind: str) -> Path:
    """Write an image of 120 x 80 pixels when upright: RGB, rotated by its EXIF tag, grey, or 16-bit grey."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    pixels[:, 70:] //= 3  # so that crops and turned images differ
    pixels[50:] //= 2
    file, exif = folder / f"{kind}.png", Image.Exif()
    if kind == "turned":
        exif[0x0112] = 6
        Image.fromarray(np.rot90(pixels).copy()).save(file, exif=exif)
    elif kind == "deep":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(file)
    else:
        Image.fromarray(pixels[..., 0] if kind == "grey" else pixels).save(file)
    return file


@pytest.mark.parametrize("channels", [3, 1])
def test_predict_and_explain_give_the_same_probabilities(tmp_path, capsys, channels):
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=4, in_chans=channels)
    torch.nn.init.normal_(model.head.fc.weight, std=0.5)  # far from uniform probabilities
    model.pretrained_cfg.update(input_size=(channels, 64, 64), crop_pct=0.8)
    save_model(model, tmp_path / "model")
    files = [photograph(tmp_path, kind) for kind in ("plain", "turned", "grey", "deep")]
    explained = {"crop": files[1:3], "whole": [files[0], files[3]], None: files[:1]}
    found = {}
    for view, size in (("crop", (64, 64)), ("whole", (96, 64)), (None, None)):
        for command in ("predict", "explain"):
            out = ["-o", tmp_path / "out", "--blocks", 0] if command == "explain" else []
            view_option = [] if view is None else ["--view", view]
            options = ["--model", f"local-dir:{tmp_path / 'model'}", "--topk", 4, "--json", *view_option, *out]
            seen = explained[view] if command == "explain" or view is None else files
            assert glmix_cli.main([str(part) for part in (command, *seen, *options)]) == 0
            results = json.loads(capsys.readouterr().out)["results"]
            assert [Path(result["file"]) for result in results] == seen
            expected = view or {"predict": "crop", "explain": "whole"}[command]
            assert {result["view"] for result in results} == {expected}
            if size is not None:
                assert {(result["size"]["width"], result["size"]["height"]) for result in results} == {size}
            predictions = [result.get("predictions") or result["models"][0]["predictions"] for result in results]
            found[command, view] = {
                file: {p["label"]: p["probability"] for p in one} for file, one in zip(seen, predictions, strict=True)
            }
        if view is not None:
            for file, probabilities in found["explain", view].items():
                assert probabilities == pytest.approx(found["predict", view][file], abs=1e-6)
    assert found["predict", None][files[0]] == pytest.approx(found["predict", "crop"][files[0]], abs=1e-6)
    assert found["explain", None][files[0]] == pytest.approx(found["explain", "whole"][files[0]], abs=1e-6)
    for view in ("crop", "whole"):
        plain, turned, grey, deep = found["predict", view].values()
        assert plain == pytest.approx(turned, abs=1e-6)
        assert grey == pytest.approx(deep, abs=1e-6)
    assert found["predict", "crop"][files[0]] != pytest.approx(found["predict", "whole"][files[0]], abs=1e-3)


def test_predict_and_explain_give_the_same_multi_label_probabilities(tmp_path, capsys):
    trainer = runs.trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    task = runs.task(mix=None, multi_label=True, schedule=ScheduleConfig(warmup_epochs=0))
    trainer.fit(task, runs.data(multi_label=True))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    photo, found = photograph(tmp_path, "plain"), []
    for arguments in (["predict", "--model", "test_glnet"], ["explain", "-o", tmp_path / "out", "--blocks", 0]):
        options = [photo, "--checkpoint", tmp_path / "last.ckpt", "--topk", 100, "--json", "--view", "crop"]
        command, *rest = arguments
        assert glmix_cli.main([str(part) for part in (command, *options, *rest)]) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        predictions = result.get("predictions") or result["models"][0]["predictions"]
        found.append({p["label"]: p["probability"] for p in predictions})
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert abs(sum(found[0].values()) - 1) > 0.01  # sigmoids


def test_view_is_printed_and_shown_on_the_page(explain, tmp_path, trained, capsys):
    photo = picture(tmp_path / "photo.png", (120, 80))
    weights = trained[:4]
    code, out, err = explain(photo, *weights, "--view", "crop", "--html", "--blocks", 0, "-o", tmp_path / "out")
    assert code == 0, err
    assert "centre crop, 160 x 160 pixels" in out
    page = (tmp_path / "out" / "photo.slots.html").read_text()
    assert '"view":"centre crop","size":{"width":160,"height":160}' in page
    assert glmix_cli.main(["predict", str(photo), *weights, "--view", "whole"]) == 0
    assert "whole image, 240 x 160 pixels" in capsys.readouterr().out


def test_models_with_different_crops_raise(explain, tmp_path):
    for name, size in (("small", 64), ("large", 96)):
        torch.manual_seed(0)
        model = timm.create_model("test_glnet", num_classes=3)
        model.pretrained_cfg.update(input_size=(3, size, size))
        save_model(model, tmp_path / name)
    photo = picture(tmp_path / "photo.png", (120, 80))
    small, large = (f"local-dir:{tmp_path / name}" for name in ("small", "large"))
    code, _, err = explain(
        photo, "--model", small, "--compare", large, "--view", "crop", "--blocks", 0, "-o", tmp_path / "out"
    )
    assert code == 2
    assert "64 x 64" in err
    assert "96 x 96" in err
    assert "--view whole" in err


@pytest.mark.parametrize("arguments", [["--size", "31"], ["--size", "big"], ["--blocks", "last"]])
def test_invalid_arguments_exit_with_2(explain, tmp_path, arguments):
    with pytest.raises(SystemExit) as stopped:
        explain(tmp_path / "x.png", "--model", "test_glnet", "--untrained", "-o", tmp_path / "out", *arguments)
    assert stopped.value.code == 2


def test_unwritable_output_folder_is_reported_first(explain, tmp_path, trained):
    photo = picture(tmp_path / "photo.png")
    (tmp_path / "file").write_text("")
    code, _, err = explain(photo, *trained, "-o", tmp_path / "file")
    assert code == 2
    assert "file" in err
    if os.geteuid() != 0:  # root can write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        code, _, err = explain(photo, *trained, "-o", tmp_path / "locked")
        assert code == 2
        assert "locked cannot be written to" in err
