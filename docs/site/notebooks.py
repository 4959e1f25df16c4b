"""The tutorials: notebooks made from scripts, and pages made from executed notebooks.

python docs/site/notebooks.py                     # execute all tutorials, and write their notebooks
python docs/site/notebooks.py first_steps slots   # only these
"""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbformat import NotebookNode
from traitlets.config import Config

TUTORIALS = Path(__file__).parents[1] / "tutorials"
DOWNLOAD = "Download this notebook"
SHELL = re.compile(r"^!((?:.*\\\n)*.*)$", re.MULTILINE)
# runs a shell command without a terminal, so that it prints no progress bar
RUN = """def _run(command):
    import subprocess

    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    print(done.stdout, end="")
    assert done.returncode == 0, done.stderr


"""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def read_script(path: Path) -> NotebookNode:
    """Return the notebook of a script, without outputs; the same script always gives the same notebook."""
    notebook = jupytext.read(path)
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        cell.metadata = {}
    return notebook


def execute(notebook: NotebookNode, folder: Path, timeout: float = 600) -> float:
    """Run a notebook in a folder and store its outputs.

    What programs write to stderr is left out. Unlike in Jupyter, a shell command that fails is an error.

    Args:
        notebook: is modified.
        folder: the working folder.
        timeout: seconds per cell.

    Returns:
        The CPU time of the notebook and of its commands, in seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an exception.
    """
    # the commands of this environment, such as `glmix`
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    sources = [cell.source for cell in code]
    for cell in code:
        if SHELL.search(cell.source):
            cell.source = RUN + SHELL.sub(lambda match: f"_run({match[1]!r})", cell.source)
    before = os.times()
    try:
        options: dict[str, Any] = {
            "resources": {"metadata": {"path": str(folder)}},
            "record_timing": False,
            "coalesce_streams": True,
        }
        NotebookClient(notebook, timeout=timeout, kernel_name="python3", **options).execute()
    finally:
        for cell, source in zip(code, sources, strict=True):
            cell.source = source
    for cell in code:
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "text" in output:
                output.text = COLOURS.sub("", output.text)
            # Pillow images come in two formats; the smaller one is enough
            formats = [name for name in ("image/png", "image/jpeg") if name in output.get("data", {})]
            for name in sorted(formats, key=lambda name: len(output.data[name]))[1:]:
                del output.data[name]
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def to_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """Convert an executed notebook to a page.

    Args:
        path: the notebook.

    Returns:
        The Markdown text, and the pictures by file name.
    """
    config = Config()
    config.ExtractOutputPreprocessor.output_filename_template = f"{path.stem}_{{cell_index}}_{{index}}{{extension}}"
    config.NbConvertBase.display_data_priority = ["image/png", "image/jpeg", "text/markdown", "text/plain"]
    notebook = nbformat.read(path, as_version=4)
    text, resources = MarkdownExporter(config=config).from_notebook_node(notebook)
    heading, _, rest = text.strip().partition("\n")
    return f"{heading}\n\n[{DOWNLOAD}]({path.name})\n{rest}\n", resources["outputs"]


def main(names: list[str]) -> None:
    """Execute tutorials and write their notebooks."""
    for path in [TUTORIALS / f"{name}.py" for name in names] or sorted(TUTORIALS.glob("*.py")):
        notebook = read_script(path)
        with tempfile.TemporaryDirectory() as folder:
            seconds = execute(notebook, Path(folder))
        nbformat.write(notebook, path.with_suffix(".ipynb"))
        print(f"{path.with_suffix('.ipynb')}: {seconds:.0f} s of CPU time")


if __name__ == "__main__":
    main(sys.argv[1:])
