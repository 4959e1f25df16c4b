"""Base class of all tasks: model, EMA, optimizer, schedule, reproducible seeds, and the check for finite losses."""

import math
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..compat import attached_trainer, datamodule_of, log_interval, started_batches, total_batches, train_dataloader
from ..errors import InputError
from ..layers import optimize_for_training
from .checkpoint_info import BUILD_ARGS, DATA_ATTRIBUTES
from .finite import NO_STEP, NonFiniteLossError, raise_if_not_finite
from .freezing import Freezing
from .lora import LoraConfig
from .optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule, training_length
from .randomness import seed_position
from .resizing import ResizingConfig, resize_batch
from .sharding import shard
from .sync_norm import share_buffers
from .weights import INFO, build_model, check_tensors, load_weights

__all__ = ["NonFiniteLossError", "Task"]


class Task(L.LightningModule):
    """Lightning module with model, optimizer, EMA and checkpoint metadata. Subclasses add the loss and the metrics.

    A subclass implements `training_step`, `evaluate` and `compute_scores`, and sets `score_name`, the validation metric
    that selects the best checkpoint.

    Args:
        model: name of a GLNet model (`glmix models` lists them) or of any other model of timm.
        model_args: arguments of the model, such as drop_path_rate.
        num_classes: number of outputs of the model; None takes the number of classes of the data.
        checkpoint: file with initial weights: an official file, safetensors or a `.ckpt`. The classifier is initialised
            randomly if the file has another number of classes.
        fine_tuning: whether the recipe expects pretrained weights: warn if a training starts without `checkpoint`.
        trainable_stages: number of stages of the backbone, from the end, to train besides the head, with the layers
            before them frozen; 0 trains only the head (linear probe), None trains everything.
        head_epochs: number of epochs at the start in which only the head is trained.
        lora: configuration of LoRA: freeze the backbone and train low-rank updates of its weights; None for no LoRA.
        progressive_resizing: sizes of the training images, which grow over the epochs; None for the full size.
        optimizer: optimizer configuration.
        schedule: learning rate schedule.
        ema_decay: decay of an exponential moving average (EMA) of the weights, which is validated too; None for no EMA.
        grad_checkpointing: use gradient checkpointing to save memory.
        optimize_training: use the layers of `glmix.optimize_for_training` and a fused optimizer: equal up to rounding.
        compile: compile the model with torch.compile.
        channels_last: store convolution weights in the channels_last memory format.
        seed: seed of all randomness in training steps, such as stochastic depth and Mixup.
    """

    model: nn.Module
    ema: ModelEmaV3 | None
    score_name: str
    model_is_backbone = False  # whether `model` names only the backbone of the trained network
    has_resizing = False  # whether `training_step` calls `resized`
    _bad_step: Tensor

    def __init__(
        self,
        model: str = "glnet_4g",
        model_args: dict[str, Any] | None = None,
        num_classes: int | None = None,
        checkpoint: str | None = None,
        fine_tuning: bool = False,
        trainable_stages: int | None = None,
        head_epochs: int = 0,
        lora: LoraConfig | None = None,
        progressive_resizing: ResizingConfig | None = None,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
        ema_decay: float | None = None,
        grad_checkpointing: bool = False,
        optimize_training: bool = True,
        compile: bool = False,
        channels_last: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise InputError(f"ema_decay must lie in [0, 1), or be null for no EMA, got {ema_decay}.")
        if progressive_resizing is not None and not self.has_resizing:
            raise InputError(f"{type(self).__name__} does not support model.progressive_resizing: remove it.")
        self.model_name = model
        self.model_args = dict(model_args or {})
        self.num_classes = num_classes
        self.checkpoint = checkpoint
        self.fine_tuning = fine_tuning
        self.freezing = Freezing(trainable_stages, head_epochs, lora)
        self.progressive_resizing = progressive_resizing
        self.optimizer_config = optimizer or OptimizerConfig()
        self.schedule_config = schedule or ScheduleConfig()
        self.ema_decay = ema_decay
        self.grad_checkpointing = grad_checkpointing
        self.optimize_training = optimize_training
        self.compile_model = compile
        self.channels_last = channels_last
        self.seed = seed
        self.ema = None
        self.ema_is_better = False
        self.best: float | None = None
        self.last_loss: Tensor | None = None
        self.global_batch = 0
        self._built = False
        self.register_buffer("_bad_step", torch.tensor(NO_STEP), persistent=False)

    # ---- model

    def configure_model(self) -> None:
        """Build the model, its EMA and the metrics on the first call, when the data module has been set up."""
        if self._built:
            return
        self.num_classes = self.resolve_classes()
        self.check_data(self._datamodule())
        torch.manual_seed(self.seed)  # independent of earlier random numbers, for example in the data module
        self.model = self.build(self.num_classes)
        self.freezing.prepare(self.model, sharded=self.device_mesh is not None)
        if self.optimize_training:
            optimize_for_training(self.model)
        if self.channels_last and self.device_mesh is None:  # FSDP2 shards contiguous weights only
            self.model.to(memory_format=torch.channels_last)
        if self.ema_decay is not None:
            # the foreach implementation does not support sharded tensors
            self.ema = ModelEmaV3(self.model, decay=self.ema_decay, foreach=self.device_mesh is None)
            self.ema.requires_grad_(False)
        if self.grad_checkpointing:
            self.model.set_grad_checkpointing(True)  # type: ignore[operator]
        mesh = self.device_mesh
        if mesh is not None:
            for net in [self.model] + ([self.ema.module] if self.ema is not None else []):
                shard(net, mesh["data_parallel"])
        if self.compile_model:
            for part in self.compile_parts():
                part.compile()
        self.configure_metrics()
        self._built = True

    def build(self, num_classes: int) -> nn.Module:
        """Return the model with its initial weights."""
        model = build_model(self.model_name, self.model_args, num_classes)
        if self.checkpoint is not None:
            replaced = load_weights(model, self.checkpoint)
            trainer = attached_trainer(self)
            if replaced and trainer is not None and trainer.evaluating:
                raise InputError(
                    f"{self.checkpoint} cannot be evaluated: its classifier is not for the {num_classes} classes of "
                    "the data."
                )
        return model

    def build_args(self) -> dict[str, Any]:
        """Return the arguments of the task that `build` needs besides those of the model. Checkpoints store them."""
        return {}

    def compile_parts(self) -> list[nn.Module]:
        """Return the modules to compile with torch.compile."""
        return [self.model]

    def configure_metrics(self) -> None:
        """Build the metrics. `num_classes` is known when this is called."""

    def _datamodule(self) -> Any:
        return datamodule_of(attached_trainer(self))

    def check_data(self, data: Any) -> None:
        """Raise InputError if the model does not fit the data module. Subclasses add checks.

        A model without `in_chans` in its arguments gets the number of channels of the images.
        """
        size = getattr(data, "input_size", None)
        if size is not None and size[0] != 3:
            self.model_args.setdefault("in_chans", size[0])
        in_chans = self.model_args.get("in_chans", 3)
        if size is not None and size[0] != in_chans:
            raise InputError(
                f"model.model_args.in_chans is {in_chans}, but the images of {type(data).__name__} have {size[0]} "
                "channels."
            )

    def resolve_classes(self) -> int:
        """Return the number of classes from the data module or from `num_classes`."""
        found: int | None = getattr(self._datamodule(), "num_classes", None)
        if self.num_classes is None and found is None:
            raise InputError("The data module has no num_classes: set model.num_classes.")
        if found is not None and self.num_classes not in (None, found):
            raise InputError(
                f"The data have {found} classes, but model.num_classes is {self.num_classes}: set "
                f"model.num_classes to {found}, or leave it out."
            )
        return found if found is not None else self.num_classes  # type: ignore[return-value]

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks to evaluate by metric suffix: "" for raw weights, "_ema" for EMA weights."""
        networks: dict[str, nn.Module] = {"": self.model}
        if self.ema is not None:
            networks["_ema"] = self.ema.module
        return networks

    def best_network(self) -> nn.Module:
        """Return the network, with raw or EMA weights, that had the higher score in the last validation."""
        return self.ema.module if self.ema is not None and self.ema_is_better else self.model

    def forward(self, images: Tensor) -> Any:
        return self.model(images)

    # ---- optimizer and schedule

    def extra_parameters(self) -> list[nn.Parameter]:
        """Return the parameters to train besides those of the model. They have no weight decay."""
        return []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        trainer = self.trainer
        loader = train_dataloader(trainer)
        batch_size = getattr(datamodule_of(trainer), "batch_size", None) or getattr(loader, "batch_size", None)
        if not batch_size:
            raise InputError("The data have no batch_size, which the learning rate is scaled with.")
        self.global_batch = batch_size * trainer.world_size * trainer.accumulate_grad_batches
        optimizer = build_optimizer(self.model, self.optimizer_config, self.global_batch, fused=self.optimize_training)
        if extra := self.extra_parameters():
            optimizer.add_param_group({"params": extra})
        steps, epochs = training_length(trainer, loader)
        schedule = build_schedule(optimizer, self.schedule_config, steps, epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if isinstance(scheduler, Scheduler):
            scheduler.step_update(num_updates=self.trainer.global_step)
        else:
            scheduler.step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.model)

    # ---- training step

    def on_fit_start(self) -> None:
        has_weights = self.checkpoint or self.trainer.ckpt_path or self.model_args.get("pretrained")
        if (self.fine_tuning or self.freezing) and not has_weights:
            rank_zero_warn(
                f"{self.model_name} starts from random weights, but fine-tuning expects pretrained weights: set "
                "--model.checkpoint to an authors' file or a best.ckpt, or use a recipe for training from scratch."
            )

    def on_train_start(self) -> None:
        self.freezing.check_strategy(self.trainer.strategy.model)
        self.freezing.start_epoch(self.model, self.trainer.current_epoch)
        self._seed(started_batches(self.trainer), 1)

    def on_train_epoch_start(self) -> None:
        self.freezing.start_epoch(self.model, self.trainer.current_epoch)
        self._seed(0, 1)

    def resized(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return a training batch in the size of the current epoch."""
        if self.progressive_resizing is None:
            return images, targets
        return resize_batch(images, targets, self.progressive_resizing, self.trainer.current_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._seed(batch_idx, 0)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._seed(batch_idx + 1, 1)

    def _seed(self, batch_idx: int, stream: int) -> None:
        seed_position(self.seed, self.trainer.global_rank, self.trainer.current_epoch, batch_idx, stream)

    def check_loss(self, loss: Tensor) -> Tensor:
        """Record, log and return the loss of a training step.

        A loss that is not finite stops the training before the next checkpoint is saved: on one CPU process
        immediately, otherwise at the next logging step or checkpoint, to avoid synchronising the device.
        """
        self.last_loss = loss.detach()
        bad = torch.where(self.last_loss.isfinite(), NO_STEP, self.trainer.global_step)
        self._bad_step = torch.minimum(self._bad_step, bad)
        trainer = self.trainer
        if (trainer.world_size == 1 and loss.device.type == "cpu") or self._is_log_step():
            self.check_finite()
        if self._is_log_step():
            self.log("train/loss", self.last_loss, on_step=True, on_epoch=False)
            self.log("train/lr", self.learning_rate(), on_step=True, on_epoch=False)
        return loss

    def learning_rate(self) -> float:
        """Return the learning rate of the next step. With layer decay, return the highest one, that of the head."""
        return max(group["lr"] for group in self.trainer.optimizers[0].param_groups)

    def _is_log_step(self) -> bool:
        every = log_interval(self.trainer)
        return every > 0 and total_batches(self.trainer) % every == 0

    def check_finite(self) -> None:
        """Raise NonFiniteLossError if a loss so far was not finite on any process. This synchronises the device."""
        raise_if_not_finite(self._bad_step, self.trainer)

    # ---- validation and testing

    def evaluate(self, batch: Any) -> dict[str, Any]:
        """Update the metrics of all networks in `networks()` with a batch, and return {network suffix: predictions}.

        The predictions are for callbacks: logits (B, K) of a classifier, a list of label maps (H, W) of a segmentation
        network, a list of torchvision's predictions of a detector.
        """
        raise NotImplementedError

    def compute_scores(self) -> dict[str, dict[str, Any]]:
        """Return {network suffix: {metric name: value}} over all processes, and reset the metrics.

        A metric per class is named `METRIC/CLASS`.
        """
        raise NotImplementedError

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return self.evaluate(batch)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        scores = self.compute_scores()
        self.log_scores(self.score_name, {suffix: values.pop(self.score_name) for suffix, values in scores.items()})
        self._log_metrics("val", scores)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.compute_scores())

    def _log_metrics(self, stage: str, scores: dict[str, dict[str, Any]]) -> None:
        for suffix, values in scores.items():
            for name, value in values.items():
                metric, *class_name = name.split("/", 1)
                self.log("/".join([stage, metric + suffix, *class_name]), value)

    def on_validation_start(self) -> None:
        share_buffers(self.trainer.strategy.model, False)

    def on_validation_end(self) -> None:
        share_buffers(self.trainer.strategy.model, True)

    on_test_start = on_validation_start

    def log_scores(self, name: str, scores: dict[str, Any]) -> None:
        """Log a validation score of all networks, and the best score so far of any network.

        Args:
            name: name of the metric.
            scores: scores by network suffix.
        """
        for suffix, score in scores.items():
            self.log(f"val/{name}{suffix}", score)
        if self.trainer.sanity_checking:
            return
        values = {suffix: float(score) for suffix, score in scores.items()}
        better = max(values, key=lambda suffix: values[suffix])
        self.ema_is_better = better == "_ema"
        self.best = max(values[better], -math.inf if self.best is None else self.best)
        self.log(f"val/best_{name}", self.best)

    # ---- checkpoints

    @property
    def task_name(self) -> str:
        """Name of the task in checkpoints: the name of the class, or of its base class in `BUILD_ARGS`."""
        names = [cls.__name__ for cls in type(self).__mro__]
        return next((name for name in names if name in BUILD_ARGS), names[0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_finite()
        data = datamodule_of(self.trainer)
        data_info = {name: getattr(data, name, None) for name in DATA_ATTRIBUTES}
        checkpoint[INFO] = {
            "task": self.task_name,
            "build_args": self.build_args(),
            **data_info,
            "model": self.model_name,
            "model_args": self.model_args,
            "num_classes": self.num_classes,
            "ema_is_better": self.ema_is_better,
            "best": self.best,
            **self.freezing.checkpoint_info(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._built and self.device_mesh is None:  # for sharded weights, the strategy checks the tensors
            trainer = attached_trainer(self)
            path = trainer.ckpt_path if trainer is not None else None
            check_tensors(checkpoint["state_dict"], self.state_dict(), str(path or "The checkpoint"))
        checkpoint["lr_schedulers"] = []  # the schedule follows from the step and the current configuration
        info = checkpoint.get(INFO, {})
        self.ema_is_better = info.get("ema_is_better", False)
        self.best = info.get("best")
