"""Data and HTML text of the explorer page."""

import base64
import json
import re
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from glmix.data.scenes import SceneConfig, draw_scene
from glmix.slots import slot_maps
from glmix.slots.evidence import class_activation, slot_evidence
from glmix.slots.explorer import explore, page, page_data, write_page
from glmix.slots.explorer.data import MAX_PIXELS, reduced_maps
from glmix.slots.explorer.pack import Buffer, quantise
from glmix.slots.explorer.picture import prepare
from glmix.slots.maps import BlockMaps

FOLDER = Path(page.__file__).parent
WIDE = (64, 96)


def scene(size: int = 96) -> Image.Image:
    return Image.fromarray(draw_scene(SceneConfig(size=size), "test", 0).image)


def small(**kwargs):
    return timm.create_model("test_glnet", num_classes=7, depths=(1, 1, 1, 1), **kwargs).eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return small()


class Reader:
    """Decode the buffer of a page like its script."""

    def __init__(self, data):
        self.bytes = np.frombuffer(zlib.decompress(base64.b64decode(data["buffer"])), np.uint8)

    def levels(self, entry):
        flat = self.bytes[entry["at"] : entry["at"] + entry["size"]].copy()
        lag = entry["lag"]
        for start in range(lag, flat.size, lag) if lag else ():
            line = flat[start : start + lag]
            line += flat[start - lag : start - lag + line.size]
        return flat

    def rows(self, entry):
        low, high = (np.array(entry[end])[:, None] for end in ("low", "high"))
        levels = self.levels(entry).reshape(len(low), -1)
        return low + levels * (high - low) / 255, (high - low) / 510


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(0, 1, width=32)))
def test_quantisation_error_is_at_most_half_a_step(rows):
    levels, low, high = quantise(rows)
    start, width = np.array(low)[:, None], np.subtract(high, low)[:, None]
    assert (np.abs(start + levels * width / 255 - rows) <= width / 510 + 1e-6 * np.abs(rows)).all()


def test_buffer_round_trip_with_and_without_lag():
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 256, (3, 20), dtype=np.uint8) for _ in range(3)]
    buffer = Buffer()
    places = [buffer.add(array, lag) for array, lag in zip(arrays, (0, 5, 20), strict=True)]
    reader = Reader({"buffer": buffer.text()})
    for array, place in zip(arrays, places, strict=True):
        np.testing.assert_array_equal(reader.levels(place), array.ravel())


def test_page_contains_every_map_within_the_stated_error(model):
    data = page_data(scene(), [("model", model)], size=WIDE)
    images, _ = prepare(scene(), model, WIDE)
    reader = Reader(data)
    for block, maps in zip(data["models"][0]["blocks"], slot_maps(model, images), strict=True):
        assert (block["name"], tuple(block["grid"]), tuple(block["slotGrid"])) == (maps.name, maps.grid, maps.slot_grid)
        assert block["scale"] == pytest.approx(maps.scale, rel=1e-4)
        for name, exact in (
            ("assignment", maps.assignment[0]),
            ("clustering", maps.clustering[0]),
            ("attention", maps.attention[0].flatten(1)),
        ):
            values, bound = reader.rows(block[name])
            assert (np.abs(values - exact.numpy()) <= bound + 1e-6).all(), name
        strongest = reader.levels(block["strongest"]).view("<u2")
        np.testing.assert_array_equal(strongest, maps.assignment[0].argmax(0).numpy())
        np.testing.assert_allclose(block["share"], maps.assignment[0].mean(1), rtol=1e-4)


def test_evidence_of_all_slots_sums_to_the_logits(model):
    images, _ = prepare(scene(), model, WIDE)
    activation = class_activation(model, images)
    with torch.no_grad():
        logits = model(images)
    for maps in slot_maps(model, images):
        evidence = slot_evidence(activation, maps.assignment, maps.grid)
        torch.testing.assert_close(evidence.sum(2), logits, atol=1e-5, rtol=1e-5)


def test_evidence_of_a_slot_equals_the_activation_of_its_region():
    activation = torch.randn(1, 3, 2, 2)
    regions = torch.zeros(1, 4, 8, 8)
    for slot in range(4):
        row, col = 4 * (slot // 2), 4 * (slot % 2)
        regions[0, slot, row : row + 4, col : col + 4] = 1
    evidence = slot_evidence(activation, regions.flatten(2), (8, 8))
    torch.testing.assert_close(evidence, activation.flatten(2) / 4)


@pytest.mark.parametrize(
    ("activation", "grid", "message"),
    [((1, 3, 2, 2), (5, 5), "5 x 5"), ((2, 3, 2, 2), (4, 4), r"\(1, K, h, w\)")],
)
def test_evidence_of_mismatched_shapes_raises(activation, grid, message):
    with pytest.raises(ValueError, match=message):
        slot_evidence(torch.zeros(activation), torch.full((1, 4, 16), 0.25), grid)


def test_evidence_is_relative_to_the_mean_of_all_classes(model):
    data = page_data(scene(), [("model", model)], top=7)["models"][0]
    images, _ = prepare(scene(), model, None)
    with torch.no_grad():
        lead = (logits := model(images)[0]) - logits.mean()
    assert [entry["probability"] for entry in data["classes"]] == sorted(logits.softmax(0).tolist(), reverse=True)
    for block in data["blocks"]:
        for entry, evidence in zip(data["classes"], block["evidence"], strict=True):
            assert sum(evidence) == pytest.approx(float(lead[entry["index"]]), abs=1e-4)


def test_large_grids_are_averaged_and_still_sum_to_one():
    rows, cols, slots = 67, 131, 6
    logits = torch.randn(1, slots, rows * cols)
    maps = BlockMaps("block", 0, (rows, cols), (2, 3), 1.0, logits.softmax(2), logits.softmax(1), logits, logits, None)
    grid, clustering, assignment = reduced_maps(maps)
    assert grid == (34, 66)
    assert grid[0] * grid[1] == clustering.shape[1] <= MAX_PIXELS
    torch.testing.assert_close(clustering.sum(1), torch.ones(slots))
    torch.testing.assert_close(assignment.sum(0), torch.ones(grid[0] * grid[1]))
    corner = logits.softmax(1).unflatten(2, (rows, cols))[0, :, :2, :2]
    torch.testing.assert_close(assignment[:, 0], corner.flatten(1).mean(1))


def test_two_models_list_the_same_classes(model):
    torch.manual_seed(1)
    data = page_data(scene(), [("one", model), ("other", small())], top=2)
    one, other = ({entry["index"] for entry in found["classes"]} for found in data["models"])
    assert one == other
    assert 2 <= len(one) <= 4


def test_label_names_per_model(model):
    data = page_data(scene(), [("a", model), ("b", model)], label_names=[lambda k: f"a{k}", lambda k: f"b{k}"], top=1)
    assert [found["classes"][0]["label"][0] for found in data["models"]] == ["a", "b"]
    with pytest.raises(ValueError, match="one for each of 2 models, got 1"):
        page_data(scene(), [("a", model), ("b", model)], label_names=[str])


def test_multi_label_probabilities_and_evidence(model):
    data = page_data(scene(), [("model", model)], top=7, multi_label=True)["models"][0]
    images, _ = prepare(scene(), model, None)
    with torch.no_grad():
        expected = model(images)[0].sigmoid()
    for entry, evidence in zip(data["classes"], data["blocks"][0]["evidence"], strict=True):
        assert entry["probability"] == pytest.approx(float(expected[entry["index"]]), rel=1e-4)
        assert sum(evidence) == pytest.approx(float(expected[entry["index"]].logit()), abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"clustering": "kmeans"},
        {"clustering": "static"},
        {"slot_attention": False},
        {"in_chans": 1},
        {"seeds": "learned"},
        {"slot_grid": (3, 5)},
        {"global_pool": "max"},
    ],
    ids=str,
)
def test_page_for_every_kind_of_model(options):
    network = timm.create_model("test_glnet", **{"num_classes": 7, "depths": (1, 1, 1, 1), **options})
    text = explore(scene(), [("model", network)])
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert network.training  # unchanged
    assert bool(data["models"][0]["classes"]) == (options.get("num_classes") != 0)


def test_explore_does_not_modify_the_model(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    page_data(scene(), [("model", model)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_picture_has_the_field_of_view_of_the_model_at_higher_resolution():
    network = timm.create_model("test_glnet", num_classes=7)  # 160 pixels, crop_pct 0.95
    images, picture = prepare(scene(480), network, None)
    assert images.shape == (1, 3, 160, 160)
    assert 450 <= picture.width == picture.height <= 460
    seen = timm.data.create_transform(**timm.data.resolve_model_data_config(network))(scene(480))
    mean, std = (torch.tensor(network.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    small_again = np.asarray(picture.resize((160, 160), Image.Resampling.BICUBIC), np.float32) / 255
    assert np.abs(small_again - (seen * std + mean).permute(1, 2, 0).numpy()).mean() < 0.03


def test_small_pictures_are_lossless(model):
    picture = page_data(scene(64), [("model", model)], size=(64, 64))["models"][0]["picture"]
    decoded = Image.open(BytesIO(base64.b64decode(picture["uri"].split(",")[1])))
    assert picture["pixelated"]
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(scene(64)))


@pytest.mark.parametrize("count", [0, 3])
def test_page_takes_one_or_two_models(model, count):
    with pytest.raises(ValueError, match=f"got {count}"):
        explore(scene(), [("model", model)] * count)


def test_non_finite_logits_raise(model):
    broken = small()
    torch.nn.init.constant_(broken.head.fc.weight, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        explore(scene(), [("model", broken)])


def test_unknown_blocks_raise(model):
    with pytest.raises(ValueError, match="3 blocks with slots"):
        explore(scene(), [("model", model)], blocks=[3])


def test_names_and_labels_are_escaped(model):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    text = explore(scene(), [(evil, model)], title=evil + "$data\udcff", label_names=lambda index: evil)
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "<img" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert data["models"][0]["name"] == data["models"][0]["classes"][0]["label"] == evil


def test_page_is_written_atomically(model, tmp_path):
    path = tmp_path / "new" / "page.html"
    write_page(path, scene(), [("model", model)], title="first")
    with pytest.raises(ValueError, match="blocks"):
        write_page(path, scene(), [("model", model)], title="second", blocks=[99])
    assert "<title>first" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_page_size_is_limited():
    model = timm.create_model("glnet_4g").eval()
    assert len(explore(scene(300), [("glnet_4g", model)], blocks=range(10))) < 3_000_000


def test_script_imports_match_exports():
    assert {path.name for path in FOLDER.glob("*.js")} == set(page.SCRIPTS)
    assert {path.name for path in FOLDER.glob("*.css")} == set(page.STYLES)
    names = [
        name
        for script in page.SCRIPTS
        for name in re.findall(
            r"(?m)^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", (FOLDER / script).read_text()
        )
    ]
    assert len(names) == len(set(names)), "in one script, two parts must not give one name twice"
    for number, script in enumerate(page.SCRIPTS):
        text = (FOLDER / script).read_text()
        assert len(text.splitlines()) < 400
        needed = re.findall(r'(?m)^import .* from "./(.*)";$', text)
        assert set(needed) <= set(page.SCRIPTS[:number])
    assert not re.search(r"(?m)^(import|export)\b", page.bundle())
    assert "innerHTML" not in page.bundle()


def test_scripts_are_linted():
    oxlint = Path(sys.executable).with_name("oxlint")
    if not oxlint.exists():
        pytest.skip("oxlint is not installed")
    command = [oxlint, "--deny-warnings", "-D", "correctness", "-D", "suspicious", "-D", "perf", FOLDER]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
