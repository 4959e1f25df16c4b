"""Reports on the predictions of any model: `glmix report` with CSV files and COCO results."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glmix.errors import InputError
from glmix.reports import read_table
from glmix_cli import main
from tests.reports.test_numbers import boxes

CSV = "name,target,cat,dog\na.jpg,cat,0.9,0.1\nb.jpg,dog,0.75,0.25\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "predictions.csv"
    path.write_text(text)
    return path


def test_table_of_a_classifier(tmp_path: Path) -> None:
    predictions = read_table(write(tmp_path, CSV))
    assert (predictions.class_names, predictions.names) == (["cat", "dog"], ["a.jpg", "b.jpg"])
    assert predictions.targets.tolist() == [0, 1]
    assert np.allclose(np.exp(predictions.logits), [[0.9, 0.1], [0.75, 0.25]])


def test_table_with_several_labels_and_without_names(tmp_path: Path) -> None:
    text = "cat,dog,target\n0.9,0.6,cat|dog\n0.5,0,\n"
    predictions = read_table(write(tmp_path, text), multi_label=True)
    assert predictions.names == ["0", "1"]
    assert predictions.targets.tolist() == [[1, 1], [0, 0]]
    assert np.allclose(1 / (1 + np.exp(-predictions.logits)), [[0.9, 0.6], [0.5, 0]])


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "target"),
        ("name,target\na,b\n", "target"),
        ("target,cat,cat\ncat,1,0\n", "different titles"),
        ("target,cat,dog\n", "no predictions"),
        ("target,cat,dog\ncat,0.5\n", "line 2 has 2 columns"),
        ("target,cat,dog\ncat,1,0\ncat,x,0\n", "line 3 .*'x'"),
        ("target,cat,dog\ncat,1.5,-0.5\n", "line 2 .*0 to 1"),
        ("target,cat,dog\ncat,nan,0\n", "line 2 .*0 to 1"),
        ("target,cat,dog\ncat,0.5,0.2\n", "line 2 .*0.700"),
        ("target,cat,dog\ncta,0.5,0.5\n", "line 2 .*'cta'.* 'cat'"),
    ],
)
def test_invalid_tables_are_refused(tmp_path: Path, text: str, fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        read_table(write(tmp_path, text))


def test_report_of_a_table_shows_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 32), "red").save(tmp_path / "photos" / "b.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.jpg")
    table = write(tmp_path, f"{CSV}../outside.jpg,cat,0.2,0.8\n")
    output = tmp_path / "report"
    arguments = ["report", str(table), "-o", str(output), "--images", str(tmp_path / "photos"), "--json"]
    assert main([*arguments, "--title", "Of <mine>"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["scores"]["top1"] == pytest.approx(1 / 3)
    assert [Path(file).is_file() for file in printed["files"]] == [True] * 3
    page = (output / "report.html").read_text()
    assert "Of &lt;mine&gt;" in page
    # the picture of a.jpg is not shown, because it is no mistake, and that of another folder must not be
    assert page.count("data:image/jpeg") == 1
    assert main(["report", str(output)]) == 0
    assert "data:image/jpeg" in (output / "report.html").read_text()


def test_report_of_coco_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = boxes()
    (tmp_path / "truth.json").write_text(json.dumps(predictions.truth))
    (tmp_path / "results.json").write_text(json.dumps(predictions.results))
    arguments = ["report", str(tmp_path / "results.json"), "-o", str(tmp_path / "report"), "--json"]
    assert main(arguments) == 2
    assert "--truth" in capsys.readouterr().err
    assert main([*arguments, "--truth", str(tmp_path / "truth.json")]) == 0
    assert "box_AP50" in json.loads(capsys.readouterr().out)["scores"]
    assert "| cat |" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["{folder}"], "predictions.json"),
        (["{folder}", "--images", "x"], "--images"),
        (["{folder}/predictions.csv"], "-o"),
        (["{folder}/predictions.csv", "--split", "val"], "--split"),
        (["{folder}/predictions.csv", "-o", "{folder}/out", "--images", "{folder}/none"], "none"),
    ],
)
def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fact: str) -> None:
    write(tmp_path, CSV)
    assert main(["report", *(argument.format(folder=tmp_path) for argument in arguments)]) == 2
    assert fact in capsys.readouterr().err
