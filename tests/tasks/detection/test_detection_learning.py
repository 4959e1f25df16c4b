"""Both detectors learn to detect objects from scratch in less than a minute."""

from pathlib import Path

import pytest

from glmix.data.detection.datamodule import DetectionScenes
from glmix.data.scenes import SceneConfig
from glmix.tasks import Detection, DetectorConfig, OptimizerConfig, ScheduleConfig
from tests.runs import trainer

SCENES = SceneConfig(size=64, shapes=("disc", "cross"), textures=("stripes",), objects=(1, 2), camouflage=0.0)
FEW = {
    "rpn_pre_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_train": 32,
    "rpn_post_nms_top_n_test": 32,
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 16,
}


@pytest.mark.parametrize(
    ("kind", "steps", "bounds"),
    [("retinanet", 200, {"box_AP50": 0.25}), ("mask_rcnn", 120, {"box_AP50": 0.3, "mask_AP50": 0.2})],
)
def test_a_detector_learns(kind: str, steps: int, bounds: dict[str, float], tmp_path: Path) -> None:
    task = Detection(
        model="test_glnet",
        model_args={"depths": (1, 1, 1, 1)},
        detector=DetectorConfig(
            kind=kind,  # type: ignore[arg-type]
            channels=32,
            box_features=64,
            anchor_scale=None if kind == "retinanet" else 6.0,
            min_size=64,
            max_size=64,
            frozen_statistics=False,
            max_detections=10,
            options=FEW if kind == "mask_rcnn" else {},
        ),
        optimizer=OptimizerConfig(lr=2e-3, base_batch=None),
        schedule=ScheduleConfig(warmup_steps=20),
    )
    data = DetectionScenes(SCENES, train_count=8 * steps, val_count=64, batch_size=8, masks=kind == "mask_rcnn")
    trainer(tmp_path, every=1000, max_epochs=1, log_every_n_steps=50).fit(task, data)
    found = {name: float(task.trainer.callback_metrics[f"val/{name}"]) for name in bounds}
    assert all(found[name] > bound for name, bound in bounds.items()), found
