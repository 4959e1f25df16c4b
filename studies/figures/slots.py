"""Make the pictures of docs/slots.md from the network and the images that `glmix demo` wrote.

    glmix demo out/demo
    python -m studies.figures.slots out/demo

Runs the `glmix explain` commands of that page, writes slots-scene.jpg and slots-compared.jpg, and takes a screenshot of
the explorer page, explorer.png, in which one slot is pinned and another one is selected. The screenshot needs an
installed Chromium and `pip install playwright`.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

from glmix.errors import InputError
from glmix_cli import main as glmix

WINDOW = ViewportSize(width=1240, height=1050)
PINNED, SELECTED = (0.8, 0.2), (0.4, 0.55)  # points of the image as fractions of its width and height


def explain(demo: Path, folder: Path, image: str, *options: str) -> Path:
    """Run `glmix explain` on an image of the demo and return the path of the files without a suffix."""
    command = ["explain", str(demo / "images" / f"{image}.png"), "--model", f"local-dir:{demo / 'model'}", *options]
    code = glmix([*command, "-o", str(folder)])
    if code != 0:
        raise SystemExit(code)
    return folder / f"{image}.slots"


def save_jpeg(source: Path, target: Path, width: int) -> None:
    """Write a figure as a JPEG file of the given width."""
    with Image.open(source) as figure:
        height = round(figure.height * width / figure.width)
        figure.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(target, quality=80)


def point_at(page: Page, place: tuple[float, float]) -> None:
    """Move the mouse to a point of the image on the explorer page."""
    box = page.locator(".frame canvas").bounding_box()
    if box is None:
        raise RuntimeError("The explorer page shows no image.")
    page.mouse.move(box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"])


def take_screenshot(html: Path, target: Path) -> None:
    """Open an explorer page in Chromium, pin one slot, point at another one, and save a screenshot."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise InputError("The screenshot needs Chromium: install chromium, chromium-browser or google-chrome.")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=WINDOW, color_scheme="light")
        page.goto(html.resolve().as_uri())
        page.wait_for_selector(".stage[data-slot]")
        page.get_by_role("button", name="Next block").click()
        point_at(page, PINNED)
        page.mouse.down()
        page.mouse.up()
        point_at(page, SELECTED)
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.screenshot(path=target)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="output folder of `glmix demo`")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="output folder (%(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        one = explain(args.demo, folder, "02_disc_stripes")
        save_jpeg(one.with_name(f"{one.name}.png"), args.out / "slots-scene.jpg", 1100)
        two = explain(args.demo, folder, "06_cross_stripes", "--compare", "untrained", "--blocks", "1", "2")
        save_jpeg(two.with_name(f"{two.name}.png"), args.out / "slots-compared.jpg", 1600)
        page = explain(args.demo, folder, "03_disc_checks", "--html")
        take_screenshot(page.with_name(f"{page.name}.html"), args.out / "explorer.png")


if __name__ == "__main__":
    main()
