"""Chromium for the tests of HTML pages; the fixtures `browser` and `open_file` are in conftest.py."""

import shutil
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 860}}
TELEPHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
# texts that would run a script in a page that does not escape them
EVIL = "<img src=x onerror=document.title='run'>"
LABEL = "</script><script>document.title='run'</script>"


def settle(page: Any) -> None:
    """Wait two frames until everything is drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
