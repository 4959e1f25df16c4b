"""Weak segmentation with the classifiers of the study: seeds from image labels, scored against exact masks.

The thresholds are chosen on the validation images, by their masks, and all scores are measured on the test images.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from glmix.data.scenes import Split
from glmix.data.segmentation.files import MaskFiles, open_masks
from glmix.errors import InputError
from glmix.models import GLNet
from glmix.slots.cut import orient_cut, slot_kernel
from glmix.slots.grouping.batch import normalised_images
from glmix.slots.grouping.controls import kmeans_segments, record_features, untrained_like
from glmix.slots.grouping.truth import truths_on_disk
from glmix.tasks.weak_segmentation.methods import SeedConfig, class_maps, seed_maps
from glmix.tasks.weak_segmentation.metrics import THRESHOLDS, Curve, confusions
from glmix.tasks.weak_segmentation.seeds import SeedMaps
from glmix.tasks.weak_segmentation.views import ViewOutputs, run_views
from studies.cutouts.classify import METHODS, MODEL, network_file
from studies.cutouts.training import once

__all__ = ["SEEDS", "evaluate_weak", "trained_networks"]

BATCH = 20
COUNTS: dict[Split, int] = {"val": 100, "test": 200}  # images per split
SLOTCUT = SeedConfig("slotcut")


@dataclass(frozen=True)
class Seeds:
    """Settings of the seeds in a row of the table.

    Args:
        config: settings of class maps and cut.
        cut: replacement for the cut of the trained slots: `untrained` slots, the `centre` box or `k-means` on the
            features that the slots are clustered from.
        untrained: use the untrained network for class maps too.
        output_stride: stride of the last stage, which decides the size of the class maps.
        scale: factor of the size of the image.
    """

    config: SeedConfig = SLOTCUT
    cut: str | None = None
    untrained: bool = False
    output_stride: int = 32
    scale: int = 1


SEEDS = {
    "CAM": Seeds(SeedConfig("cam")),
    "CAM + PAMR": Seeds(SeedConfig("cam", polish=True)),
    "refined by slots": Seeds(SeedConfig("slots")),
    "SlotCut": Seeds(),
    "SlotCut + PAMR": Seeds(SeedConfig(polish=True)),
    "SlotCut, blocks 0 and 1": Seeds(SeedConfig(blocks=(0, 1))),
    "SlotCut, 2 effective slots": Seeds(SeedConfig(effective=2.0)),
    "SlotCut, learned temperature": Seeds(SeedConfig(effective=None)),
    "SlotCut, sign by the border": Seeds(SeedConfig(sign="border")),
    "SlotCut, both of these": Seeds(SeedConfig(sign="border", effective=None)),
    "control: cut of untrained slots": Seeds(cut="untrained"),
    "control: cut of dense features": Seeds(SeedConfig("dense")),
    "control: cut of dense features, sign by the border": Seeds(SeedConfig("dense", sign="border")),
    "control: CAM and k-means of features": Seeds(SeedConfig("cam"), cut="k-means"),
    "control: CAM and centre box": Seeds(SeedConfig("cam"), cut="centre"),
    "control: CAM of an untrained network": Seeds(SeedConfig("cam"), untrained=True),
    "control: SlotCut of an untrained network": Seeds(untrained=True),
    "CAM, output stride 16": Seeds(SeedConfig("cam"), output_stride=16),
    "CAM, output stride 8": Seeds(SeedConfig("cam"), output_stride=8),
    "SlotCut, output stride 8": Seeds(output_stride=8),
    "CAM, images of twice the size": Seeds(SeedConfig("cam"), scale=2),
    "SlotCut, images of twice the size": Seeds(scale=2),
}


def trained_networks(results: Path) -> list[tuple[str, int]]:
    """Return the method and the seed of all finished classifiers."""
    files = sorted((results / "classify").glob("*-seed*.json"))
    runs = [file.stem.rsplit("-seed", 1) for file in files]
    return [(method, int(seed)) for method, seed in runs if method in METHODS and method != "random"]


def evaluate_weak(root: Path, results: Path, size: int, method: str, seed: int) -> None:
    """Score the seeds of one classifier, unless the result exists.

    Args:
        root: folder of the data set.
        results: folder of the results.
        size: side of the images in pixels.
        method: training of the classifier, a key of `METHODS`.
        seed: seed of its training.
    """

    def measure() -> dict[str, Any]:
        files = {split: _evenly(open_masks(root / "voc", split, "voc"), count) for split, count in COUNTS.items()}
        networks = _networks(results, method, seed, files["val"].num_classes - 1)
        counts = {split: _counts(found, size, networks, split) for split, found in files.items()}
        rows, places = {}, counts["test"][1]
        for name in SEEDS:
            threshold = Curve(counts["val"][0][name]).best
            confusion = counts["test"][0][name][THRESHOLDS.index(threshold)]
            inside = confusion[1:, 1:].sum()
            rows[name] = {
                "threshold": threshold,
                "mean_iou": float(Curve(counts["test"][0][name]).at(threshold).mean_iou),
                "foreground_iou": float(inside / (confusion.sum() - confusion[0, 0])),
            }
        return {"method": method, "seed": seed, "size": size, "seeds": rows, "right_side": places}

    found = once(results / "weak" / f"{method}-seed{seed}.json", measure)
    if found["size"] != size:
        raise InputError(
            f"The results in {results / 'weak'} are of --size {found['size']}, not {size}: choose another folder with "
            "--results."
        )


def _evenly(files: MaskFiles, count: int) -> MaskFiles:
    """Return `count` files at equal intervals, or all if there are fewer."""
    chosen = range(0, len(files), max(1, len(files) // count))[:count]
    return replace(
        files,
        names=tuple(files.names[i] for i in chosen),
        images=tuple(files.images[i] for i in chosen),
        masks=tuple(files.masks[i] for i in chosen),
    )


def _networks(results: Path, method: str, seed: int, classes: int) -> dict[tuple[int, bool], GLNet]:
    """Return {(output stride, whether it is untrained): network}."""
    weights = torch.load(network_file(results, method, seed), weights_only=True)
    found: dict[tuple[int, bool], GLNet] = {}
    for stride in sorted({seeds.output_stride for seeds in SEEDS.values()}):
        network: Any = timm.create_model(MODEL, num_classes=classes, output_stride=stride).eval()
        found[stride, True] = untrained_like(network, seed)
        network.load_state_dict(weights)
        found[stride, False] = network
    return found


@torch.inference_mode()
def _counts(
    files: MaskFiles, size: int, networks: dict[tuple[int, bool], GLNet], split: Split
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return confusion matrices (T, K, K) of all `SEEDS`, and means over the images of what `right_side` returns."""
    classes = files.num_classes
    counts = {name: torch.zeros(len(THRESHOLDS), classes, classes, dtype=torch.int64) for name in SEEDS}
    right: dict[str, list[Tensor]] = {}
    truths = list(truths_on_disk(files, size))
    first = networks[32, False]
    for start in tqdm(range(0, len(files), BATCH), desc=f"seeds, {split}", unit="batch", leave=False):
        numbers = range(start, min(start + BATCH, len(files)))
        images = normalised_images(first, [truths[i] for i in numbers])
        masks = torch.stack([torch.from_numpy(files.mask(i)) for i in numbers])[:, None]
        masks = F.interpolate(masks, images.shape[2:], mode="nearest")[:, 0].long()
        present = torch.zeros(len(numbers), classes - 1)
        for row, i in enumerate(numbers):
            present[row, [label - 1 for label in files.labels(i)]] = 1
        batch = _Batch(images, present, networks)
        for name, seeds in SEEDS.items():
            maps = batch.seeds(seeds)
            counts[name] += confusions(maps.score, maps.classes.argmax(1) + 1, masks, classes)
        for name, agreement in batch.right_side(masks > 0).items():
            right.setdefault(name, []).append(agreement)
    return counts, {name: float(torch.cat(parts).float().mean()) for name, parts in right.items()}


class _Batch:
    """Images (B, 3, H, W) with image labels (B, K), and everything that several methods share."""

    def __init__(self, images: Tensor, present: Tensor, networks: dict[tuple[int, bool], GLNet]) -> None:
        self.images, self.present, self.networks = images, present, networks
        self._outputs: dict[tuple[int, bool, int], ViewOutputs] = {}
        self._seeds: dict[Seeds, SeedMaps] = {}
        self._clusters: Tensor | None = None

    def outputs(self, stride: int, untrained: bool, scale: int) -> ViewOutputs:
        key = (stride, untrained, scale)
        if key not in self._outputs:
            images = self.images
            if scale != 1:
                images = F.interpolate(images, scale_factor=scale, mode="bicubic", antialias=True)
            self._outputs[key] = run_views(self.networks[stride, untrained], images)
        return self._outputs[key]

    def seeds(self, seeds: Seeds) -> SeedMaps:
        """Return seeds at the size of the images."""
        plain = replace(seeds, config=replace(seeds.config, polish=False))
        if plain not in self._seeds:
            self._seeds[plain] = self._unrefined(plain)
        found = self._seeds[plain]
        return found.refined_by_pamr(self.images) if seeds.config.polish else found.at(self._size)

    @property
    def _size(self) -> tuple[int, int]:
        return (self.images.shape[2], self.images.shape[3])

    def _unrefined(self, seeds: Seeds) -> SeedMaps:
        outputs = self.outputs(seeds.output_stride, seeds.untrained, seeds.scale)
        classes = class_maps(outputs, self.present, seeds.config)
        if seeds.cut == "centre":
            rows, cols = self._size
            box = torch.zeros(len(classes), rows, cols)
            box[:, rows // 4 : rows - rows // 4, cols // 4 : cols - cols // 4] = 1
            return SeedMaps(SeedMaps(classes).at(self._size).classes, box)
        if seeds.cut == "k-means":
            at_size = SeedMaps(classes).at(self._size).classes
            return SeedMaps(at_size, self._cluster_objectness(at_size.amax(1)))
        other = self.outputs(seeds.output_stride, True, seeds.scale) if seeds.cut == "untrained" else None
        return seed_maps(outputs, classes, seeds.config, cut_maps=other)

    def _cluster_objectness(self, evidence: Tensor) -> Tensor:
        """Return, for each pixel, the mean evidence of its cluster, scaled to 0 to 1 per image.

        The four clusters are those of k-means on the features of the first block with slots.
        """
        if self._clusters is None:
            with record_features(self.networks[32, False]) as kept:
                self.networks[32, False](self.images)
            features = next(iter(kept.values()))
            found = [torch.from_numpy(kmeans_segments(image, 4, self._size)) for image in features]
            self._clusters = torch.stack(found)
        members = F.one_hot(self._clusters, 4).flatten(1, 2).float()  # (B, N, 4)
        sums = torch.einsum("bnc,bn->bc", members, evidence.flatten(1))
        means = sums / members.sum(1).clamp_min(1)
        found_on = torch.einsum("bnc,bc->bn", members, means).unflatten(1, self._size)
        low, high = found_on.amin((1, 2), keepdim=True), found_on.amax((1, 2), keepdim=True)
        return (found_on - low) / (high - low).clamp_min(1e-6)

    def right_side(self, foreground: Tensor) -> dict[str, Tensor]:
        """Return, for each rule that gives a cut its sign, whether the object side is right, (B,).

        A side is right if the cut is higher on the objects (B, H, W) than elsewhere.
        """
        outputs = self.outputs(32, False, 1)
        cut = slot_kernel(outputs.maps).cuts()[1][:, 0]
        on_grid = F.interpolate(foreground[:, None].float(), cut.shape[1:], mode="area")[:, 0]
        truth = on_grid - on_grid.mean((1, 2), keepdim=True)
        evidence = class_maps(outputs, self.present, SLOTCUT).amax(1)
        centred = evidence - evidence.mean((1, 2), keepdim=True)
        spread = truth.flatten(1).norm(dim=1) * (cut - cut.mean((1, 2), keepdim=True)).flatten(1).norm(dim=1)
        return {
            "sign by classes": ((orient_cut(cut, evidence) * truth).sum((1, 2)) > 0).float(),
            "sign by the border": ((orient_cut(cut) * truth).sum((1, 2)) > 0).float(),
            "class maps": ((F.interpolate(centred[:, None], cut.shape[1:])[:, 0] * truth).sum((1, 2)) > 0).float(),
            "correlation of the cut with the objects": (cut * truth).sum((1, 2)).abs() / spread.clamp_min(1e-9),
        }
