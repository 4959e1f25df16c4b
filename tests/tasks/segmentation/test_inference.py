"""Inference: padding, sliding windows, test-time augmentation; and segmentation metrics."""

import sys
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from glmix.tasks.segmentation.inference import (
    Inference,
    label_map,
    pad_to_multiple,
    segment,
    sliding_window_labels,
    window_starts,
)
from glmix.tasks.segmentation.metrics import scores_of
from tests.processes import Command

SIDES = st.integers(5, 90)


def pointwise() -> nn.Module:
    """Return a 1 x 1 convolution: the scores of a pixel depend only on its colour."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 1).eval()


def coarse(images: Tensor) -> Tensor:
    """A network of stride 4 that accepts only multiples of 32, as many decoders do."""
    assert images.shape[2] % 32 == images.shape[3] % 32 == 0
    return F.interpolate(F.avg_pool2d(images, 4), scale_factor=4, mode="bilinear", align_corners=False)


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, st.integers(1, 40))
def test_padding_is_cropped(height: int, width: int, multiple: int) -> None:
    images = torch.randn(2, 3, height, width)
    padded, mask = pad_to_multiple(images, multiple)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert padded.shape[2] - height < multiple
    assert torch.equal(padded[..., :height, :width], images)
    if mask is not None:
        assert torch.equal(padded * mask.unsqueeze(1), padded)
        assert int(mask.sum()) == 2 * height * width
    else:
        assert padded is images
    network = pointwise()
    assert torch.allclose(segment(network, images, Inference(multiple=multiple)), network(images), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(18, 40), st.integers(18, 40), st.integers(0, 6), st.integers(0, 6))
def test_predictions_do_not_shift(height: int, width: int, down: int, right: int) -> None:
    """The prediction at a position does not depend on the size of the image or on the padding."""
    scene = torch.randn(1, 3, 4 * height, 4 * width)
    part = scene[:, :, 4 * down :, 4 * right :][:, :, : scene.shape[2] - 29, : scene.shape[3] - 26]
    how = Inference(multiple=32)
    whole, alone = segment(coarse, scene, how), segment(coarse, part, how)
    assert alone.shape[2:] == part.shape[2:]
    expected = whole[:, :, 4 * down :, 4 * right :][:, :, : part.shape[2], : part.shape[3]]
    inner = (slice(None), slice(None), slice(4, part.shape[2] - 8), slice(4, part.shape[3] - 8))
    assert torch.allclose(alone[inner], expected[inner], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, st.integers(4, 64), st.data())
def test_sliding_windows_equal_whole_images_for_a_pointwise_network(
    height: int, width: int, window: int, data: Any
) -> None:
    stride = data.draw(st.integers(1, window)) if window < 24 else None
    images, network = torch.randn(1, 3, height, width), pointwise()
    how = Inference("slide", window=window, stride=max(stride, 4) if stride else None)
    assert torch.allclose(segment(network, images, how), network(images), atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_windows_cover_the_whole_length(length: int, window: int, stride: int) -> None:
    stride = min(stride, window)
    starts = window_starts(length, window, stride)
    covered = {index for first in starts for index in range(first, min(first + window, length))}
    assert covered == set(range(length))
    assert starts == sorted(set(starts))
    assert length <= window or starts[-1] + window == length


def test_one_window_that_covers_the_image_equals_the_whole_image() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    images = torch.randn(2, 3, 40, 57)
    assert torch.equal(segment(network, images, Inference("slide", window=64)), network(images))


def test_sliding_windows_equal_whole_images_inside_the_windows() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3, padding=1).eval()
    images = torch.randn(1, 3, 48, 48)
    found = segment(network, images, Inference("slide", window=24, stride=24))
    same = torch.isclose(found, network(images), atol=1e-5).all(1)[0]
    rim = torch.ones(48, 48, dtype=torch.bool)
    for first in (0, 24):  # at the edge of a window, the convolution is padded with zeros
        for other in (0, 24):
            rim[first + 1 : first + 23, other + 1 : other + 23] = False
    rim[0, 1:23] = False  # the edge of the image is padded in both cases
    assert same[~rim].all()
    assert not same[rim[:, :]].all()


def test_predictions_of_flipped_images_are_flipped_back() -> None:
    images, network = torch.randn(1, 3, 20, 33), pointwise()
    found = segment(network, images, Inference(flip=True))
    assert torch.allclose(found, network(images).softmax(1), atol=1e-6)

    def lopsided(x: Tensor) -> Tensor:
        """Predict class 1 in the left half, independent of the image."""
        left = (torch.arange(x.shape[3]) < x.shape[3] // 2).float().expand(x.shape[0], x.shape[2], -1)
        return 50 * torch.stack([1 - left, left], 1)

    both = segment(lopsided, torch.randn(1, 3, 4, 6), Inference(flip=True))
    assert torch.allclose(both, torch.full((1, 2, 4, 6), 0.5))


def test_probabilities_of_all_scales_are_averaged() -> None:
    sizes: list[tuple[int, ...]] = []

    def network(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape[2:]))
        return torch.stack([torch.full_like(x[:, 0], float(len(sizes))), torch.zeros_like(x[:, 0])], 1)

    found = segment(network, torch.randn(1, 3, 32, 48), Inference(scales=(0.5, 1.0, 1.75)))
    assert sizes == [(16, 24), (32, 48), (56, 84)]
    assert torch.allclose(found[0, 0], torch.tensor([1.0, 2.0, 3.0]).sigmoid().mean().expand(32, 48), atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(1, 32, 48), atol=1e-6)


@pytest.mark.parametrize("classes", [1, 3, 16, 17, 40])
def test_label_map_at_another_size_equals_the_argmax_of_resized_scores(classes: int) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, classes, 13, 9)
    expected = F.interpolate(scores, size=(40, 31), mode="bilinear", align_corners=False).argmax(1)
    assert torch.equal(label_map(scores, (40, 31)), expected)
    assert torch.equal(label_map(scores), scores.argmax(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "tiles"}, "mode must be 'whole' or 'slide', got 'tiles'"),
        ({"window": 0}, "window and multiple must be at least 1"),
        ({"stride": 600}, "stride must be from 1 to .*512, got 600"),
        ({"scales": ()}, "scales must be .* above 0"),
        ({"scales": (1.0, -1.0)}, "scales must be .* above 0"),
    ],
)
def test_invalid_settings_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Inference(**options)


def test_a_network_with_another_output_size_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"size \(16, 16\) for images of size \(32, 32\)"):
        segment(nn.MaxPool2d(2), torch.randn(1, 3, 32, 32))


# ---- metrics


def brute_force(predicted: Tensor, truth: Tensor, classes: int) -> tuple[float, float, list[float]]:
    """Return mean IoU, pixel accuracy and IoU per class."""
    pixels = [(int(p), int(t)) for p, t in zip(predicted.flatten(), truth.flatten(), strict=True) if int(t) != 255]
    iou = []
    for k in range(classes):
        intersection = sum(p == k and t == k for p, t in pixels)
        union = sum(p == k or t == k for p, t in pixels)
        iou.append(intersection / union if union else float("nan"))
    occurring = [value for value in iou if value == value]
    return sum(occurring) / len(occurring), sum(p == t for p, t in pixels) / len(pixels), iou


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**16))
def test_metrics_equal_brute_force(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    metric = MulticlassConfusionMatrix(classes, ignore_index=255, validate_args=False)
    predicted = torch.randint(classes, (3, 4, 5), generator=generator)
    truth = torch.randint(classes - 1, (3, 4, 5), generator=generator)  # the last class does not occur
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = 255
    for index in range(3):  # accumulated over images
        metric.update(predicted[index : index + 1], truth[index : index + 1])
    scores = scores_of(metric.compute())
    mean, accuracy, iou = brute_force(predicted, truth, classes)
    assert float(scores.mean_iou) == pytest.approx(mean, abs=1e-6)
    assert float(scores.pixel_accuracy) == pytest.approx(accuracy, abs=1e-6)
    assert scores.iou.tolist() == pytest.approx(iou, abs=1e-6, nan_ok=True)


def test_metrics_of_a_perfect_and_of_a_wrong_prediction() -> None:
    truth = torch.tensor([[1, 1, 2], [2, 255, 1]])
    for predicted, expected in ((truth.clamp_max(2), 1.0), (torch.zeros_like(truth), 0.0)):
        metric = MulticlassConfusionMatrix(3, ignore_index=255, validate_args=False)
        metric.update(predicted, truth)
        scores = scores_of(metric.compute())
        assert float(scores.mean_iou) == expected
        assert float(scores.pixel_accuracy) == expected


def test_mean_iou_without_valid_pixels_is_0() -> None:
    assert float(scores_of(torch.zeros(3, 3)).mean_iou) == 0


@pytest.mark.parametrize("blend", ["mean", "centre"])
@pytest.mark.parametrize("size", [(64, 50), (30, 90), (20, 20), (33, 200)])
def test_sliding_window_labels_equal_the_argmax_of_the_scores(
    size: tuple[int, int], blend: Literal["mean", "centre"]
) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 5, 7, padding=3)
    images = torch.randn(2, 3, *size)
    how = Inference("slide", window=24, stride=10, blend=blend)
    with torch.no_grad():
        expected = segment(network, images, how).argmax(1)
        for per_pass in (1, 3):
            found = sliding_window_labels(network, images, how, per_pass)
            assert (found == expected).float().mean() > 0.999  # sums and means may round differently


@pytest.mark.parametrize("size", [(100, 130), (130, 41)])
def test_the_centres_of_windows_equal_the_whole_image_if_the_overlap_exceeds_the_receptive_field(
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(8, 5, 3, padding=1)).eval()  # a pixel sees 5 pixels in each direction
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        whole = network(images)
        exact = segment(network, images, Inference("slide", 40, 30, blend="centre"))
        assert torch.allclose(exact, whole, atol=1e-6)
        labels = sliding_window_labels(network, images, Inference("slide", 40, 30, blend="centre"))
        assert torch.equal(labels.long(), whole.argmax(1))
        too_small = segment(network, images, Inference("slide", 40, 38, blend="centre"))
        assert not torch.allclose(too_small, whole, atol=1e-3)


MEMORY = """
import resource, torch
from glmix.tasks.segmentation.inference import Inference, label_map, sliding_window_labels
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
network, before = torch.nn.Conv2d(3, 200, 1), peak()
with torch.inference_mode():
    sliding_window_labels(network, torch.zeros(1, 3, 1500, 500), Inference("slide", 100))
    label_map(torch.zeros(1, 200, 15, 5), (1500, 500))
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has another unit on other platforms")
def test_memory_does_not_grow_with_classes_times_pixels() -> None:
    added, errors = Command(code=MEMORY).communicate()
    assert float(added) < 280, "MiB; the scores of all pixels would take 572" + errors
