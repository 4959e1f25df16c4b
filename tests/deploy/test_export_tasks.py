"""Exported segmentation networks and detectors agree with PyTorch, and run in a process without PyTorch."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

import glmix
from glmix.deploy import Exported, export_model, load_exported
from glmix.deploy.export.detector import DeployedDetector, check_detector, match_detections
from glmix.tasks.detection import DetectionPredictor
from glmix.tasks.segmentation import SegmentationPredictor
from glmix.tasks.segmentation.network import GridPool
from glmix_cli import main
from tests.checkpoints import CATEGORY_IDS, NAMES, detector, segmenter
from tests.deploy.models import close, pixels

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of each kind of network, and images of several sizes and modes."""
    root = tmp_path_factory.mktemp("tasks")
    for kind in ("mask_rcnn", "retinanet"):
        detector(root, kind)
    segmenter(root, decoder="segformer")
    random = np.random.default_rng(0)
    for k, size in enumerate([(90, 70), (61, 140), (200, 150)]):
        coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8))
        coarse.resize(size).convert("L" if k == 1 else "RGB").save(root / f"photo{k}.png")
    return root


OPTIONS = {"mask_rcnn": ["--runner"], "retinanet": ["--preprocess", "float"], "segmenter": ["--preprocess"]}


@pytest.fixture(scope="module")
def reports(folder: Path) -> dict[str, dict[str, Any]]:
    """The reports of `glmix export --json` by name of the checkpoint."""
    found = {}
    for name, options in OPTIONS.items():
        command = ["export", "--checkpoint", folder / f"{name}.ckpt", "-o", folder / f"{name}.onnx", "--json", *options]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main([*map(str, command)]) == 0
        found[name] = json.loads(printed.getvalue())
    return found


@pytest.fixture(scope="module")
def exported(folder: Path, reports: Any) -> dict[str, Exported]:
    return {name: load_exported(folder / f"{name}.onnx") for name in OPTIONS}


RUN = """
import sys
sys.modules["torch"] = None  # importing torch fails
sys.path.insert(0, sys.argv[1])
import numpy as np
from onnx_model import OnnxModel
found = {}
for name in ("mask_rcnn", "retinanet", "segmenter"):
    model = OnnxModel(f"{sys.argv[1]}/{name}.onnx", threads=1)
    for k in range(3):
        options = {} if name == "segmenter" else {"score": 0.3}
        for key, value in model(f"{sys.argv[1]}/photo{k}.png", **options).items():
            found[f"{name}{k}_{key}"] = value
np.savez(sys.argv[1] + "/found.npz", **found)
"""


@pytest.fixture(scope="module")
def found(folder: Path, reports: Any) -> dict[str, Any]:
    """What a process without torch finds in the images."""
    subprocess.run([sys.executable, "-c", RUN, str(folder)], check=True, timeout=120)
    return dict(np.load(folder / "found.npz"))


@pytest.mark.parametrize("kind", ["mask_rcnn", "retinanet"])
def test_a_process_without_torch_detects_what_the_predictor_detects(folder: Path, found: Any, kind: str) -> None:
    predict = DetectionPredictor.from_checkpoint(folder / f"{kind}.ckpt", score=0.3)
    for k in range(3):
        expected = predict(folder / f"photo{k}.png")
        assert len(expected)
        np.testing.assert_array_equal(found[f"{kind}{k}_labels"], expected.labels)
        np.testing.assert_allclose(found[f"{kind}{k}_scores"], expected.scores, atol=1e-5)
        np.testing.assert_allclose(found[f"{kind}{k}_boxes"], expected.boxes, atol=1e-2)
        assert (f"{kind}{k}_masks" in found) == (expected.masks is not None)
        if expected.masks is not None:
            assert expected.masks.any()
            assert (found[f"{kind}{k}_masks"] != expected.masks).mean() < 1e-3


def test_a_process_without_torch_segments_like_the_predictor(folder: Path, found: Any) -> None:
    predict = SegmentationPredictor.from_checkpoint(folder / "segmenter.ckpt")
    assert len(predict(folder / "photo0.png").classes()) > 1
    for k in range(3):
        expected = predict(folder / f"photo{k}.png").labels
        assert found[f"segmenter{k}_labels"].dtype == np.uint8
        assert (found[f"segmenter{k}_labels"] == expected).mean() > 0.99


def agree_at_any_size(run: Exported, network: nn.Module) -> None:
    mean, std = (torch.tensor(run.about[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    for height, width in [(32, 32), (33, 47), (96, 64), (75, 130)]:
        for batch in (1, 3):
            images = pixels(batch, height, width)
            with torch.no_grad():
                expected = network((images.float() / 255 - mean) / std)
            logits = run(images.permute(0, 2, 3, 1).numpy())["logits"]
            assert logits.shape == (batch, 3, height, width)
            close(logits, expected)


def test_a_segmentation_file_agrees_with_the_network_at_any_size(folder: Path, exported: Any) -> None:
    agree_at_any_size(exported["segmenter"], glmix.load(folder / "segmenter.ckpt").network)


@pytest.mark.slow  # the test above has a decoder of fewer operators
def test_a_file_with_the_fpn_decoder_agrees_with_the_network_at_any_size(tmp_path: Path) -> None:
    network = glmix.load(segmenter(tmp_path)).network
    report = export_model(network, tmp_path / "model.onnx", preprocess="uint8")
    agree_at_any_size(load_exported(report.files[0]), network)


def test_the_files_describe_the_model(exported: dict[str, Exported]) -> None:
    about = {name: run.about for name, run in exported.items()}
    assert [about[name]["task"] for name in OPTIONS] == ["detection", "detection", "segmentation"]
    assert [about[name]["preprocess"] for name in OPTIONS] == ["uint8", "float", "uint8"]
    assert all(one["class_names"] == NAMES for one in about.values())
    assert about["retinanet"]["category_ids"] == CATEGORY_IDS
    assert exported["retinanet"].names == ["boxes", "labels", "scores"]
    assert exported["mask_rcnn"].names == ["boxes", "labels", "scores", "masks"]
    assert about["mask_rcnn"]["score"] == 0.05
    assert about["segmenter"]["resize"] == [80, 60]
    assert about["segmenter"]["mean"] == [0.5, 0.5, 0.5]


def test_the_report_has_every_check(reports: Any, folder: Path) -> None:
    assert [reports[name]["batch"] for name in OPTIONS] == [1, 1, None]
    assert [len(reports[name]["checks"]) for name in OPTIONS] == [4, 4, 10]
    assert all(check["error"] < 1e-4 for report in reports.values() for check in report["checks"])
    assert [Path(file).name for file in reports["mask_rcnn"]["files"]] == ["mask_rcnn.onnx", "onnx_model.py"]


def test_the_score_threshold_is_an_input_of_a_detector(exported: dict[str, Exported]) -> None:
    image = pixels(1, 70, 90).float().numpy() / 255
    found = exported["retinanet"](image, score=0.0)["scores"]
    middle = float(found[:3].mean())
    assert found[-1] < middle < found[0]
    np.testing.assert_array_equal(exported["retinanet"](image, score=middle)["scores"], found[found > middle])
    assert len(exported["retinanet"](image, score=2.0)["scores"]) == 0


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("retinanet", ["-o", "model.pt2"], "can only be exported to onnx"),
        ("retinanet", ["-o", "model.pt2", "--runner"], "only written for onnx"),
        ("segmenter", ["-o", "model.pt2"], "A segmentation network cannot be exported to pt2"),
    ],
)
def test_impossible_exports_are_refused(
    folder: Path, name: str, arguments: list[str], words: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--checkpoint", str(folder / f"{name}.ckpt"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_detectors_and_normalised_images_are_refused(folder: Path, tmp_path: Path) -> None:
    network = glmix.load(folder / "retinanet.ckpt").network
    with pytest.raises(glmix.InputError, match="'uint8' or 'float'"):
        export_model(network, tmp_path / "model.onnx", preprocess="none")
    network.task = None  # as a detector that was built without `build_detector`
    with pytest.raises(glmix.InputError, match="only detectors of"):
        export_model(network, tmp_path / "model.onnx")


def detections(scores: list[float]) -> dict[str, Any]:
    n = len(scores)
    boxes = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    return {"scores": np.array(scores, np.float32), "boxes": boxes, "labels": np.arange(n) % 2 + 1}


def test_wrong_detections_are_counted() -> None:
    right = detections([0.9, 0.5, 0.1])
    assert match_detections(right, right, 100, 1e-4) == (3, 0, 0.0)
    close_by = {**right, "boxes": right["boxes"] + np.float32(0.001)}
    matched, missed, error = match_detections(close_by, right, 100, 1e-4)
    assert (matched, missed) == (3, 0)
    assert error == pytest.approx(1e-5, rel=0.1)
    assert match_detections(detections([0.9, 0.6, 0.1]), right, 100, 1e-4)[:2] == (2, 2)
    other = {**right, "labels": 3 - right["labels"]}
    assert match_detections(other, right, 100, 1e-4)[0] == 0
    assert match_detections({**right, "boxes": right["boxes"] + 1}, right, 100, 1e-4)[0] == 0
    masks = np.zeros((3, 28, 28), np.float32)
    assert match_detections({**right, "masks": masks + 0.1}, {**right, "masks": masks}, 100, 1e-4)[0] == 0


def test_a_wrong_graph_of_a_detector_is_refused(folder: Path, exported: dict[str, Exported]) -> None:
    deployed = DeployedDetector(glmix.load(folder / "retinanet.ckpt").network, "float")

    def shifted(image: Any, score: Any) -> dict[str, Any]:
        detections = exported["retinanet"](image, score=score)
        return {**detections, "boxes": detections["boxes"] + 1}

    with pytest.raises(glmix.InputError, match=r"96 x 64 pixels, only 0 of \d detections agree"):
        check_detector(shifted, deployed)


def test_pasted_masks_are_those_of_torchvision() -> None:
    from glmix.deploy.onnx_model import paste_mask

    torch.manual_seed(0)
    boxes = torch.tensor([[3.2, 4.9, 20.1, 30.7], [0, 0, 50, 40], [48.5, 38.2, 50, 40], [10, 10, 10.2, 10.1]])
    masks = torch.rand(4, 1, 28, 28)
    expected = paste_masks_in_image(masks, boxes, (40, 50)) >= 0.5
    for mask, box, one in zip(masks, boxes, expected, strict=True):
        assert (paste_mask(mask[0].numpy(), box.numpy(), (40, 50)) != one[0].numpy()).mean() < 2e-3


def test_exported_grid_pooling_agrees_at_any_size() -> None:
    pool = GridPool((3, 6))
    side = torch.export.Dim.DYNAMIC
    program = torch.export.export(pool, (torch.rand(1, 2, 9, 8),), dynamic_shapes=({2: side, 3: side},)).module()
    for height, width in [(2, 2), (5, 7), (12, 31)]:
        x = torch.rand(1, 2, height, width)
        torch.testing.assert_close(program(x), nn.AdaptiveAvgPool2d((3, 6))(x))
