"""Average precision equals pycocotools and the definition of COCO, with any number of processes."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from glmix.tasks.detection.metrics import CocoScores, coco_results

SIDE = 120
NAMES = ["a", "b", "c"]


def mask_of(box: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the mask of an ellipse in a box."""
    x1, y1, x2, y2 = box
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    inside: NDArray[np.bool_] = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
    return inside


def case(seed: int, images: int = 6) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return random predictions in the format of the detectors, near the objects of random targets with some crowds."""
    random = np.random.default_rng(seed)
    found, targets = [], []
    for image in range(images):
        n = int(random.integers(0, 6))
        corners = random.uniform(0, 70, (n, 2))
        boxes = np.concatenate([corners, corners + random.uniform(8, 50, (n, 2))], 1)
        labels = random.integers(1, len(NAMES) + 1, n)
        masks = np.array([mask_of(box) for box in boxes]).reshape(n, SIDE, SIDE)
        target = {
            "image_id": 100 - image,
            "size": (SIDE, SIDE),
            "boxes": torch.tensor(boxes),
            "labels": torch.tensor(labels),
            "area": torch.tensor(masks.sum((1, 2)).astype(float)),
            "iscrowd": torch.tensor((random.random(n) < 0.15).astype(int)),
            "masks": torch.tensor(masks),
        }
        guesses = np.concatenate([boxes + random.normal(0, 2, boxes.shape), boxes + random.normal(0, 8, boxes.shape)])
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 2)
        wrong = random.random(2 * n) < 0.2
        predicted = np.where(wrong, random.integers(1, len(NAMES) + 1, 2 * n), np.tile(labels, 2))
        guessed_masks = np.array([mask_of(box) for box in guesses]).reshape(2 * n, 1, SIDE, SIDE)
        found.append(
            {
                "boxes": torch.tensor(guesses, dtype=torch.float32),
                "labels": torch.tensor(predicted),
                "scores": torch.tensor(random.random(2 * n), dtype=torch.float32),
                "masks": torch.tensor(guessed_masks).float(),
            }
        )
        targets.append(target)
    return found, targets


def scored(
    found: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]], *, masks: bool = True
) -> dict[str, float]:
    scores = CocoScores(NAMES, masks=masks)
    for answer, target in zip(found, targets, strict=True):
        scores.update([answer], [target])
    return scores.compute()


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_pycocotools(seed: int) -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    found, targets = case(seed)
    collected = CocoScores(NAMES, masks=True)
    collected.update(found, targets)
    ground_truth = coco.COCO()
    ground_truth.dataset = {
        "info": {},
        "images": collected.images,
        "annotations": [{**item, "id": k} for k, item in enumerate(collected.ground_truth, start=1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES, start=1)],
    }
    ground_truth.createIndex()
    expected = {}
    for kind, iou_type, left_out in (("box", "bbox", "segmentation"), ("mask", "segm", "bbox")):
        results = [{k: v for k, v in item.items() if k != left_out} for item in collected.results]
        evaluation = cocoeval.COCOeval(ground_truth, ground_truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        places = {"AP": 0, "AP50": 1, "AP75": 2, "AP_small": 3, "AP_medium": 4, "AP_large": 5, "AR100": 8}
        expected |= {f"{kind}_{name}": evaluation.stats[place] for name, place in places.items()}
    scores = collected.compute()
    assert 0.05 < scores["box_AP"] < 0.95
    assert set(scores) == {name for name, value in expected.items() if value >= 0}
    for name, value in scores.items():
        assert value == pytest.approx(expected[name], abs=1e-12), name


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    inter = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inter / (sum(areas) - inter)


def by_definition(found: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> dict[float, float]:
    """Return {IoU threshold: AP} by the definition of COCO, without crowds.

    Per class, by descending score, each detection is matched to the unmatched object with the highest IoU.
    AP is the mean of the interpolated precision at 101 recall levels.
    """
    means: dict[float, list[float]] = {}
    for threshold, label in itertools.product(np.linspace(0.5, 0.95, 10).round(2).tolist(), (1, 2, 3)):
        objects = [
            [box for box, k in zip(t["boxes"].tolist(), t["labels"].tolist(), strict=True) if k == label]
            for t in targets
        ]
        total = sum(map(len, objects))
        if not total:
            continue
        guesses = [
            (score, image, box)
            for image, f in enumerate(found)
            for score, box, k in zip(f["scores"].tolist(), f["boxes"].tolist(), f["labels"].tolist(), strict=True)
            if k == label
        ]
        taken: set[tuple[int, int]] = set()
        hits = []
        for _, image, box in sorted(guesses, key=lambda guess: -guess[0]):
            free = [(iou(box, other), k) for k, other in enumerate(objects[image]) if (image, k) not in taken]
            best = max(free, default=(0.0, -1))
            hits.append(best[0] >= threshold)
            if hits[-1]:
                taken.add((image, best[1]))
        right = np.cumsum(hits)
        recall, precision = right / total, right / np.arange(1, len(hits) + 1)
        at = [max(precision[recall >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)]
        means.setdefault(threshold, []).append(float(np.mean(at)))
    return {threshold: float(np.mean(values)) for threshold, values in means.items()}


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_the_definition(seed: int) -> None:
    found, targets = case(seed + 10)
    for target in targets:
        target["iscrowd"] *= 0
    expected = by_definition(found, targets)
    scores = scored(found, targets, masks=False)
    assert scores["box_AP50"] == pytest.approx(expected[0.5], abs=1e-6)
    assert scores["box_AP75"] == pytest.approx(expected[0.75], abs=1e-6)
    assert scores["box_AP"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)


def perfect(targets: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "boxes": t["boxes"].float(),
            "labels": t["labels"],
            "scores": torch.linspace(0.5, 1, len(t["labels"])),
            "masks": t["masks"].unsqueeze(1).float(),
        }
        for t in targets
    ]


def test_scores_of_a_perfect_and_of_an_empty_prediction() -> None:
    _, targets = case(20)
    for target in targets:
        target["boxes"] = target["boxes"].round()
    best = scored(perfect(targets), targets)
    assert best["box_AP"] == best["mask_AP"] == best["box_AP50"] == best["mask_AP50"] == pytest.approx(1)
    nothing = [{name: part[:0] for name, part in answer.items()} for answer in perfect(targets)]
    worst = scored(nothing, targets)
    assert set(worst) == set(best)
    assert set(worst.values()) == {0.0}


def test_scores_without_objects_are_0_instead_of_minus_1() -> None:
    found, targets = case(0)
    for target in targets:
        for name in ("boxes", "labels", "area", "iscrowd", "masks"):
            target[name] = target[name][:0]
    assert scored(found, targets) == {"box_AP": 0.0, "mask_AP": 0.0}


def test_masks_and_rle_of_the_ground_truth_have_equal_scores() -> None:
    from glmix.data.detection.rle import encode_mask

    found, targets = case(30)
    encoded = [
        {**{k: v for k, v in t.items() if k != "masks"}, "rles": [encode_mask(mask.numpy()) for mask in t["masks"]]}
        for t in targets
    ]
    assert scored(found, encoded) == scored(found, targets)


def test_compute_resets_the_metric() -> None:
    found, targets = case(1)
    scores = CocoScores(NAMES, masks=True)
    scores.update(found, targets)
    first = scores.compute()
    scores.update(found, targets)
    assert scores.compute() == first


def test_results_have_the_category_ids_of_the_json() -> None:
    found, _ = case(2)
    answer = next(answer for answer in found if len(answer["labels"]))
    results = coco_results(7, answer, category_ids=[4, 8, 90])
    assert {result["category_id"] for result in results} <= {4, 8, 90}
    x1, y1, x2, y2 = answer["boxes"][0].tolist()
    assert results[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-5)
    assert isinstance(results[0]["segmentation"]["counts"], str)


def _score_share(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found, targets = case(40, images=5)
    result = scored(found[rank::world], targets[rank::world])
    torch.save(result, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_several_processes_equal_one(tmp_path: Path) -> None:
    # forked processes need not import torch again
    torch.multiprocessing.start_processes(_score_share, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    alone = scored(*case(40, images=5))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(alone)
