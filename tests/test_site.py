"""The documentation site: pages, references, offline use, search, and telephones."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmix_cli import build_parser

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
ROOT = Path(__file__).parents[1]
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
MODULES = ("glmix", "glmix.layers", "glmix.slots", "glmix.inference", "glmix.deploy", "glmix.data", "glmix.tasks")
# questions of newcomers, in words and as key words, and the sections with the answers
QUESTIONS = {
    ("where do I get weights that work", "weights"): (
        "faq.html#where-do-i-get-weights-that-work",
        "models.html#weights",
    ),
    ("which model for 1,000 images and 8 GB", "model 8 GB"): (
        "faq.html#which-model-for-1000-images-and-8-gb-of-memory",
        "models.html#which-model",
    ),
    ("how do I freeze the backbone", "freeze backbone"): (
        "faq.html#how-do-i-freeze-the-backbone",
        "fine-tuning.html#frozen-layers",
    ),
    ("multi-label from a CSV", "multi-label csv"): (
        "faq.html#how-do-i-train-with-several-labels-per-image-from-a-csv-file",
        "data.html#lists",
    ),
    ("log to W&B", "wandb"): (
        "faq.html#how-do-i-log-to-wb",
        "fine-tuning.html#learning-rate-early-stopping-and-loggers",
    ),
    ("from best.ckpt to an ONNX file", "ckpt onnx"): (
        "faq.html#how-do-i-get-from-bestckpt-to-an-onnx-file",
        "deploy.html#export",
    ),
    ("embed a million images", "million images"): (
        "faq.html#how-do-i-embed-a-million-images",
        "scale.html#what-a-million-images-cost",
    ),
    ("why does my loss become NaN", "loss nan"): ("faq.html#why-does-my-loss-become-nan",),
    ("does it run on my GPU", "run on gpu"): ("faq.html#does-it-run-on-my-gpu", "install.html#gpu"),
}


def pages_of(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        yield from (page for value in nav.values() for page in pages_of(value))
    else:
        yield from (page for value in nav for page in pages_of(value))


def test_the_navigation_has_every_page() -> None:
    pages = list(pages_of(NAV))
    assert len(pages) == len(set(pages))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(pages)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; every warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    before = os.times()
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 60, "`make docs` must take less than two minutes"
    return folder


@pytest.mark.slow
def test_references_have_every_public_name_and_command(site: Path) -> None:
    for name in MODULES:
        text = (site / "reference" / f"{name.rpartition('.')[2]}.html").read_text()
        public = importlib.import_module(name).__all__
        assert [item for item in public if f'id="{name}.{item}"' not in text] == []
    commands = unescape((site / "reference" / "cli.html").read_text())
    (parsers,) = (action for action in build_parser()._actions if action.dest == "command")
    for name, parser in parsers.choices.items():  # type: ignore[union-attr]
        assert f'id="glmix-{name}"' in commands
        options = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
        assert [option for option in sorted(options) if option not in commands] == []
    training = (site / "reference" / "training.html").read_text()
    for option in ("model.optimizer.lr", "model.trainable_stages", "data.source.root", "logger", "early_stopping"):
        assert f"--{option}<" in training


@pytest.mark.slow
def test_pages_load_nothing_from_other_servers(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    loaded = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'> ]+|@import|<link\b[^>]*>"
    )
    for page in pages:
        found = [tag for tag in loaded.findall(page.read_text()) if not tag.startswith("<link") or "//" in tag]
        assert found == [], page.name


@pytest.fixture
def open_page(open_file: Callable[..., Any], site: Path) -> Callable[..., Any]:
    return lambda name, width: open_file(site / name, within=site, viewport={"width": width, "height": 844})


@pytest.mark.slow
def test_the_search_answers_the_questions_of_newcomers(open_page: Callable[..., Any]) -> None:
    """Three clicks: on the search, on "more on this page" if needed, and on one of the first two sections of a page."""
    page = open_page("index.html", 1280)
    field = page.locator("input.md-search__input")
    field.click()
    failed = {}
    for questions, answers in QUESTIONS.items():
        for question in questions:
            for text in ("", question):
                field.fill(text)
                field.press("End")  # the search listens to keys
                found = "!!" if text else "!"
                page.wait_for_function(f"{found}document.querySelector('.md-search-result__item')")
            # each result is a page, whose first link is the page itself and whose other links are sections, best first
            pages = page.eval_on_selector_all(
                ".md-search-result__item",
                "all => all.slice(0, 3).map(one => [...one.querySelectorAll('a')].slice(0, 3).map(link => link.href))",
            )
            links = [re.sub(r"\?[^#]*", "", link).rpartition("/")[2] for links in pages for link in links]
            if not set(links) & set(answers):
                failed[question] = links
    assert failed == {}
    link = page.locator(f"a[href$='#{answers[0].partition('#')[2]}']")
    result = page.locator(".md-search-result__item", has=link)
    if not result.locator(link).is_visible():
        result.locator("summary").click()
    result.locator(link).click()
    page.locator("h3:target", has_text="GPU").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index", "speed", "faq", "reference/slots", "reference/cli", "migration"])
def test_pages_fit_a_telephone(name: str, open_page: Callable[..., Any]) -> None:
    page = open_page(f"{name}.html", 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("h1").is_visible()
