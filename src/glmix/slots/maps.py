"""Slot maps: clustering, assignment and attention of each block, recorded by forward hooks.

Dimensions as in `layers/slots.py`: B images, C channels, N = height * width pixels of a block, S slots.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..compat import uncompiled_name
from ..errors import InputError
from ..layers import Bridge, GLMix
from ..layers.slots import cluster, pixels_of

__all__ = ["BlockMaps", "blocks_with_slots", "chosen_blocks", "evaluating", "last_blocks", "recording", "slot_maps"]


@dataclass(frozen=True, eq=False)
class BlockMaps:
    """Maps of one block in one forward pass.

    Args:
        name: name of the block in the model, such as "stages.0.blocks.1".
        index: index among the blocks with slots, from 0 in the order of execution.
        grid: height and width of the pixel grid, N pixels in total.
        slot_grid: height and width of the slot grid, S slots in total.
        scale: learned scale of the logits; None for k-means and static clustering, which have none.
        clustering: (B, S, N), the softmax over pixels: the weight of each pixel in a slot.
        assignment: (B, S, N), the softmax over slots: the weight of each slot in a pixel.
        slots: (B, S, C), the slots after clustering.
        mixed: (B, S, C), the slots after attention; `slots` without slot attention.
        attention: (B, heads, S, S), attention weights between slots; rows sum to one. None without slot attention.
    """

    name: str
    index: int
    grid: tuple[int, int]
    slot_grid: tuple[int, int]
    scale: float | None
    clustering: Tensor
    assignment: Tensor
    slots: Tensor
    mixed: Tensor
    attention: Tensor | None


def blocks_with_slots(model: nn.Module) -> dict[str, GLMix]:
    """Return the mixers of `model` that have slots, by block name, in the order in which the model registers them.

    Args:
        model: may be wrapped, nested or compiled, but not traced, scripted or exported.

    Raises:
        InputError: the model has no block with slots, or it is a captured graph.
    """
    found = {
        uncompiled_name(name).removesuffix(".mixer"): module
        for name, module in model.named_modules()
        if isinstance(module, GLMix) and module.bridge is not None
    }
    if not found:
        captured = any(isinstance(m, torch.fx.GraphModule | torch.jit.ScriptModule) for m in model.modules())
        raise InputError(
            f"{type(model).__name__} is a traced, scripted or exported graph, in which slots cannot be recorded: "
            "give the model that it was made from."
            if captured
            else f"{type(model).__name__} has no block with slots."
        )
    return found


def chosen_blocks(model: nn.Module, blocks: Sequence[int] | None = None) -> list[int]:
    """Return sorted, unique and non-negative block indices.

    Args:
        model: a model with slots.
        blocks: indices in the order of execution, negative from the end; None for all.

    Raises:
        InputError: an index is out of range, or there is none.
    """
    return sorted(_chosen(blocks, list(blocks_with_slots(model))))


def last_blocks(model: nn.Module) -> list[int]:
    """Return the index of the last block with slots of each stage."""
    last = {name.rpartition(".")[0]: index for index, name in enumerate(blocks_with_slots(model))}
    return sorted(last.values())


def _chosen(blocks: Sequence[int] | None, names: Sequence[str]) -> set[int]:
    """Convert block indices, negative from the end, to a set of non-negative indices; None stands for all."""
    count = len(names)
    if blocks is None:
        return set(range(count))
    unknown = [index for index in blocks if not -count <= index < count]
    if unknown or not blocks:
        given = ", ".join(map(str, unknown)) if unknown else "none"
        raise InputError(
            f"The model has {count} block{'s' if count > 1 else ''} with slots, numbered 0 to {count - 1} "
            f"({names[0]} to {names[-1]}) or from the end, -1 to -{count}; got {given}."
        )
    return {index % count for index in blocks}


def _attention_weights(attn: nn.Module, slots: Tensor) -> Tensor:
    """Recompute the attention weights of timm's `Attention`: (B, S, C) -> (B, heads, S, S)."""
    module: Any = attn
    qkv = module.qkv(slots).unflatten(2, (3, module.num_heads, module.head_dim))  # (B, S, 3, heads, C / heads)
    q, k = module.q_norm(qkv[:, :, 0].transpose(1, 2)), module.k_norm(qkv[:, :, 1].transpose(1, 2))
    weights: Tensor = ((q * module.scale) @ k.transpose(-2, -1)).float().softmax(dim=-1)
    return weights.to(slots.dtype)


class _Recorder:
    """List of recorded slot maps. When a block runs again, a new forward pass begins and block indices restart at 0."""

    def __init__(self, names: dict[GLMix, str], chosen: set[int]) -> None:
        self.names = names
        self.chosen = chosen
        self.order: dict[GLMix, int] = {}
        self.maps: list[BlockMaps] = []
        self.pending: dict[str, Any] | None = None

    def attach(self, mixer: GLMix) -> list[Any]:
        """Register the forward hooks of one block.

        The hook on the bridge runs first. The hook on the attention, if there is one, completes the record.
        """

        def on_bridge(bridge: Bridge, args: tuple[Any, ...], pair: tuple[Tensor, Tensor]) -> None:
            if mixer in self.order:
                self.order.clear()
            index = self.order.setdefault(mixer, len(self.order))
            if index not in self.chosen:
                self.pending = None
                return
            y, x = args[:2]
            scale = getattr(bridge, "scale", None)
            self.pending = {
                "name": self.names[mixer],
                "index": index,
                "grid": (y.shape[2], y.shape[3]),
                "slot_grid": bridge.grid_for(x, None),
                "scale": None if scale is None else float(scale.detach()),
                "clustering": pair[0],
                "assignment": pair[1],
            }
            if mixer.attn is None:
                slots = cluster(pair[0], pixels_of(y))
                self.end(slots, slots, None)

        def on_attention(attn: nn.Module, args: tuple[Any, ...], mixed: Tensor) -> None:
            if self.pending is not None:
                self.end(args[0], mixed, _attention_weights(attn, args[0]))

        assert mixer.bridge is not None
        handles = [mixer.bridge.register_forward_hook(on_bridge)]
        if mixer.attn is not None:
            handles.append(mixer.attn.register_forward_hook(on_attention))
        return handles

    def end(self, slots: Tensor, mixed: Tensor, attention: Tensor | None) -> None:
        """Complete the record of a block."""
        assert self.pending is not None
        self.maps.append(BlockMaps(**self.pending, slots=slots, mixed=mixed, attention=attention))
        self.pending = None


@contextmanager
def recording(model: nn.Module, blocks: Sequence[int] | None = None) -> Iterator[list[BlockMaps]]:
    """Record the slot maps of every forward pass of `model`, or of a part of it, inside a `with` block.

    The caller runs the forward passes. Maps have gradients if the pass has gradients. Compiled code runs in eager mode
    inside the `with` block, because it would skip the hooks.

    Args:
        model: a model with slots.
        blocks: indices in the order of execution, negative from the end; None for all.

    Yields:
        The list to which the maps of each block are appended.
    """
    found = blocks_with_slots(model)
    chosen = _chosen(blocks, list(found))
    recorder = _Recorder({mixer: name for name, mixer in found.items()}, chosen)
    handles: list[Any] = []
    try:
        for mixer in found.values():
            handles += recorder.attach(mixer)
        with torch.compiler.set_stance("force_eager"):
            yield recorder.maps
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set every module to evaluation mode, and restore the mode of each module afterwards.

    Only the flags `training` are set, so overridden methods `train` and `eval` are not called.
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def slot_maps(model: nn.Module, images: Tensor, blocks: Sequence[int] | None = None) -> list[BlockMaps]:
    """Return the slot maps of `images` for each block, in the order of execution.

    The model is restored to its training or evaluation mode.

    Args:
        model: a GLNet or any model that contains one, such as a feature extractor or a segmenter, compiled or not.
        images: (B, in_chans, H, W), of a size that the model accepts, on its device and in its dtype.
        blocks: indices in the order of execution, negative from the end; None for all.
    """
    with torch.no_grad(), evaluating(model), recording(model, blocks) as maps:
        model(images)
    return maps
