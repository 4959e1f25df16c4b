import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glmix import GLNet

HELP = "Convert a checkpoint, of the authors or of `glmix fit`, to a folder that timm and transformers load."

_OTHER_COMMANDS = {
    "Segmentation": "use the .ckpt itself with `glmix segment`, or its backbone with `glmix export --outputs features`",
    "Detection": "use the .ckpt itself with `glmix detect`, or its backbone with `glmix export --outputs features`",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP} Of `glmix fit` it takes the .ckpt of a classifier. Of the authors, download a .pth file by hand from "
        "the table at https://github.com/rayleizhu/GLMix#model-card and convert it once. Create the model offline with "
        "timm.create_model('local-dir:FOLDER', pretrained=True). Files are read without running any code that they "
        "may hold."
    )
    parser.add_argument("checkpoint", type=Path, help="the .ckpt, .pth or safetensors file")
    parser.add_argument("folder", type=Path, help="where to write config.json, model.safetensors and README.md")
    parser.add_argument("--variant", help="the authors' model; by default it is recognised from the weights")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--ema", dest="use_ema", action="store_true", default=None, help="take averaged weights")
    weights.add_argument("--raw", dest="use_ema", action="store_false", help="take raw weights")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is in the folder already")


def run(args: argparse.Namespace) -> int:
    import glmix
    from glmix.errors import InputError

    if (args.folder / "config.json").exists() and not args.overwrite:
        raise InputError(f"{args.folder} holds a model already; choose another folder or say --overwrite.")
    card = glmix.save_model(_load(args), args.folder)
    print(f"Wrote {args.folder}/config.json, model.safetensors and README.md, its model card:\n", file=sys.stderr)
    print(card)
    return 0


def _load(args: argparse.Namespace) -> "GLNet":
    import glmix
    from glmix.errors import InputError

    if args.checkpoint.suffix != ".ckpt":
        return glmix.load_official(args.checkpoint, args.variant, use_ema=args.use_ema)
    from glmix.weights import load

    loaded = load(args.checkpoint, args.variant, use_ema=args.use_ema)
    if isinstance(loaded.network, glmix.GLNet):
        return loaded.network
    task = loaded.task if loaded.task in _OTHER_COMMANDS else f"a {type(loaded.network).__name__}, which is no GLNet"
    raise InputError(
        f"{args.checkpoint} holds {task}, and folders hold GLNets that classify: "
        f"{_OTHER_COMMANDS.get(task, 'load it with glmix.load')}."
    )
