"""How often the fastest form of a trained model gives the answers that the model itself gives, on generated scenes.

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
    parser.add_argument("model", help="a folder that `glmix demo` or `glmix convert` wrote, trained on scenes")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "float16"])
    parser.add_argument("--compile", action="store_true", help="compile them, too")
    args = parser.parse_args()
    model = timm.create_model(f"local-dir:{args.model}", pretrained=True).eval()
    forms = {
        name: optimize_for_inference(model, dtype=getattr(torch, name), compile=args.compile) for name in args.dtypes
    }
    scenes = SceneConfig(size=model.pretrained_cfg["input_size"][-1], objects=(1, 1))
    data = ScenesData(scenes, test_count=args.images, eval_batch_size=100)
    data.setup("test")
    same = dict.fromkeys(forms, 0)
    right = dict.fromkeys(["model", *forms], 0)
    error = dict.fromkeys(forms, 0.0)
    with torch.inference_mode():
        for images, labels in data.test_dataloader():
            wanted = model(images)
            right["model"] += int((wanted.argmax(1) == labels).sum())
            for name, form in forms.items():
                found = form(images)
                same[name] += int((found.argmax(1) == wanted.argmax(1)).sum())
                right[name] += int((found.argmax(1) == labels).sum())
                error[name] = max(error[name], float((found - wanted).abs().max() / wanted.abs().max()))
    print(f"| form | same class of {args.images} | right | largest error |\n|---|---|---|---|")
    print(f"| the model | | {right['model'] / args.images:.2%} | |")
    for name in forms:
        print(f"| {name} | {same[name] / args.images:.2%} | {right[name] / args.images:.2%} | {error[name]:.1e} |")


if __name__ == "__main__":
    main()
