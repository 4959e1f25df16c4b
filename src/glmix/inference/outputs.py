"""What inference computes for an image: class probabilities or embeddings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import torch
from timm.data import ImageNetInfo
from torch import Tensor, nn

from ..data.classification.views import View, ViewReader, class_probabilities
from ..errors import InputError
from ..models import GLNet

__all__ = ["Embedding", "Output", "Predictions", "label_names"]

Row = dict[str, Any]
Precision = Literal["float32", "float16"]


class Output(Protocol):
    """A computation on images.

    `read` returns the input (C, H, W) of the model and the (width, height) of the image, for an image file or its
    content, and raises InputError for an unreadable one. It runs in worker processes, so it must be small when it is
    pickled. `columns` are the types of the results, see `ResultFolder`. Other values in the rows, such as arrays, are
    not stored. `options` identify the computation, except for the model, so that results of different computations are
    not mixed. `any_size` tells that `compute` takes a list of inputs of different sizes, and not a tensor.
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

    def __init__(self, model: nn.Module, view: View, max_pixels: int) -> None:
        self.model = model.eval()
        self.read = ViewReader(model, view, max_pixels)
        self.options: dict[str, Any] = {"view": view, "max_pixels": max_pixels}
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def to(self, device: str) -> None:
        """Move the computation to another device, such as `cuda`."""
        self.device = torch.device(device)
        self.model.to(self.device)


class Predictions(_Classifier):
    """The most probable classes of an image.

    Columns: `classes` (indices), `labels` (names) and `probabilities`, each with `topk` entries; for a multi-label
    model also `present`, the names of all classes whose probability is at least `threshold`, that of the model.

    Args:
        model: any classifier of timm, such as a GLNet.
        topk: number of classes.
        view: `crop` for the centre crop of the evaluation transform, `whole` for the whole image.
        max_pixels: maximum number of pixels of an image, also after resizing; larger ones have an error.
    """

    def __init__(self, model: nn.Module, topk: int = 5, view: View = "crop", max_pixels: int = 64_000_000) -> None:
        super().__init__(model, view, max_pixels)
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

    def compute(self, inputs: Tensor) -> list[Row]:
        probabilities = class_probabilities(self.model, self.model(inputs.to(self.device)))
        values, classes = probabilities.topk(min(self.topk, probabilities.shape[1]))
        rows: list[Row] = [
            {"classes": indices, "labels": [self.labels(index) for index in indices], "probabilities": row}
            for indices, row in zip(classes.tolist(), values.tolist(), strict=True)
        ]
        if self.threshold is not None:
            for row, of_image in zip(rows, probabilities >= self.threshold, strict=True):
                row["present"] = [self.labels(index) for index in of_image.nonzero().flatten().tolist()]
        return rows


class Embedding(_Classifier):
    """Pooled features of an image.

    Columns: `embedding` (D,), the input of the classifier of the model; with `stages`, `embedding_N` for each stage N,
    the mean of its feature map.

    Args:
        model: any model of timm, or a network with a GLNet as its backbone.
        stages: numbers of the stages, from 0; None for the features before the classifier.
        normalize: divide each vector by its Euclidean norm.
        dtype: dtype of the vectors.
        view: `crop` for the centre crop of the evaluation transform, `whole` for the whole image.
        max_pixels: maximum number of pixels of an image, also after resizing; larger ones have an error.

    Raises:
        InputError: the network has no pooled features, or no such stage.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[int] | None = None,
        normalize: bool = False,
        dtype: Precision = "float32",
        view: View = "crop",
        max_pixels: int = 64_000_000,
    ) -> None:
        backbone = next((module for module in model.modules() if isinstance(module, GLNet)), model)
        if not hasattr(backbone, "forward_head"):
            raise InputError(f"{type(model).__name__} has no pooled features: use a classifier or backbone of timm.")
        super().__init__(backbone, view, max_pixels)
        self.network: Any = backbone
        self.stages = None if stages is None else list(stages)
        if self.stages is not None:
            channels = [info["num_chs"] for info in getattr(backbone, "feature_info", ())]
            if not all(0 <= stage < len(channels) for stage in self.stages):
                raise InputError(f"stages must be numbers from 0 to {len(channels) - 1}, got {self.stages}.")
            self.columns = {f"embedding_{stage}": f"{dtype}[{channels[stage]}]" for stage in self.stages}
        else:
            self.columns = {"embedding": f"{dtype}[{self.network.head_hidden_size}]"}
        self.normalize, self.dtype = normalize, dtype
        self.options |= {"output": "embedding", "stages": self.stages, "normalize": normalize, "dtype": dtype}

    def compute(self, inputs: Tensor) -> list[Row]:
        network, inputs = self.network, inputs.to(self.device)
        if self.stages is None:
            vectors = {"embedding": network.forward_head(network.forward_features(inputs), pre_logits=True)}
        else:
            maps = network.forward_intermediates(inputs, indices=self.stages, intermediates_only=True)
            vectors = {
                f"embedding_{stage}": features.flatten(2).mean(2)
                for stage, features in zip(self.stages, maps, strict=True)
            }
        columns = {}
        for name, values in vectors.items():
            values = values.float()
            values = nn.functional.normalize(values, dim=1) if self.normalize else values
            columns[name] = values.to(getattr(torch, self.dtype)).cpu().numpy()
        return [{name: values[index] for name, values in columns.items()} for index in range(len(inputs))]


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
