"""Parts of HTML pages that are one file and make no request: escaped text and a content security policy."""

import base64
import hashlib
import html
import re
from collections.abc import Iterable

__all__ = ["bundled", "content_policy", "escaped"]


def escaped(text: str) -> str:
    """Escape text for HTML. Surrogates, which file names may contain and no file can, become question marks."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def bundled(scripts: Iterable[str]) -> str:
    """Join scripts without their import and export statements, because browsers load no modules from local files."""
    return "\n".join(re.sub(r"(?m)^import .*\n|^export ", "", script) for script in scripts)


def content_policy(style: str, script: str) -> str:
    """Return a content security policy that allows only this style and this script, and no network access."""

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'"

    return (
        f"default-src 'none'; img-src data:; style-src {digest(style)}; script-src {digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
