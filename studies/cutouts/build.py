"""Writing of the data set: one object per image for classification, several objects for the dense tasks."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from PIL import Image
from tqdm import tqdm

from glmix.data.scenes import LabelledImage, Split, atomic_folder, write_layout
from glmix.errors import InputError
from studies.cutouts.compose import Composer, CompositionConfig
from studies.cutouts.sources import Sources, credits, divide

__all__ = ["BuildConfig", "build"]

Counts = Mapping[Split, int]


@dataclass(frozen=True)
class BuildConfig:
    """Configuration of the data set.

    Args:
        size: side of the images in pixels.
        single: number of images with one object, for classification.
        several: number of images with one to three objects, for segmentation and detection.
        unlabelled: number of images without labels, with up to three objects or none.
        seed: seed of the splits and of the images.
    """

    size: int = 96
    single: Counts = field(default_factory=lambda: {"train": 2000, "val": 400, "test": 1000})
    several: Counts = field(default_factory=lambda: {"train": 1500, "val": 200, "test": 400})
    unlabelled: Counts = field(default_factory=lambda: {"train": 4000, "val": 200})
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("single", "several", "unlabelled"):
            counts: Counts = getattr(self, name)
            if not counts or any(count < 1 for count in counts.values()):
                raise InputError(f"{name} needs at least one image per split, got {dict(counts)}.")


def build(sources: Sources, packages: Path, root: Path, config: BuildConfig) -> None:
    """Write the data set. The folder is created atomically, when all files are complete.

    `classification/SPLIT/GROUP/*.png`; `voc`, with masks; `coco`, with the same images as `voc`;
    `unlabelled/SPLIT/*.png`; `CREDITS.txt`, with the copyright files of the packages; `splits.json`, the photographs of
    each split.

    Args:
        sources: table of the photographs.
        packages: folder of the unpacked packages.
        root: folder that does not exist or is empty.
        config: sizes and numbers of images.
    """
    splits = divide(sources, packages, config.seed)
    names = tuple(sorted(sources.objects))
    # independent random streams: an image with one object must not reappear with further objects
    one, several, unlabelled = (
        CompositionConfig(names, config.size, objects, 3 * config.seed + stream)
        for stream, objects in enumerate(((1, 1), (1, 3), (0, 3)))
    )
    total = sum(config.single.values()) + 2 * sum(config.several.values()) + sum(config.unlabelled.values())
    with atomic_folder(root.resolve()) as folder, tqdm(total=total, unit="image") as bar:
        composers = {split: Composer(one, split, splits[split]) for split in get_args(Split)}

        def images(settings: CompositionConfig, counts: Counts) -> dict[Split, Iterator[LabelledImage]]:
            return {split: stream(composers[split].with_config(settings), counts[split]) for split in counts}

        def stream(composer: Composer, count: int) -> Iterator[LabelledImage]:
            for index in range(count):
                yield composer(index)
                bar.update()

        for layout in ("voc", "coco"):
            (folder / layout).mkdir()
            write_layout(folder / layout, layout, several, images(several, config.several))
        (folder / "classification").mkdir()
        write_layout(folder / "classification", "imagefolder", one, images(one, config.single))
        for split, pictures in images(unlabelled, config.unlabelled).items():
            (folder / "unlabelled" / split).mkdir(parents=True)
            for number, picture in enumerate(pictures):
                Image.fromarray(picture.image).save(folder / "unlabelled" / split / f"{number:08d}.png")
        (folder / "CREDITS.txt").write_text(credits(sources, packages))
        photographs = {
            split: {
                "objects": [[group, str(file.relative_to(packages))] for group, file in found.objects],
                "backgrounds": [str(file.relative_to(packages)) for file in found.backgrounds],
            }
            for split, found in splits.items()
        }
        content = {"config": dataclasses.asdict(config), "splits": photographs}
        (folder / "splits.json").write_text(json.dumps(content, indent=1) + "\n")
