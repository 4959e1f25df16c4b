"""A model as it is handed out: what goes in, what comes out, and its graph, in which batch, height and width are free.

Letters: B images, C channels of H x W pixels, S slots.
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

__all__ = ["INPUT", "Deployed", "Outputs", "Preprocess", "capture", "smallest_size"]

Outputs = Literal["classes", "features", "slots"]
Preprocess = Literal["none", "float", "uint8"]

INPUT = "image"  # the name of every graph's one input


class Deployed(nn.Module):
    """A copy of a model, in float32 on the CPU, between the images that a graph takes and the tensors that it gives.

    Args:
        model: a GLNet, or a module that holds one and takes its images.
        outputs: `classes`: what the model returns, named `logits` (`embedding` for one without classifier).
            `features`: the maps of its stages, (B, C, H / r, W / r), named `stage0` and so on; of a network for dense
            prediction the maps of its `Pyramid`, which its decoder takes. `slots`: to which slots
            each pixel of each block belongs, (B, S, H / r, W / r), sums of one over S, named as the blocks are.
        preprocess: what the images are. `none`: (B, C, H, W), normalised as in training. `float`: (B, C, H, W) from 0
            to 1. `uint8`: (B, H, W, C) from 0 to 255. The latter two are normalised inside; none are resized.
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
        backbone = next((module for module in self.network.modules() if isinstance(module, GLNet)), None)
        if backbone is None:
            raise InputError(f"{type(model).__name__} holds no GLNet: this exports GLNets and what is built on one.")
        if outputs != "classes":  # of a network for dense prediction only its backbone is needed
            self.network = next((m for m in self.network.modules() if isinstance(m, Pyramid)), self.network)
        self.config: dict[str, Any] = timm.data.resolve_model_data_config(backbone)
        self.channels = backbone.in_chans
        self.min_size: int = backbone.stem.min_size
        self._set_normalisation()
        self._maps: dict[str, Tensor] = {}
        self._bridges = self._hook() if outputs == "slots" else []
        self.names = self._name_outputs(backbone)
        self.about = self._describe(backbone)

    def _set_normalisation(self) -> None:
        mean, std = (torch.tensor(self.config[key], dtype=torch.float64) for key in ("mean", "std"))
        if self.preprocess != "none" and len(mean) != self.channels:
            raise InputError(
                f"preprocess={self.preprocess!r} needs a mean and a deviation of each of {self.channels} channels, and "
                f"the model's configuration has {len(mean)}: set pretrained_cfg['mean'] and ['std'], or use 'none'."
            )
        white = 255 if self.preprocess == "uint8" else 1
        self.register_buffer("gain", (1 / (white * std)).float().view(1, -1, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(1, -1, 1, 1))

    def _hook(self) -> list[str]:
        """Have each bridge note what it makes; returns the names of the blocks that they stand in."""
        found = {name.removesuffix(".mixer.bridge"): m for name, m in self.network.named_modules() if _is_bridge(m)}
        if not found:
            raise InputError("outputs='slots' needs a model with slots, and this one has no block with any.")
        for name, bridge in found.items():

            def note(module: nn.Module, args: tuple[Any, ...], pair: tuple[Tensor, Tensor], name: str = name) -> None:
                self._maps[name] = pair[1].unflatten(2, args[0].shape[2:])  # (B, S, N) -> (B, S, H, W)

            bridge.register_forward_hook(note)
        return list(found)

    def _name_outputs(self, backbone: GLNet) -> tuple[str, ...]:
        if self.outputs == "slots":
            return tuple(self._bridges)
        if self.outputs == "classes":
            return ("logits" if backbone.num_classes > 0 else "embedding",)
        if isinstance(self.network, Pyramid):
            return tuple(f"stage{index}" for index in self.network.out_indices)
        if not hasattr(self.network, "forward_intermediates"):
            raise InputError(f"outputs='features' needs a GLNet or a Pyramid, got {type(self.network).__name__}.")
        return tuple(f"stage{index}" for index in range(len(backbone.stages)))

    def _describe(self, backbone: GLNet) -> dict[str, str]:
        """What a file says of itself; values that are not text are JSON."""
        cfg = getattr(backbone, "pretrained_cfg", {})
        told: dict[str, Any] = {
            "architecture": cfg.get("architecture", type(backbone).__name__),
            "outputs": self.outputs,
            "preprocess": self.preprocess,
            "glmix_version": __version__,
        }
        told |= {key: self.config[key] for key in ("mean", "std", "input_size", "interpolation", "crop_pct")}
        if cfg.get("label_names"):
            told["class_names"] = list(cfg["label_names"])
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}

    @property
    def free_dims(self) -> dict[int, str]:
        """The dimensions of the input whose sizes are free."""
        first = 1 if self.preprocess == "uint8" else 2
        return {0: "batch", first: "height", first + 1: "width"}

    def feed(self, pixels: Tensor) -> Tensor:
        """Images of bytes (B, C, H, W) as this module takes them."""
        if self.preprocess == "uint8":
            return pixels.permute(0, 2, 3, 1).contiguous()
        scaled = pixels.float() / 255
        if self.preprocess == "float":
            return scaled
        mean, std = (torch.tensor(self.config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        if mean.numel() != self.channels:  # a configuration for colour, and a model for something else
            mean, std = mean.mean(), std.mean()
        return (scaled - mean) / std

    def example(self, batch: int, height: int, width: int, seed: int = 0) -> Tensor:
        """Random images, smooth with some noise, as this module takes them."""
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(batch, self.channels, 5, 5, generator=generator)
        smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        noise = torch.rand(batch, self.channels, height, width, generator=generator)
        return self.feed((255 * (0.8 * smooth + 0.2 * noise)).to(torch.uint8))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
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


def _is_bridge(module: nn.Module) -> bool:
    return isinstance(module, Bridge)


def capture(deployed: Deployed) -> ExportedProgram:
    """The graph of a model, for images of any number and of any size from the smallest on (`smallest_size`)."""
    if any(isinstance(module, Bridge) and module.follow_aspect for module in deployed.modules()):
        raise InputError(
            "This model's grid of slots follows the aspect ratio of the image, so each shape of image has a graph of "
            "its own and none can be exported for all: give it a fixed one with model.set_slot_grid((8, 8))."
        )
    sizes = {dim: Dim("batch", min=1) if name == "batch" else Dim.DYNAMIC for dim, name in deployed.free_dims.items()}
    try:
        with torch.no_grad():
            return torch.export.export(deployed, (deployed.example(2, 96, 128),), dynamic_shapes=(sizes,))
    except export_errors() as error:
        found = re.search(r"You marked .*? constant \(\d+\)", str(error))  # the sentence that names the size
        told = found[0].strip() if found else str(error).splitlines()[0]
        raise InputError(f"The graph fixes a size that must be free: {told}") from error


def smallest_size(program: ExportedProgram, deployed: Deployed) -> int:
    """The smallest height and width that a captured graph takes.

    torch.export proves its graphs for grids of two pixels and more, as one pixel would be another program to it: so it
    is larger than what the model itself takes.
    """
    (image,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == INPUT)
    found = []
    for dim, name in deployed.free_dims.items():
        size = image.meta["val"].shape[dim]
        if not isinstance(size, torch.SymInt):
            raise InputError(f"The graph fixes the {name} of its images at {size}.")
        if name != "batch":
            found.append(int(program.range_constraints[size.node.expr].lower))
    return max(deployed.min_size, *found)
