"""`glmix push`: upload a network to the Hugging Face Hub."""

import argparse
from pathlib import Path

HELP = "Upload a network to the Hugging Face Hub, with a model card and the report of its evaluation."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP} Log in with `hf auth login` first, or set HF_TOKEN. Others then load a classifier with "
        "timm.create_model('hf-hub:OWNER/NAME', pretrained=True) after `import glmix`."
    )
    parser.add_argument(
        "checkpoint", type=Path, help="a .ckpt of `glmix fit`, an authors' .pth, or a folder of `glmix convert`"
    )
    parser.add_argument("repository", metavar="OWNER/NAME", help="the repository; it is created if needed")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="folder of a report, such as RUN/reports/val, for the model card",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--variant", help="model name, for weights that do not identify it")


def run(args: argparse.Namespace) -> int:
    import glmix
    from glmix.hub import push

    loaded = glmix.load(args.checkpoint, args.variant)
    print(push(loaded, args.repository, report=args.report, private=args.private))
    return 0
