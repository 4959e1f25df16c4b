"""HTML pages that are one file and make no request: common style, escaped text and a content security policy."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from importlib import resources
from string import Template
from typing import Any

__all__ = ["bundle_scripts", "embed_json", "escape_html", "page_html", "read_sources"]


def page_html(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return an HTML page that may run only this script and cannot access the network.

    Args:
        title: title of the page, not yet escaped.
        body: HTML of the page.
        style: CSS in addition to `base.css`, which all pages share.
        script: JavaScript that runs when the page is loaded, without import and export statements.
    """
    base, template = read_sources(__package__, "base.css", "page.html")
    style = base + style
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(template).substitute(title=escape_html(title), policy=policy, style=style, body=body, script=script)


def read_sources(package: str | None, *names: str) -> list[str]:
    """Read text files of a package, such as `read_sources(__package__, "page.css", "page.js")`."""
    folder = resources.files(package or __package__)
    return [folder.joinpath(name).read_text(encoding="utf-8") for name in names]


def escape_html(text: str) -> str:
    """Escape text for HTML. Surrogates, which file names may contain and no file can, become question marks."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def embed_json(data: Any) -> str:
    """Return data as JSON for a script element. "</script" would end the element even inside a string."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def bundle_scripts(scripts: Iterable[str]) -> str:
    """Join scripts without their import and export statements, because browsers load no modules from local files."""
    return "\n".join(re.sub(r"(?m)^import .*\n|^export ", "", script) for script in scripts)


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'"
