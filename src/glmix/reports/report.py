"""Reports on stored predictions: JSON, Markdown and one HTML page."""

import json
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..files import write_atomically
from ..pages import escaped, page_html, read_sources
from .document import to_html, to_markdown
from .pictures import LabelMaps, picture_uri, save_pictures
from .predictions import BoxPredictions, ClassPredictions, PixelPredictions, Predictions, load_predictions

__all__ = ["NUMBERS", "PAGE", "TEXT", "analyse", "write_report"]

NUMBERS, TEXT, PAGE = "report.json", "report.md", "report.html"
FULL_MATRIX = 100  # maximum number of classes whose confusion matrix is stored in the JSON


def analyse(
    predictions: Predictions, fit_on: Predictions | None = None, fitted_on: str | None = None
) -> dict[str, Any]:
    """Return the numbers of a report, as in `report.json`, with the confusion matrix as an array.

    Args:
        predictions: the predictions.
        fit_on: the predictions on which a classifier's temperature and thresholds are fitted; None for the same.
        fitted_on: the name of `fit_on` for readers.

    Raises:
        InputError: `fit_on` does not fit the predictions.
    """
    report: dict[str, Any] = {
        "task": predictions.task,
        "images": len(predictions),
        "about": predictions.about,
    }
    if isinstance(predictions, ClassPredictions):
        itself = fit_on is None
        fit_on = predictions if fit_on is None else fit_on
        if not isinstance(fit_on, ClassPredictions) or fit_on.class_names != predictions.class_names:
            raise InputError(f"Fitting on {fitted_on} needs a classifier's predictions for the same classes.")
        if fit_on.multi_label != predictions.multi_label:
            raise InputError(f"{fitted_on} must have the same number of labels per image, one or several.")
        report |= {
            "multi_label": predictions.multi_label,
            "fitted_on_itself": itself,
            "fitted_on": "the same predictions" if itself else str(fitted_on),
        }
        from .classification import single_label
        from .multi_label import several_labels

        return report | (several_labels if predictions.multi_label else single_label)(predictions, fit_on)
    if fit_on is not None:
        raise InputError(f"Only a classifier has a temperature and thresholds to fit, not {predictions.task}.")
    if isinstance(predictions, PixelPredictions):
        from .segmentation import segmentation

        return report | segmentation(predictions)
    assert isinstance(predictions, BoxPredictions)
    from .detection import detection

    return report | detection(predictions)


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    fit_on: str | Path | None = None,
    open_image: Callable[[int], Image.Image | None] | None = None,
    maps: LabelMaps | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """Write `report.json`, `report.md` and `report.html` for the predictions of a folder, and return the numbers.

    Args:
        folder: a folder of predictions, such as RUN/reports/val.
        output: the folder of the report; None for `folder`.
        fit_on: another folder of predictions, on which a classifier's temperature and thresholds are fitted; None fits
            them on the same predictions.
        open_image: function that returns the image of a sample, or None without one. The thumbnails are stored with
            the predictions; without this function, the stored ones are shown.
        maps: {sample: (ground truth, prediction)} of images that the thumbnails of a segmentation network show.
        title: the heading; None names the task and the split.

    Raises:
        InputError: a folder has no predictions or invalid ones.
    """
    from .sections import sections_of

    folder = Path(folder)
    output = folder if output is None else Path(output)
    predictions = load_predictions(folder)
    other = None if fit_on is None else load_predictions(fit_on)
    report = analyse(predictions, other, None if fit_on is None else str(fit_on))
    title = title or _title(predictions)
    if open_image is not None:
        save_pictures(folder, report, open_image, maps or {})
    uris = [picture_uri(folder, number, item) for number, item in enumerate(report["mistakes"])]
    sections = sections_of(report, uris.__getitem__)
    write_atomically(output / NUMBERS, json.dumps(_plain(report), indent=1, allow_nan=False))
    write_atomically(output / TEXT, to_markdown(title, sections))
    write_atomically(output / PAGE, _page(title, to_html(sections)))
    return report


def _title(predictions: Predictions) -> str:
    split = {"val": " on the validation data", "test": " on the test data"}.get(predictions.about.get("split", ""), "")
    return f"{predictions.task.capitalize()}{split}"


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers without arrays: a small confusion matrix becomes lists, a large one is left out."""
    plain = dict(report)
    confusion = plain.pop("confusion", None)
    if isinstance(confusion, np.ndarray) and len(confusion) <= FULL_MATRIX:
        plain["confusion"] = confusion.tolist()
    return plain


def _page(title: str, content: str) -> str:
    """Return the HTML page, which makes no request."""
    style, script, body = read_sources(__package__, "page.css", "page.js", "body.html")
    return page_html(
        title, Template(body).substitute(title=escaped(title), content=content), style=style, script=script
    )
