"""The parts of the metadata that depend on the repository's public address: the README for PyPI and the links.

In the repository the README's links are relative, so that they work in every copy. On PyPI they must be absolute.
`tool.glmix.repository` in pyproject.toml is the only place where the address is set.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
_IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)\n*")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")


def readme_for_pypi(text: str, repository: str) -> str:
    """Make the relative links of a Markdown text absolute.

    Args:
        text: the text, whose relative links start at the repository's root.
        repository: the repository's address. If it is empty, links become plain text and images are removed.
    """
    if not repository:
        return _LINK.sub(r"\1", _IMAGE.sub("", text))
    text = _IMAGE.sub(lambda match: match[0].replace(f"({match[2]})", f"({repository}/raw/HEAD/{match[2]})"), text)
    return _LINK.sub(rf"[\1]({repository}/blob/HEAD/\2)", text)


def project_urls(repository: str) -> dict[str, str]:
    """Return the links that PyPI shows beside the text; none without an address."""
    if not repository:
        return {}
    return {
        "Homepage": repository,
        "Documentation": f"{repository}/tree/HEAD/docs",
        "Source": repository,
        "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def main() -> None:
    """Build the package."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        repository = tomllib.load(file)["tool"]["glmix"]["repository"].rstrip("/")
    setup(
        long_description=readme_for_pypi((ROOT / "README.md").read_text(encoding="utf-8"), repository),
        long_description_content_type="text/markdown",
        project_urls=project_urls(repository),
    )


main()
