"""Compare the predictions of `glmix.optimize_for_inference` with those of the trained model, on generated scenes.

glmix demo && python -m studies.timing.agreement out/demo/model
"""

import argparse

import timm
import torch

from glmix.data.classification.datamodule import ScenesData
from glmix.data.scenes import SceneConfig
from glmix.deploy import optimize_for_inference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder of `glmix demo` or `glmix convert`, trained on scenes")
    parser.add_argument("--images", type=int, default=4000, help="number of test scenes (%(default)s)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "float16"], help="dtypes to compare")
    parser.add_argument("--compile", action="store_true", help="compile the optimised models too")
    args = parser.parse_args()
    model = timm.create_model(f"local-dir:{args.model}", pretrained=True).eval()
    forms = {
        name: optimize_for_inference(model, dtype=getattr(torch, name), compile=args.compile) for name in args.dtypes
    }
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
