"""Pages made from executed notebooks."""

from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

DOWNLOAD = "Download this notebook"


def to_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """Convert an executed notebook to a page.

    Args:
        path: the notebook.

    Returns:
        The Markdown text, and the pictures by file name.
    """
    config = Config()
    config.MarkdownExporter.preprocessors = ["nbconvert.preprocessors.ExtractOutputPreprocessor"]
    config.ExtractOutputPreprocessor.output_filename_template = f"{path.stem}_{{cell_index}}_{{index}}{{extension}}"
    config.NbConvertBase.display_data_priority = ["image/png", "image/jpeg", "text/markdown", "text/plain"]
    notebook = nbformat.read(path, as_version=4)
    text, resources = MarkdownExporter(config=config).from_notebook_node(notebook)
    heading, _, rest = text.strip().partition("\n")
    return f"{heading}\n\n[{DOWNLOAD}]({path.name})\n{rest}\n", resources["outputs"]
