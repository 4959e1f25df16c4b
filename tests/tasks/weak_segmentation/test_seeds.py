"""Normalisation of class activations, scores and masks of seeds."""

import pytest
import torch

from glmix.tasks.weak_segmentation.seeds import SeedMaps, normalise_activation


def test_normalise_activation_is_0_to_1_and_0_for_absent_classes() -> None:
    activation = torch.tensor([[[[2.0, -1.0], [1.0, 0.0]], [[9.0, 9.0], [9.0, 9.0]], [[-1.0, -2.0], [-3.0, -4.0]]]])
    found = normalise_activation(activation, torch.tensor([[1, 0, 1]]))
    torch.testing.assert_close(found[0, 0], torch.tensor([[1.0, 0.0], [2 / 3, 1 / 3]]))
    assert (found[0, 1] == 0).all()
    torch.testing.assert_close(found[0, 2], torch.tensor([[1.0, 2 / 3], [1 / 3, 0.0]]))


def test_normalise_activation_of_constant_map_is_0() -> None:
    assert (normalise_activation(torch.full((1, 2, 3, 3), 7.0), torch.ones(1, 2)) == 0).all()


def test_score_is_mean_of_class_and_objectness() -> None:
    classes, objectness = torch.rand(2, 3, 4, 5), torch.rand(2, 4, 5)
    torch.testing.assert_close(SeedMaps(classes).score, classes.amax(1))
    torch.testing.assert_close(SeedMaps(classes, objectness).score, (classes.amax(1) + objectness) / 2)


def test_score_is_0_without_class_scores() -> None:
    seeds = SeedMaps(torch.zeros(1, 3, 2, 2), torch.ones(1, 2, 2))
    assert (seeds.score == 0).all()
    assert (seeds.masks(0.3) == 0).all()


def test_masks_use_threshold_and_strongest_class() -> None:
    classes = torch.tensor([[[[0.9, 0.2]], [[0.1, 0.8]]]])
    objectness = torch.tensor([[[0.9, 0.0]]])
    assert SeedMaps(classes, objectness).masks(0.5).tolist() == [[[1, 0]]]
    assert SeedMaps(classes, objectness).masks(0.3).tolist() == [[[1, 2]]]


@pytest.mark.parametrize("objectness", [None, torch.rand(2, 4, 6)])
def test_resizing_and_pamr_keep_classes_and_objectness(objectness: torch.Tensor | None) -> None:
    seeds = SeedMaps(torch.rand(2, 3, 4, 6), objectness)
    images = torch.rand(2, 3, 16, 24)
    for found in (seeds.at((16, 24)), seeds.refined_by_pamr(images)):
        assert found.classes.shape == (2, 3, 16, 24)
        assert (found.objectness is None) == (objectness is None)
        assert found.masks(0.5).shape == (2, 16, 24)
        assert found.score.min() >= 0
        assert found.score.max() <= 1
