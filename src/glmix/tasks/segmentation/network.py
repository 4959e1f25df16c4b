"""Networks for segmentation: a backbone by timm's name, a decoder by that of segmentation_models.pytorch."""

import inspect
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...compat import encoder_geometry
from ...errors import InputError, MissingExtraError
from ...models import MODEL_NAMES, GLNet, Pyramid
from ...training.weights import build_model, load_weights, nearest
from .inference import pad_to_multiple

__all__ = ["AuxiliaryHead", "PyramidEncoder", "SegmentationNet"]

STAGE_3 = 4  # in a list of maps of strides 1, 2, 4, 8, 16, 32


class PyramidEncoder(nn.Module):
    """A GLNet's pyramid as decoders of segmentation_models.pytorch take it: [images, nothing at stride 2, maps ...]."""

    def __init__(self, pyramid: Pyramid, in_channels: int, output_stride: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.out_channels = [in_channels, 0, *pyramid.channels]
        self.output_stride = output_stride

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.pyramid.set_grad_checkpointing(enable)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        nothing = x.new_empty((x.shape[0], 0, x.shape[2] // 2, x.shape[3] // 2))
        return [x, nothing, *self.pyramid(x, mask)]


class AuxiliaryHead(nn.Module):
    """A convolution and a classifier on one map of the backbone: a second opinion, for training alone."""

    def __init__(self, in_channels: int, num_classes: int, channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.block(x))
        return logits


class SegmentationNet(nn.Module):
    """Images (B, C, H, W) of any size to logits (B, K, H, W).

    In evaluation mode a size that is no multiple of the backbone's stride is padded inside and cut back, and a GLNet's
    slots see nothing of the padding. Every resize leaves the centres of pixels where they are, so that labels stand at
    the same place whatever the size of the image.

    Args:
        model: a backbone's name: ours, or any of timm's that gives a pyramid.
        model_args: its arguments; with `pretrained: true` a model of timm's begins from published weights.
        num_classes: K.
        decoder: a name in segmentation_models.pytorch, such as `upernet`, `fpn` or `unet`.
        decoder_args: arguments of that class, such as decoder_channels.
        auxiliary: whether there is a second head, on the map of stride 16.
        dropout: of channels before the last layer.
        checkpoint: weights that a GLNet as backbone begins from.
    """

    def __init__(
        self,
        model: str,
        model_args: dict[str, Any],
        num_classes: int,
        decoder: str = "upernet",
        decoder_args: dict[str, Any] | None = None,
        *,
        auxiliary: bool = False,
        dropout: float = 0.0,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__()
        net = _build(model, model_args, num_classes, decoder, decoder_args or {}, checkpoint)
        self.encoder: nn.Module = net.encoder  # type: ignore[assignment]
        self.decoder: nn.Module = net.decoder  # type: ignore[assignment]
        self.dropout = nn.Dropout2d(dropout)
        self.head: nn.Module = net.segmentation_head[0]  # type: ignore[index,assignment]
        channels: list[int] = self.encoder.out_channels  # type: ignore[assignment]
        if auxiliary and len(channels) <= STAGE_3:
            raise InputError(f"The decoder {decoder!r} asks for no map of stride 16, which the auxiliary head needs.")
        self.auxiliary = AuxiliaryHead(channels[STAGE_3], num_classes) if auxiliary else None
        # what timm says of its models: here which layers depend on the classes, and what is noted when it is loaded
        self.pretrained_cfg: dict[str, Any] = {
            "architecture": f"{decoder} on {model}",
            "classifier": ("head", "auxiliary.classifier"),
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        network = self.encoder if isinstance(self.encoder, PyramidEncoder) else self.encoder.model
        if not hasattr(network, "set_grad_checkpointing"):
            raise InputError(f"The backbone {type(network).__name__} of timm has no gradient checkpointing.")
        network.set_grad_checkpointing(enable)  # type: ignore[operator]

    def no_weight_decay(self) -> set[str]:
        """Slot scales and learned seeds."""
        if not isinstance(self.encoder, PyramidEncoder):
            return set()
        return {f"encoder.pyramid.model.{name}" for name in self.encoder.pyramid.model.no_weight_decay()}

    def forward(self, images: Tensor, auxiliary: bool = False) -> Any:
        """Logits, or with `auxiliary` those of both heads."""
        stride: int = self.encoder.output_stride  # type: ignore[assignment]
        padded, mask = pad_to_multiple(images, stride)
        if isinstance(self.encoder, PyramidEncoder):
            # while it trains, BatchNorm counts all pixels, and slots may as well
            maps = self.encoder(padded, None if self.training else mask)
        else:
            maps = self.encoder(padded)
        logits = self._upsample(self.head(self.dropout(self.decoder(list(maps)))), padded, images)
        if not auxiliary:
            return logits
        if self.auxiliary is None:
            raise InputError("This network was built without an auxiliary head.")
        return logits, self._upsample(self.auxiliary(maps[STAGE_3]), padded, images)

    def _upsample(self, logits: Tensor, padded: Tensor, images: Tensor) -> Tensor:
        if logits.shape[2:] != padded.shape[2:]:
            logits = F.interpolate(logits, size=padded.shape[2:], mode="bilinear", align_corners=False)
        return logits[..., : images.shape[2], : images.shape[3]]


def _build(
    model: str,
    model_args: dict[str, Any],
    num_classes: int,
    decoder: str,
    decoder_args: dict[str, Any],
    checkpoint: str | Path | None,
) -> nn.Module:
    """The network as its library builds it, with our pyramid as encoder and without the faults named below."""
    try:
        import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(
            f"Segmentation needs the extra `dense` ({error}): pip install 'glmix[dense]'."
        ) from error
    decoders: dict[str, Any] = {name: cls for name, cls in smp.MODEL_ARCHITECTURES_MAPPING.items() if name != "dpt"}
    if decoder not in decoders:
        raise InputError(f"No decoder is named {decoder!r}.{nearest(decoder, decoders)} Known: {', '.join(decoders)}.")
    accepted = [
        n for n in inspect.signature(decoders[decoder].__init__).parameters if n.startswith(("decoder_", "enc"))
    ]
    accepted = [n for n in accepted if n not in ("encoder_name", "encoder_weights")]
    for key in decoder_args:
        if key not in accepted:
            raise InputError(
                f"The decoder {decoder!r} has no argument {key!r}.{nearest(key, accepted)} It takes "
                f"{', '.join(accepted)}."
            )
    if "output_stride" in model_args:
        raise InputError(
            "The decoder says which output_stride it takes: decoder_args.encoder_output_stride, if it has it."
        )
    ours = model.split(".")[0] in MODEL_NAMES
    apart = ("in_chans", "pretrained")
    encoder_args = {name: value for name, value in model_args.items() if name not in apart}
    if ours:  # the decoder is built on a stand-in with few layers
        encoder_args["depths"] = (1,) * len(model_args.get("widths", range(4)))
    net: nn.Module = decoders[decoder](
        encoder_name=f"tu-{model}",
        encoder_weights=True if model_args.get("pretrained") and not ours else None,
        in_channels=model_args.get("in_chans", 3),
        classes=num_classes,
        **decoder_args,
        **encoder_args,
    )
    if ours:
        _take_pyramid(net, model, model_args, checkpoint)
    elif checkpoint is not None:
        raise InputError(f"checkpoint holds the weights of a GLNet, or of a whole network; {model} is neither.")
    _keep_centres(net)
    return net


def _take_pyramid(net: nn.Module, model: str, args: dict[str, Any], checkpoint: str | Path | None) -> None:
    """Let a GLNet's pyramid, whose maps are normalised, be the encoder of a network."""
    like: Any = net.encoder
    output_stride, depth = encoder_geometry(like)
    backbone = build_model(model, {**args, "output_stride": output_stride}, 0)
    assert isinstance(backbone, GLNet)
    if checkpoint is not None:
        load_weights(backbone, checkpoint)
    pyramid = Pyramid(backbone, range(depth - 1))
    net.encoder = PyramidEncoder(pyramid, args.get("in_chans", 3), like.output_stride)
    if hasattr(net.decoder, "feature_norms"):  # UPerNet's own norms of the maps
        net.decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in pyramid.channels)


def _keep_centres(net: nn.Module) -> None:
    """FPN doubles its maps between the centres of the corner pixels, which moves labels by an amount that depends on
    the size of the image. Let it double every pixel instead."""
    from segmentation_models_pytorch.decoders.fpn.decoder import (  # type: ignore[import-untyped]
        Conv3x3GNReLU,
        SegmentationBlock,
    )

    for module in net.modules():
        if isinstance(module, SegmentationBlock):
            layers: list[nn.Module] = []
            for block in module.block:
                layers.append(block)
                if isinstance(block, Conv3x3GNReLU) and block.upsample:
                    block.upsample = False
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            module.block = nn.Sequential(*layers)
