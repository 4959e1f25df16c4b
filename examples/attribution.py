"""Attribution of a prediction to pixels: Grad-CAM, integrated gradients and the evidence per slot.

    pip install 'glmix[slots]' captum
    python examples/attribution.py photo.jpg --checkpoint best.ckpt --out attribution.png

Grad-CAM (pytorch-grad-cam) and integrated gradients (captum) work with any network. The evidence per slot exists for
GLNet only: it is the class activation map of the last layer, distributed to the slots of a block.
"""

import argparse
from pathlib import Path

import torch
from captum.attr import IntegratedGradients
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.nn import functional as F

import glmix
from glmix.data.classification.views import model_input
from glmix.slots import slot_maps
from glmix.slots.evidence import slot_evidence


def grad_cam(model: nn.Module, image: Tensor, target: int) -> Tensor:
    """Return the Grad-CAM of a class, (H, W), from 0 to 1.

    Args:
        model: a GLNet classifier.
        image: model input (1, 3, H, W).
        target: the class.
    """
    with GradCAM(model=model, target_layers=[model.stages[-1]]) as cam:
        return torch.from_numpy(cam(input_tensor=image, targets=[ClassifierOutputTarget(target)])[0])


def integrated_gradients(model: nn.Module, image: Tensor, target: int, steps: int = 16) -> Tensor:
    """Return the integrated gradients of a class, (H, W): their sum over channels, from a grey image to the image."""
    return IntegratedGradients(model).attribute(image, target=target, n_steps=steps)[0].sum(0).detach()


def evidence_map(model: nn.Module, image: Tensor, target: int, block: int = -1) -> Tensor:
    """Return the evidence of each pixel's slots for a class, (h, w), on the grid of a block."""
    (maps,) = slot_maps(model, image, [block])
    with torch.inference_mode():
        activation = model.head.fc(model.forward_features(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    evidence = slot_evidence(activation, maps.assignment, maps.grid)[:, target]  # (1, slots)
    return (evidence[:, None] @ maps.assignment)[0, 0].unflatten(0, maps.grid)


def heat(values: Tensor, image: Image.Image) -> Image.Image:
    """Return an image in which positive values are red and negative values are blue."""
    values = F.interpolate(values[None, None].float(), (image.height, image.width), mode="bilinear")[0, 0]
    values = values / values.abs().max().clamp(min=1e-12)
    grey = torch.full_like(values, 0.9)
    colours = torch.stack(
        [grey - 0.9 * (-values).clamp(min=0), grey - 0.9 * values.abs(), grey - 0.9 * values.clamp(0)]
    )
    return Image.fromarray((255 * colours).byte().permute(1, 2, 0).numpy())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", type=Path, default=Path("attribution.png"))
    args = parser.parse_args(arguments)
    model = glmix.load(args.checkpoint).network
    picture = Image.open(args.image).convert("RGB")
    image = model_input(picture, model)[None]
    with torch.inference_mode():
        target = int(model(image).argmax())
    shown = picture.resize((224, 224))
    maps = [
        grad_cam(model, image, target),
        integrated_gradients(model, image, target),
        evidence_map(model, image, target),
    ]
    sheet = Image.new("RGB", (4 * 224, 224))
    for column, part in enumerate([shown, *(heat(values, shown) for values in maps)]):
        sheet.paste(part, (224 * column, 0))
    sheet.save(args.out)
    print(f"class {target}; from left: image, Grad-CAM, integrated gradients, evidence of slots: {args.out}")


if __name__ == "__main__":
    main()
