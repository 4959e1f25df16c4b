"""`glmix convert`: convert a checkpoint to a folder that timm and transformers load."""

import argparse
import sys
from pathlib import Path

HELP = "Convert a checkpoint of the GLMix authors or of `glmix fit` to a folder with safetensors and config.json."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP} From `glmix fit`, use the .ckpt of any task. For the authors' weights, download a .pth file by hand "
        "from the table at https://github.com/rayleizhu/GLMix#model-card. glmix.load('FOLDER') loads every folder; for "
        "a classifier, timm.create_model('local-dir:FOLDER', pretrained=True) and transformers do too. No code in the "
        "files is executed."
    )
    parser.add_argument("checkpoint", type=Path, help="a .ckpt, .pth or .safetensors file")
    parser.add_argument("folder", type=Path, help="output folder for config.json, model.safetensors and README.md")
    parser.add_argument("--variant", help="model name (default: recognised from the weights)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--ema", dest="use_ema", action="store_true", default=None, help="use the EMA weights")
    weights.add_argument("--raw", dest="use_ema", action="store_false", help="use the raw weights")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="write only the LoRA adapters and the classifier, as a folder for peft.PeftModel.from_pretrained",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing model in the folder")


def run(args: argparse.Namespace) -> int:
    import glmix
    from glmix.errors import InputError
    from glmix.weights import Loaded

    name = "adapter_config.json" if args.adapter else "config.json"
    if (args.folder / name).exists() and not args.overwrite:
        raise InputError(f"{args.folder} already contains a model; choose another folder or use --overwrite.")
    if args.adapter:
        from glmix.weights import save_adapter

        save_adapter(args.checkpoint, args.folder, use_ema=args.use_ema)
        print(f"Wrote {args.folder}/adapter_config.json and adapter_model.safetensors.", file=sys.stderr)
        return 0
    if args.checkpoint.suffix == ".ckpt":
        loaded = glmix.load(args.checkpoint, args.variant, use_ema=args.use_ema)
    else:
        loaded = Loaded(glmix.load_official(args.checkpoint, args.variant, use_ema=args.use_ema))
    card = glmix.save(loaded, args.folder)
    print(f"Wrote {args.folder}/config.json, model.safetensors and README.md, the model card:\n", file=sys.stderr)
    print(card)
    return 0
