"""`glmix models`: list the models."""

import argparse
import json
from typing import Any

HELP = "List the models: parameters, multiply-accumulates (MACs), input size and published accuracy."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    from timm.models import get_pretrained_cfg_value

    from glmix.models import MODEL_SIZES, PUBLISHED_TOP1

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "parameters": parameters,
            "macs": macs,
            "input_size": list(get_pretrained_cfg_value(name, "input_size")),
            "published_top1": PUBLISHED_TOP1.get(name),
        }
        for name, (parameters, macs) in MODEL_SIZES.items()
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'model':<22}{'parameters':>11}{'MACs':>9}{'pixels':>11}{'ImageNet top-1':>16}")
    for row in rows:
        _, height, width = row["input_size"]
        top1 = f"{row['published_top1']:.1f} %" if row["published_top1"] else "-"
        print(
            f"{row['name']:<22}{row['parameters'] / 1e6:>9.1f} M{row['macs'] / 1e9:>7.2f} G"
            f"{f'{width} x {height}':>11}{top1:>16}"
        )
    print(
        "\nAccuracies are those that the authors published with their weights; MACs are counted by glmix. The weights\n"
        "are not included: `glmix convert --help` explains how to use the authors' files."
    )
    return 0
