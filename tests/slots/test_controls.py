"""Controls: number of segments, and reproducibility."""

import numpy as np
import pytest
import timm
import torch

from glmix.data.scenes import SceneConfig, draw_scene
from glmix.slots.grouping.controls import Superpixels, kmeans_segments, regular_cells, untrained_like


@pytest.mark.parametrize("shape", [(24, 24), (20, 33), (7, 50), (64, 64)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 9, 13, 16])
def test_regular_grid_has_exactly_the_requested_cells(shape, count):
    labels = regular_cells(*shape, count)
    assert labels.shape == shape
    sizes = np.bincount(labels.ravel())
    assert len(sizes) == count
    assert sizes.max() <= 2 * sizes.min()
    for cell in range(count):
        rows, columns = np.nonzero(labels == cell)
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # a rectangle


def test_sixteen_cells_of_a_square_image_are_4_by_4():
    assert (regular_cells(64, 64, 16) == np.kron(np.arange(16).reshape(4, 4), np.ones((16, 16), int))).all()


def test_regular_grid_has_at_most_one_cell_per_pixel():
    assert len(np.unique(regular_cells(3, 5, 15))) == 15
    with pytest.raises(ValueError, match="1 to 15 cells, got 16"):
        regular_cells(3, 5, 16)


@pytest.mark.parametrize("blur", [0.0, 1 / 32])
def test_number_of_superpixels_is_close_to_the_requested_one(blur):
    image = draw_scene(SceneConfig(), "val", 0).image
    superpixels = Superpixels(image, blur)
    assert superpixels.segments(1).max() == 0
    for count in (4, 9, 16):
        labels = superpixels.segments(count)
        assert labels.shape == (64, 64)
        assert abs(len(np.unique(labels)) - count) <= 0.25 * count
        assert (labels == Superpixels(image, blur).segments(count)).all()


def test_kmeans_separates_clusters():
    features = torch.zeros(4, 6, 8)
    features[0, :, :4] = 1
    features[1, :3, 4:] = 2
    features[2, 3:, 4:] = 3
    labels = kmeans_segments(features, 3, (12, 16))
    assert len(np.unique(labels)) == 3
    for part in (labels[:, :8], labels[:6, 8:], labels[6:, 8:]):
        assert len(np.unique(part)) == 1


def test_kmeans_is_deterministic_and_accepts_few_points():
    features = torch.randn(5, 4, 4)
    assert (kmeans_segments(features, 5, (9, 9)) == kmeans_segments(features, 5, (9, 9))).all()
    assert kmeans_segments(torch.ones(3, 2, 2), 9, (4, 4)).max() < 4


def test_untrained_network_shares_no_weights():
    model = timm.create_model("test_glnet", num_classes=6, slot_grid=(3, 5), layer_scale=0.5)
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.fill_(7.0)
    before = torch.get_rng_state()
    fresh, again, other = untrained_like(model), untrained_like(model), untrained_like(model, 1)
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b, c in zip(
        fresh.state_dict().items(), model.state_dict().values(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(a, c), name
        assert "num_batches" in name or not torch.equal(a, b), name
    assert not torch.equal(fresh.stem.layers.conv1.weight, other.stem.layers.conv1.weight)
    assert not fresh.training
    reference = timm.create_model("test_glnet", num_classes=6, slot_grid=(3, 5), layer_scale=0.5)
    for (name, a), b in zip(fresh.state_dict().items(), reference.state_dict().values(), strict=True):
        if a.is_floating_point() and a.numel() > 500:
            assert a.std() == pytest.approx(float(b.std()), rel=0.2), name
        elif torch.all(b == b.flatten()[0]):
            assert torch.equal(a, b), name  # norms, scales, running statistics
