"""The tutorials: notebooks are those of the scripts, were executed, and still run."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="the extra `docs` is not installed")
pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "site"))
import nbformat  # noqa: E402
import notebooks  # noqa: E402

MAX_CPU_SECONDS = 2 * 120
SCRIPTS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_is_the_executed_script(script: Path) -> None:
    made = notebooks.read_script(script)
    stored = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert [cell.source for cell in stored.cells] == [cell.source for cell in made.cells], "run `make notebooks`"
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert [output for output in outputs if output.output_type == "error"] == []
    assert script.with_suffix(".ipynb").stat().st_size < 500_000


def test_every_tutorial_is_listed() -> None:
    index = (ROOT / "docs" / "tutorials" / "index.md").read_text()
    assert [script.name for script in SCRIPTS if f"({script.stem}.ipynb)" not in index] == []
    assert len(SCRIPTS) == index.count(".ipynb)")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_tutorial_runs(script: Path, tmp_path: Path) -> None:
    notebook = notebooks.read_script(script)
    used = notebooks.execute(notebook, tmp_path)
    assert any(cell.get("outputs") for cell in notebook.cells)
    # CPU time, because the tests share the cores
    assert 1 < used < MAX_CPU_SECONDS, "a tutorial must take less than two minutes on two cores"
