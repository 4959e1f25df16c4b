"""Compare the predictions of `glmix.optimize_for_inference` with those of the trained model, on generated scenes.

    glmix demo && python -m studies.timing.agreement out/demo/model
    python -m studies.timing.agreement out/demo/model --dtypes bfloat16 --int8

With --int8, also the predictions of an int8 file in OpenVINO, whose layers that are not quantised compute in float32
or in bfloat16.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from glmix.data.classification.datamodule import ScenesData
from glmix.data.scenes import SceneConfig
from glmix.deploy import Calibration, export_model, load_exported, optimize_for_inference

Form = Callable[[Tensor], Tensor]


def int8_forms(model: nn.Module, count: int) -> dict[str, Form]:
    """Quantise a model with `count` scenes; return its OpenVINO file in both precisions."""
    forms: dict[str, Form] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.xml"
        export_model(model, path, calibration=Calibration.from_scenes(model, count))
        for name, bfloat16 in (("int8, otherwise float32", False), ("int8, otherwise bfloat16", True)):
            run = load_exported(path, bfloat16=bfloat16)
            forms[name] = lambda images, run=run: torch.from_numpy(run(images.numpy())["logits"])  # type: ignore[misc]
    return forms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder of `glmix demo` or `glmix convert`, trained on scenes")
    parser.add_argument("--images", type=int, default=4000, help="number of test scenes (%(default)s)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "float16"], help="dtypes to compare")
    parser.add_argument("--compile", action="store_true", help="compile the optimised models too")
    parser.add_argument("--int8", action="store_true", help="also compare int8 in OpenVINO")
    parser.add_argument("--calibrate-count", type=int, default=512, help="scenes for int8 (%(default)s)")
    args = parser.parse_args()
    model = timm.create_model(f"local-dir:{args.model}", pretrained=True).eval()
    forms: dict[str, Form] = {
        name: optimize_for_inference(model, dtype=getattr(torch, name), compile=args.compile) for name in args.dtypes
    }
    if args.int8:
        forms |= int8_forms(model, args.calibrate_count)
    scenes = SceneConfig(size=model.pretrained_cfg["input_size"][-1], objects=(1, 1))
    data = ScenesData(scenes, test_count=args.images, eval_batch_size=100)
    data.setup("test")
    same = dict.fromkeys(forms, 0)
    correct = dict.fromkeys(["model", *forms], 0)
    error = dict.fromkeys(forms, 0.0)
    with torch.inference_mode():
        for images, labels in data.test_dataloader():
            expected = model(images)
            correct["model"] += int((expected.argmax(1) == labels).sum())
            for name, form in forms.items():
                logits = form(images)
                same[name] += int((logits.argmax(1) == expected.argmax(1)).sum())
                correct[name] += int((logits.argmax(1) == labels).sum())
                error[name] = max(error[name], float((logits - expected).abs().max() / expected.abs().max()))
    titles = ("dtype", "same predicted class as the model", "accuracy", "largest relative error of the logits")
    print(f"| {' | '.join(titles)} |\n|---|---|---|---|")
    print(f"| float32, not optimised | | {correct['model'] / args.images:.2%} | |")
    for name in forms:
        print(f"| {name} | {same[name] / args.images:.2%} | {correct[name] / args.images:.2%} | {error[name]:.1e} |")


if __name__ == "__main__":
    main()
