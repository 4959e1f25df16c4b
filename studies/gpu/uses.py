"""Checks of the parts that use a model: padded detection, slot maps, the explorer and the inference pipeline."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from glmix import Pyramid
from glmix.models import GLNet

from .settings import Row, Settings, relative_error

__all__ = ["detection", "maps", "pipeline"]


def detection(settings: Settings) -> list[Row]:
    """Compare padded batches with single images on the device, and train detectors with autocast."""
    from glmix.tasks.detection.models import DetectorConfig, build_detector

    rows: list[Row] = []
    full = 96 if settings.smoke else 512
    sizes = [(full, full), (full // 2, full * 3 // 4)]
    for name in settings.pick("glnet_stl", "glnet_4g"):
        backbone: Any = settings.build(name, num_classes=0).to(settings.device).eval()
        pyramid = Pyramid(backbone)
        images = settings.images(2, full).to(settings.device)
        mask = torch.zeros(2, full, full, dtype=torch.bool, device=settings.device)
        for index, (height, width) in enumerate(sizes):
            mask[index, :height, :width] = True
        with torch.inference_mode():
            padded = pyramid(images, mask)
            for index, (height, width) in enumerate(sizes):
                alone = pyramid(images[index : index + 1, :, :height, :width])
                errors = [
                    relative_error(both[index, :, : one.shape[2], : one.shape[3]], one[0])
                    for both, one in zip(padded, alone, strict=True)
                ]
                rows.append(
                    {
                        "model": name,
                        "check": f"image of {width} x {height} in a padded batch",
                        "relative error": max(errors),
                        "passed": max(errors) < 1e-4,
                    }
                )
        for kind in ("retinanet", "mask_rcnn"):
            small: dict[str, Any] = {"channels": 32, "box_features": 64} if settings.smoke else {}
            config = DetectorConfig(kind=kind, min_size=full, max_size=full, **small)
            detector = build_detector(config, settings.build(name, num_classes=0), 3)
            rows.append(_trained(detector.to(settings.device), name, kind, sizes, settings))
    return rows


def _trained(detector: nn.Module, name: str, kind: str, sizes: list[tuple[int, int]], settings: Settings) -> Row:
    """Train a detector for two steps on two images of different sizes with autocast."""
    device = settings.device
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, height, width, generator=generator).to(device) for height, width in sizes]
    targets = []
    for height, width in sizes:
        box = torch.tensor([[4.0, 4.0, width * 0.7, height * 0.7]], device=device)
        masks = torch.zeros(1, height, width, dtype=torch.uint8, device=device)
        masks[:, 4 : int(height * 0.7), 4 : int(width * 0.7)] = 1
        targets.append({"boxes": box, "labels": torch.ones(1, dtype=torch.int64, device=device), "masks": masks})
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    total = torch.zeros(())
    for _ in range(2):
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            losses: dict[str, torch.Tensor] = detector(images, targets)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    finite = all(bool(p.isfinite().all()) for p in detector.parameters())
    return {
        "model": name,
        "check": f"two training steps of {kind} with bfloat16 autocast",
        "loss": total.item(),
        "passed": finite and bool(total.isfinite()),
    }


def maps(settings: Settings) -> list[Row]:
    """Compare slot maps on the device with those on the CPU, and write an explorer page from a model on the device."""
    from glmix.slots import slot_maps
    from glmix.slots.explorer import write_page

    rows: list[Row] = []
    images = settings.images(1)
    for name in settings.pick("glnet_stl", "glnet_4g"):
        model = settings.build(name).eval()
        moved = copy.deepcopy(model).to(settings.device)
        expected, found = slot_maps(model, images), slot_maps(moved, images.to(settings.device))
        for what in ("clustering", "assignment", "mixed"):
            errors = [relative_error(getattr(b, what), getattr(a, what)) for a, b in zip(expected, found, strict=True)]
            rows.append(
                {
                    "model": name,
                    "check": f"{what} of {len(errors)} blocks",
                    "relative error": max(errors),
                    "passed": max(errors) < 1e-3,
                }
            )
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "slots.html"
            write_page(page, _scene(settings.size), [(name, moved)])
            text = page.read_text()
        rows.append(
            {"model": name, "check": f"explorer page of {len(text) >> 10} KiB", "passed": text.endswith("</html>\n")}
        )
    return rows


def _scene(size: int) -> Any:
    """Return a generated image."""
    from PIL import Image

    from glmix.data.scenes import SceneConfig, draw_scene

    return Image.fromarray(draw_scene(SceneConfig(size=size), "val", 0).image)


def pipeline(settings: Settings) -> list[Row]:
    """Run the inference pipeline from files, with worker processes and pinned memory, and compare it with the CPU."""
    from glmix.inference import Files, Predictions, run

    count, batch = (3, 2) if settings.smoke else (256, 32)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        picture = _scene(settings.size)
        for index in range(count):
            picture.rotate(index).save(Path(folder) / f"{index:03}.png")
        source = Files(sorted(str(path) for path in Path(folder).iterdir()))
        (name,) = settings.pick("glnet_stl")
        model = settings.build(name).eval()
        assert isinstance(model, GLNet)
        found = {}
        for device in ("cpu", settings.device):
            output = Predictions(copy.deepcopy(model).to(device), topk=1)
            workers = 0 if settings.smoke else 4
            batches = run(output, source, batch_size=batch, num_workers=workers)
            found[device] = [row for rows_of_batch in batches for row in rows_of_batch]
    failed = [row["error"] for row in found[settings.device] if row["error"] is not None]
    pairs = list(zip(found["cpu"], found[settings.device], strict=True))
    difference = max(abs(a["probabilities"][0] - b["probabilities"][0]) for a, b in pairs)
    rows.append(
        {
            "model": name,
            "check": f"{len(pairs)} images from files",
            "largest difference of probabilities": difference,
            "errors": len(failed),
            "passed": len(pairs) == count and not failed and difference < 1e-4,
        }
    )
    return rows
