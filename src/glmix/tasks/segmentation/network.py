"""Segmentation networks: a backbone of timm with a decoder of segmentation_models.pytorch."""

import inspect
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...compat import encoder_geometry
from ...errors import InputError, needs_extra
from ...layers.capture import is_exporting
from ...layers.slots import pool_to_grid
from ...models import MODEL_NAMES, GLNet, Pyramid
from ...training.weights import build_model, load_weights, nearest
from .inference import pad_to_multiple

__all__ = ["AuxiliaryHead", "PyramidEncoder", "SegmentationNet"]

STRIDE_16 = 4  # index in a list of feature maps with strides 1, 2, 4, 8, 16, 32


class PyramidEncoder(nn.Module):
    """The feature pyramid of a GLNet with the encoder interface of segmentation_models.pytorch.

    The output is a list: the images, an empty map of stride 2 and the maps of the pyramid.
    """

    def __init__(self, pyramid: Pyramid, in_channels: int, output_stride: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.out_channels = [in_channels, 0, *pyramid.channels]
        self.output_stride = output_stride

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.pyramid.set_grad_checkpointing(enable)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        empty = x.new_empty((x.shape[0], 0, x.shape[2] // 2, x.shape[3] // 2))
        return [x, empty, *self.pyramid(x, mask)]


class GridPool(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling whose exported graph accepts any image size.

    `torch.export` would store the windows of the example image as constants.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not is_exporting():
            return super().forward(x)
        rows, cols = self.output_size  # type: ignore[misc]
        return pool_to_grid(x, rows, cols).transpose(1, 2).unflatten(2, (rows, cols))


class AuxiliaryHead(nn.Module):
    """Auxiliary head for training: a convolution and a pixel classifier on one feature map of the backbone."""

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
    """Segmentation network: maps images (B, C, H, W) of any size to logits (B, K, H, W).

    Sizes that are not a multiple of the backbone's stride are padded, and the logits are cropped. In evaluation mode
    the padding is masked for the slots of a GLNet. Every resize keeps the pixel centres aligned, so that predictions do
    not shift with the size of the image.

    Args:
        model: name of the backbone: one of ours, or any model of timm with a feature pyramid.
        model_args: arguments of the backbone; `pretrained: true` loads the published weights of a timm model.
        num_classes: the number of classes K.
        decoder: name of a decoder in segmentation_models.pytorch, such as `upernet`, `fpn` or `unet`.
        decoder_args: arguments of the decoder's class, such as decoder_channels.
        auxiliary: add an auxiliary head on the feature map of stride 16.
        dropout: channel dropout before the last layer.
        checkpoint: initial weights of a GLNet backbone.
    """

    task = "segmentation"  # what the outputs are, for exported files

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
        net = _build_smp_network(model, model_args, num_classes, decoder, decoder_args or {}, checkpoint)
        self.encoder: nn.Module = net.encoder  # type: ignore[assignment]
        self.decoder: nn.Module = net.decoder  # type: ignore[assignment]
        self.dropout = nn.Dropout2d(dropout)
        self.head: nn.Module = net.segmentation_head[0]  # type: ignore[index,assignment]
        channels: list[int] = self.encoder.out_channels  # type: ignore[assignment]
        if auxiliary and len(channels) <= STRIDE_16:
            raise InputError(f"The decoder {decoder!r} uses no map of stride 16, which the auxiliary head needs.")
        self.auxiliary = AuxiliaryHead(channels[STRIDE_16], num_classes) if auxiliary else None
        # as in timm: names of the layers whose size is the number of classes; loading a checkpoint adds entries
        self.pretrained_cfg: dict[str, Any] = {
            "architecture": f"{decoder} on {model}",
            "classifier": ("head", "auxiliary.classifier"),
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        network = self.encoder if isinstance(self.encoder, PyramidEncoder) else self.encoder.model
        if not hasattr(network, "set_grad_checkpointing"):
            raise InputError(f"The backbone {type(network).__name__} of timm does not support gradient checkpointing.")
        network.set_grad_checkpointing(enable)  # type: ignore[operator]

    def no_weight_decay(self) -> set[str]:
        """Return the parameters of a GLNet without weight decay: slot scales and learned seeds."""
        if not isinstance(self.encoder, PyramidEncoder):
            return set()
        return {f"encoder.pyramid.model.{name}" for name in self.encoder.pyramid.model.no_weight_decay()}

    def forward(self, images: Tensor, auxiliary: bool = False) -> Any:
        """Return the logits (B, K, H, W), or with `auxiliary` a pair with the logits of the auxiliary head."""
        stride: int = self.encoder.output_stride  # type: ignore[assignment]
        padded, mask = pad_to_multiple(images, stride)
        if isinstance(self.encoder, PyramidEncoder):
            # in training, BatchNorm statistics include the padding, so the slots are not masked either
            maps = self.encoder(padded, None if self.training else mask)
        else:
            maps = self.encoder(padded)
        logits = self._upsample(self.head(self.dropout(self.decoder(list(maps)))), padded, images)
        if not auxiliary:
            return logits
        if self.auxiliary is None:
            raise InputError("This network was built without an auxiliary head.")
        return logits, self._upsample(self.auxiliary(maps[STRIDE_16]), padded, images)

    def _upsample(self, logits: Tensor, padded: Tensor, images: Tensor) -> Tensor:
        """Resize logits to the size of the padded images, and crop them to the size of the images."""
        if logits.shape[2:] != padded.shape[2:]:
            logits = F.interpolate(logits, size=padded.shape[2:], mode="bilinear", align_corners=False)
        return logits[..., : images.shape[2], : images.shape[3]]


def _build_smp_network(
    model: str,
    model_args: dict[str, Any],
    num_classes: int,
    decoder: str,
    decoder_args: dict[str, Any],
    checkpoint: str | Path | None,
) -> nn.Module:
    """Build a network of segmentation_models.pytorch, with our pyramid as encoder and with aligned upsampling."""
    with needs_extra("dense", "segmentation networks"):
        import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
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
    if decoder == "fpn" and decoder_args.get("encoder_depth", 5) != 5:
        raise InputError(f"The decoder 'fpn' needs encoder_depth 5, got {decoder_args['encoder_depth']}.")
    if "output_stride" in model_args:
        raise InputError(
            "model_args.output_stride is not accepted, because the decoder defines the output stride: set "
            "decoder_args.encoder_output_stride, if the decoder has it."
        )
    is_glnet = model.split(".")[0] in MODEL_NAMES
    passed_separately = ("in_chans", "pretrained")
    encoder_args = {name: value for name, value in model_args.items() if name not in passed_separately}
    if is_glnet:  # the library's encoder is replaced below, so build it with few layers
        encoder_args["depths"] = (1,) * len(model_args.get("widths", range(4)))
    net: nn.Module = decoders[decoder](
        encoder_name=f"tu-{model}",
        encoder_weights=True if model_args.get("pretrained") and not is_glnet else None,
        in_channels=model_args.get("in_chans", 3),
        classes=num_classes,
        **decoder_args,
        **encoder_args,
    )
    if is_glnet:
        _replace_encoder(net, model, model_args, checkpoint)
    elif checkpoint is not None:
        raise InputError(f"checkpoint must hold the weights of a GLNet or of a whole network, but model is {model}.")
    _align_upsampling(net)
    _replace_pooling(net.decoder)
    return net


def _replace_encoder(net: nn.Module, model: str, args: dict[str, Any], checkpoint: str | Path | None) -> None:
    """Replace the encoder of a network by the feature pyramid of a GLNet, whose maps are normalised."""
    encoder: Any = net.encoder
    output_stride, depth = encoder_geometry(encoder)
    backbone = build_model(model, {**args, "output_stride": output_stride}, 0)
    assert isinstance(backbone, GLNet)
    if checkpoint is not None:
        load_weights(backbone, checkpoint)
    pyramid = Pyramid(backbone, range(depth - 1))
    net.encoder = PyramidEncoder(pyramid, args.get("in_chans", 3), encoder.output_stride)
    if hasattr(net.decoder, "feature_norms"):  # UPerNet would normalise the maps again
        net.decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in pyramid.channels)


def _align_upsampling(net: nn.Module) -> None:
    """Replace the upsampling of the FPN decoder, which uses align_corners=True, by align_corners=False.

    With align_corners=True predictions shift by an amount that depends on the size of the image.
    """
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


def _replace_pooling(decoder: Any) -> None:
    """Replace adaptive average pooling to grids, as in UPerNet and PSPNet, by `GridPool`."""
    for module in decoder.modules():
        for name, child in module.named_children():
            if type(child) is nn.AdaptiveAvgPool2d and child.output_size != 1:
                size = child.output_size
                setattr(module, name, GridPool((size, size) if isinstance(size, int) else size))
