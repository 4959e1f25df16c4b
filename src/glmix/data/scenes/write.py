"""Writing of scenes to disk in common data set formats. PNG files and masks have exact values."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import InputError
from ..core.splits import Split
from .draw import LabelledImage, Scene, SceneConfig, draw_scene

__all__ = ["Layout", "atomic_folder", "run_lengths", "write_layout", "write_scenes"]

Layout = Literal["imagefolder", "segmentation", "voc", "coco"]


class ImageSet(Protocol):
    """Properties of a set of images that the writers need, such as those of a `SceneConfig`."""

    @property
    def size(self) -> int: ...

    @property
    def objects(self) -> tuple[int, int]: ...

    @property
    def single(self) -> bool: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...


def write_scenes(
    root: str | os.PathLike[str],
    layout: Layout,
    config: SceneConfig,
    counts: Mapping[Split, int],
    progress: Callable[[], object] | None = None,
) -> None:
    """Write the first scenes of some splits. The folder is created atomically, when all files are complete.

    `imagefolder`: `train/00_disc_stripes/00000000.png`, `val/...`. The numbers in the folder names keep
    the classes in the order of the configuration, because readers number them alphabetically. Only for scenes of one
    object.

    `segmentation`, the format of the ADE20K scene parsing benchmark: `images/training/scene_train_00000001.jpg`,
    `annotations/training/scene_train_00000001.png`, the same in `validation`, and `objectInfo.txt`. Annotations are
    greyscale PNGs with 0 for pixels without a class, here the background, and class + 1. Images are JPEGs of high
    quality, because readers of ADE20K expect that suffix.

    `voc`, the format of Pascal VOC: `JPEGImages/scene_train_00000001.jpg`; palette PNGs of the same name in
    `SegmentationClass`, with class + 1, and in `SegmentationObject`, with the number of the object, both with 0 for the
    background; bounding boxes in `Annotations/*.xml`; the same lists of the splits in `ImageSets/Segmentation/*.txt`
    and in `ImageSets/Main`; `classes.txt` with the name of the background first.

    `coco`: `train2017/000000000001.png`, `annotations/instances_train2017.json`, and `val2017`. Category ids are
    class + 1. Segmentations are uncompressed run-length encodings (RLE), because polygons cannot have the hole of a
    ring.

    Args:
        root: folder that does not exist or is empty.
        layout: format of the files.
        config: configuration of the scenes.
        counts: number of scenes per split.
        progress: function to call after each scene.
    """
    _check(layout, config)
    if not counts or any(count < 1 for count in counts.values()):
        raise InputError(f"Every split needs at least one scene, got {dict(counts)}.")

    def scenes(split: Split) -> Iterator[Scene]:
        for index in range(counts[split]):
            yield draw_scene(config, split, index)
            if progress is not None:
                progress()

    with atomic_folder(Path(root).resolve()) as folder:
        write_layout(folder, layout, config, {split: scenes(split) for split in counts})


def write_layout(
    folder: Path, layout: Layout, images: ImageSet, splits: Mapping[Split, Iterable[LabelledImage]]
) -> None:
    """Write square images with exact labels to an empty folder; see `write_scenes` for the layouts.

    Args:
        folder: an empty folder. `atomic_folder` makes one that appears when it is complete.
        layout: format of the files.
        images: size and classes of the images.
        splits: the images of each split.
    """
    _check(layout, images)
    _WRITERS[layout](folder, images, splits)


def _check(layout: Layout, images: ImageSet) -> None:
    if layout not in _WRITERS:
        raise InputError(f"layout must be one of {', '.join(_WRITERS)}, got {layout!r}.")
    if layout == "imagefolder" and not images.single:
        raise InputError(
            f"The layout imagefolder has one class per image and needs objects=(1, 1), got {images.objects}."
        )


@contextlib.contextmanager
def atomic_folder(root: Path) -> Iterator[Path]:
    """Yield a temporary folder and rename it to `root` at the end. It is removed after an error."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not an empty folder: choose another.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as parent:
        folder = Path(parent, root.name)
        folder.mkdir()
        yield folder
        folder.replace(root)


def _write_imagefolder(folder: Path, config: ImageSet, splits: Mapping[Split, Iterable[LabelledImage]]) -> None:
    names = [f"{k:02d}_{name}" for k, name in enumerate(config.class_names)]
    for split, scenes in splits.items():
        for name in names:
            (folder / split / name).mkdir(parents=True)
        seen = set()
        for index, scene in enumerate(scenes):
            label = int(scene.labels[0])
            seen.add(label)
            Image.fromarray(scene.image).save(folder / split / names[label] / f"{index:08d}.png")
        if len(seen) < len(names):
            missing = names[min(set(range(len(names))) - seen)]
            raise InputError(f"No scene of the split {split} has the class {missing}: increase the number of scenes.")


def _write_segmentation(folder: Path, config: ImageSet, splits: Mapping[Split, Iterable[LabelledImage]]) -> None:
    pixels = np.zeros(config.num_classes + 1)
    images_with: dict[str, NDArray[np.int64]] = {}
    for split, scenes in splits.items():
        long_name = {"train": "training", "val": "validation", "test": "testing"}[split]
        images, annotations = folder / "images" / long_name, folder / "annotations" / long_name
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        images_with[split] = np.zeros(config.num_classes + 1, np.int64)
        for number, scene in enumerate(scenes, start=1):
            name = f"scene_{split}_{number:08d}"
            Image.fromarray(scene.image).save(images / f"{name}.jpg", quality=95, subsampling=0)
            Image.fromarray(scene.semantic).save(annotations / f"{name}.png")
            count = np.bincount(scene.semantic.ravel(), minlength=len(pixels))
            pixels += count
            images_with[split] += count > 0
    table = ["\t".join(["Idx", "Ratio", *(split.capitalize() for split in splits), "Name"])]
    for k, name in enumerate(config.class_names, start=1):
        ratio = pixels[k] / pixels[1:].sum()
        table.append("\t".join([str(k), f"{ratio:.4f}", *(str(images_with[split][k]) for split in splits), name]))
    (folder / "objectInfo.txt").write_text("\n".join(table) + "\n")


def _write_voc(folder: Path, config: ImageSet, splits: Mapping[Split, Iterable[LabelledImage]]) -> None:
    for part in ("JPEGImages", "SegmentationClass", "SegmentationObject", "Annotations"):
        (folder / part).mkdir()
    lists: dict[str, list[str]] = {split: [] for split in splits}
    for split, scenes in splits.items():
        for number, scene in enumerate(scenes, start=1):
            name = f"scene_{split}_{number:08d}"
            lists[split].append(name)
            Image.fromarray(scene.image).save(folder / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
            for part, ids in (("SegmentationClass", scene.semantic), ("SegmentationObject", scene.instances)):
                mask = Image.fromarray(ids)
                mask.putpalette(voc_palette())
                mask.save(folder / part / f"{name}.png")
            _write_boxes(folder / "Annotations" / f"{name}.xml", f"{name}.jpg", scene, config)
    lists["trainval"] = [*lists.get("train", []), *lists.get("val", [])]
    for kind in ("Segmentation", "Main"):
        (folder / "ImageSets" / kind).mkdir(parents=True)
        for split_name, names in lists.items():
            (folder / "ImageSets" / kind / f"{split_name}.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "classes.txt").write_text("\n".join(["background", *config.class_names]) + "\n")


def _write_boxes(path: Path, file: str, scene: LabelledImage, config: ImageSet) -> None:
    """Write the bounding boxes of a scene in Pascal VOC format: pixels count from 1 and the maximum is inclusive."""

    def add(parent: ElementTree.Element, **texts: object) -> None:
        for name, text in texts.items():
            ElementTree.SubElement(parent, name).text = str(text)

    root = ElementTree.Element("annotation")
    add(root, folder="VOC", filename=file)
    add(ElementTree.SubElement(root, "size"), width=config.size, height=config.size, depth=3)
    add(root, segmented=1)
    for box, label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
        item = ElementTree.SubElement(root, "object")
        add(item, name=config.class_names[label], pose="Unspecified", truncated=0, difficult=0)
        add(ElementTree.SubElement(item, "bndbox"), xmin=box[0] + 1, ymin=box[1] + 1, xmax=box[2], ymax=box[3])
    ElementTree.indent(root)
    path.write_text(ElementTree.tostring(root, encoding="unicode") + "\n")


def voc_palette() -> list[int]:
    """Return the 256 colours of Pascal VOC as a flat list.

    Bits 0, 3 and 6 of an index are the highest bits of red, bits 1, 4 and 7 of green, and bits 2 and 5 of blue.
    """
    index = np.arange(256)
    channels = [sum((index >> (3 * k + c) & 1) << (7 - k) for k in range(3)) for c in range(3)]
    colours: list[int] = np.stack(channels, axis=1).ravel().tolist()
    return colours


def _write_coco(folder: Path, config: ImageSet, splits: Mapping[Split, Iterable[LabelledImage]]) -> None:
    (folder / "annotations").mkdir()
    categories = [
        {"id": k, "name": name, "supercategory": name.split("_")[0]}
        for k, name in enumerate(config.class_names, start=1)
    ]
    for split, scenes in splits.items():
        (folder / f"{split}2017").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, scene in enumerate(scenes, start=1):
            name = f"{number:012d}.png"
            Image.fromarray(scene.image).save(folder / f"{split}2017" / name)
            images.append({"id": number, "file_name": name, "width": config.size, "height": config.size})
            for mask, box, label in zip(scene.masks, scene.boxes.tolist(), scene.labels.tolist(), strict=True):
                x1, y1, x2, y2 = box
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
                    }
                )
        content = {
            "info": {"description": "Images with exact masks, written by glmix", "version": "1"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Return the uncompressed COCO RLE of a mask (H, W): run lengths in column order, starting with the background.

    faster-coco-eval has the same function, but scenes need no extra.
    """
    flat = np.concatenate(([False], mask.ravel(order="F")))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    lengths: list[int] = np.diff(np.concatenate(([0], changes, [mask.size]))).tolist()
    return lengths


_WRITERS: dict[Layout, Callable[[Path, ImageSet, Mapping[Split, Iterable[LabelledImage]]], None]] = {
    "imagefolder": _write_imagefolder,
    "segmentation": _write_segmentation,
    "voc": _write_voc,
    "coco": _write_coco,
}
