"""A model wrapped for export with its inputs and outputs, and its graph with dynamic batch size, height and width.

Shapes: B images, C channels of H x W pixels, S slots.
"""

import copy
import json
import re
from typing import Any, Literal, get_args

import timm.data
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..._version import __version__
from ...compat import export_errors, uncompiled
from ...errors import InputError
from ...layers import Bridge
from ...models import GLNet, Pyramid

__all__ = [
    "INPUT",
    "Deployed",
    "Outputs",
    "Preprocess",
    "backbone_of",
    "capture",
    "description",
    "pictures",
    "smallest_size",
]

Outputs = Literal["classes", "features", "slots"]
Preprocess = Literal["none", "float", "uint8"]

INPUT = "image"  # the name of the graph input


class Deployed(nn.Module):
    """A copy of a model, in float32 on the CPU, with the inputs and outputs of the exported graph.

    Args:
        model: a GLNet, or a module that contains one and takes images.
        outputs: the outputs of the graph. `classes`: the output of the model, named `logits`, (B, K) or for
            segmentation (B, K, H, W); named `embedding` for a model without classifier. `features`: the feature maps of
            the stages, (B, C, H / r, W / r), named `stage0` and so on; for dense prediction networks the maps of their
            `Pyramid`. `slots`: the slot assignment of each pixel in each block, (B, S, H / r, W / r), which sums to one
            over S, named like the blocks.
        preprocess: the input images. `none`: (B, C, H, W), normalised as in training. `float`: (B, C, H, W) from 0 to
            1. `uint8`: (B, H, W, C) from 0 to 255. The graph normalises the latter two. It never resizes images.

    Raises:
        InputError: an argument is invalid, or the model does not support the outputs.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, outputs: Outputs = "classes", preprocess: Preprocess = "none") -> None:
        super().__init__()
        if outputs not in get_args(Outputs):
            raise InputError(f"outputs must be one of {', '.join(get_args(Outputs))}, got {outputs!r}.")
        if preprocess not in get_args(Preprocess):
            raise InputError(f"preprocess must be one of {', '.join(get_args(Preprocess))}, got {preprocess!r}.")
        self.outputs: Outputs = outputs
        self.preprocess: Preprocess = preprocess
        model = uncompiled(model)
        self.network = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        backbone = backbone_of(self.network)
        self.task: str = getattr(model, "task", "classification")
        if outputs != "classes":  # for a dense prediction network, export only its backbone
            self.network = next((m for m in self.network.modules() if isinstance(m, Pyramid)), self.network)
        self.config: dict[str, Any] = timm.data.resolve_model_data_config(backbone)
        self.channels = backbone.in_chans
        self.min_size: int = backbone.stem.min_size
        self._set_normalisation()
        self._maps: dict[str, Tensor] = {}
        self._bridges = self._hook() if outputs == "slots" else []
        self.names = self._name_outputs(backbone)
        self.about = description(model, backbone, self.task, outputs, preprocess)

    def _set_normalisation(self) -> None:
        mean, std = (torch.tensor(self.config[key], dtype=torch.float64) for key in ("mean", "std"))
        if self.preprocess != "none" and len(mean) != self.channels:
            raise InputError(
                f"preprocess={self.preprocess!r} needs the mean and standard deviation of each of {self.channels} "
                f"channels, but the configuration of the model has {len(mean)} values: set pretrained_cfg['mean'] and "
                "['std'], or use 'none'."
            )
        white = 255 if self.preprocess == "uint8" else 1
        self.register_buffer("gain", (1 / (white * std)).float().view(1, -1, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(1, -1, 1, 1))

    def _hook(self) -> list[str]:
        """Register forward hooks that record the assignment of each bridge; return the names of the blocks."""
        found = {name.removesuffix(".mixer.bridge"): m for name, m in self.network.named_modules() if _is_bridge(m)}
        if not found:
            raise InputError("outputs='slots' needs a model with slots, but no block of this model has slots.")
        for name, bridge in found.items():

            def record(module: nn.Module, args: tuple[Any, ...], pair: tuple[Tensor, Tensor], name: str = name) -> None:
                self._maps[name] = pair[1].unflatten(2, args[0].shape[2:])  # (B, S, N) -> (B, S, H, W)

            bridge.register_forward_hook(record)
        return list(found)

    def _name_outputs(self, backbone: GLNet) -> tuple[str, ...]:
        if self.outputs == "slots":
            return tuple(self._bridges)
        if self.outputs == "classes":
            return ("embedding" if self.task == "classification" and backbone.num_classes == 0 else "logits",)
        if isinstance(self.network, Pyramid):
            return tuple(f"stage{index}" for index in self.network.out_indices)
        if not hasattr(self.network, "forward_intermediates"):
            raise InputError(f"outputs='features' needs a GLNet or a Pyramid, got {type(self.network).__name__}.")
        return tuple(f"stage{index}" for index in range(len(backbone.stages)))

    @property
    def dynamic_dims(self) -> dict[int, str]:
        """Return the dynamic dimensions of the input as {dimension: name}."""
        first = 1 if self.preprocess == "uint8" else 2
        return {0: "batch", first: "height", first + 1: "width"}

    def to_input(self, pixels: Tensor) -> Tensor:
        """Convert uint8 images (B, C, H, W) to inputs of this module."""
        if self.preprocess == "uint8":
            return pixels.permute(0, 2, 3, 1).contiguous()
        scaled = pixels.float() / 255
        if self.preprocess == "float":
            return scaled
        mean, std = (torch.tensor(self.config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        if mean.numel() != self.channels:  # for example RGB statistics for a greyscale model
            mean, std = mean.mean(), std.mean()
        return (scaled - mean) / std

    def example(self, batch: int, height: int, width: int, seed: int = 0) -> Tensor:
        """Return random smooth images with noise as inputs of this module."""
        return self.to_input(pictures(batch, self.channels, height, width, seed))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of `names`."""
        if self.preprocess == "uint8":
            image = image.permute(0, 3, 1, 2).float()
        if self.preprocess != "none":
            image = image * self.gain + self.shift
        if self.outputs == "classes":
            return (self.network(image),)
        if self.outputs == "slots":
            self.network(image)
            maps, self._maps = self._maps, {}
            return tuple(maps[name] for name in self._bridges)
        if isinstance(self.network, Pyramid):
            return tuple(self.network(image))
        pyramid: Any = self.network
        return tuple(pyramid.forward_intermediates(image, intermediates_only=True))


def backbone_of(model: nn.Module) -> GLNet:
    """Return the GLNet in a model.

    Raises:
        InputError: there is none.
    """
    backbone = next((module for module in model.modules() if isinstance(module, GLNet)), None)
    if backbone is None:
        raise InputError(
            f"{type(model).__name__} contains no GLNet; only GLNets and modules that contain one can be exported."
        )
    return backbone


def description(
    model: nn.Module, backbone: GLNet, task: str, outputs: Outputs, preprocess: Preprocess
) -> dict[str, str]:
    """Return the metadata of an exported file; values that are not strings are encoded as JSON.

    Args:
        model: the model that is exported.
        backbone: the GLNet in it.
        task: classification, segmentation or detection.
        outputs: see `Deployed`.
        preprocess: the format of the input.
    """
    cfg: dict[str, Any] = {}
    for part in (backbone, model):
        cfg |= getattr(part, "pretrained_cfg", None) or {}
    config = timm.data.resolve_model_data_config(backbone)
    about: dict[str, Any] = {
        "architecture": cfg.get("architecture", type(model).__name__),
        "task": task,
        "outputs": outputs,
        "preprocess": preprocess,
        "glmix_version": __version__,
    }
    about |= {key: config[key] for key in ("mean", "std", "input_size", "interpolation", "crop_pct", "crop_mode")}
    about["input_size"] = (backbone.in_chans, *config["input_size"][1:])
    if task == "classification":
        about["multi_label"] = backbone.multi_label
    about |= {key: cfg[key] for key in ("resize", "category_ids") if cfg.get(key)}
    if cfg.get("label_names"):
        about["class_names"] = list(cfg["label_names"])
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def pictures(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Return random smooth images with noise, (B, C, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, channels, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    noise = torch.rand(batch, channels, height, width, generator=generator)
    return (255 * (0.8 * smooth + 0.2 * noise)).to(torch.uint8)


def _is_bridge(module: nn.Module) -> bool:
    return isinstance(module, Bridge)


def capture(deployed: Deployed) -> ExportedProgram:
    """Capture the graph of a model with torch.export, for any batch size and image size from `smallest_size`.

    Raises:
        InputError: the slot grid follows the aspect ratio, or the graph depends on a specific size.
    """
    if any(isinstance(module, Bridge) and module.follow_aspect for module in deployed.modules()):
        raise InputError(
            "The slot grid of this model follows the aspect ratio of the image, so that each image shape needs a "
            "different graph. Set a fixed slot grid with model.set_slot_grid((8, 8)) before the export."
        )
    sizes = {
        dim: Dim("batch", min=1) if name == "batch" else Dim.DYNAMIC for dim, name in deployed.dynamic_dims.items()
    }
    try:
        with torch.no_grad():
            return torch.export.export(deployed, (deployed.example(2, 96, 128),), dynamic_shapes=(sizes,))
    except export_errors() as error:
        found = re.search(r"You marked .*? constant \(\d+\)", str(error))  # the sentence with the size
        reason = found[0].strip() if found else str(error).splitlines()[0]
        raise InputError(f"The graph has a constant size that must be dynamic: {reason}") from error


def smallest_size(program: ExportedProgram, deployed: Deployed) -> int:
    """Return the smallest height and width that a captured graph accepts.

    It is larger than that of the model, because torch.export captures graphs for feature maps of at least two pixels;
    it would specialise the graph for a size of one pixel.
    """
    (image,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == INPUT)
    found = []
    for dim, name in deployed.dynamic_dims.items():
        size = image.meta["val"].shape[dim]
        if not isinstance(size, torch.SymInt):
            raise InputError(f"The {name} of the images is constant in the graph: {size}.")
        if name != "batch":
            found.append(int(program.range_constraints[size.node.expr].lower))
    return max(deployed.min_size, *found)
