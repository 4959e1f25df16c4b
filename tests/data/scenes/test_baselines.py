"""Colour and texture baselines."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from glmix.data.scenes import SceneConfig, baseline_accuracies, draw_scene
from glmix.data.scenes.baselines import colour_histograms, fit_logistic, patch_histograms, patch_words

ONE = SceneConfig(objects=(1, 1))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread: many small operations are slow in several threads on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_baselines_are_far_from_perfect() -> None:
    train = [draw_scene(ONE, "train", index) for index in range(800)]
    test = [draw_scene(ONE, "test", index) for index in range(400)]
    accuracies = baseline_accuracies(train, test)
    assert list(accuracies) == ["colour histogram", "3x3 patches"]
    assert accuracies["colour histogram"] < 0.28, "chance is 1/6"
    assert 0.25 < accuracies["3x3 patches"] < 0.5, "texture alone is not enough"
    few = train[:100], test[:50]
    assert baseline_accuracies(*few) == baseline_accuracies(*few), "results are deterministic"


def test_patch_baseline_recognises_textures() -> None:
    discs = replace(ONE, shapes=("disc",))
    train = [draw_scene(discs, "train", index) for index in range(400)]
    test = [draw_scene(discs, "test", index) for index in range(200)]
    assert baseline_accuracies(train, test)["3x3 patches"] > 0.85


def test_histograms_are_square_roots_of_frequencies() -> None:
    images = torch.randint(0, 256, (4, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    words = patch_words(images, count=6, iterations=2)
    for histograms, length in ((colour_histograms(images), 512), (patch_histograms(images, words), 6)):
        assert histograms.shape == (4, length)
        assert torch.allclose(histograms.square().sum(1), torch.ones(4))


def test_one_colour_is_in_one_bin() -> None:
    images = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    images[:, 2] = 0
    assert colour_histograms(images, bins=4).nonzero().tolist() == [[0, 3 * 16 + 3 * 4 + 0]]


def test_logistic_regression_fits_linearly_separable_data() -> None:
    features = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    labels = (features @ torch.tensor([1.0, -2.0, 0.5, 0.0, 0.0]) > 0.3).long()
    mean, weight, bias = fit_logistic(features, labels)
    predicted = ((features - mean) @ weight.t() + bias).argmax(1)
    assert (predicted == labels).float().mean() > 0.97


def test_scenes_of_several_objects_are_an_error() -> None:
    crowd = [draw_scene(SceneConfig(objects=(2, 3)), "train", index) for index in range(3)]
    with pytest.raises(ValueError, match=r"draw them with objects=\(1, 1\)"):
        baseline_accuracies(crowd, crowd)
