"""The comparison of ways of fine-tuning: it runs, its results are kept, and its table has a row for each way."""

import json
from pathlib import Path

import pytest

from studies.finetuning import METHODS, main


def test_every_way_is_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--per-class", "1", "--seeds", "0", "--steps", "1", "--epochs", "1", "--source-count", "64"]
    command = ["--out", str(tmp_path), *small, "--val-count", "8"]
    main(command)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [key.split("/")[0] for key in results] == list(METHODS)
    assert all(0 <= result["score"] <= 1 for result in results.values())
    trained = {key.split("/")[0]: result["trained"] for key, result in results.items()}
    assert trained["linear probe"] < trained["LoRA, rank 8"] < trained["last stage"] < trained["all layers"]
    table = capsys.readouterr().out.splitlines()[-len(METHODS) :]
    assert [row.split("|")[1].strip() for row in table] == list(METHODS)
    main(command)
    assert capsys.readouterr().out.splitlines()[-len(METHODS) :] == table
