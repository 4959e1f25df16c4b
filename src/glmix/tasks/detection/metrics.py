"""Average precision as COCO defines it, computed by faster-coco-eval, over all processes of a training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.detection.rle import encode_mask
from ...errors import MissingExtraError

__all__ = ["CocoScores", "coco_results"]

# {name: where COCO's summary has it}
SUMMARY = {"AP": 0, "AP50": 1, "AP75": 2, "AP_small": 3, "AP_medium": 4, "AP_large": 5, "AR100": 8}
IOU_TYPES = {"box": "bbox", "mask": "segm"}


def coco_results(
    image_id: int, found: Mapping[str, Tensor], category_ids: Sequence[int] | None = None, mask_threshold: float = 0.5
) -> list[dict[str, Any]]:
    """A detector's answer on an image as COCO writes results: x, y, width, height, score and, as RLE, the mask.

    Args:
        found: boxes (n, 4), labels (n,) from 1, scores (n,) and maybe masks (n, 1, H, W), as torchvision gives them.
        category_ids: of the labels 1, 2, ...; None for the labels themselves.
        mask_threshold: from which probability on a pixel belongs to an object.
    """
    boxes = found["boxes"].detach().float().cpu().clone()
    boxes[:, 2:] -= boxes[:, :2]
    labels, scores = found["labels"].tolist(), found["scores"].float().tolist()
    results = [
        {
            "image_id": image_id,
            "category_id": label if category_ids is None else category_ids[label - 1],
            "bbox": box,
            "score": score,
        }
        for box, label, score in zip(boxes.tolist(), labels, scores, strict=True)
    ]
    if "masks" in found:
        for result, mask in zip(results, found["masks"], strict=True):
            result["segmentation"] = encode_mask((mask[0] >= mask_threshold).cpu().numpy())
    return results


class CocoScores:
    """Collects detections and what there was to detect; every image counts once, on whatever process it was.

    Args:
        class_names: of the labels 1, 2, ...
        masks: judge masks too, beside boxes.
    """

    def __init__(self, class_names: Sequence[str], *, masks: bool) -> None:
        self.class_names = list(class_names)
        self.kinds = ("box", "mask") if masks else ("box",)
        self.reset()

    def reset(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.truth: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []

    def update(self, found: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add images.

        Args:
            found: what `coco_results` takes, for each image.
            targets: for each image_id and size (height, width); for each of its n objects boxes (n, 4), labels,
                iscrowd, area, and with masks either masks (n, H, W) or their run lengths, `rles`.
        """
        for answer, target in zip(found, targets, strict=True):
            image_id = int(target["image_id"])
            height, width = target["size"]
            self.images.append({"id": image_id, "height": int(height), "width": int(width)})
            self.results += coco_results(image_id, answer)
            boxes = torch.as_tensor(target["boxes"]).double().cpu().clone()
            boxes[:, 2:] -= boxes[:, :2]
            rles = target.get("rles")
            if rles is None and "mask" in self.kinds:
                rles = [encode_mask(mask) for mask in np.asarray(target["masks"].cpu())]
            for k, box in enumerate(boxes.tolist()):
                truth = {
                    "image_id": image_id,
                    "category_id": int(target["labels"][k]),
                    "bbox": box,
                    "area": float(target["area"][k]),
                    "iscrowd": int(target["iscrowd"][k]),
                }
                if rles is not None:
                    truth["segmentation"] = rles[k]
                self.truth.append(truth)

    def compute(self) -> dict[str, float]:
        """{"box_AP": ..., "box_AP50": ..., "mask_AP": ...}, from 0 to 1; then begin anew. All processes call it.

        The mean over sizes of which there is no object is left out.
        """
        everything = _gather((self.images, self.truth, self.results))
        self.reset()
        scores = None
        if everything is not None:
            images, truth, results = (
                [item for part in parts for item in part] for parts in zip(*everything, strict=True)
            )
            scores = {
                f"{kind}_{name}": score
                for kind in self.kinds
                for name, score in self._evaluate(kind, images, truth, results).items()
            }
        return _share(scores)

    def _evaluate(
        self,
        kind: str,
        images: list[dict[str, Any]],
        truth: list[dict[str, Any]],
        results: list[dict[str, Any]],
    ) -> dict[str, float]:
        try:
            from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtraError(f"Judging detections needs {error.name}: pip install 'glmix[dense]'") from error

        categories = [{"id": k, "name": name} for k, name in enumerate(self.class_names, start=1)]
        numbered = [{**item, "id": k} for k, item in enumerate(truth, start=1)]  # 0 would be taken for no match
        wanted = COCO({"images": images, "annotations": numbered, "categories": categories})
        # the area of a result decides to which sizes it belongs: that of its mask where masks are judged
        dropped = "bbox" if kind == "mask" else "segmentation"
        given = wanted.loadRes([{k: v for k, v in item.items() if k != dropped} for item in results])
        judge = COCOeval_faster(wanted, given, IOU_TYPES[kind], print_function=_say_nothing)
        judge.run()
        found = {name: float(judge.stats[place]) for name, place in SUMMARY.items()}
        return {name: max(score, 0.0) for name, score in found.items() if score >= 0 or name == "AP"}


def _say_nothing(*args: object, **kwargs: object) -> None:
    pass


def _processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _gather(part: Any) -> list[Any] | None:
    """The parts of all processes, on the first; None on the others."""
    if _processes() == 1:
        return [part]
    parts: list[Any] | None = [None] * _processes() if torch.distributed.get_rank() == 0 else None
    torch.distributed.gather_object(part, parts)
    return parts


def _share(scores: dict[str, float] | None) -> dict[str, float]:
    """What the first process knows, on all."""
    shared = [scores]
    if _processes() > 1:
        torch.distributed.broadcast_object_list(shared)
    assert shared[0] is not None
    return shared[0]
