"""`glmix predict`: classify images."""

import argparse
import json
from typing import Any

from .images import exit_code, positive_integer, print_errors
from .inputs import add_model_arguments, add_view_argument, check_device, load_classifier
from .pipeline import add_pipeline_arguments, add_precision_argument, store
from .printing import printable

HELP = "Classify images: files, folders, lists, tar files, data sets or URLs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pipeline_arguments(parser, output_required=False)
    add_precision_argument(parser)
    add_model_arguments(parser)
    add_view_argument(parser, default="crop")
    parser.add_argument(
        "--topk", type=positive_integer, default=5, metavar="N", help="number of classes per image (default: 5)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON; with --output, print a summary as JSON"
    )


def run(args: argparse.Namespace) -> int:
    from glmix import inference
    from glmix.errors import InputError

    if args.engine == "ray" and args.output is None:
        raise InputError("--engine ray needs --output FOLDER.")
    check_device(args.device)
    model = load_classifier(args.model, args.checkpoint).to(args.device)
    output = inference.Predictions(model, args.topk, args.view, args.max_pixels, args.precision)
    source = inference.open_source(args.images, args.column, arrays=model.in_chans != 3)
    if args.output is not None:
        return store("predict", args, output, source)

    results: list[dict[str, Any]] = []
    errors, done = list(source.problems), 0
    try:
        for rows in inference.run(output, source, batch_size=args.batch_size, num_workers=args.workers):
            errors += [{"file": row["key"], "error": row["error"]} for row in rows if row["error"]]
            finished = [_result(row, args.view, output.threshold) for row in rows if not row["error"]]
            done += len(finished)
            if args.json:
                results += finished
            else:
                _print(finished)
    finally:  # print the finished results even after a bug or an interruption
        if args.json:
            print(json.dumps({"results": results, "errors": errors}, indent=2))
        print_errors("predict", errors)
    return exit_code(done, errors)


def _result(row: dict[str, Any], view: str, threshold: float | None) -> dict[str, Any]:
    columns = zip(row["classes"], row["labels"], row["probabilities"], strict=True)
    result: dict[str, Any] = {
        "file": row["key"],
        "view": view,
        "size": {"width": row["input_width"], "height": row["input_height"]},
        "predictions": [{"class": c, "label": label, "probability": p} for c, label, p in columns],
    }
    if threshold is not None:
        result |= {"threshold": threshold, "labels": row["present"]}
    return result


def _print(results: list[dict[str, Any]]) -> None:
    from glmix.data.classification.views import describe_view

    for result in results:
        size = (result["size"]["height"], result["size"]["width"])
        print(f"{printable(result['file'])}  ({describe_view(result['view'], size)})")
        for prediction in result["predictions"]:
            print(f"  {prediction['probability']:7.2%}  {printable(prediction['label'])}")
        if "labels" in result:
            names = ", ".join(map(printable, result["labels"])) or "none"
            print(f"  labels with at least {result['threshold']:.2%}: {names}")
