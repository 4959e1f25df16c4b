"""The sections of a report, from the numbers of `report.json`."""

from collections.abc import Callable, Sequence
from typing import Any

from ..drawing import label_colours
from . import charts
from .document import Facts, Figure, Format, Part, Pictures, Section, Table, format_value

__all__ = ["sections_of"]

Uri = Callable[[int], str | None]  # position in the list of mistakes -> data URI of the picture
HARDEST = 15  # classes in the chart of the hardest classes
SCORES = {
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "mean_recall": "Mean accuracy per class",
    "mean_precision": "Mean precision per class",
    "mean_f1": "Mean F1 per class",
    "mAP": "Mean average precision (mAP)",
    "mean_f1_best_threshold": "Mean F1, one threshold per class",
    "micro_f1_best_threshold": "F1 of all labels, one threshold per class",
    "mean_f1_threshold_0.5": "Mean F1, threshold 0.5",
    "micro_f1_threshold_0.5": "F1 of all labels, threshold 0.5",
    "ece": "Expected calibration error (ECE)",
    "loss": "Negative log-likelihood",
    "mIoU": "Mean IoU",
    "pixel_accuracy": "Pixel accuracy",
    "mean_class_accuracy": "Mean accuracy per class",
    "frequency_weighted_iou": "IoU weighted by frequency",
}
ABOUT = {
    "weights": "Weights",
    "weights_saved": "Weights saved",
    "network": "Network",
    "model": "Model",
    "data": "Data",
    "split": "Split",
    "threshold": "Threshold of the model",
    "created": "Created",
    "seconds": "Evaluation time",
    "versions": "Versions",
}


def sections_of(report: dict[str, Any], uri: Uri) -> list[Section]:
    """Return the sections of a report.

    Args:
        report: the numbers, as `analyse` returns them.
        uri: function from the position in `report["mistakes"]` to the data URI of its picture, None without one.
    """
    kinds = {"segmentation": _segmentation, "detection": _detection}
    build = kinds.get(report["task"], _several_labels if report.get("multi_label") else _single_label)
    return [_summary(report), *(section for section in build(report, uri) if section.parts)]


def _summary(report: dict[str, Any]) -> Section:
    scores = [
        (SCORES.get(name, name.replace("_", " ")), format_value(value, "number" if name == "loss" else "percent"))
        for name, value in report["scores"].items()
    ]
    about = report["about"]
    facts = [("Images", f"{report['images']:,}"), ("Classes", f"{len(report['classes']):,}")]
    facts += [(title, _plain(about[key], key)) for key, title in ABOUT.items() if about.get(key) is not None]
    for network, values in about.get("scores", {}).items():
        if network:  # there are two networks to compare
            facts.append((f"{network} weights", ", ".join(f"{name} {value:.4f}" for name, value in values.items())))
    return Section("Summary", "", [Facts(scores, large=True), Facts(facts)])


def _percent(value: float) -> str:
    return format_value(value, "percent")


def _plain(value: Any, key: str) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.1f} s" if key == "seconds" else f"{value:.3f}"
    return str(value)


def _single_label(report: dict[str, Any], uri: Uri) -> list[Section]:
    rows = report["classes"]
    table = Table(
        [
            ("Class", "text"),
            ("Images", "count"),
            ("Predicted", "count"),
            ("Accuracy (recall)", "percent"),
            ("Precision", "percent"),
            ("F1", "percent"),
        ],
        [[row[key] for key in ("class", "images", "predicted", "recall", "precision", "f1")] for row in rows],
    )
    mistakes = [
        (
            item["name"],
            (
                f"{item['predicted']} {_percent(item['confidence'])}",
                f"label: {item['target']} {_percent(item['target_probability'])}",
            ),
            uri(k),
        )
        for k, item in enumerate(report["mistakes"])
    ]
    return [
        _hardest(rows, "f1", "F1"),
        _mistakes("Most confident mistakes", "Wrong predictions with the highest probability.", mistakes),
        *_confusion(report, [row["class"] for row in rows], "images"),
        Section("Classes", "The accuracy of a class is the share of its images that are predicted as it.", [table]),
        _calibration(report),
    ]


def _several_labels(report: dict[str, Any], uri: Uri) -> list[Section]:
    rows = report["classes"]
    columns = ("class", "images", "ap", "threshold", "precision", "recall", "f1", "f1_at_half")
    titles = ("Class", "Images", "AP", "Threshold", "Precision", "Recall", "F1", "F1 at 0.5")
    formats: tuple[Format, ...] = ("text", "count", "percent", "number", *4 * ("percent",))
    table = Table(list(zip(titles, formats, strict=True)), [[row[key] for key in columns] for row in rows])
    counts = Table(
        [("Class", "text"), ("Correct", "count"), ("Wrong", "count"), ("Missed", "count")],
        [[row[key] for key in ("class", "correct", "wrong", "missed")] for row in rows],
    )
    mistakes = [
        (
            item["name"],
            (
                f"{item['class']} {_percent(item['probability'])}{', but has the class' if item['has_class'] else ''}",
                f"labels: {', '.join(item['targets']) or 'none'}",
            ),
            uri(k),
        )
        for k, item in enumerate(report["mistakes"])
    ]
    fitted = f"The thresholds have the highest F1 on {report['fitted_on']}."
    return [
        _hardest(rows, "ap", "AP"),
        _mistakes("Most confident mistakes", "Probabilities that are furthest from the label.", mistakes),
        Section("Classes and thresholds", f"A class is predicted from its threshold. {fitted}", [table]),
        _curves(report, "The curves of the classes with the lowest AP. The point marks the threshold."),
        Section(
            "Counts per class",
            "Images in which a class is predicted correctly or wrongly, or is missed, with its threshold.",
            [counts],
        ),
        _calibration(report),
    ]


def _segmentation(report: dict[str, Any], uri: Uri) -> list[Section]:
    rows = report["classes"]
    columns = ("class", "iou", "accuracy", "precision", "share", "pixels", "images")
    titles = ("Class", "IoU", "Accuracy (recall)", "Precision", "Share of pixels", "Pixels", "Images")
    formats: tuple[Format, ...] = ("text", *4 * ("percent",), "count", "count")
    table = Table(list(zip(titles, formats, strict=True)), [[row[key] for key in columns] for row in rows])
    worst = [
        (
            item["name"],
            (
                f"accuracy {_percent(item['accuracy'])}",
                f"{_percent(item['share'])} of the pixels: {item['target']} predicted as {item['predicted']}",
            ),
            uri(k),
        )
        for k, item in enumerate(report["mistakes"])
    ]
    note = "Images with the lowest pixel accuracy. Where there are three pictures: image, ground truth, prediction."
    names = [row["class"] for row in rows]
    colours = label_colours(names).tolist()
    occurring = {name for item in report["mistakes"] for name in item["classes"]}
    legend = charts.legend([pair for pair in zip(names, colours, strict=True) if pair[0] in occurring])
    hardest: list[Part] = [Pictures(worst, wide=True), Figure("", [("", legend)])] if worst else []
    return [
        _hardest(rows, "iou", "IoU"),
        Section("Hardest images", note, hardest),
        *_confusion(report, names, "pixels"),
        Section("Classes", "", [table]),
    ]


def _detection(report: dict[str, Any], uri: Uri) -> list[Section]:
    rows = report["classes"]
    iou, score, background = (report["matching"][key] for key in ("iou", "score", "background"))
    kinds = [kind for kind in ("box", "mask") if f"{kind}_AP" in rows[0]]
    names = [f"{kind}_{name}" for kind in kinds for name in ("AP", "AP50", "AP75")]
    table = Table(
        [
            ("Class", "text"),
            *((name.replace("_", " "), "percent") for name in names),
            ("Best threshold", "number"),
            ("F1", "percent"),
            ("Objects", "count"),
            ("Detections", "count"),
        ],
        [[row[key] for key in ("class", *names, "threshold", "f1", "objects", "detections")] for row in rows],
    )
    mistakes = [
        (
            item["name"],
            (f"{item['predicted']} {_percent(item['score'])}", f"object: {item['target']}, IoU {item['iou']:.2f}"),
            uri(k),
        )
        for k, item in enumerate(report["mistakes"])
    ]
    wrong = "Detections with the highest scores that match no object of their class."
    note = (
        f"{wrong} Pictures show the detection in orange and the objects in blue. {background.capitalize()} means that "
        f"no object has an IoU of {iou} or more."
    )
    matched = (
        f"Detections with a score of at least {score} and the objects that they overlap with an IoU of at least "
        f"{iou}. The row {background} counts detections of no object, the column {background} missed objects."
    )
    return [
        _hardest(rows, "box_AP", "AP"),
        _mistakes("Most confident mistakes", note, mistakes),
        Section(
            "Classes",
            f"AP is the mean over IoU thresholds from 0.5 to 0.95. The best threshold of the score has the highest F1 "
            f"at IoU {iou}.",
            [table],
        ),
        *_confusion(report, [*(row["class"] for row in rows), background], "objects", matched),
        _curves(report, f"Curves at IoU {iou} of the classes with the lowest AP50. The point has the highest F1."),
    ]


def _hardest(rows: Sequence[dict[str, Any]], key: str, title: str) -> Section:
    """Return the section of the classes with the lowest score, or an empty one if there are one or two classes."""
    known = sorted((row for row in rows if row[key] is not None), key=lambda row: row[key])[:HARDEST]
    if len(known) < 3:
        return Section("Hardest classes")
    chart = charts.bars([(row["class"], row[key]) for row in known])
    return Section("Hardest classes", f"The classes with the lowest {title}.", [Figure("", [("", chart)])])


def _mistakes(title: str, note: str, items: Sequence[tuple[str, Sequence[str], str | None]]) -> Section:
    return Section(title, note, [Pictures(items)] if items else [])


def _confusion(report: dict[str, Any], names: Sequence[str], unit: str, note: str = "") -> list[Section]:
    """Return the sections of the confusion matrix and of the most confused pairs."""
    counts = report["confusion"]
    views = [("Shares", charts.confusion_matrix(counts, names, normalised=True))]
    if len(names) <= charts.CELLS:
        views.append(("Counts", charts.confusion_matrix(counts, names, normalised=False)))
    caption = (
        "Ground truth in rows, predictions in columns. Shares are percentages of the row."
        if len(views) > 1
        else "Ground truth in rows, predictions in columns, in the order of the classes. The stronger the colour, the "
        "larger the share of the row; with many classes, a dot shows the largest share of neighbouring classes."
    )
    pairs = Table(
        [("Ground truth", "text"), ("Predicted", "text"), (unit.capitalize(), "count"), ("Share of row", "percent")],
        [[pair[key] for key in ("target", "predicted", "count", "share")] for pair in report["pairs"]],
    )
    return [
        Section("Confusion matrix", note, [Figure(caption, views)]),
        Section("Most confused pairs", "Pairs of classes with the highest counts.", [pairs] if report["pairs"] else []),
    ]


def _curves(report: dict[str, Any], note: str) -> Section:
    drawn = report["curves"]
    return Section("Precision and recall", note, [Figure("", [("", charts.curves(drawn))])] if drawn else [])


def _calibration(report: dict[str, Any]) -> Section:
    values = report["calibration"]
    before, after, temperature = values["before"], values["after"], values["temperature"]
    fitted = f"temperature {temperature:.3f}"
    chart = charts.reliability_diagram([("as predicted", before), (fitted, after)])
    table = Table(
        [("", "text"), ("ECE", "percent"), ("NLL", "number")],
        [["As predicted", before["ece"], before["nll"]], [f"With {fitted}", after["ece"], after["nll"]]],
    )
    same = " A temperature that is fitted on other data is a fairer test." if report["fitted_on_itself"] else ""
    note = (
        "The reliability diagram compares the confidence with the accuracy; bars on the diagonal are calibrated. "
        f"Temperature scaling divides the logits by a number. Here it was fitted on {report['fitted_on']}.{same}"
    )
    return Section("Calibration", note, [Figure("", [("", chart)]), table])
