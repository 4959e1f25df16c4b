import argparse
import sys
from pathlib import Path

HELP = "Convert one of the authors' checkpoints to a folder that timm and transformers load."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP} Download a .pth file by hand from the table at https://github.com/rayleizhu/GLMix#model-card, convert "
        "it once, and create it offline with timm.create_model('local-dir:FOLDER', pretrained=True). "
        "Files are read without running any code that they may hold."
    )
    parser.add_argument("checkpoint", type=Path, help="the .pth or safetensors file")
    parser.add_argument("folder", type=Path, help="where to write config.json, model.safetensors and README.md")
    parser.add_argument("--variant", help="the model's name; by default it is recognised from the weights")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--ema", dest="use_ema", action="store_true", default=None, help="take averaged weights")
    weights.add_argument("--raw", dest="use_ema", action="store_false", help="take raw weights")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is in the folder already")


def run(args: argparse.Namespace) -> int:
    import glmix
    from glmix.errors import InputError

    if (args.folder / "config.json").exists() and not args.overwrite:
        raise InputError(f"{args.folder} holds a model already; choose another folder or say --overwrite.")
    model = glmix.load_official(args.checkpoint, args.variant, use_ema=args.use_ema)
    card = glmix.save_model(model, args.folder)
    print(f"Wrote {args.folder}/config.json, model.safetensors and README.md, its model card:\n", file=sys.stderr)
    print(card)
    return 0
