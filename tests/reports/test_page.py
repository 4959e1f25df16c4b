"""The page of a report in a real browser: tables, figures and pictures on a desktop and on a telephone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glmix.reports import ClassPredictions, write_report
from tests.reports.conftest import SCREENS, cells

EVIL = "<img src=x onerror=document.title='run'>"


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return {number of classes: folder of a report}; names are hostile."""
    folders = {}
    for count in (3, 60):
        random = np.random.default_rng(0)
        targets = random.integers(0, count, 4 * count)
        logits = random.normal(0, 2, (4 * count, count)) + 3 * np.eye(count)[targets]
        names = [f"{EVIL} {k}" for k in range(4 * count)]
        predictions = ClassPredictions(
            class_names=[EVIL, *(f"class {k}" for k in range(1, count))], names=names, targets=targets, logits=logits
        )
        folders[count] = tmp_path_factory.mktemp("report")
        predictions.save(folders[count])
        write_report(folders[count], open_image=lambda k: Image.new("RGB", (30, 20), (k % 256, 0, 0)), title=EVIL)
    return folders


@pytest.mark.parametrize("screen", list(SCREENS))
@pytest.mark.parametrize("count", [3, 60])
def test_hostile_names_are_text(classes: dict[int, Path], open_page: Any, count: int, screen: str) -> None:
    page = open_page(classes[count] / "report.html", screen)
    assert page.title() == EVIL
    assert page.locator("h1").inner_text() == EVIL
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    rows = cells(page, "Classes")
    assert (len(rows), rows[0][0]) == (count, EVIL)
    matrix = page.locator("section", has=page.get_by_role("heading", name="Confusion matrix")).locator(".matrix").first
    assert matrix.evaluate("(element) => element.tagName.toLowerCase()") == ("svg" if count == 3 else "img")
    assert matrix.bounding_box()["width"] > 100


def test_titles_of_columns_sort_the_table(classes: dict[int, Path], open_page: Any) -> None:
    page = open_page(classes[60] / "report.html", "desktop")
    section = page.locator("section", has=page.get_by_role("heading", name="Classes", exact=True))
    button = section.get_by_role("button", name="F1")

    def scores() -> list[float]:
        return [float(row[-1].removesuffix("%")) for row in cells(page, "Classes")]

    before = scores()
    assert before != sorted(before)
    button.click()
    assert scores() == sorted(before)
    button.click()
    assert scores() == sorted(before, reverse=True)
    assert section.locator("th[aria-sort=descending]").inner_text().startswith("F1")
    section.get_by_role("button", name="Class", exact=True).click()
    assert [row[0] for row in cells(page, "Classes")][1:4] == ["class 1", "class 2", "class 3"]


def test_matrix_shows_shares_or_counts(classes: dict[int, Path], open_page: Any) -> None:
    page = open_page(classes[3] / "report.html", "desktop")
    views = page.locator("figure.choice .view")
    assert views.evaluate_all("(all) => all.map((one) => one.offsetHeight > 0)") == [True, False]
    page.get_by_text("Counts", exact=True).click()
    assert views.evaluate_all("(all) => all.map((one) => one.offsetHeight > 0)") == [False, True]
    counts = views.nth(1).locator("text.cell").all_text_contents()
    assert sum(int(count or 0) for count in counts) == 12


def test_page_is_dark_where_the_system_is(classes: dict[int, Path], open_page: Any) -> None:
    background = {}
    for screen in SCREENS:
        page = open_page(classes[3] / "report.html", screen)
        background[screen] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light, dark = (sum(map(int, value[4:-1].split(","))) for value in background.values())
    assert light > 600 > 150 > dark
