"""Scoring of slots and controls, paired differences, tables and plots."""

import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from glmix.data.scenes import SceneConfig, write_scenes
from glmix.data.segmentation.files import open_masks
from glmix.slots.grouping.batch import batches, normalised_images, strongest_slot_segments
from glmix.slots.grouping.margins import interval, margins, mean_of
from glmix.slots.grouping.report import as_json, comparison_table, score_plot, table
from glmix.slots.grouping.scoring import CONTROLS, METRICS, SLOTS, score_slots
from glmix.slots.grouping.truth import scene_truths, truths_on_disk

SCENES = SceneConfig(size=48)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("test_glnet", num_classes=6, output_stride=8).train()


@pytest.fixture(scope="module")
def found(model):
    return score_slots(model, scene_truths(SCENES, "val", 5), segments=[3, 6], batch_size=2)


@pytest.fixture(scope="module")
def blocks(found):
    return found.blocks


def test_all_scores_are_present_and_model_is_unchanged(model, blocks):
    assert [block.place for block in blocks] == [0, 1, 2]
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    for block in blocks:
        assert list(block.values) == [SLOTS, *CONTROLS]
        for method, found in block.values.items():
            assert list(found) == list(METRICS)
            assert all(values.shape == (5,) for values in found.values())
            of_slots = method in (SLOTS, "untrained")
            assert np.isfinite(found["effective_per_pixel"]).all() == of_slots
            assert np.isfinite(found["dead_slots"]).all() == of_slots


def test_controls_have_as_many_segments_as_slots(blocks):
    for block in blocks:
        counts = block.values[SLOTS]["segments"]
        assert (block.values["grid"]["segments"] == counts).all()
        for name in ("SLIC", "SLIC blurred"):
            assert np.abs(block.values[name]["segments"] - counts).mean() <= 2  # SLIC treats the number as approximate
        assert (block.values["k-means"]["segments"] <= counts).all()


def test_scores_are_deterministic_and_independent_of_the_batch(model, blocks):
    again = score_slots(model, scene_truths(SCENES, "val", 5), batch_size=5, blocks=[-1, 1], segments=[]).blocks
    assert [block.place for block in again] == [1, 2]
    for a, b in zip(blocks[1:], again, strict=True):
        for method in a.values:
            for metric in METRICS:
                np.testing.assert_allclose(a.values[method][metric], b.values[method][metric], atol=2e-3)


def test_untrained_model_scores_like_the_untrained_control(blocks):
    torch.manual_seed(3)
    fresh = timm.create_model("test_glnet", num_classes=6, output_stride=8)
    fresh.init_weights()  # same initialisation as the control
    from glmix.slots.grouping.controls import untrained_like

    found = score_slots(untrained_like(fresh), scene_truths(SCENES, "val", 3), controls=["untrained"])
    for block in (*found.blocks, *found.joint):
        for metric in METRICS:
            np.testing.assert_array_equal(block.values[SLOTS][metric], block.values["untrained"][metric])


def test_joint_scores_have_the_requested_number_of_segments(found):
    assert [part.place for part in found.joint] == [3, 6]
    for part in found.joint:
        assert list(part.values) == [SLOTS, *CONTROLS]
        for method in (SLOTS, "untrained", "grid", "k-means"):
            assert (part.values[method]["segments"] <= part.place).all()
            assert part.mean(method, "segments") > part.place - 1
        assert np.isnan(part.mean(SLOTS, "dead_slots"))
    assert len(table(found.joint).splitlines()) == 2 + 2 * 6


def test_segments_are_the_strongest_slots(model):
    from glmix.slots import slot_maps

    (truth,) = scene_truths(SCENES, "val", 1)
    (maps,) = slot_maps(model, normalised_images(model, [truth]), [0])
    assert (strongest_slot_segments(maps, maps.grid)[0].ravel() == maps.assignment[0].argmax(0).numpy()).all()
    assert strongest_slot_segments(maps, (48, 48)).shape == (1, 48, 48)


def test_images_are_normalised_for_the_model(model):
    (truth,) = scene_truths(SCENES, "val", 1)
    images = normalised_images(model, [truth])
    mean, std = (np.array(model.pretrained_cfg[key]) for key in ("mean", "std"))
    expected = (truth.image / 255 - mean) / std
    np.testing.assert_allclose(images[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_batches_have_one_image_size():
    few = list(scene_truths(SCENES, "val", 3)) + list(scene_truths(SceneConfig(size=32), "val", 2))
    assert [len(batch) for batch in batches(few, 2)] == [2, 1, 2]


def test_margins_are_paired_differences_where_higher_is_better():
    values = np.array([0.5, 0.6, np.nan, 0.7])
    worse, better = margins(values, {"a": values - 0.1, "b": values + 0.2})
    assert (worse.control, better.control) == ("b", "a")
    assert worse.mean == pytest.approx(-0.2)
    assert better.mean == pytest.approx(0.1)
    assert worse.half == pytest.approx(0, abs=1e-12)
    assert (worse.verdict, better.verdict) == ("below", "above")
    assert margins(values, {"a": values - 0.1}, better=-1)[0].verdict == "below"
    assert margins(values, {"a": values + np.array([1, -1, 0, 0])})[0].verdict == "level"
    assert margins(values, {"a": np.full(4, np.nan)}) == []
    assert mean_of(values) == pytest.approx(0.6)
    assert interval(values) == pytest.approx(1.96 * 0.1 / 3**0.5)
    assert math.isnan(mean_of(np.array([np.nan])))


def test_tables_show_defined_scores_and_mark_the_best(blocks):
    text = table(blocks)
    assert len(text.splitlines()) == 2 + 3 * 6
    assert all(metric.short in text for metric in METRICS.values())
    signs = comparison_table(blocks)
    assert len(signs.splitlines()) == 2 + 8
    for row in signs.splitlines()[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert all(set(cell) <= set("`+=-") and len(cell) == 5 for cell in cells[1:-1])
    winning = [
        replace(block, values={m: ({**v, "purity": v["purity"] + (m == SLOTS)}) for m, v in block.values.items()})
        for block in blocks
    ]
    assert table(winning).count("**") >= 6
    assert "0, 1, 2" in comparison_table(winning)


def test_json_contains_means_and_errors_without_nan(found):
    import json

    contents = json.loads(json.dumps(as_json(found, {"data": "scenes"}), allow_nan=False))
    first = contents["blocks"][0]
    assert first["scores"]["grid"]["purity"]["images"] == 5
    assert first["scores"]["grid"]["dead_slots"] == {"mean": None, "standard_error": None, "images": 0}
    assert {margin["control"] for margin in first["margins"]["purity"]} == set(CONTROLS)


def test_a_plot_has_a_panel_for_every_metric(blocks):
    figure = score_plot(blocks, "Slots")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [metric.title for metric in METRICS.values()]


def test_folder_of_masks_is_scored_at_the_requested_size(model, tmp_path):
    write_scenes(tmp_path / "voc", "voc", SceneConfig(size=64), {"val": 3})
    files = open_masks(tmp_path / "voc", "val", "voc")
    truths = list(truths_on_disk(files, 48))
    assert [truth.image.shape for truth in truths] == [(48, 48, 3)] * 3
    assert all(truth.objects is not None and truth.objects.max() >= 1 for truth in truths)
    assert all(((truth.foreground == 1) == (truth.objects > 0)).all() for truth in truths)
    assert len(score_slots(model, truths, controls=["grid"], segments=[]).blocks) == 3


def test_object_scores_are_left_out_without_instances(model, tmp_path):
    write_scenes(tmp_path / "ade", "segmentation", SceneConfig(size=48), {"train": 1, "val": 3})
    from glmix.data.segmentation.files import open_masks

    files = open_masks(tmp_path / "ade", "val", "ade20k", classes=6)
    truths = list(truths_on_disk(files, 48))
    assert all(truth.objects is None and truth.foreground is None for truth in truths)
    assert all(truth.regions.min() == -1 for truth in truths)  # the background is unknown
    found = score_slots(model, truths, controls=["grid"], blocks=[0], segments=[]).blocks
    assert "mBO" not in table(found)
    assert "mean best overlap" not in comparison_table(found)
    assert len([axes for axes in score_plot(found, "Slots").axes if axes.axison]) == 9


def test_unreadable_image_is_skipped(tmp_path):
    write_scenes(tmp_path / "voc", "voc", SceneConfig(size=48), {"val": 3})
    (tmp_path / "voc" / "JPEGImages" / "scene_val_00000002.jpg").write_bytes(b"no image")
    files = open_masks(tmp_path / "voc", "val", "voc")
    errors = []
    truths = list(truths_on_disk(files, 48, failed=lambda name, error: errors.append((name, str(error)))))
    assert len(truths) == 2
    ((name, why),) = errors
    assert name == "scene_val_00000002"
    assert "cannot be read" in why
    with pytest.raises(ValueError, match="cannot be read"):
        list(truths_on_disk(files, 48))


def test_unknown_controls_and_no_images_raise(model):
    with pytest.raises(ValueError, match="SLIC blurred, k-means; got 'slic'"):
        score_slots(model, [], controls=["slic"])
    with pytest.raises(ValueError, match="no images"):
        score_slots(model, [])
    with pytest.raises(ValueError, match="2 segments or more, got 1"):
        score_slots(model, [], segments=[1, 4])
