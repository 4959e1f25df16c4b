"""Outputs of inference: class probabilities, an embedding, or the slots of a block, for each image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import torch
from numpy.typing import NDArray
from timm.data import ImageNetInfo
from torch import Tensor, nn

from ..data.classification.views import View, ViewReader, class_probabilities
from ..deploy import optimize_for_inference
from ..errors import InputError
from ..models import GLNet
from ..slots.maps import blocks_with_slots, chosen_blocks, evaluating, recording
from ..slots.measures import strongest_slots

__all__ = ["Embedding", "Output", "Predictions", "SlotEmbedding", "label_names"]

Row = dict[str, Any]
DType = Literal["float32", "float16"]  # dtype of the stored vectors
Precision = Literal["float32", "bfloat16"]  # dtype of the forward pass


class Output(Protocol):
    """A computation on images.

    `read` returns the input (C, H, W) of the model and the (width, height) of the image, for an image file or its
    content, and raises InputError for an unreadable one. It runs in worker processes, so it must be small when it is
    pickled. `columns` are the types of the results, see `ResultFolder`. Other values in the rows, such as arrays, are
    not stored. `options` identify the computation, except for the model, so that results of different computations are
    not mixed. With `any_size`, `compute` takes a list of inputs of different sizes instead of a tensor.
    """

    model: nn.Module
    options: dict[str, Any]
    columns: dict[str, str]
    any_size: bool

    @property
    def read(self) -> Callable[[Path | BinaryIO], tuple[Any, tuple[int, int]]]: ...

    def compute(self, inputs: Any) -> list[Row]:
        """Return a row of results for each input of a batch (B, C, H, W), or of a list with `any_size`."""

    def to(self, device: str) -> None:
        """Move the computation to another device, such as `cuda`."""


class _Classifier:
    """Base class of the outputs of classifiers; see `Predictions` for the arguments."""

    any_size = False

    def __init__(
        self, model: nn.Module, view: View, max_pixels: int, precision: Precision | None, *, head: bool = False
    ) -> None:
        self.model = model
        self._precision, self._head = precision, head
        self._prepare()
        self.read = ViewReader(model, view, max_pixels)
        self.options: dict[str, Any] = {"view": view, "max_pixels": max_pixels, "precision": precision}

    def _prepare(self) -> None:
        """Set the network of the forward pass: the model, or a copy that is optimised for its device."""
        self.network: Any = self.model
        if self._precision is not None:
            dtype: torch.dtype = getattr(torch, self._precision)
            options: dict[str, Any] = {"dtype": dtype, "compile": False, "keep_memory": False, "head": self._head}
            self.network = optimize_for_inference(self.model, **options)
        parameter = next(self.network.parameters(), torch.empty(0))
        self.device, self._input_dtype = parameter.device, parameter.dtype

    def compute(self, inputs: Tensor) -> list[Row]:
        """Return a row of results for each input of a batch (B, C, H, W)."""
        with evaluating(self.network):
            return self._rows(inputs.to(self.device, self._input_dtype))

    def _rows(self, inputs: Tensor) -> list[Row]:
        raise NotImplementedError

    def to(self, device: str) -> None:
        """Move the computation to another device, such as `cuda`."""
        if torch.device(device) != self.device:
            self.model.to(device)
            self._prepare()


class Predictions(_Classifier):
    """The most probable classes of an image.

    Columns: `classes` (indices), `labels` (names) and `probabilities`, each with `topk` entries; for a multi-label
    model also `present`, the names of all classes whose probability is at least the `threshold` of the model.

    Args:
        model: any classifier of timm, such as a GLNet.
        topk: number of classes.
        view: `crop` for the centre crop of the evaluation transform, `whole` for the whole image.
        max_pixels: maximum number of pixels of an image, also after resizing; larger ones have an error.
        precision: dtype of the computation with a copy of the model that is optimised for inference; None to use the
            model as it is. With float32 the results are equal up to rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        topk: int = 5,
        view: View = "crop",
        max_pixels: int = 64_000_000,
        precision: Precision | None = None,
    ) -> None:
        super().__init__(model, view, max_pixels, precision, head=True)
        if topk < 1:
            raise InputError(f"topk must be 1 or more, got {topk}.")
        self.topk = topk
        self.labels = label_names(model)
        self.options |= {"output": "predictions", "topk": topk}
        self.columns = {"classes": "list<int32>", "labels": "list<string>", "probabilities": "list<float32>"}
        self.threshold: float | None = None
        if getattr(model, "multi_label", False):
            self.threshold = float(getattr(model, "threshold", 0.5))
            self.columns["present"] = "list<string>"

    def _rows(self, inputs: Tensor) -> list[Row]:
        probabilities = class_probabilities(self.model, self.network(inputs))
        values, classes = probabilities.topk(min(self.topk, probabilities.shape[1]))
        rows: list[Row] = [
            {"classes": indices, "labels": [self.labels(index) for index in indices], "probabilities": row}
            for indices, row in zip(classes.tolist(), values.tolist(), strict=True)
        ]
        if self.threshold is not None:
            for row, of_image in zip(rows, probabilities >= self.threshold, strict=True):
                row["present"] = [self.labels(index) for index in of_image.nonzero().flatten().tolist()]
        return rows


class _Vectors(_Classifier):
    """Base class of the outputs that are vectors; see `Embedding` for the arguments."""

    def __init__(
        self,
        model: nn.Module,
        view: View,
        max_pixels: int,
        precision: Precision | None,
        normalize: bool,
        dtype: DType,
    ) -> None:
        super().__init__(model, view, max_pixels, precision)
        self.normalize, self.dtype = normalize, dtype
        self.options |= {"normalize": normalize, "dtype": dtype}

    def _vectors(self, values: Tensor) -> NDArray[Any]:
        """Return vectors (..., D) as they are stored."""
        values = values.float()
        values = nn.functional.normalize(values, dim=-1) if self.normalize else values
        vectors: NDArray[Any] = values.to(getattr(torch, self.dtype)).cpu().numpy()
        return vectors


class Embedding(_Vectors):
    """Pooled features of an image.

    Columns: `embedding` (D,), the input of the classifier of the model; with `stages`, `embedding_N` for each stage N,
    the mean of its feature map.

    Args:
        model: any model of timm, or a network with a GLNet as its backbone.
        stages: indices of the stages, from 0; None for the features before the classifier.
        normalize: L2-normalise each vector.
        dtype: dtype of the vectors.
        view: see `Predictions`.
        max_pixels: see `Predictions`.
        precision: see `Predictions`.

    Raises:
        InputError: the network has no pooled features, or no such stage.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[int] | None = None,
        normalize: bool = False,
        dtype: DType = "float32",
        view: View = "crop",
        max_pixels: int = 64_000_000,
        precision: Precision | None = None,
    ) -> None:
        backbone: Any = _glnet_in(model) or model
        if not hasattr(backbone, "forward_head"):
            raise InputError(f"{type(model).__name__} has no pooled features: use a classifier or backbone of timm.")
        self.stages = None if stages is None else sorted(set(stages))  # the order in which the model returns them
        channels = [info["num_chs"] for info in getattr(backbone, "feature_info", ())]
        if self.stages is None:
            self.columns = {"embedding": f"{dtype}[{backbone.head_hidden_size}]"}
        elif all(0 <= stage < len(channels) for stage in self.stages):
            self.columns = {f"embedding_{stage}": f"{dtype}[{channels[stage]}]" for stage in self.stages}
        else:
            raise InputError(f"stages must be numbers from 0 to {len(channels) - 1}, got {self.stages}.")
        super().__init__(backbone, view, max_pixels, precision, normalize, dtype)
        self.options |= {"output": "embedding", "stages": self.stages}

    def _rows(self, inputs: Tensor) -> list[Row]:
        network = self.network
        if self.stages is None:
            values = [network.forward_head(network.forward_features(inputs), pre_logits=True)]
        else:
            maps = network.forward_intermediates(inputs, indices=self.stages, intermediates_only=True)
            values = [features.float().flatten(2).mean(2) for features in maps]
        columns = {name: self._vectors(of_batch) for name, of_batch in zip(self.columns, values, strict=True)}
        return [{name: vectors[index] for name, vectors in columns.items()} for index in range(len(inputs))]


class SlotEmbedding(_Vectors):
    """The slots of one block as vectors, and the pixels of each slot.

    Columns: `slots`, one vector (C,) for each slot, after clustering and before attention between slots; `slot_map`,
    the number of the slot with the highest weight for each pixel of the block, row by row from the top left;
    `grid_width` and `grid_height`, the size of the block's grid. A slot that has the highest weight at no pixel does
    not occur in `slot_map`.

    Args:
        model: a GLNet, or a network with a GLNet as its backbone.
        block: index of the block among those with slots, from 0, or negative from the end.
        normalize: see `Embedding`.
        dtype: see `Embedding`.
        view: see `Predictions`.
        max_pixels: see `Predictions`.
        precision: see `Predictions`.

    Raises:
        InputError: the network has no slots, or no such block.
    """

    def __init__(
        self,
        model: nn.Module,
        block: int = -1,
        normalize: bool = False,
        dtype: DType = "float32",
        view: View = "crop",
        max_pixels: int = 64_000_000,
        precision: Precision | None = None,
    ) -> None:
        backbone = _glnet_in(model)
        if backbone is None:
            raise InputError(f"{type(model).__name__} has no slots: use a GLNet.")
        (self.block,) = chosen_blocks(backbone, [block])
        self.stage = int(list(blocks_with_slots(backbone))[self.block].split(".")[1])  # stages.2.blocks.1
        channels = backbone.feature_info[self.stage]["num_chs"]
        self.columns = {"slots": f"list<{dtype}[{channels}]>", "slot_map": "list<uint16>"}
        self.columns |= {"grid_width": "int32", "grid_height": "int32"}
        super().__init__(backbone, view, max_pixels, precision, normalize, dtype)
        self.options |= {"output": "slots", "block": self.block}
        # where the pixels of the block lie in the image follows from these and the sizes of image and input
        self.options |= {name: self.read.config[name] for name in ("crop_pct", "crop_mode")}

    def _rows(self, inputs: Tensor) -> list[Row]:
        with recording(self.network, [self.block]) as recorded:
            self.network.forward_intermediates(inputs, indices=[self.stage], stop_early=True, intermediates_only=True)
        (maps,) = recorded
        vectors, strongest = self._vectors(maps.slots), strongest_slots(maps.assignment).to(torch.uint16).cpu().numpy()
        size = {"grid_width": maps.grid[1], "grid_height": maps.grid[0]}
        return [{"slots": vectors[i], "slot_map": strongest[i], **size} for i in range(len(inputs))]


def _glnet_in(model: nn.Module) -> GLNet | None:
    """Return the GLNet in a model, or None."""
    return next((module for module in model.modules() if isinstance(module, GLNet)), None)


def label_names(model: nn.Module) -> Callable[[int], str]:
    """Return a function from class index to class name.

    The names are those of the model if it has any, else those of ImageNet for 1000 classes, else "class INDEX".
    """
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if names:
        return lambda index: str(names[index])
    if getattr(model, "num_classes", None) == 1000:
        return ImageNetInfo().index_to_description
    return lambda index: f"class {index}"
