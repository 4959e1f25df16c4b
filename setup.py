"""The metadata that depend on the repository's public address, and source distributions that can be reproduced.

In the repository the README's links are relative, so that they work in every copy. On PyPI they must be absolute.
`tool.glmix.repository` in pyproject.toml is the only place where the address is set.
"""

import gzip
import os
import re
import tarfile
import time
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

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


class ReproducibleSdist(sdist):
    """Source distribution that depends on the files alone: in a fixed order, with one owner and one time.

    The time is SOURCE_DATE_EPOCH, in seconds since 1970, or the current time. Wheels respect this variable already.
    """

    def make_archive(
        self,
        base_name: str,
        format: str,
        root_dir: str | os.PathLike[str] | None = None,
        base_dir: str | None = None,
        owner: str | None = None,
        group: str | None = None,
    ) -> str:
        """Write BASE_NAME.tar.gz."""
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        when = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())

        def normalise(info: tarfile.TarInfo) -> tarfile.TarInfo:
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = when
            info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
            return info

        name = f"{base_name}.tar.gz"
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=when) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir or ".", filter=normalise)  # in the order of the names
        return name


def main() -> None:
    """Build the package."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        repository = tomllib.load(file)["tool"]["glmix"]["repository"].rstrip("/")
    setup(
        long_description=readme_for_pypi((ROOT / "README.md").read_text(encoding="utf-8"), repository),
        long_description_content_type="text/markdown",
        project_urls=project_urls(repository),
        cmdclass={"sdist": ReproducibleSdist},
    )


main()
