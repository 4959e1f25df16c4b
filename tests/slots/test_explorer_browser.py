"""The explorer page in a real browser, with mouse, keyboard and touch input."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from glmix.data.scenes import SceneConfig, draw_scene
from glmix.slots.explorer import write_page

from ..browser import DESKTOP, EVIL, LABEL, TELEPHONE, settle


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """Return a folder with a page of one model, and a page of two models of different depths."""
    folder = tmp_path_factory.mktemp("pages")
    image = Image.fromarray(draw_scene(SceneConfig(size=64), "test", 3).image)
    torch.manual_seed(0)
    models = [timm.create_model("test_glnet", num_classes=4, depths=(1, 1, n, 1)).eval() for n in (3, 1)]
    named = {"label_names": lambda index: LABEL if index == 0 else f"class {index}", "title": EVIL + ".png"}
    write_page(folder / f"{EVIL.replace('/', '')}.html", image, [(EVIL, models[0])], **named)
    write_page(folder / "two.html", image, [("first", models[0]), ("second", models[1])], **named)
    plain = timm.create_model("test_glnet", num_classes=0, depths=(1, 1, 1, 1), slot_attention=False)
    write_page(folder / "plain.html", image, [("plain", plain)], title="plain")
    wide = timm.create_model("test_glnet", num_classes=4, depths=(1, 1, 3, 1), slot_grid=(2, 5))
    write_page(folder / "wide.html", image, [("wide", wide)], blocks=[1, 3], size=(64, 96))
    return folder


@pytest.fixture
def open_page(open_file, pages):
    def open_it(name: str = f"{EVIL}.html", **options):
        page = open_file(pages / name, **(options or DESKTOP))
        page.wait_for_selector(".stage[data-slot]")
        return page

    return open_it


def place(page, x, y, stage=0):
    """Return the screen position of a point of the image, given from 0 to 1."""
    box = page.locator(".frame canvas").nth(stage).bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def slot(page, stage=0):
    settle(page)
    return int(page.locator(".stage").nth(stage).get_attribute("data-slot"))


def drawn(page, selector=".frame canvas"):
    """Return the contents of a canvas for comparison."""
    settle(page)
    return page.locator(selector).first.evaluate("(canvas) => canvas.toDataURL()")


def brightness(page):
    """Return the mean brightness of the image, from 0 to 255."""
    settle(page)
    return page.locator(".frame canvas").first.evaluate(
        """(canvas) => {
            const small = new OffscreenCanvas(8, 8).getContext("2d", { willReadFrequently: true });
            small.imageSmoothingQuality = "high";
            small.drawImage(canvas, 0, 0, 8, 8);
            const { data } = small.getImageData(0, 0, 8, 8);
            return data.reduce((sum, value, at) => sum + (at % 4 < 3 ? value : 0), 0) / (3 * 64);
        }"""
    )


def press(page, name, **options):
    page.get_by_role("button", name=name, **options).first.click()
    settle(page)


def test_pointing_highlights_and_describes_the_slot(open_page):
    page = open_page()
    assert slot(page) == -1
    idle, bright = drawn(page), brightness(page)
    page.mouse.move(*place(page, 0.5, 0.5))
    first = slot(page)
    assert first >= 0
    assert brightness(page) < 0.8 * bright  # the other pixels are darker
    line = page.locator(".line").inner_text()
    assert f"Slot {first} " in line
    assert "of this pixel" in line
    assert page.locator(".cells .active").count() == 1
    others = set()
    for x, y in ((0.05, 0.05), (0.95, 0.05), (0.3, 0.6), (0.95, 0.95)):
        page.mouse.move(*place(page, x, y))
        others.add(slot(page))
    assert len(others | {first}) > 1
    page.keyboard.press("Escape")
    assert slot(page) == -1
    assert drawn(page) == idle


def test_strongest_slot_matches_python(open_page, pages):
    page = open_page()
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=4, depths=(1, 1, 3, 1)).eval()
    from glmix.slots import slot_maps
    from glmix.slots.explorer.picture import prepare

    image = Image.fromarray(draw_scene(SceneConfig(size=64), "test", 3).image)
    maps = slot_maps(model, prepare(image, model, None)[0])[0]
    rows, cols = maps.grid
    strongest = maps.assignment[0].argmax(0).unflatten(0, maps.grid)
    for row, col in ((0, 0), (rows // 2, cols // 3), (rows - 1, cols - 1)):
        page.mouse.move(*place(page, (col + 0.5) / cols, (row + 0.5) / rows))
        assert slot(page) == int(strongest[row, col])


def test_slider_keys_and_buttons_change_the_block(open_page):
    page = open_page()
    where, slider = page.locator("#where"), page.get_by_role("slider", name="Block")
    assert where.inner_text() == "Block 0 of 0\u20133"
    first = drawn(page, ".sheet canvas")
    page.keyboard.press("ArrowRight")
    settle(page)
    assert where.inner_text() == "Block 1 of 0\u20133"
    assert drawn(page, ".sheet canvas") != first
    slider.fill("3")
    settle(page)
    assert where.inner_text() == "Block 3 of 0\u20133"
    assert slider.get_attribute("aria-valuetext") == "Block 3, stages.2.blocks.2"
    assert page.get_by_role("button", name="Next block").is_disabled()
    slider.focus()
    page.keyboard.press("ArrowLeft")  # handled once, by the slider
    settle(page)
    assert where.inner_text() == "Block 2 of 0\u20133"
    press(page, "Previous block")
    assert where.inner_text() == "Block 1 of 0\u20133"
    page.mouse.click(*place(page, 0.5, 0.5))  # after a click, the arrow keys still change the block
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert where.inner_text() == "Block 0 of 0\u20133"
    page.keyboard.press("End")
    settle(page)
    assert where.inner_text() == "Block 3 of 0\u20133"


def test_blocks_slots_and_heads_are_numbered_from_0_and_sizes_are_width_by_height(open_page):
    page = open_page("wide.html")
    assert (
        page.locator("#where").inner_text() == "Block 1 of 1\u20133"
    )  # the same indices as in --blocks and in figures
    facts = page.locator(".facts").inner_text()
    assert facts.startswith("Block 1, stages.1.blocks.0")
    assert "12 \u00d7 8 pixels, 5 \u00d7 2 slots" in facts
    assert page.locator(".input-size").inner_text() == "The model sees the whole image at 96 \u00d7 64 pixels."
    labels = [button.get_attribute("aria-label") for button in page.locator(".cells button").all()]
    assert labels[0].startswith("slot 0, row 0, column 0")
    assert labels[9].startswith("slot 9, row 1, column 4")
    assert page.get_by_label("Attention head").locator("option").all_text_contents()[:2] == ["all heads", "head 0"]
    page.keyboard.press("End")
    settle(page)
    assert page.locator(".facts").inner_text().startswith("Block 3, stages.2.blocks.2")


def test_views_differ_and_have_descriptions(open_page):
    page = open_page()
    page.mouse.move(*place(page, 0.5, 0.5))
    seen, texts = [], set()
    for key, name in enumerate(("Assignment", "Clustering", "Attention", "Evidence"), 1):
        page.keyboard.press(str(key))
        settle(page)
        assert page.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "true"
        seen.append(drawn(page))
        texts |= {page.locator("#what").inner_text(), page.locator(".line").inner_text()}
        assert page.locator("#head").is_visible() == (name == "Attention")
    assert all(one != other for at, one in enumerate(seen) for other in seen[:at])
    assert len(texts) == 8
    press(page, "Attention", exact=True)
    mean = page.locator(".line").inner_text()
    page.get_by_label("Attention head").select_option("0")
    settle(page)
    assert page.locator(".line").inner_text() != mean


def test_own_scale_can_be_toggled(open_page):
    page = open_page()
    shared = drawn(page, ".sheet canvas")
    press(page, "Own scale")
    assert page.locator("#own").get_attribute("aria-pressed") == "true"
    assert drawn(page, ".sheet canvas") != shared
    assert "own scale" in page.locator(".note").first.inner_text()
    page.keyboard.press("o")
    assert drawn(page, ".sheet canvas") == shared


def test_pins_persist_across_blocks_and_are_compared(open_page):
    page = open_page()
    page.mouse.click(*place(page, 0.1, 0.1))
    pinned = slot(page)
    page.keyboard.press("ArrowRight")
    page.mouse.click(*place(page, 0.6, 0.6))
    settle(page)
    cards = page.locator(".card")
    assert cards.count() == 2
    assert f"Slot {pinned}" in cards.first.inner_text()
    assert "block 0" in cards.first.inner_text()
    assert "block 1" in cards.nth(1).inner_text()
    overlap = page.get_by_role("table").locator("tbody tr").first.locator("td").nth(1).inner_text()
    assert overlap.endswith("%")
    press(page, "Show pin A")
    assert page.locator("#where").inner_text() == "Block 0 of 0\u20133"
    assert slot(page) == pinned
    assert page.locator(".cells button").nth(pinned).get_attribute("aria-pressed") == "true"
    press(page, "Remove pin A")
    press(page, "Remove pin A")  # previously B
    assert not page.locator("#pins").is_visible()
    for x in range(8):  # at most six pins
        page.mouse.click(*place(page, 0.06 + 0.12 * x, 0.06 + 0.12 * x))
    settle(page)
    assert 0 < page.locator(".card").count() <= 6


def test_classes_show_evidence_per_slot(open_page):
    page = open_page()
    page.mouse.move(*place(page, 0.5, 0.5))
    settle(page)
    rows = page.locator(".class")
    assert rows.count() == 4
    numbers = [text.replace("\u2212", "-") for text in page.locator(".evidence").all_inner_texts()]
    assert all(float(number) == float(number) for number in numbers)
    rows.nth(2).click()
    settle(page)
    assert rows.nth(2).get_attribute("aria-pressed") == "true"
    label = rows.nth(2).locator(".label").inner_text()
    assert label in page.locator(".line").inner_text()
    rows.nth(2).click()  # the second click returns to the previous view
    settle(page)
    assert rows.nth(2).get_attribute("aria-pressed") == "false"


def test_keyboard_controls_everything(open_page):
    page = open_page()
    page.locator(".frame canvas").focus()
    page.keyboard.press("ArrowRight")
    first = slot(page)
    assert first >= 0
    assert (
        page.locator("#where").inner_text() == "Block 0 of 0\u20133"
    )  # on the image, the arrow keys move the selection
    assert page.locator("#announce").inner_text()
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator(".card").count() == 1
    page.locator(".cells button[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    assert slot(page) == (first + 4 if first < 12 else 15)
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator(".card").count() == 2
    page.keyboard.press("p")
    settle(page)
    assert page.locator(".card").count() == 1
    page.keyboard.press("?")
    assert page.locator("#help").get_attribute("open") is not None


def test_every_control_has_an_accessible_name(open_page):
    page = open_page()
    page.mouse.click(*place(page, 0.5, 0.5))
    settle(page)
    names = page.evaluate(
        "[...document.querySelectorAll('button, input, select, canvas[tabindex]')]"
        ".map((e) => e.ariaLabel || e.innerText || [...(e.labels ?? [])].map((l) => l.innerText).join())"
    )
    assert len(names) > 20
    assert all(name.strip() for name in names)


def test_touch_selects_pins_and_does_not_scroll_sideways(open_page):
    page = open_page(**TELEPHONE)
    page.touchscreen.tap(*place(page, 0.5, 0.5))
    first = slot(page)
    assert first >= 0
    assert page.locator(".card").count() == 0  # a tap only selects
    page.locator(".caption button").tap()
    settle(page)
    assert page.locator(".card").count() == 1
    page.locator(".cells button").nth(2).tap()
    assert slot(page) == 2
    assert page.locator(".card").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    targets = page.locator(".quiet:visible, .segments button, .class").all()
    assert all(target.bounding_box()["height"] >= 40 for target in targets)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_themes_have_enough_contrast(open_page, scheme):
    page = open_page(color_scheme=scheme, **DESKTOP)
    ink, paper = page.evaluate(
        "((style) => [style.color, style.backgroundColor].map((c) => c.match(/[0-9]+/g).slice(0, 3).map(Number)))"
        "(getComputedStyle(document.body))"
    )
    assert (sum(paper) > sum(ink)) == (scheme == "light")
    assert abs(sum(paper) - sum(ink)) > 500
    before = drawn(page, ".sheet canvas")
    page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    assert drawn(page, ".sheet canvas") != before


def test_two_models_share_the_selection(open_page):
    page = open_page("two.html")
    assert page.locator(".stage h2").all_inner_texts() == ["first", "second"]
    ends = page.locator(".legend span:last-child").all_inner_texts()
    assert ends[0] == ends[1]  # both models share one scale
    page.mouse.move(*place(page, 0.7, 0.3, stage=1))
    assert slot(page, 0) >= 0
    assert slot(page, 1) >= 0
    page.keyboard.press("End")
    settle(page)
    facts = page.locator(".facts").all_inner_texts()
    assert facts[0].startswith("Block 3, stages.2.blocks.2")  # both models show their last block
    assert facts[1].startswith("Block 2, stages.2.blocks.0")
    page.locator(".panel").nth(1).locator(".class").first.click()
    settle(page)
    assert page.locator(".class[aria-pressed='true']").count() == 2
    page.locator(".panel").nth(1).locator(".cells button").nth(5).click()
    settle(page)
    assert slot(page, 1) == 5
    assert "second" in page.locator(".card").inner_text()


def test_two_models_fit_a_phone(open_page):
    page = open_page("two.html", **TELEPHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.touchscreen.tap(*place(page, 0.5, 0.5))
    assert slot(page, 1) >= 0


def test_model_without_classes_and_attention_disables_views(open_page):
    page = open_page("plain.html")
    assert page.get_by_role("button", name="Attention", exact=True).is_disabled()
    assert page.get_by_role("button", name="Evidence", exact=True).is_disabled()
    page.keyboard.press("3")
    page.mouse.move(*place(page, 0.5, 0.5))
    assert slot(page) >= 0
    assert page.locator(".classes").count() == 0


def test_names_are_displayed_as_text(open_page):
    page = open_page()
    assert page.locator("h1").inner_text() == EVIL + ".png"
    assert page.title() == f"{EVIL}.png \u00b7 slots"
    assert page.locator("img").count() == 0
    assert LABEL in page.locator(".label").all_inner_texts()
    page.keyboard.press("4")
    page.locator(".class", has_text=LABEL).click()
    settle(page)
    assert page.title() == f"{EVIL}.png \u00b7 slots"


def test_reduced_motion_is_respected(open_page):
    page = open_page(reduced_motion="reduce", **DESKTOP)
    durations = page.evaluate(
        "[...document.querySelectorAll('*')].map((e) => parseFloat(getComputedStyle(e).transitionDuration))"
    )
    assert set(durations) == {0}
