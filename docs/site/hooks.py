"""Hooks of MkDocs: pages that are not Markdown files in docs/, and links that work on GitHub and on the site.

In the repository, links lead to files: `../README.md`, `../studies/ablation/scenes.yaml`. On the site, a link to a file
that has a page leads to this page, and a link to another file leads to the repository (`tool.glmix.repository` in
pyproject.toml). While no repository is set, such a link becomes plain text.
"""

import json
import posixpath
import re
import tomllib
from pathlib import Path

import notebooks
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from glmix.slots.explorer import render

ROOT = Path(__file__).parents[2]
# files outside docs/ and the pages that show them
COPIED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "examples/README.md": "examples.md",
    "studies/README.md": "studies.md",
}
# made of the data in the JSON file of the same name, which is that of a page of `glmix explain --html`
EXPLORER = "explorer.html"
ORIGINS = {page: file for file, page in COPIED.items()}
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
TABLE_ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
# the space between a number and its unit or another number, in a table; code is left as it is
UNIT = re.compile(r"(`[^`]*`)|(?<=\d) (?=%|[A-Za-z]{1,3}\b)|(?<=\d x) (?=\d)")
NO_BREAK = "\N{NO-BREAK SPACE}"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def heading_anchor(text: str, separator: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set what YAML cannot say: the address of the repository and the anchors of headings."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        config.repo_url = tomllib.load(file)["tool"]["glmix"]["repository"].rstrip("/") or None
    config.mdx_configs.setdefault("toc", {})["slugify"] = heading_anchor
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {page: (ROOT / file).read_text(encoding="utf-8") for file, page in COPIED.items()}
    for path in sorted((ROOT / "examples").glob("*.py")):
        pages["examples.md"] += f"\n## {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n"
    pages |= reference.pages()
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        text, pictures = notebooks.to_markdown(path)
        pages[f"tutorials/{path.stem}.md"] = text
        for name, content in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    # the page in the gallery, with the styles and scripts of this version
    data = json.loads((ROOT / "docs" / EXPLORER).with_suffix(".json").read_text(encoding="utf-8"))
    pages[EXPLORER] = render(data, data.pop("title"))
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the links of a page lead to pages of the site or to the repository, and keep numbers and units together."""
    uri = page.file.src_uri
    parts = FENCE.split(markdown)
    for index in range(0, len(parts), 2):
        linked = LINK.sub(lambda match: site_link(match, uri, config.repo_url or ""), parts[index])
        parts[index] = TABLE_ROW.sub(lambda row: UNIT.sub(lambda unit: unit[1] or NO_BREAK, row[0]), linked)
    return "".join(parts)


def site_link(match: re.Match[str], uri: str, repository: str) -> str:
    """Return a Markdown link as it should be on the page `uri`.

    Args:
        match: a match of LINK.
        uri: the page, relative to docs/.
        repository: the address of the repository, or an empty string.
    """
    picture, label, target = match.groups()
    path, _, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return match[0]
    origin = ORIGINS.get(uri, f"docs/{uri}")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if file in COPIED:
        found = COPIED[file]
    elif file.startswith("docs/"):
        found = file.removeprefix("docs/")
        if found.startswith("tutorials/") and found.endswith(".ipynb") and label != notebooks.DOWNLOAD:
            found = found.removesuffix(".ipynb") + ".md"
    elif re.fullmatch(r"examples/\w+\.py", file):
        found, anchor = "examples.md", heading_anchor(posixpath.basename(file), "-")
    elif repository and not picture:
        return f"[{label}]({repository}/blob/HEAD/{file}{'#' if anchor else ''}{anchor})"
    else:
        return label
    if re.fullmatch(r"[\w/-]+\.md", label):  # GitHub readers want to see the file, readers of the site its title
        label = TITLE.search((ROOT / file).read_text(encoding="utf-8"))[1]  # type: ignore[index]
    found = posixpath.relpath(found, posixpath.dirname(uri) or ".")
    return f"{picture}[{label}]({found}{'#' if anchor else ''}{anchor})"
