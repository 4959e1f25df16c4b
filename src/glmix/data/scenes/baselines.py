"""Baseline classifiers for scenes of one object: colour only and local texture only.

Both are a logistic regression on a histogram of the whole image. A useful network must be more accurate. They are
written in torch, because scenes and the demo work without scikit-learn.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError
from .draw import Scene

__all__ = ["baseline_accuracies", "colour_histograms", "fit_logistic", "patch_histograms", "patch_words"]

WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def baseline_accuracies(train: Sequence[Scene], test: Sequence[Scene]) -> dict[str, float]:
    """Return {name: accuracy on `test`} of both baselines, fitted on `train`. Accuracies are from 0 to 1."""
    images, labels = _stack(train)
    test_images, test_labels = _stack(test)
    words = patch_words(images)
    features = {
        "colour histogram": (colour_histograms(images), colour_histograms(test_images)),
        "3x3 patches": (patch_histograms(images, words), patch_histograms(test_images, words)),
    }
    return {
        name: _accuracy(fit_logistic(train_features, labels), test_features, test_labels)
        for name, (train_features, test_features) in features.items()
    }


def _stack(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, H, W) of uint8 and labels (B,)."""
    if any(len(scene.labels) != 1 for scene in scenes):
        raise InputError("The baselines need scenes of exactly one object: draw them with objects=(1, 1).")
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    return images, torch.from_numpy(np.concatenate([scene.labels for scene in scenes]))


def colour_histograms(images: Tensor, bins: int = 8) -> Tensor:
    """Return square roots of joint RGB histograms: (B, 3, H, W) of uint8 -> (B, bins ** 3)."""
    r, g, b = (images.long() * bins // 256).unbind(1)
    return _histograms(((r * bins + g) * bins + b).flatten(1), bins**3)


def patch_words(images: Tensor, count: int = 128, samples: int = 50_000, iterations: int = 15) -> Tensor:
    """Return a vocabulary of 3x3 patches, the centroids of k-means: (B, 3, H, W) -> (count, 9)."""
    generator = torch.Generator().manual_seed(0)
    sampled_images = images[torch.randperm(len(images), generator=generator)[:200]]
    patches = _patches(sampled_images).flatten(0, 1)
    patches = patches[torch.randperm(len(patches), generator=generator)[:samples]]
    words = patches[:count].clone()
    for _ in range(iterations):
        nearest = _nearest(patches, words)
        sums = torch.zeros_like(words).index_add_(0, nearest, patches)
        counts = torch.bincount(nearest, minlength=len(words)).unsqueeze(1)
        words = torch.where(counts > 0, sums / counts.clamp_min(1), words)
    return words


def patch_histograms(images: Tensor, words: Tensor) -> Tensor:
    """Return square roots of histograms of the nearest words of all patches: (B, 3, H, W) -> (B, count)."""
    nearest = torch.cat([_nearest(_patches(part), words) for part in images.split(100)])
    return _histograms(nearest, len(words))


def _patches(images: Tensor) -> Tensor:
    """Return greyscale 3x3 patches at stride 2, normalised in mean and contrast: (B, 3, H, W) -> (B, N, 9).

    Colour patches separate the textures less well for the same vocabulary size, because a texture has many palettes.
    """
    grey = images.float().mean(1, keepdim=True) / 255
    patches = F.unfold(grey, 3, stride=2).transpose(1, 2)
    patches = patches - patches.mean(2, keepdim=True)
    return patches / (patches.norm(dim=2, keepdim=True) + 0.1)


def _nearest(patches: Tensor, words: Tensor) -> Tensor:
    """Return the index of the nearest word: (..., 9), (count, 9) -> (...)."""
    return (patches @ words.t() - words.square().sum(1) / 2).argmax(-1)


def _histograms(bins: Tensor, count: int) -> Tensor:
    """Return square roots of relative frequencies: indices (B, N) below `count` -> (B, count)."""
    histograms = torch.zeros(len(bins), count).scatter_add_(1, bins, torch.ones(1).expand(bins.shape))
    return (histograms / bins.shape[1]).sqrt()


Classifier = tuple[Tensor, Tensor, Tensor]  # mean of the features, weights, bias


def fit_logistic(features: Tensor, labels: Tensor) -> Classifier:
    """Fit a multinomial logistic regression. The last fifth of the data selects the weight decay."""
    cut = len(features) * 4 // 5
    scores = {
        decay: _accuracy(_minimise(features[:cut], labels[:cut], decay), features[cut:], labels[cut:])
        for decay in WEIGHT_DECAYS
    }
    return _minimise(features, labels, max(scores, key=scores.__getitem__))


def _minimise(features: Tensor, labels: Tensor, decay: float) -> Classifier:
    mean = features.mean(0)
    centred = features - mean
    weight = torch.zeros(int(labels.max()) + 1, features.shape[1], requires_grad=True)
    bias = torch.zeros(len(weight), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(F.linear(centred, weight, bias), labels) + decay * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return mean, weight.detach(), bias.detach()


def _accuracy(classifier: Classifier, features: Tensor, labels: Tensor) -> float:
    mean, weight, bias = classifier
    predicted = F.linear(features - mean, weight, bias).argmax(1)
    return (predicted == labels).float().mean().item()
