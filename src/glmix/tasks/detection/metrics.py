"""COCO average precision over all processes, computed by faster-coco-eval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.detection.rle import encode_mask
from ...errors import needs_extra

__all__ = ["CocoScores", "coco_results", "evaluate_coco", "gather", "summary_of"]

# {name: index in the summary of COCOeval}
SUMMARY = {"AP": 0, "AP50": 1, "AP75": 2, "AP_small": 3, "AP_medium": 4, "AP_large": 5, "AR100": 8}
IOU_TYPES = {"box": "bbox", "mask": "segm"}


def coco_results(
    image_id: int,
    prediction: Mapping[str, Tensor],
    category_ids: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Convert the predictions for an image to the COCO results format, with boxes as x, y, width, height.

    Args:
        image_id: the id of the image.
        prediction: the output of a torchvision detector: boxes (n, 4), labels (n,) from 1, scores (n,) and optionally
            masks (n, 1, H, W), which become RLE of the pixels with a probability of at least 0.5.
        category_ids: the category ids of the labels 1, 2, ...; None uses the labels themselves.
    """
    boxes = prediction["boxes"].detach().float().cpu().clone()
    boxes[:, 2:] -= boxes[:, :2]
    labels, scores = prediction["labels"].tolist(), prediction["scores"].float().tolist()
    results = [
        {
            "image_id": image_id,
            "category_id": label if category_ids is None else category_ids[label - 1],
            "bbox": box,
            "score": score,
        }
        for box, label, score in zip(boxes.tolist(), labels, scores, strict=True)
    ]
    if "masks" in prediction:
        for result, mask in zip(results, prediction["masks"], strict=True):
            result["segmentation"] = encode_mask((mask[0] >= 0.5).cpu().numpy())
    return results


class CocoScores:
    """Metric that collects predictions and ground truth on every process and computes COCO average precision.

    The scores are equal to those of pycocotools. MeanAveragePrecision of torchmetrics with the same backend is not
    used: it fails when processes have different numbers of images, and its default IoU thresholds are rounded to
    float32, which changed scores by up to 5e-4.

    Args:
        class_names: the names of the labels 1, 2, ...
        masks: evaluate masks as well as boxes.
    """

    def __init__(self, class_names: Sequence[str], *, masks: bool) -> None:
        self.class_names = list(class_names)
        self.kinds = ("box", "mask") if masks else ("box",)
        self.reset()

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The categories in the format of COCO, with the ids 1, 2, ..."""
        return [{"id": k, "name": name} for k, name in enumerate(self.class_names, start=1)]

    def reset(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.ground_truth: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []

    def update(self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add images.

        Args:
            predictions: per image, the prediction that `coco_results` takes.
            targets: per image, image_id and size (height, width), and for its n objects boxes (n, 4), labels (n,),
                iscrowd (n,), area (n,) and, to evaluate masks, either masks (n, H, W) or a list of RLE, `rles`.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            self.add(coco_results(int(target["image_id"]), prediction), target)

    def add(self, results: Sequence[dict[str, Any]], target: Mapping[str, Any]) -> None:
        """Add an image.

        Args:
            results: its predictions in the results format of COCO.
            target: see `update`.
        """
        image_id = int(target["image_id"])
        height, width = target["size"]
        self.images.append({"id": image_id, "height": int(height), "width": int(width)})
        self.results += results
        boxes = torch.as_tensor(target["boxes"]).double().cpu().clone()
        boxes[:, 2:] -= boxes[:, :2]
        rles = target.get("rles")
        if rles is None and "mask" in self.kinds:
            rles = [encode_mask(mask) for mask in np.asarray(target["masks"].cpu())]
        for k, box in enumerate(boxes.tolist()):
            annotation = {
                "image_id": image_id,
                "category_id": int(target["labels"][k]),
                "bbox": box,
                "area": float(target["area"][k]),
                "iscrowd": int(target["iscrowd"][k]),
            }
            if rles is not None:
                annotation["segmentation"] = rles[k]
            self.ground_truth.append(annotation)

    def compute(self) -> dict[str, float]:
        """Return {"box_AP": ..., "box_AP50": ..., "mask_AP": ...}, from 0 to 1, and reset. All processes must call it.

        A score for an object size is omitted if there are no objects of that size.
        """
        gathered = gather((self.images, self.ground_truth, self.results))
        self.reset()
        scores = None
        if gathered is not None:
            images, ground_truth, results = (
                [item for process in lists for item in process] for lists in zip(*gathered, strict=True)
            )
            truth = {"images": images, "annotations": ground_truth, "categories": self.categories}
            scores = {
                f"{kind}_{name}": score
                for kind in self.kinds
                for name, score in summary_of(evaluate_coco(truth, results, kind)).items()
            }
        return _broadcast(scores)


def evaluate_coco(truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: str) -> Any:
    """Return the evaluator of faster-coco-eval for detections, after its evaluation.

    Args:
        truth: the ground truth, with images, annotations and categories as in a COCO JSON.
        results: detections in the results format of COCO.
        kind: `box` or `mask`.
    """
    with needs_extra("dense", "average precision"):
        from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]

    annotations = [{**item, "id": k} for k, item in enumerate(truth["annotations"], start=1)]  # 0 means no match
    coco = COCO({**truth, "annotations": annotations})
    # with a box, loadRes takes the area of a result (which decides its size class) from the box, not from the mask
    unused = "bbox" if kind == "mask" else "segmentation"
    found = [{k: v for k, v in item.items() if k != unused} for item in results]
    # before 1.8, loadRes fails if there are no detections
    coco_detections = coco.loadRes(found) if found else COCO({**truth, "annotations": []})
    evaluator = COCOeval_faster(coco, coco_detections, IOU_TYPES[kind], print_function=_print_nothing)
    evaluator.run()
    return evaluator


def summary_of(evaluator: Any) -> dict[str, float]:
    """Return {name: score} of an evaluator. A score for an object size is omitted if there are no such objects."""
    scores = {name: float(evaluator.stats[index]) for name, index in SUMMARY.items()}
    return {name: max(score, 0.0) for name, score in scores.items() if score >= 0 or name == "AP"}


def _print_nothing(*args: object, **kwargs: object) -> None:
    pass


def _world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def gather(value: Any) -> list[Any] | None:
    """Return the values of all processes on rank 0, and None on the others."""
    if _world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * _world_size() if torch.distributed.get_rank() == 0 else None
    torch.distributed.gather_object(value, values)
    return values


def _broadcast(scores: dict[str, float] | None) -> dict[str, float]:
    """Return the scores of rank 0 on all processes."""
    objects = [scores]
    if _world_size() > 1:
        torch.distributed.broadcast_object_list(objects)
    assert objects[0] is not None
    return objects[0]
