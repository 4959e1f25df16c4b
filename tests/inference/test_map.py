"""The map of a collection: projections, thumbnails of bounded size, and the page in a real browser."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from glmix.errors import InputError, MissingExtraError
from glmix.inference import collection_map
from glmix.inference.collection_map import METHODS, project, write_map
from glmix.inference.thumbnails import Thumbnails
from glmix_cli import main

from ..browser import DESKTOP, EVIL, LABEL, TELEPHONE, settle

COUNT = 120


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], np.ndarray, list[str]]:
    """Keys of images in three colours, one of them missing, their vectors in three groups, and their labels."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    keys, labels = [], []
    for number in range(COUNT):
        group = number % 3
        file = folder / f"{('red', 'green', 'blue')[group]}-{number:03d}.png"
        colour = tuple(220 if channel == group else 30 for channel in range(3))
        if number != 5:
            Image.new("RGB", (60, 40), colour).save(file)
        keys.append(str(file))
        labels.append(("warm", LABEL, "cold")[group])
    keys[0] = str(Path(keys[0]).rename(folder / f"{EVIL.replace('/', '')}.png"))
    centres = np.array([[4, 0, 1], [0, 4, 1], [-3, -3, 1]])
    vectors = centres[np.arange(COUNT) % 3] + generator.normal(size=(COUNT, 3)) * 0.3
    return keys, vectors, labels


def page_data(file: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text())[1])


def test_pca_equals_scikit_learn_and_groups_stay_together(collection):
    _, vectors, _ = collection
    points, description = project(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pca = PCA(2).fit(unit)
    np.testing.assert_allclose(points, pca.transform(unit))
    assert f"{pca.explained_variance_ratio_.sum():.0%}" in description
    assert project(vectors[:, :1])[0].shape == (COUNT, 2)
    assert not project(np.ones((3, 4)))[0].any()


def test_tsne_keeps_groups_together(collection):
    """UMAP has no such test, because compiling it takes minutes."""
    _, vectors, _ = collection
    points, _ = project(vectors, "tsne", seed=1)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(1) % 3 == np.arange(COUNT) % 3).mean() > 0.95


def test_mistakes_are_named(collection, monkeypatch):
    _, vectors, _ = collection
    with pytest.raises(InputError, match=r"pca, tsne, umap.*mds"):
        project(vectors, "mds")
    for method in METHODS:
        with pytest.raises(InputError, match="got 1"):
            project(vectors[:1], method)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match="pip install umap-learn"):
        project(vectors, "umap")


def test_thumbnails_show_the_images_and_have_a_bounded_size(collection, tmp_path):
    keys, vectors, labels = collection
    summary = write_map(tmp_path / "map.html", keys, vectors, labels)
    assert (summary.points, summary.thumbnails, summary.labels, summary.left_out) == (COUNT, COUNT - 1, 3, 0)
    data = page_data(tmp_path / "map.html")
    assert data["shapes"][5] is None
    assert data["shapes"][7] == [60, 40]
    assert len(data["sheets"]) == 2
    sheet = Image.open(io.BytesIO(base64.b64decode(data["sheets"][1].partition(",")[2])))
    for place in range(100, COUNT):  # the second sheet begins with image 100
        left, top = (place - 100) % 10 * data["side"], (place - 100) // 10 * data["side"]
        assert int(np.argmax(sheet.getpixel((left + 30, top + 20)))) == place % 3
    small = write_map(tmp_path / "small.html", keys, vectors, labels, max_bytes=8000)
    assert 0 < small.thumbnail_size < summary.thumbnail_size
    assert sum(map(len, page_data(tmp_path / "small.html")["sheets"])) <= 8000
    assert write_map(tmp_path / "none.html", keys, vectors, labels, max_bytes=10).thumbnail_size == 0


def test_a_large_collection_is_sampled(collection, tmp_path):
    keys, vectors, labels = collection
    summary = write_map(tmp_path / "map.html", keys, vectors, labels, max_points=50, seed=2)
    assert (summary.points, summary.left_out) == (50, COUNT - 50)
    data = page_data(tmp_path / "map.html")
    assert data["left"] == COUNT - 50
    assert all(int(key[-7:-4]) % 3 == ["warm", LABEL, "cold"].index(data["labels"][label])
               for key, label in zip(data["keys"], data["label"], strict=True) if EVIL[:4] not in key)  # fmt: skip
    similar = np.array(data["similar"])
    assert similar.shape == (50, 8)
    assert (similar != np.arange(50)[:, None]).all()


def test_thumbnails_come_from_a_source_if_it_is_given():
    class Archive:
        problems: list = []  # noqa: RUF012

        def __len__(self) -> int:
            return 1

        def key(self, index: int) -> str:
            return "a.tar/x.png"

        def read(self, index: int) -> io.BytesIO:
            content = io.BytesIO()
            Image.new("RGB", (200, 100), (9, 200, 9)).save(content, "PNG")
            return io.BytesIO(content.getvalue())

    read = Thumbnails(Archive())
    assert read("a.tar/x.png", 50).size == (50, 25)
    assert read("a.tar/other.png", 50) is None
    assert Thumbnails()("a.tar/x.png", 50) is None


def test_scripts_are_linted():
    oxlint = Path(sys.executable).with_name("oxlint")
    if not oxlint.exists():
        pytest.skip("oxlint is not installed")
    folder = Path(collection_map.__file__).parent
    command = [oxlint, "--deny-warnings", "-D", "correctness", "-D", "suspicious", "-D", "perf", folder]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    for file in folder.glob("*.js"):
        assert len(file.read_text().splitlines()) < 400
        assert "innerHTML" not in file.read_text()


@pytest.fixture(scope="module")
def page_file(collection, tmp_path_factory) -> Path:
    """Write the page with the command."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("vectors")
    keys, vectors, labels = collection
    arrays = pyarrow.FixedSizeListArray.from_arrays(vectors.astype(np.float32).ravel(), 3)
    pyarrow.parquet.write_table(pyarrow.table({"key": keys, "embedding": arrays}), folder / "part-00000.parquet")
    rows = [json.dumps({"path": key, "label": label}) for key, label in zip(keys, labels, strict=True)]
    (folder / "labels.jsonl").write_text("\n".join(rows))
    out = folder / "map.html"
    arguments = ["-o", str(out), "--labels", str(folder / "labels.jsonl"), "--title", EVIL]
    assert main(["map", str(folder), *arguments]) == 0
    return out


@pytest.fixture
def open_page(open_file, page_file):
    def open_it(**options):
        page = open_file(page_file, **(options or DESKTOP))
        page.wait_for_selector("#plot[data-visible]")
        settle(page)
        return page

    return open_it


def place(page, file, number):
    """Return the screen position of an image when everything is shown."""
    data, box = page_data(file), page.locator("#plot > canvas").bounding_box()
    unit = min(box["width"], box["height"]) - 56
    x, y = data["x"][number] / 65535 - 0.5, data["y"][number] / 65535 - 0.5
    return box["x"] + box["width"] / 2 + x * unit, box["y"] + box["height"] / 2 + y * unit


def visible(page):
    settle(page)
    return int(page.locator("#plot").get_attribute("data-visible"))


def test_hover_and_click_show_the_image(open_page, page_file):
    page = open_page()
    outlier = int(np.argmax(page_data(page_file)["x"]))
    page.mouse.move(*place(page, page_file, outlier))
    tip = page.locator("#tip .name").inner_text()
    assert tip == Path(page_data(page_file)["keys"][outlier]).name
    page.mouse.click(*place(page, page_file, outlier))
    assert page.locator("#selection .name").inner_text() == page_data(page_file)["keys"][outlier]
    similar = page.locator("#similar button")
    assert similar.count() == 8
    similar.first.click()
    other = page_data(page_file)["similar"][outlier][0]
    assert page.locator("#selection .name").inner_text() == page_data(page_file)["keys"][other]
    page.keyboard.press("Escape")
    assert not page.locator("#selection").is_visible()


def test_zoom_pan_and_reset(open_page):
    page = open_page()
    plot = page.locator("#plot")
    box = plot.bounding_box()
    everything = visible(page)
    assert everything == COUNT
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -1500)
    settle(page)
    assert float(plot.get_attribute("data-scale")) > 5
    assert visible(page) < everything
    centre = plot.get_attribute("data-centre")
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 90, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    assert plot.get_attribute("data-centre") != centre
    assert not page.locator("#selection").is_visible()  # a drag selects nothing
    page.get_by_role("button", name="Show everything").click()
    assert plot.get_attribute("data-scale") == "1.000"
    page.get_by_role("button", name="Zoom in").click()
    page.locator("#plot > canvas").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("-")
    assert float(plot.get_attribute("data-scale")) == pytest.approx(1.6 / 1.5, abs=0.01)
    page.keyboard.press("0")
    assert visible(page) == everything


def test_search_and_legend_filter(open_page):
    page = open_page()
    search, count = page.get_by_role("searchbox"), page.locator("#count")
    search.fill("BLUE-0")
    assert count.inner_text() == f"33 of {COUNT} images"
    assert visible(page) == 33
    search.fill("cold blue-002")
    page.keyboard.press("Enter")
    assert page.locator("#selection .name").inner_text().endswith("blue-002.png")
    search.fill("")
    labels = page.locator("#labels button")
    assert [text.split("\n")[0] for text in labels.all_inner_texts()] == [LABEL, "cold", "warm"]
    page.get_by_role("button", name="Show everything").click()
    labels.nth(1).click()
    assert count.inner_text() == f"40 of {COUNT} images"
    labels.nth(2).click()
    assert visible(page) == 80
    assert labels.nth(2).get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Show all", exact=True).click()
    assert visible(page) == COUNT


def test_thumbnails_are_drawn_when_there_is_room(open_page):
    page = open_page()
    settle(page)
    assert page.locator("#plot").get_attribute("data-pictures") == "1"  # 120 images have room
    page.get_by_label("Thumbnails").uncheck()
    settle(page)
    assert page.locator("#plot").get_attribute("data-pictures") == "0"


def test_touch_selects_and_the_page_fits_a_telephone(open_page, page_file):
    page = open_page(**TELEPHONE)
    outlier = int(np.argmin(page_data(page_file)["x"]))
    page.touchscreen.tap(*place(page, page_file, outlier))
    settle(page)
    assert page.locator("#selection .name").inner_text() == page_data(page_file)["keys"][outlier]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    targets = page.locator("#labels button, #buttons button, #search, #close").all()
    assert all(target.bounding_box()["height"] >= 39 for target in targets)


def test_names_are_text_and_themes_have_contrast(open_page):
    page = open_page(color_scheme="dark", **DESKTOP)
    assert page.locator("h1").inner_text() == EVIL
    assert page.title() == EVIL
    assert page.locator("img").count() == 0
    colours = "((s) => [s.color, s.backgroundColor].map((c) => c.match(/[0-9]+/g).slice(0, 3).map(Number)))"
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        ink, paper = page.evaluate(f"{colours}(getComputedStyle(document.body))")
        assert (sum(paper) > sum(ink)) == (scheme == "light")
        assert abs(sum(paper) - sum(ink)) > 500
