"""GLNet: a hierarchical backbone with four stages, with the interface of timm models."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Attention, ClassifierHead, calculate_drop_path_rates
from torch import Tensor, nn

from ..compat import feature_take_indices
from ..errors import InputError
from ..layers import (
    Block,
    Clustering,
    GLMix,
    GridAttention,
    LocalBranch,
    Seeds,
    Stem,
    StemStyle,
    TransitionOrder,
    apply_mask,
    make_bridge,
    self_attention,
    slot_grid_of,
    transition,
)
from .slot_grid import Grid, as_grid, grids_of, per_stage, set_slot_grid
from .stage import Stage

__all__ = ["GLNet", "init_linear"]


def init_linear(layer: nn.Module) -> None:
    """Initialise a linear layer or 1x1 convolution with a truncated normal distribution; ignore other layers."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class GLNet(nn.Module):
    """The GLNet backbone. All design choices of the paper's ablations are arguments.

    Arguments marked with * take one value for all stages or a sequence with one value per stage.

    `timm.create_model` drops arguments that are None. To reset an argument of a variant to None, pass
    `(None, None, None, None)`.

    Args:
        in_chans: number of image channels.
        num_classes: number of classes; 0 for no classifier.
        global_pool: pooling before the classifier (timm's names). With '' the classifier is a 1x1 convolution that
            returns a map of logits (B, num_classes, H / 32, W / 32).
        output_stride: 8, 16 or 32. Below 32, the last transitions do not downsample and later convolutions are dilated.
        widths: channels of each stage.
        depths: number of blocks in each stage.
        mlp_ratio: * ratio of hidden to outer channels in the MLPs.
        head_dim: * channels per attention head.
        mixers: * 'glmix', 'attn', or a sequence of these through which the blocks of a stage cycle.
        stem: 'patch' (one 4x4 convolution) or 'conv' (two overlapping 3x3 convolutions).
        transition_order: 'norm_conv' or 'conv_norm'.
        transition_kernel: 2 or 3.
        pos_conv: * use a depthwise convolution as position encoding.
        mlp_conv: * use a depthwise convolution in the MLP.
        layer_scale: * initial value of the layer scales; None to disable them.
        local: * use the local branch of GLMix.
        local_kernel: * kernel size of the depthwise convolution in the local branch.
        slots: * use the slot branch of GLMix.
        slot_attention: * use self-attention among the slots.
        clustering: * 'soft' (as in the paper), 'kmeans' (hard clustering) or 'static' (regular cells).
        seeds: * 'pooled' from the image or 'learned'.
        num_slots: * number of slots, arranged in the grid that is closest to square.
        slot_grid: * (rows, columns), or one number for a square grid, instead of `num_slots`.
        slot_aspect: let the slot grid follow the aspect ratio of the images, with about as many slots.
        slot_scale: * initial scale of soft clustering; None for C^-0.5. The other methods have no scale.
        kmeans_iterations: number of Lloyd iterations of k-means.
        drop_rate: dropout probability before the classifier.
        drop_path_rate: stochastic depth rate of the last block; the rate increases linearly from 0 over all blocks.
    """

    feature_info: list[dict[str, Any]]
    pretrained_cfg: dict[str, Any]  # timm's description of the model, set by timm.create_model
    _model_args: dict[str, Any]  # constructor arguments, for saving the model
    multi_label: bool = False  # whether an image may have several classes, so that probabilities are sigmoids
    threshold: float = 0.5  # smallest probability of a predicted class of a multi-label classifier

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        output_stride: int = 32,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (4, 4, 18, 4),
        mlp_ratio: float | Sequence[float] = 3.0,
        head_dim: int | Sequence[int] = 32,
        mixers: str | Sequence[str | Sequence[str]] = ("glmix", "glmix", ("glmix", "attn"), "attn"),
        stem: StemStyle = "conv",
        transition_order: TransitionOrder = "conv_norm",
        transition_kernel: int = 3,
        pos_conv: bool | Sequence[bool] = True,
        mlp_conv: bool | Sequence[bool] = True,
        layer_scale: float | Sequence[float | None] | None = None,
        local: bool | Sequence[bool] = True,
        local_kernel: int | Sequence[int] = 5,
        slots: bool | Sequence[bool] = True,
        slot_attention: bool | Sequence[bool] = True,
        clustering: Clustering | Sequence[Clustering] = "soft",
        seeds: Seeds | Sequence[Seeds] = "pooled",
        num_slots: int | Sequence[int] = 64,
        slot_grid: Grid | Sequence[Grid] | None = None,
        slot_aspect: bool = False,
        slot_scale: float | Sequence[float | None] | None = None,
        kmeans_iterations: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        stages = len(widths)
        if output_stride not in (8, 16, 32):
            raise InputError(f"output_stride must be 8, 16 or 32, got {output_stride}.")
        mixer_names = per_stage("mixers", mixers, stages)
        grids = grids_of(slot_grid, num_slots, stages)

        def by_stage(**options: Any) -> list[dict[str, Any]]:
            """[{option: its value in stage 0, ...}, ...]"""
            columns = {name: per_stage(name, value, stages) for name, value in options.items()}
            return [{name: column[i] for name, column in columns.items()} for i in range(stages)]

        block_options = by_stage(mlp_ratio=mlp_ratio, pos_conv=pos_conv, mlp_conv=mlp_conv, layer_scale=layer_scale)
        bridge_options = by_stage(clustering=clustering, seeds=seeds, scale=slot_scale)
        mixer_options = by_stage(
            local=local, local_kernel=local_kernel, slots=slots, slot_attention=slot_attention, head_dim=head_dim
        )
        drop_paths = calculate_drop_path_rates(drop_path_rate, sum(per_stage("depths", depths, stages)))

        def make_mixer(name: str, i: int, dilation: int) -> GLMix | GridAttention:
            dim, options = widths[i], mixer_options[i]
            if name == "attn":
                return GridAttention(self_attention(dim, options["head_dim"], **dd))
            if name != "glmix":
                raise InputError(f"A mixer must be 'glmix' or 'attn', got {name!r} in stage {i}.")
            bridge = make_bridge(
                dim,
                **bridge_options[i],
                grid=grids[i],
                follow_aspect=slot_aspect,
                kmeans_iterations=kmeans_iterations,
                **dd,
            )
            attention = options["slots"] and options["slot_attention"]
            return GLMix(
                LocalBranch(dim, options["local_kernel"], dilation, **dd) if options["local"] else None,
                bridge if options["slots"] else None,
                self_attention(dim, options["head_dim"], **dd) if attention else None,
            )

        self.num_classes = num_classes
        self.in_chans = in_chans
        self._model_args = {}
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.num_features = self.head_hidden_size = widths[-1]
        self.feature_info = []

        self.stem = Stem(in_chans, widths[0], stem, **dd)
        stage_list: list[Stage] = []
        reduction, dilation, block_index = 4, 1, 0
        for i in range(stages):
            downsample: nn.Module = nn.Identity()
            if i > 0:
                stride = 2 if reduction < output_stride else 1
                downsample = transition(
                    widths[i - 1], widths[i], transition_order, transition_kernel, stride, dilation, **dd
                )
                reduction *= stride
                dilation *= 2 // stride
            names = [mixer_names[i]] if isinstance(mixer_names[i], str) else list(mixer_names[i])
            blocks = []
            for j in range(depths[i]):
                mixer = make_mixer(names[j % len(names)], i, dilation)
                drop_path = drop_paths[block_index + j]
                blocks.append(Block(widths[i], mixer, **block_options[i], drop_path=drop_path, dilation=dilation, **dd))
            block_index += depths[i]
            stage_list.append(Stage(downsample, blocks))
            self.feature_info.append({"num_chs": widths[i], "reduction": reduction, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stage_list)
        self.norm: nn.Module = nn.BatchNorm2d(widths[-1], **dd)
        self.head = ClassifierHead(
            widths[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, use_conv=not global_pool, **dd
        )
        self.init_weights(needs_reset=False)

    @torch.jit.ignore
    def init_weights(self, needs_reset: bool = True) -> None:
        """Initialise linear layers with a truncated normal and joint q, k, v projections with Xavier uniform.

        Args:
            needs_reset: first call `reset_parameters` of all layers, for a model created by `to_empty`. Otherwise the
                other layers keep the values from their constructors.
        """
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if needs_reset and reset is not None:
                reset()
            if isinstance(module, nn.Linear) or module is self.head.fc:
                init_linear(module)
        for module in self.modules():
            if isinstance(module, Attention):
                nn.init.xavier_uniform_(module.qkv.weight)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the layer groups for layer-wise learning rate decay."""
        blocks: Any = r"^stages\.(\d+)"
        if not coarse:
            blocks = [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ]
        return {"stem": r"^stem", "blocks": blocks}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Return the names of the slot scales and learned seeds.

        Norms, biases and layer scales are one-dimensional; timm excludes those from weight decay by itself.
        """
        return {name for name, _ in self.named_parameters() if name.endswith(("bridge.scale", "bridge.seeds"))}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enable or disable gradient checkpointing of the blocks."""
        self.grad_checkpointing = enable
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    @torch.jit.ignore
    def set_slot_grid(
        self, grid: Grid | None = None, *, num_slots: int | None = None, follow_aspect: bool = False
    ) -> None:
        """Change the number of slots and their grid; see `glmix.set_slot_grid`."""
        set_slot_grid(self, grid, num_slots=num_slots, follow_aspect=follow_aspect)
        rows_cols = slot_grid_of(num_slots) if num_slots is not None else as_grid(grid)  # type: ignore[arg-type]
        self._model_args |= {"slot_grid": rows_cols, "slot_aspect": follow_aspect}

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier.

        Args:
            num_classes: number of classes; 0 for no classifier.
            global_pool: pooling before the classifier; None to keep the current one, '' for none.
        """
        self.num_classes = num_classes
        if global_pool is not None:
            self.head.use_conv = not global_pool
        self.head.reset(num_classes, global_pool)
        self._match(self.head)
        init_linear(self.head.fc)

    @torch.jit.ignore
    def _match(self, module: nn.Module) -> None:
        """Move a new module to the device, dtype and training mode of this model."""
        reference = next(self.stem.parameters())
        module.to(device=reference.device, dtype=reference.dtype).train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        mask: Tensor | None = None,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the final features and the outputs of the selected stages.

        Args:
            x: images (B, C, H, W).
            indices: a list of stages, a number n for the last n stages, or None for all stages.
            norm: apply the final norm to the output of the last stage.
            stop_early: do not run the stages after the last selected one.
            output_fmt: only 'NCHW' is supported.
            intermediates_only: return only the list of stage outputs.
            mask: for a padded batch, see `forward_features`.

        Returns:
            (final features, [stage outputs (B, C_i, H_i, W_i)]), or only the list.
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt must be 'NCHW', got '{output_fmt}'.")
        take, last = feature_take_indices(len(self.stages), indices)
        final = len(self.stages) - 1
        stop = last if stop_early else final
        intermediates: list[Tensor] = []
        if mask is None:
            x = self.stem(x)
        else:
            x, mask = self.stem.forward_padded(x, mask)
        for i, stage in enumerate(self.stages):
            if i <= stop:  # no slicing or break: TorchScript unrolls the loop
                if mask is None:
                    x = stage(x)
                else:
                    x, mask = stage.forward_padded(x, mask)  # type: ignore[operator]
                if i in take:
                    intermediates.append(apply_mask(self.norm(x) if norm and i == final else x, mask))
        if intermediates_only:
            return intermediates
        if stop == final:
            x = self.norm(x)
        return apply_mask(x, mask), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last selected one, and optionally the final norm and the head.

        Args:
            indices: a list of stages, or a number n for the last n stages.
            prune_norm: remove the final norm.
            prune_head: remove the classifier.

        Returns:
            The indices of the selected stages.
        """
        take, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.stages.training = self.training
        if prune_norm or shortened:
            self.norm = nn.Identity().train(self.training)
        if shortened:
            self.num_features = self.head_hidden_size = self.head.in_features = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the final feature map, after the final norm and before pooling.

        Images of different sizes can be padded at the bottom and the right to form a batch. With a mask, the features
        of an image equal those without padding, and the features of the padding are zero. This requires BatchNorm in
        evaluation mode, because its statistics would include the padding.

        Args:
            x: images (B, in_chans, H, W).
            mask: for a padded batch: (B, H, W), true for image pixels.

        Returns:
            Features (B, C, H / 32, W / 32).
        """
        if mask is None:
            return self.norm(self.stages(self.stem(x)))
        return self._forward_padded(x, mask)

    @torch.jit.unused
    def _forward_padded(self, x: Tensor, mask: Tensor) -> Tensor:
        features, _ = self.forward_intermediates(x, 1, mask=mask)
        assert isinstance(features, Tensor)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits for final features (B, C, H, W), or the pooled features if `pre_logits` is true."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
