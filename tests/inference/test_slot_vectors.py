"""Slots as vectors: they equal the recorded maps, and parts of images are found, located and drawn."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import timm
import torch
from PIL import Image

import glmix
from glmix import inference
from glmix.data.classification.views import input_config, seen_region
from glmix.errors import InputError
from glmix.inference.thumbnails import OUTLINE, Part, draw_part
from glmix.slots import slot_maps
from glmix_cli import main

RED, BLUE = (220, 30, 30), (30, 30, 220)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slots of grey images of 96 x 64 pixels with a red and a blue square in different places, one of them broken."""
    root = tmp_path_factory.mktemp("slots")
    torch.manual_seed(0)
    glmix.save_model(timm.create_model("test_glnet", num_classes=2), root / "model")
    (root / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):
        pixels = generator.integers(100, 140, (64, 96, 3), dtype=np.uint8)
        pixels[8:32, 8 + 8 * number : 32 + 8 * number] = RED
        pixels[36:60, 60 - 8 * number : 84 - 8 * number] = BLUE
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
    (root / "images" / "broken.png").touch()
    arguments = ["--model", f"local-dir:{root}/model", "--view", "whole", "--slots", "--block", "1", "--normalize"]
    assert main(["embed", f"{root}/images", *arguments, "-o", f"{root}/slots", "--dtype", "float16"]) == 1
    return root


def test_stored_slots_equal_those_of_the_model(stored):
    model = glmix.load(stored / "model").network
    output = inference.SlotEmbedding(model, 1, view="whole")
    ((row,),) = inference.run(output, inference.open_source(stored / "images" / "2.png"))
    inputs, size = output.read(stored / "images" / "2.png")
    (maps,) = slot_maps(model, inputs[None], [1])
    torch.testing.assert_close(torch.from_numpy(row["slots"]), maps.slots[0])
    assert (row["grid_height"], row["grid_width"]) == maps.grid
    np.testing.assert_array_equal(row["slot_map"], maps.assignment[0].argmax(0))
    found = inference.load_embeddings(stored / "slots")
    count = maps.slots.shape[1]
    assert [Path(key).name for key in found.keys] == ["0.png", "1.png", "2.png", "3.png"]
    assert found.vectors.shape == (4 * count, maps.slots.shape[2])
    assert (found.slots.images[2 * count + 5], found.slots.numbers[2 * count + 5]) == (2, 5)
    unit = torch.nn.functional.normalize(maps.slots[0], dim=1)
    np.testing.assert_allclose(found.vectors[2 * count : 3 * count], unit, atol=2e-3)
    np.testing.assert_array_equal(found.slots.maps[2], row["slot_map"].reshape(maps.grid))
    assert tuple(found.slots.sizes[2]) == size == (96, 64)
    assert [Path(name).name for name in found.errors] == ["broken.png"]


def test_points_masks_and_boxes_agree(stored):
    slots = inference.load_embeddings(stored / "slots").slots
    slot = slots.slot_at(1, 90, 3)
    left, top, right, bottom = slots.box(1, slot)
    assert left <= 90 < right
    assert top <= 3 < bottom
    rows, cols = slots.maps[1].shape
    assert slots.mask(1, slot)[0, int(90 / 96 * cols)]
    assert rows * cols == sum(slots.mask(1, number).sum() for number in range(slots.numbers.max() + 1))
    with pytest.raises(InputError, match=r"96 3.*96 64"):
        slots.slot_at(1, 96, 3)
    absent = (set(slots.numbers) - set(slots.maps[1].ravel())).pop()
    assert not slots.visible()[(slots.images == 1) & (slots.numbers == absent)]
    with pytest.raises(InputError, match=str(absent)):
        slots.box(1, absent)


def test_part_search_equals_brute_force(stored):
    found = inference.load_embeddings(stored / "slots")
    query = found.vectors[7].astype(np.float32)
    best = {}
    for vector, image, number in zip(
        found.vectors.astype(np.float32), found.slots.images, found.slots.numbers, strict=True
    ):
        score = float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query))
        if image > 0 and number in found.slots.maps[image]:
            best[image] = max(best.get(image, (-1, 0)), (score, number))
    expected = sorted(((score, image, number) for image, (score, number) in best.items()), reverse=True)
    result = inference.nearest_parts(query, found, 2, exclude=0)
    assert [hit[1:] for hit in result] == [(image, number) for _, image, number in expected[:2]]
    assert result[0][0] == pytest.approx(expected[0][0], abs=1e-5)
    with pytest.raises(InputError, match="--slots"):
        inference.nearest_parts(query, inference.Embeddings(["a"], query[None], []))


@pytest.mark.parametrize(("corner", "colour"), [((20, 20), RED), ((70, 48), BLUE)])
def test_neighbors_command_finds_the_part_at_a_point(stored, tmp_path, capsys, corner, colour):
    page = tmp_path / "page.html"
    part = ["--part", "0.png", "--point", *map(str, corner), "-k", "2", "--html", str(page), "--json"]
    assert main(["neighbors", f"{stored}/slots", *part]) == 0
    ((row,)) = json.loads(capsys.readouterr().out)
    assert Path(row["file"]).name == "0.png"
    assert len(row["neighbors"]) == 2
    for hit in row["neighbors"]:
        assert Path(hit["file"]).name != "0.png"
        left, top, right, bottom = map(round, hit["box"])
        pixels = np.asarray(Image.open(hit["file"]))[top:bottom, left:right]
        assert (pixels == colour).all(-1).mean() > 0.2
    assert page.read_text().count("data:image/jpeg") == 3


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--part", "0.png"], "--slot"),
        (["--slot", "1"], "--part"),
        (["--part", "9.png", "--slot", "1"], "9.png"),
        (["--part", "0.png", "--slot", "400"], "400"),
        ([], "--slots"),
    ],
)
def test_mistakes_in_a_part_search_are_named(stored, capsys, options, fact):
    assert main(["neighbors", f"{stored}/slots", *options]) == 2
    assert fact in capsys.readouterr().err


def test_slots_need_a_glnet_and_one_of_its_blocks(stored):
    with pytest.raises(InputError, match="ResNet"):
        inference.SlotEmbedding(timm.create_model("resnet10t"))
    with pytest.raises(InputError, match="99"):
        inference.SlotEmbedding(glmix.load(stored / "model").network, 99)


def test_rows_of_slots_are_readable_without_this_package(stored):
    row = pyarrow.parquet.read_table(stored / "slots").to_pylist()[0]
    assert len(row["slot_map"]) == row["grid_width"] * row["grid_height"]
    assert max(row["slot_map"]) < len(row["slots"])


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(120, 80), (60, 100)])
def test_the_seen_region_is_that_of_the_transform(crop_mode, size):
    """The transform of coordinates shows the positions in the image that the borders of the input have."""
    model = timm.create_model("test_glnet")
    config = input_config(model) | {"input_size": (3, 96, 64), "crop_pct": 0.8, "crop_mode": crop_mode}
    config |= {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear"}
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(width) + 50, np.arange(height)[:, None] + 50
    ramp[..., 2] = 255  # 0 in the padding
    shown = timm.data.create_transform(**config, is_training=False)(Image.fromarray(ramp)).numpy() * 255 - 50
    left, top, right, bottom = seen_region(size, (64, 96), "crop", 0.8, crop_mode)
    inside = shown[2] > 200
    xs = left + (np.arange(64) + 0.5) / 64 * (right - left) - 0.5
    ys = top + (np.arange(96) + 0.5) / 96 * (bottom - top) - 0.5
    expected = np.stack([np.broadcast_to(xs, (96, 64)), np.broadcast_to(ys[:, None], (96, 64))])
    assert inside.mean() > 0.3
    assert np.abs(shown[:2] - expected)[:, inside].max() < 2
    assert seen_region(size, (64, 96), "whole", 0.8) == (0, 0, width, height)


def test_a_part_is_drawn_where_it_is():
    mask = np.zeros((2, 4), bool)
    mask[1, 2] = True
    part = Part(mask, (0.0, 0.0, 400.0, 200.0), (400, 400))  # the grid covers the upper half
    drawn = np.asarray(draw_part(Image.new("RGB", (100, 100), (200, 200, 200)), part))
    edge = (drawn == OUTLINE).all(-1)
    rows, cols = np.nonzero(edge)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (25, 49, 50, 74)
    assert (drawn[37, 62] == 200).all()
    assert (drawn[75, 62] < 200).all()


def test_precision_changes_only_rounding(stored):
    """Optimised copies give the same vectors, and the model of the caller keeps its mode and its classes."""
    model = glmix.load(stored / "model").network.train()
    source = inference.open_source(sorted((stored / "images").glob("?.png")))
    kinds = [
        (inference.Embedding, "embedding"),
        (inference.SlotEmbedding, "slots"),
        (inference.Predictions, "probabilities"),
    ]
    for kind, column in kinds:
        found = []
        for precision in (None, "float32", "bfloat16"):
            output = kind(model, view="whole", precision=precision)
            assert output.options["precision"] == precision
            found.append(np.stack([row[column] for row in next(inference.run(output, source))]))
        np.testing.assert_allclose(found[1], found[0], atol=1e-5 * np.abs(found[0]).max())
        assert 0 < np.abs(found[2] - found[0]).max() < 0.05 * np.abs(found[0]).max()
    assert all(module.training for module in model.modules())


def test_another_precision_in_the_same_folder_is_refused(stored, tmp_path, capsys):
    arguments = ["embed", f"{stored}/images", "--model", f"local-dir:{stored}/model", "-o", f"{tmp_path}/out"]
    assert main(arguments) == 1
    capsys.readouterr()
    assert main([*arguments, "--precision", "bfloat16"]) == 2
    assert re.search(r"precision.*float32.*bfloat16", capsys.readouterr().err)
