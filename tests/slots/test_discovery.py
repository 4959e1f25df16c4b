"""Object discovery on simple images, and the controls."""

import json

import numpy as np
import pytest
import timm
import torch
from skimage.measure import label

from glmix.data.scenes import SceneConfig
from glmix.slots.grouping.controls import features_cut
from glmix.slots.grouping.discovery import CONTROLS, METHODS, METRICS, clusters_on_side, connected_components, discover
from glmix.slots.grouping.discovery_report import discovery_json, discovery_sheet, discovery_table, grid_warning
from glmix.slots.grouping.truth import Truth, scene_truths


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("test_glnet", num_classes=6, output_stride=8).train()


def plain(name: str, squares: list[tuple[int, int, int]], size: int = 64) -> Truth:
    """Return an image with bright squares (row, column, side) on black."""
    objects = np.zeros((size, size), np.int64)
    for number, (row, column, side) in enumerate(squares, start=1):
        objects[row : row + side, column : column + side] = number
    image = np.where(objects[..., None] > 0, np.array([250, 240, 30]), 0).astype(np.uint8)
    return Truth(name, image, objects, objects, (objects > 0).astype(np.int64))


@pytest.fixture(scope="module")
def found(model):
    truths = [
        plain("one", [(20, 22, 24)]),
        plain("two", [(6, 8, 18), (38, 36, 20)]),
        *scene_truths(SceneConfig(), "val", 2),
    ]
    return discover(model, truths, blocks=[0], batch_size=3)


def test_every_method_and_control_is_present_and_model_is_unchanged(model, found):
    assert [one.truth.name for one in found] == ["one", "two", "val 0", "val 1"]
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    for one in found:
        assert list(one.groups) == list(one.rows) == [*METHODS, *CONTROLS]
        assert all(groups.shape == (64, 64) for groups in one.groups.values())
        assert all(list(row) == list(METRICS) for row in one.rows.values())


def test_bright_square_is_found_by_an_untrained_network(found):
    """Features differ inside and outside the square, so the cut and k-means work with any network."""
    first = found[0]
    for name in ("cut", "k-means", "features cut", "features k-means"):
        assert first.rows[name]["foreground_iou"] > 0.5, name
        assert first.rows[name]["corloc"] == 1, name
    assert first.rows["centre box"]["foreground_iou"] == pytest.approx(0.5, abs=0.1)


def test_separate_objects_are_different_components_of_the_cut(found):
    second = found[1]
    inside = [second.groups["cut"][second.truth.objects == number] for number in (1, 2)]
    most = [np.bincount(groups).argmax() for groups in inside]
    assert 0 not in most
    assert most[0] != most[1]
    assert np.isfinite(second.rows["cut"]["foreground_ari"])
    assert np.isnan(found[0].rows["cut"]["foreground_ari"])  # not defined for one object


def test_sign_from_border_or_classes(model):
    truth = [plain("one", [(20, 22, 24)])]
    border, classes = discover(model, truth)[0], discover(model, truth, sign="classes")[0]
    a, b = border.groups["cut"] > 0, classes.groups["cut"] > 0
    assert (a == b).all() or (a != b).mean() > 0.95  # the same cut, possibly with the other sign
    with pytest.raises(ValueError, match="'border' or 'classes', got 'up'"):
        discover(model, truth, sign="up")  # type: ignore[arg-type]


def test_discovery_is_deterministic(model, found):
    again = discover(model, [one.truth for one in found], blocks=[0], batch_size=2)
    for a, b in zip(found, again, strict=True):
        for name in a.groups:
            assert (a.groups[name] == b.groups[name]).all(), name


def test_image_independent_controls_are_constant(found):
    for name in ("centre box", "2 x 2 grid"):
        assert all((one.groups[name] == found[0].groups[name]).all() for one in found)
    assert len(np.unique(found[0].groups["2 x 2 grid"])) == 4


def test_components_are_numbered_by_size():
    rng = np.random.default_rng(0)
    mask = rng.random((20, 30)) > 0.5
    parts = connected_components(mask)
    assert ((parts > 0) == mask).all()
    sizes = np.bincount(parts.ravel())[1:]
    assert (np.diff(sizes) <= 0).all()
    assert len(sizes) == label(mask, connectivity=1).max()
    assert connected_components(np.zeros((3, 4), bool)).max() == 0


def test_clusters_mostly_on_the_object_side_are_objects():
    clusters = np.array([[7, 7, 7, 2], [7, 4, 4, 2], [4, 4, 4, 2]])
    side = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 1, 1]], bool)
    groups = clusters_on_side(clusters, side)
    assert len(np.unique(groups[clusters == 7])) == 1
    assert (groups[clusters == 4] == 0).all()
    assert sorted(np.unique(groups).tolist()) == [0, 1, 2]
    # exactly half is not a majority
    assert (clusters_on_side(np.array([[0, 0]]), np.array([[True, False]])) == 0).all()


def test_features_cut_separates_features_at_any_size():
    features = torch.randn(2, 1, 1, 8).expand(2, 20, 25, 8).permute(0, 3, 1, 2).clone()
    features[:, :, 5:15, 8:20] = torch.randn(2, 8, 1, 1)
    features += 0.01 * torch.randn_like(features)
    whole, small = features_cut(features), features_cut(features, most=120)
    assert whole.shape == (2, 20, 25)
    assert small.shape[1] * small.shape[2] <= 120
    for cut in whole:
        inside, outside = cut[5:15, 8:20], cut.clone()
        outside[5:15, 8:20] = torch.nan
        outside = outside[~outside.isnan()]
        assert inside.min() > outside.max() or inside.max() < outside.min()


def test_uniform_image_has_no_objects_and_no_error(model):
    nothing = np.zeros((64, 64), np.int64)
    image = np.full((64, 64, 3), 128, np.uint8)
    (one,) = discover(model, [Truth("grey", image, nothing, nothing, nothing)])
    assert np.isnan(one.rows["cut"]["corloc"])
    assert one.rows["2 x 2 grid"]["foreground_iou"] == 0


def test_undefined_metrics_are_left_out(model):
    (truth,) = scene_truths(SceneConfig(), "val", 1)
    unknown = Truth(truth.name, truth.image, truth.regions, None, truth.foreground)
    found = discover(model, [unknown, unknown])
    assert "foreground IoU" in discovery_table(found)
    assert "mBO" not in discovery_table(found)
    assert grid_warning(found) is None


def test_table_warning_figure_and_json(found):
    text = discovery_table(found)
    assert len(text.splitlines()) == 2 + len(METHODS) + len(CONTROLS)
    assert all(name in text for name in (*METHODS, *CONTROLS, *METRICS.values()))
    warning = grid_warning(found)
    assert warning is not None
    assert "2 x 2" in warning
    contents = json.loads(json.dumps(discovery_json(found, {}), allow_nan=False))
    assert contents["warning"] == warning
    assert set(contents["methods"]) == {*METHODS, *CONTROLS}
    assert len(discovery_sheet(found, "Objects").axes) == 6 * 4


def test_too_few_clusters_and_no_images_raise(model):
    with pytest.raises(ValueError, match="at least 2 clusters"):
        discover(model, [], clusters=1)
    with pytest.raises(ValueError, match="no images"):
        discover(model, [])
