"""The numbers of reports equal those of scikit-learn, torchmetrics, scipy and pycocotools on the same predictions."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
    multiclass_jaccard_index,
)

from glmix.errors import InputError
from glmix.reports import BoxPredictions, ClassPredictions, PixelPredictions, analyse, load_predictions, write_report
from glmix.reports.calibration import fit_temperature
from glmix.reports.multi_label import best_threshold
from glmix.reports.predictions import compact_logits

NAMES = [f"class {k}" for k in range(7)]


def single(count: int = 300, classes: int = 7, seed: int = 0) -> ClassPredictions:
    """Return predictions in which the last class has no image and the first is never predicted."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes - 1, count)
    logits = random.normal(0, 2, (count, classes)).astype(np.float32)
    logits[np.arange(count), targets] += 3
    logits[:, 0] -= 30
    names = [f"{k}.jpg" for k in range(count)]
    return ClassPredictions(class_names=NAMES[:classes], names=names, targets=targets, logits=logits)


def several(count: int = 200, seed: int = 0) -> ClassPredictions:
    """Return predictions with several labels per image; no image has the last class."""
    random = np.random.default_rng(seed)
    targets = (random.random((count, 4)) < (0.5, 0.3, 0.1, 0)).astype(np.int64)
    logits = (random.normal(-1, 2, (count, 4)) + 2.5 * targets).astype(np.float32)
    names = [f"{k}.jpg" for k in range(count)]
    return ClassPredictions(class_names=NAMES[:4], names=names, targets=targets, logits=logits)


def boxes(seed: int = 0) -> BoxPredictions:
    """Return detections of 12 images with shifted boxes, wrong classes, false positives and a crowd."""
    random = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": 100 + k, "width": 200, "height": 200, "file_name": f"{k}.jpg"} for k in range(12)],
        "annotations": [],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "none"}],
    }
    results = []
    for image in truth["images"]:
        for _ in range(4):
            x, y, w, h = (*random.uniform(0, 120, 2), *random.uniform(20, 80, 2))
            category = int(random.choice([3, 7]))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(random.random() < 0.1),
                }
            )
            found = category if random.random() < 0.8 else 10 - category
            bbox = (np.array([x, y, w, h]) + random.normal(0, 4, 4)).tolist()
            results.append({"image_id": image["id"], "category_id": found, "bbox": bbox, "score": random.random()})
        bbox = [*random.uniform(0, 100, 2).tolist(), 30.0, 30.0]
        results.append({"image_id": image["id"], "category_id": 3, "bbox": bbox, "score": random.random()})
    names = [image["file_name"] for image in truth["images"]]
    return BoxPredictions(class_names=["cat", "dog", "none"], names=names, truth=truth, results=results)


def test_scores_of_a_classifier_equal_scikit_learn() -> None:
    predictions = single()
    report = analyse(predictions)
    targets, predicted = predictions.targets, predictions.logits.argmax(1)
    labels = range(7)
    assert np.array_equal(report["confusion"], metrics.confusion_matrix(targets, predicted, labels=labels))
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        targets, predicted, labels=labels, zero_division=np.nan
    )
    for row, p, r, f, n in zip(report["classes"], precision, recall, f1, images, strict=True):
        expected = [None if np.isnan(value) else pytest.approx(value) for value in (p, r)]
        assert [row["precision"], row["recall"], row["images"]] == [*expected, n]
        assert row["f1"] == pytest.approx(f)
    scores = report["scores"]
    probabilities = softmax(predictions.logits.astype(np.float64), 1)
    assert scores["top1"] == pytest.approx(metrics.accuracy_score(targets, predicted))
    assert scores["top5"] == pytest.approx(metrics.top_k_accuracy_score(targets, probabilities, k=5, labels=labels))
    assert scores["mean_recall"] == pytest.approx(np.nanmean(recall))
    assert scores["loss"] == pytest.approx(metrics.log_loss(targets, probabilities, labels=labels), rel=1e-5)
    assert scores["mean_f1"] == pytest.approx(metrics.f1_score(targets, predicted, average="macro", zero_division=0))


def test_calibration_equals_torchmetrics_and_scipy() -> None:
    predictions = single()
    report, targets = analyse(predictions)["calibration"], predictions.targets
    logits = predictions.logits.astype(np.float64)

    def nll(inverse: float) -> float:
        return -log_softmax(logits * inverse, 1)[np.arange(len(targets)), targets].mean()

    best = minimize_scalar(nll, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-8})
    assert report["temperature"] == pytest.approx(1 / best.x, rel=1e-4)
    assert report["after"]["nll"] == pytest.approx(best.fun, rel=1e-6)
    assert report["after"]["nll"] < report["before"]["nll"]
    for part, temperature in (("before", 1.0), ("after", report["temperature"])):
        probabilities = torch.from_numpy(softmax(logits / temperature, 1))
        error = multiclass_calibration_error(probabilities, torch.from_numpy(targets), 7, n_bins=15)
        assert report[part]["ece"] == pytest.approx(float(error), abs=1e-6)
        assert sum(item["count"] for item in report[part]["bins"]) == len(targets)


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 1e3), (-1.0, 1e-3)])
def test_temperature_stays_within_its_limits(factor: float, expected: float) -> None:
    """Logits that say nothing, or are always right, have no best temperature."""
    logits = -factor * np.eye(3, dtype=np.float32)
    predictions = ClassPredictions(class_names=NAMES[:3], names=["a", "b", "c"], targets=np.arange(3), logits=logits)
    assert fit_temperature(predictions) == pytest.approx(expected, rel=0.01)


def test_scores_with_several_labels_equal_scikit_learn() -> None:
    predictions = several()
    report, targets = analyse(predictions), predictions.targets
    scores = expit(predictions.logits.astype(np.float64))
    assert report["classes"][3]["ap"] is None
    for k, row in enumerate(report["classes"][:3]):
        assert row["ap"] == pytest.approx(metrics.average_precision_score(targets[:, k], scores[:, k]), abs=1e-6)
        best = max(metrics.f1_score(targets[:, k], scores[:, k] >= t) for t in np.unique(scores[:, k]))
        chosen = scores[:, k] >= row["threshold"]
        assert row["f1"] == pytest.approx(best)
        assert row["f1"] == pytest.approx(metrics.f1_score(targets[:, k], chosen))
        assert row["precision"] == pytest.approx(metrics.precision_score(targets[:, k], chosen))
        assert row["f1_at_half"] == pytest.approx(metrics.f1_score(targets[:, k], scores[:, k] >= 0.5))
    assert report["scores"]["mAP"] == pytest.approx(np.mean([row["ap"] for row in report["classes"][:3]]))
    expected = metrics.f1_score(targets, scores >= 0.5, average="micro")
    assert report["scores"]["micro_f1_threshold_0.5"] == pytest.approx(expected)
    error = binary_calibration_error(torch.from_numpy(scores).flatten(), torch.from_numpy(targets).flatten(), n_bins=15)
    assert report["calibration"]["before"]["ece"] == pytest.approx(float(error), abs=1e-6)


def test_thresholds_and_temperature_of_other_predictions() -> None:
    predictions, other = several(seed=0), several(seed=1)
    report = analyse(predictions, other, "elsewhere")
    assert [row["threshold"] for row in report["classes"]] == [row["threshold"] for row in analyse(other)["classes"]]
    assert report["calibration"]["temperature"] == fit_temperature(other) != fit_temperature(predictions)
    assert (report["fitted_on"], report["fitted_on_itself"]) == ("elsewhere", False)
    with pytest.raises(InputError, match="elsewhere"):
        analyse(single(), other, "elsewhere")


def test_best_threshold_separates_two_scores() -> None:
    assert best_threshold(np.array([0.2, 0.4, 0.8]), np.array([0, 1, 1])) == pytest.approx(0.3)
    assert best_threshold(np.array([0.2, 0.4]), np.array([0, 0])) == 0.5


def test_scores_of_a_segmentation_equal_torchmetrics(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (5, 8, 8), generator=random)
    predicted = torch.where(torch.rand(truth.shape, generator=random) < 0.6, truth, (truth + 1) % 3)
    predicted[2] = truth[2]
    entries = [(k, t, p) for k in range(5) for t in range(3) for p in range(3)]
    counts = [int(((truth[k] == t) & (predicted[k] == p)).sum()) for k, t, p in entries]
    image, target, found = np.array(entries, np.int32).T
    predictions = PixelPredictions(
        class_names=["a", "b", "c", "absent"],
        names=[f"{k}.png" for k in range(5)],
        image=image,
        target=target,
        predicted=found,
        pixels=np.array(counts),
    )
    report = analyse(predictions)
    expected = multiclass_jaccard_index(predicted, truth, 3, average=None)
    assert [row["iou"] for row in report["classes"]] == [*map(pytest.approx, expected.tolist()), None]
    assert report["scores"]["mIoU"] == pytest.approx(float(expected.mean()))
    assert report["scores"]["pixel_accuracy"] == pytest.approx(float((truth == predicted).float().mean()))
    frequency = torch.bincount(truth.flatten()) / truth.numel()
    assert report["scores"]["frequency_weighted_iou"] == pytest.approx(float((frequency * expected).sum()), rel=1e-5)
    accuracies = (truth == predicted).float().mean((1, 2))
    assert [item["sample"] for item in report["mistakes"]] == [k for k in accuracies.argsort().tolist() if k != 2]
    predictions.save(tmp_path)
    assert analyse(load_predictions(tmp_path))["classes"] == report["classes"]


def test_scores_of_a_detector_equal_pycocotools() -> None:
    predictions = boxes()
    report = analyse(predictions)
    truth = COCO()
    truth.dataset = predictions.truth
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(predictions.results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    assert report["scores"]["box_AP"] == pytest.approx(evaluator.stats[0], abs=1e-6)
    assert report["scores"]["box_AP50"] == pytest.approx(evaluator.stats[1], abs=1e-6)
    precision = evaluator.eval["precision"]
    for k, row in enumerate(report["classes"][:2]):
        assert row["box_AP"] == pytest.approx(precision[:, :, k, 0, -1].mean(), abs=1e-6)
        assert row["box_AP50"] == pytest.approx(precision[0, :, k, 0, -1].mean(), abs=1e-6)
    assert report["classes"][2]["box_AP"] is None
    objects = [item for item in predictions.truth["annotations"] if not item["iscrowd"]]
    assert report["confusion"][:-1].sum() == len(objects)  # each object is in one cell
    sure = sum(item["score"] >= 0.5 for item in predictions.results)
    assert report["confusion"][:, :-1].sum() <= sure  # detections inside of crowds are left out
    scores = [item["score"] for item in report["mistakes"]]
    assert scores == sorted(scores, reverse=True)


def test_detections_match_objects() -> None:
    """A detection of each kind: correct, of another class, twice, of nothing, inside a crowd; and a missed object."""
    corners = {"cat": [0, 0, 10, 10], "dog": [20, 0, 10, 10], "missed": [40, 0, 10, 10], "crowd": [60, 0, 40, 40]}
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 1, "category_id": 1 + (name == "dog"), "bbox": box, "area": 100, "iscrowd": name == "crowd"}
            for name, box in corners.items()
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    found = [(1, [0, 0, 10, 9], 0.9), (1, [20, 0, 10, 9], 0.8), (1, [0, 1, 10, 9], 0.7)]
    found += [(2, [0, 50, 9, 9], 0.6), (1, [65, 5, 9, 9], 0.95), (1, [40, 0, 10, 10], 0.4)]
    results = [{"image_id": 1, "category_id": c, "bbox": box, "score": score} for c, box, score in found]
    predictions = BoxPredictions(class_names=["cat", "dog"], names=["a.jpg"], truth=truth, results=results)
    report = analyse(predictions)
    assert report["confusion"].tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 0]]
    wrong = [(item["target"], item["predicted"], item["score"]) for item in report["mistakes"]]
    assert wrong == [("dog", "cat", 0.8), ("background", "cat", 0.7), ("background", "dog", 0.6)]


def test_stored_logits_keep_predictions_and_probabilities() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 4, (200, 500)).astype(np.float32)
    logits[:, 7] = logits.max(1) + np.linspace(1e-7, 5, 200, dtype=np.float32)
    logits[:, 8] = logits[:, 7] - 1e-6  # a difference that float16 cannot hold
    stored = compact_logits(logits, multi_label=False)
    assert stored.dtype == np.float16
    assert np.array_equal(stored.argmax(1), logits.argmax(1))
    assert np.array_equal(compact_logits(stored, multi_label=False), stored)
    expected = softmax(logits.astype(np.float64), 1)
    likely = expected > 1e-4
    assert np.allclose(softmax(stored.astype(np.float64), 1)[likely], expected[likely], rtol=5e-3)


def test_report_of_many_classes_lists_pairs_and_no_matrix(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 1000, 3000)
    targets[:20] = 5
    predicted = np.where(random.random(3000) < 0.7, targets, (targets + 1) % 1000)
    predicted[targets == 5] = 77
    logits = np.zeros((3000, 1000), np.float16)
    logits[np.arange(3000), predicted] = 9
    predictions = ClassPredictions(
        class_names=[f"c{k}" for k in range(1000)], names=["x"] * 3000, targets=targets, logits=logits
    )
    predictions.save(tmp_path)
    report = write_report(tmp_path)
    pair = report["pairs"][0]
    assert (pair["target"], pair["predicted"], pair["share"]) == ("c5", "c77", 1.0)
    assert "confusion" not in (tmp_path / "report.json").read_text()
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"logits": np.full((2, 2), np.nan)}, "a.jpg"),
        ({"targets": np.array([0, 2])}, "0 to 1"),
        ({"logits": np.zeros((3, 2))}, r"\(3, 2\)"),
        ({"names": [], "targets": np.zeros(0, int), "logits": np.zeros((0, 2))}, "at least one"),
    ],
)
def test_impossible_predictions_are_refused(change: dict[str, Any], fact: str) -> None:
    arguments = {"class_names": NAMES[:2], "names": ["a.jpg", "b"], "targets": np.array([0, 1])}
    with pytest.raises(InputError, match=fact):
        ClassPredictions(**{**arguments, "logits": np.zeros((2, 2)), **change})  # type: ignore[arg-type]
