"""What slots show: forward hooks on bridges and on slot attention, while a model runs as it always does.

Letters as in `layers/slots.py`: B images, C channels, N = rows * columns pixels of a block, S slots.
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
    """What one block held while a batch went through it.

    Args:
        name: the block's place in the model, such as "stages.0.blocks.1".
        index: its place in the order of execution among the blocks with slots, from 0.
        grid: rows and columns of its pixels, N of them.
        slot_grid: rows and columns of its slots, S of them.
        scale: the learned scale of its logits; None where there is none, in k-means and static clustering.
        clustering: (B, S, N), the softmax over pixels: of which pixels a slot is made.
        assignment: (B, S, N), the softmax over slots: from which slots a pixel takes.
        slots: (B, S, C), as they are clustered.
        mixed: (B, S, C), as attention leaves them; `slots` where there is none.
        attention: (B, heads, S, S), rows sum to one: to which slots a slot listens. None without slot attention.
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
    """The mixers of `model` that have slots, in the order in which it holds them, named by their blocks.

    `model` may be wrapped, nested or compiled; a graph that was traced, scripted or exported holds no blocks any more.
    """
    found = {
        uncompiled_name(name).removesuffix(".mixer"): module
        for name, module in model.named_modules()
        if isinstance(module, GLMix) and module.bridge is not None
    }
    if not found:
        captured = any(isinstance(m, torch.fx.GraphModule | torch.jit.ScriptModule) for m in model.modules())
        raise InputError(
            f"{type(model).__name__} is a graph that was traced, scripted or exported, in which no slots can be seen: "
            "give the model that it was made from."
            if captured
            else f"{type(model).__name__} has no block with slots."
        )
    return found


def chosen_blocks(model: nn.Module, blocks: Sequence[int] | None = None) -> list[int]:
    """The places in the order of execution that `blocks` means, each once and in order; a wrong one is refused."""
    return sorted(_chosen(blocks, list(blocks_with_slots(model))))


def last_blocks(model: nn.Module) -> list[int]:
    """The last block with slots of each stage, where its slots have come furthest."""
    last = {name.rpartition(".")[0]: index for index, name in enumerate(blocks_with_slots(model))}
    return sorted(last.values())


def _chosen(blocks: Sequence[int] | None, names: Sequence[str]) -> set[int]:
    """Places in the order of execution, counted from the end where negative, from what a caller asks for."""
    count = len(names)
    if blocks is None:
        return set(range(count))
    unknown = [index for index in blocks if not -count <= index < count]
    if unknown or not blocks:
        asked = ", ".join(map(str, unknown)) if unknown else "none"
        raise InputError(
            f"The model has {count} block{'s' if count > 1 else ''} with slots, numbered 0 to {count - 1} "
            f"({names[0]} to {names[-1]}) or from the end, -1 to -{count}; asked for: {asked}."
        )
    return {index % count for index in blocks}


def _attention_weights(attn: nn.Module, slots: Tensor) -> Tensor:
    """The weights that timm's `Attention` computes on its way, (B, S, C) -> (B, heads, S, S)."""
    module: Any = attn
    parted = module.qkv(slots).unflatten(2, (3, module.num_heads, module.head_dim))  # (B, S, 3, heads, C / heads)
    q, k = module.q_norm(parted[:, :, 0].transpose(1, 2)), module.k_norm(parted[:, :, 1].transpose(1, 2))
    weights: Tensor = ((q * module.scale) @ k.transpose(-2, -1)).float().softmax(dim=-1)
    return weights.to(slots.dtype)


class _Recorder:
    """Fills a list. A block that runs again begins another pass, in which blocks are counted anew."""

    def __init__(self, names: dict[GLMix, str], chosen: set[int]) -> None:
        self.names = names
        self.chosen = chosen
        self.order: dict[GLMix, int] = {}
        self.maps: list[BlockMaps] = []
        self.pending: dict[str, Any] | None = None

    def attach(self, mixer: GLMix) -> list[Any]:
        """Hooks for one block: the bridge's comes first, and the attention's, if there is one, ends the record."""

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
        assert self.pending is not None
        self.maps.append(BlockMaps(**self.pending, slots=slots, mixed=mixed, attention=attention))
        self.pending = None


@contextmanager
def recording(model: nn.Module, blocks: Sequence[int] | None = None) -> Iterator[list[BlockMaps]]:
    """While it lasts, every forward pass of `model` or of a part of it adds what its blocks hold to the list.

    The pass itself is the caller's, with its mode and its gradient: maps of a pass with a gradient carry it. Compiled
    code runs as plain Python inside, since it would pass hooks by, and is there again afterwards.

    Args:
        blocks: which ones, by their place in the order of execution, from the end where negative; None for all.
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
    """Every module in evaluation mode, and then in the mode that it had; flags alone, so nothing else can change."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def slot_maps(model: nn.Module, images: Tensor, blocks: Sequence[int] | None = None) -> list[BlockMaps]:
    """What the slots of each block show of `images`, in order of execution; the model stays exactly as it was.

    Args:
        model: a GLNet or anything that holds one: a feature extractor, an encoder with a decoder, compiled or not.
        images: (B, in_chans, H, W) of any size that the model takes, on its device and of its dtype.
        blocks: which ones, by their place in the order of execution, from the end where negative; None for all.
    """
    with torch.no_grad(), evaluating(model), recording(model, blocks) as maps:
        model(images)
    return maps
