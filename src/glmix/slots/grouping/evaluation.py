"""Evaluation of slots on a data set: grouping scores or object discovery, as tables, figures and JSON."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ...data.scenes import SceneConfig, Split
from ...errors import InputError
from ...files import write_atomically
from ...models import GLNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...data.segmentation.files import MaskFiles
    from .discovery import Discovered
    from .scoring import BlockScores
    from .truth import Truth

__all__ = ["GroupingData", "Report", "discover", "score"]

SCENES = "scenes"
SMALLEST = 32  # pixels: the smallest shorter side that a model accepts

Failed = Callable[[str, Exception], object]
Progress = Callable[[int], object]
Layout = Literal["ade20k", "voc", "folder"]


class GroupingData:
    """Images with ground truth for the evaluation of slots.

    Args:
        source: `scenes` for generated scenes, or a folder of images with masks.
        layout: layout of the folder; None for scenes.
        split: train, val, test or the name of a VOC image list.
        count: number of images; None for 200 scenes, or all images of the folder.
        size: shorter side of the images in pixels; None for the model's input size.
        objects: minimum and maximum number of objects per scene.

    Raises:
        InputError: an argument is invalid, or there is no such folder.
    """

    def __init__(
        self,
        source: str | Path = SCENES,
        layout: Layout | None = None,
        *,
        split: str = "val",
        count: int | None = None,
        size: int | None = None,
        objects: tuple[int, int] = (1, 3),
    ) -> None:
        if count is not None and count < 1:
            raise InputError(f"count must be 1 or more, got {count}.")
        if size is not None and size < SMALLEST:
            raise InputError(f"size must be at least {SMALLEST} pixels, got {size}.")
        self.source, self.layout, self.split, self.size, self.objects = str(source), layout, split, size, objects
        self.files: MaskFiles | None = None
        if self.source == SCENES:
            if layout is not None:
                raise InputError(f"A layout is for folders, got {layout!r} for scenes; ./scenes is a folder.")
            SceneConfig(objects=objects)  # raises for invalid numbers
            self.count = count or 200
            return
        if layout is None:
            raise InputError(f"The folder {source} needs a layout: {', '.join(get_args(Layout))}.")
        from ...data.segmentation.files import open_masks

        self.files = open_masks(self.source, split, layout)
        self.count = min(count or len(self.files), len(self.files))

    def __len__(self) -> int:
        return self.count

    def truths(self, size: int, failed: Failed | None = None) -> Iterator["Truth"]:
        """Yield the images with their ground truth.

        Args:
            size: pixels of the shorter side.
            failed: called with the name and the error of an image that cannot be read; None raises the error.
        """
        from .truth import scene_truths, truths_on_disk

        if self.files is not None:
            return truths_on_disk(self.files, size, self.count, failed)
        split: Split = self.split  # type: ignore[assignment]
        return scene_truths(SceneConfig(size=size, objects=self.objects), split, self.count)


@dataclass(frozen=True, eq=False)
class Report:
    """The result of an evaluation.

    Args:
        name: stem of the files.
        contents: settings, scores and errors, which can be written as JSON.
        table: tables in Markdown.
        notes: sentences below the tables.
        figures: figures by file name.
    """

    name: str
    contents: dict[str, Any]
    table: str
    notes: str
    figures: dict[str, "Figure"]

    @property
    def text(self) -> str:
        """The tables and the notes."""
        return f"{self.table}\n{self.notes}"

    def save(self, folder: str | Path) -> list[Path]:
        """Write NAME.md, NAME.json and the figures to a folder, and return the files."""
        from ..figure.page import save_figure

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for file, figure in self.figures.items():
            save_figure(figure, folder / file)
        write_atomically(folder / f"{self.name}.json", json.dumps(self.contents, indent=2) + "\n")
        write_atomically(folder / f"{self.name}.md", self.text)
        return [folder / f"{self.name}.md", folder / f"{self.name}.json", *(folder / file for file in self.figures)]


def score(
    model: GLNet,
    data: GroupingData,
    *,
    blocks: Sequence[int] | None = None,
    segments: Sequence[int] = (4, 8, 16),
    controls: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    source: str | None = None,
    failed: Failed | None = None,
    progress: Progress | None = None,
) -> Report:
    """Score the slots of each block, and of all blocks together, as segmentations, and compare with controls.

    Needs the extra `slots`.

    Args:
        model: a GLNet on its device. Its training or evaluation mode is restored.
        data: images with ground truth.
        blocks: indices of blocks with slots, in the order of execution, negative from the end; None for all.
        segments: numbers of segments for all blocks together; empty to skip this evaluation.
        controls: names in `glmix.slots.grouping.scoring.CONTROLS`; None for all.
        seed: random seed of the controls.
        batch_size: maximum number of images per batch.
        source: the checkpoint, for the settings in the report.
        failed: called with the name and the error of each image that cannot be read. Such images are skipped and listed
            in the report.
        progress: called after each batch with its number of images.

    Raises:
        InputError: an argument is invalid, or there are no images.
        MissingExtraError: the extra `slots` is not installed.
    """
    from .report import as_json, score_plot, summary
    from .scoring import CONTROLS, score_slots

    settings = _settings(model, data, blocks, seed, batch_size, source)
    errors: list[dict[str, str]] = []
    controls = CONTROLS if controls is None else controls
    found = score_slots(
        model,
        data.truths(settings["size"], _collect(errors, failed)),
        blocks=blocks,
        segments=segments,
        controls=controls,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    images = len(found.blocks[0].values["slots"]["segments"])
    title = f"Slots of {settings['model']}, {images} images"
    figures = {"scores.png": score_plot(found.blocks, f"{title}: each block")}
    if found.joint:
        figures["segments.png"] = score_plot(found.joint, f"{title}: all blocks together")
    notes = [
        f"Means over {images} images{_where(settings)}. In each image, grid, SLIC and k-means have as many segments as "
        "the slots.",
        "" if controls else "There are no controls: interpret these scores with care.",
        _about_objects(found.blocks, images),
    ]
    contents = as_json(found, settings) | {"errors": errors}
    return Report("scores", contents, summary(found), "".join(f"{note}\n" for note in notes if note), figures)


def discover(
    model: GLNet,
    data: GroupingData,
    *,
    blocks: Sequence[int] | None = None,
    clusters: int = 4,
    sign: Literal["border", "classes"] = "border",
    seed: int = 0,
    batch_size: int = 16,
    source: str | None = None,
    failed: Failed | None = None,
    progress: Progress | None = None,
) -> Report:
    """Discover objects without masks from the slots of a classifier, and compare with controls.

    Needs the extra `slots`.

    Args:
        model: a classifier on its device. Its training or evaluation mode is restored.
        data: images with ground truth, of which the background is known.
        blocks: as in `score`; the kernels of several blocks are averaged.
        clusters: number of clusters of k-means.
        sign: side of a cut that is the object: the side that is not at the `border` of the image, or the side with the
            evidence for `classes`.
        seed: as in `score`.
        batch_size: as in `score`.
        source: as in `score`.
        failed: as in `score`.
        progress: as in `score`.

    Raises:
        InputError: an argument is invalid, the model has no classes, or there are no images.
        MissingExtraError: the extra `slots` is not installed.
    """
    from .discovery import CONTROLS, METHODS
    from .discovery import discover as find
    from .discovery_report import discovery_json, discovery_sheet, discovery_table, grid_warning

    if model.num_classes == 0:
        raise InputError("Object discovery needs a classifier, and this model has no classes.")
    if data.layout == "ade20k":
        raise InputError(
            "ADE20K has no background class, which object discovery needs: use scenes or a folder in the layout voc."
        )
    settings = _settings(model, data, blocks, seed, batch_size, source)
    errors: list[dict[str, str]] = []
    settings |= {"clusters": clusters, "sign": sign}
    found = find(
        model,
        data.truths(settings["size"], _collect(errors, failed)),
        blocks=blocks,
        clusters=clusters,
        sign=sign,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    title = f"Objects found without masks by the slots of {settings['model']}"
    notes = [
        f"In %, means over {len(found)} images{_where(settings)}. The last columns compare the cut and k-means with "
        "each control, one sign per score in the order of the columns: + better by more than the 95 % confidence "
        "interval of the paired difference, = level, - worse.",
        grid_warning(found),
        _without_objects(found),
        "",
        *(f"{name}: {what}." for name, what in {**METHODS, **CONTROLS}.items()),
    ]
    return Report(
        "discovery",
        discovery_json(found, settings) | {"errors": errors},
        discovery_table(found),
        "".join(f"{note}\n" for note in notes if note is not None),
        {"discovery.png": discovery_sheet(found, title)},
    )


def _settings(
    model: GLNet, data: GroupingData, blocks: Sequence[int] | None, seed: int, batch_size: int, source: str | None
) -> dict[str, Any]:
    """Check the batch size and return the settings that a report records."""
    if batch_size < 1:
        raise InputError(f"batch_size must be 1 or more, got {batch_size}.")
    size: int = data.size or min(model.pretrained_cfg["input_size"][1:])
    if size < SMALLEST:
        raise InputError(f"size must be at least {SMALLEST} pixels, but the input size of the model is {size}.")
    settings = {
        "data": data.source,
        "layout": data.layout,
        "split": data.split,
        "size": size,
        "model": model.pretrained_cfg.get("architecture"),
        "checkpoint": source,
        "blocks": None if blocks is None else list(blocks),
        "seed": seed,
    }
    return settings | ({"objects": list(data.objects)} if data.files is None else {})


def _collect(errors: list[dict[str, str]], failed: Failed | None) -> Failed:
    """Return a function that adds an image that cannot be read to a list and reports it."""

    def collect(name: str, error: Exception) -> None:
        errors.append({"image": name, "error": str(error)})
        if failed is not None:
            failed(name, error)

    return collect


def _about_objects(blocks: list["BlockScores"], images: int) -> str:
    """Return a note about images without object instances, or an empty string."""
    import numpy as np

    known = int((~np.isnan(blocks[0].values["slots"]["mean_best_overlap"])).sum())
    if known == images:
        return ""
    without = "These data have" if known == 0 else f"{images - known} of {images} images have"
    return (
        f"{without} no object instances (SegmentationObject in the layout voc): slot-oracle instance IoU, mBO and "
        f"ARI of the foreground are {'left out' if known == 0 else 'means over the other images'}."
    )


def _without_objects(found: list["Discovered"]) -> str | None:
    """Return a note if no image has object instances, otherwise None."""
    if any(one.truth.objects is not None for one in found):
        return None
    return (
        "These data have no object instances (SegmentationObject in the layout voc): mBO, CorLoc and ARI-FG are left "
        "out."
    )


def _where(settings: dict[str, Any]) -> str:
    """Describe the data set in brackets."""
    return f" ({settings['data']}, {settings['split']}, {settings['size']} pixels)"
