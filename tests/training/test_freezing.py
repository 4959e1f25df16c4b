"""Frozen layers, head warm-up and LoRA: what is trained, BatchNorm statistics, exact resume, merging and saving."""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

import glmix
from glmix.compat import BatchNorm
from glmix.data.scenes import SceneConfig
from glmix.errors import InputError
from glmix.tasks import Classification, Detection, DetectorConfig, ScheduleConfig, Segmentation
from glmix.training.checkpoints import Checkpoints
from glmix.training.freezing import Freezing, frozen_parameters
from glmix.training.lora import LoraConfig
from glmix.training.resizing import ResizingConfig
from tests.runs import FEW, assert_same, data, task, trainer, weights

LORA = LoraConfig(rank=2, dropout=0.3)
OPTIONS: dict[str, dict[str, Any]] = {
    "stages": {"trainable_stages": 1},
    "head_epochs": {"head_epochs": 1},
    "lora": {"lora": LORA, "head_epochs": 1},
    "resizing": {"progressive_resizing": ResizingConfig(start=0.5, epochs=2, multiple=16)},
}


def frozen_names(net: nn.Module, stages: int) -> set[str]:
    frozen = {id(p) for p in frozen_parameters(net, stages)}
    return {name for name, p in net.named_parameters() if id(p) in frozen}


# ---- which layers


@pytest.mark.parametrize(
    ("name", "stages", "first_trained"),
    [
        ("test_glnet", 0, "head.fc.weight"),
        ("test_glnet", 1, "stages.3.downsample.conv.weight"),
        ("resnet18", 1, "layer4.0.conv1.weight"),
        ("vit_tiny_patch16_224", 2, "blocks.10.norm1.weight"),
        ("mobilenetv3_small_100", 0, "classifier.weight"),
    ],
)
def test_first_trained_layer_of_models_of_timm(name: str, stages: int, first_trained: str) -> None:
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=3)
    frozen = frozen_names(net, stages)
    names = [key for key, _ in net.named_parameters()]
    assert next(key for key in names if key not in frozen) == first_trained
    assert frozen == set(names[: names.index(first_trained)])


def test_freezing_everything_is_an_error_that_names_the_range() -> None:
    with torch.device("meta"), pytest.raises(InputError, match=r"trainable_stages is 5.*0 to 4"):
        frozen_parameters(timm.create_model("test_glnet"), 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, None), "got -1"),
        ((None, -2, None), "got -2"),
        ((2, 0, LORA), "trainable_stages must be null, got 2"),
        ((0, 1, None), "head_epochs"),
    ],
)
def test_contradictions_are_errors(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Freezing(*arguments)


def test_layers_that_are_trained_later_need_support_of_the_strategy() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        network = nn.Linear(2, 2)
        Freezing(None, 1, None).check_strategy(
            nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
        )
        Freezing(1, 0, None).check_strategy(nn.parallel.DistributedDataParallel(network))
        with pytest.raises(InputError, match="ddp_find_unused_parameters_true"):
            Freezing(None, 1, None).check_strategy(nn.parallel.DistributedDataParallel(network))
    finally:
        torch.distributed.destroy_process_group()
    with pytest.raises(InputError, match="sharded"):
        Freezing(1, 0, None).prepare(network, sharded=True)


@pytest.mark.parametrize("model", ["test_glnet", "resnet18"])
@pytest.mark.parametrize("stages", [0, 1])
def test_segmentation_freezes_stages_of_the_backbone_only(model: str, stages: int) -> None:
    small = {"decoder": "fpn", "decoder_args": {"decoder_pyramid_channels": 8, "decoder_segmentation_channels": 32}}
    net = Segmentation(model=model, **small).build(3)
    frozen = frozen_names(net, stages)
    assert frozen
    assert all(name.startswith(("encoder.pyramid.model.", "encoder.model.")) for name in frozen)
    last = ("encoder.pyramid.model.stages.3", "encoder.model.layer4")
    assert any(name.startswith(last) for name in frozen) == (stages == 0)


# ---- training


def trained_in_epoch(root: Path, **options: Any) -> tuple[Classification, list[dict[str, torch.Tensor]]]:
    """Train two epochs; return the task and its state before training and after each epoch."""
    states: list[dict[str, torch.Tensor]] = []

    class Record(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            states.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.on_fit_start(trainer, pl_module)

    module = task(**options)
    trainer(root, max_epochs=2, callbacks=[Record()]).fit(module, data())
    return module, states


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_frozen_weights_and_statistics_stay_bit_equal(tmp_path: Path) -> None:
    module, (before, _, after) = trained_in_epoch(tmp_path, trainable_stages=1)
    moved = changed(before, after)
    for prefix in ("model.", "ema.module."):
        assert {name.split(".")[0] for name in (n.removeprefix(prefix) for n in moved if n.startswith(prefix))} == {
            "stages",
            "norm",
            "head",
        }
        assert all(name.startswith(f"{prefix}stages.1") for name in moved if name.startswith(f"{prefix}stages"))
        assert f"{prefix}norm.running_mean" in moved

    optimized = {id(p) for group in module.trainer.optimizers[0].param_groups for p in group["params"]}
    frozen = {id(p) for p in frozen_parameters(module.model, 1)}
    assert not optimized & frozen
    assert len(optimized) + len(frozen) == len(list(module.model.parameters()))
    assert all(p.grad is None for p in module.model.parameters() if id(p) in frozen)

    module.model.train()
    norms = {name: m.training for name, m in module.model.named_modules() if isinstance(m, BatchNorm)}
    assert {name for name, training in norms.items() if training} == {"stages.1.downsample.norm", "norm"}


def test_frozen_layers_at_the_start_build_no_graph(tmp_path: Path) -> None:
    net = timm.create_model("test_glnet", num_classes=3)
    Freezing(0, 0, None).prepare(net)
    features = net.train().forward_features(torch.rand(2, 3, 32, 32))
    assert not features.requires_grad
    assert net.forward_head(features).requires_grad


def test_layer_decay_with_frozen_layers() -> None:
    from glmix.tasks import OptimizerConfig, build_optimizer

    net = timm.create_model("test_glnet", num_classes=3)
    Freezing(1, 0, None).prepare(net)
    optimizer = build_optimizer(net, OptimizerConfig(layer_decay=0.5), 2048)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scales.keys() == {id(p) for p in net.parameters() if p.requires_grad}
    assert scales[id(net.head.fc.weight)] == 1
    assert scales[id(net.stages[3].downsample.conv.weight)] < 1


def test_head_warm_up_trains_the_head_first(tmp_path: Path) -> None:
    _, (before, middle, after) = trained_in_epoch(tmp_path, head_epochs=1, ema_decay=None)
    assert changed(before, middle) == {"model.head.fc.weight", "model.head.fc.bias"}
    assert {"model.stem.layers.conv1.weight", "model.head.fc.weight"} <= changed(middle, after)
    assert any(name.endswith("running_mean") for name in changed(middle, after))


@pytest.fixture
def keep_boundary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the checkpoint of the last step of an epoch as it was before its validation, as `before.ckpt`."""
    save = Checkpoints._save

    def save_and_keep(self: Checkpoints, trainer: Any) -> None:
        save(self, trainer)
        if self.unvalidated and trainer.current_epoch == 0:
            path = self._path(trainer)
            shutil.copy(path, path.with_name("before.ckpt"))

    monkeypatch.setattr(Checkpoints, "_save", save_and_keep)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("keep_boundary")
@pytest.mark.parametrize("name", OPTIONS)
def test_resume_is_exact(tmp_path: Path, name: str) -> None:
    whole = tmp_path / "whole"
    scenes = SceneConfig(size=64 if name == "resizing" else 32, objects=(1, 1))
    trainer(whole, max_epochs=2).fit(task(**OPTIONS[name]), data(train_count=12, scenes=scenes))
    expected = weights(whole)
    for file in ("step-00000002.ckpt", "before.ckpt", "step-00000003.ckpt"):
        root = tmp_path / Path(file).stem
        trainer(root, max_epochs=2).fit(
            task(**OPTIONS[name]), data(train_count=12, scenes=scenes), ckpt_path=str(whole / "checkpoints" / file)
        )
        assert_same(weights(root), expected)


# ---- LoRA


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classification, Path]:
    root = tmp_path_factory.mktemp("lora")
    module = task(lora=LORA, schedule=ScheduleConfig(warmup_epochs=0))
    trainer(root, every=100, max_epochs=1).fit(module, data())
    return module.eval(), max((root / "checkpoints").glob("step-*.ckpt"))


def test_lora_trains_adapters_and_head_only(lora_run: tuple[Classification, Path]) -> None:
    module, _ = lora_run
    names = {name for name, p in module.model.named_parameters() if p.requires_grad}
    adapters = {name for name in names if "lora_" in name}
    assert names - adapters == {"head.fc.weight", "head.fc.bias"}
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in adapters}
    assert layers == {"qkv", "proj", "fc1", "fc2"}
    assert not any(m.training for m in module.model.train().modules() if isinstance(m, BatchNorm))
    module.model.eval()


@pytest.mark.parametrize("use_ema", [False, True])
def test_merged_network_equals_the_one_with_adapters(lora_run: tuple[Classification, Path], use_ema: bool) -> None:
    module, path = lora_run
    plain = glmix.load(path, use_ema=use_ema).network
    assert plain.state_dict().keys() == timm.create_model("test_glnet", **FEW, num_classes=3).state_dict().keys()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = module.networks()["_ema" if use_ema else ""](images)
        torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-5)
        adapted = next(m for m in module.model.modules() if hasattr(m, "lora_B"))
        assert adapted.lora_B["default"].weight.abs().max() > 0  # the adapters do something


def test_a_checkpoint_with_adapters_initialises_another_training(lora_run: tuple[Classification, Path]) -> None:
    _, path = lora_run
    net = task(checkpoint=str(path)).build(data().num_classes)
    assert_same(net.state_dict(), glmix.load(path).network.state_dict())


def test_dropout_of_adapters_is_the_same_when_activations_are_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = timm.create_model("test_glnet", num_classes=3)
    targets = ("qkv", "fc2", "pointwise_out")
    Freezing(None, 0, LoraConfig(rank=2, dropout=0.5, targets=targets)).prepare(net)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)

    def gradients() -> dict[str, torch.Tensor]:
        net.zero_grad()
        torch.manual_seed(1)
        net.train()(torch.ones(2, 3, 32, 32)).square().sum().backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    recomputed = gradients()
    for module in ("mlp", "mixer"):
        monkeypatch.setattr(f"glmix.layers.{module}.checkpoint_activations", lambda function, x, random: function(x))
    stored = gradients()
    assert recomputed.keys() == stored.keys()
    for name in stored:
        torch.testing.assert_close(recomputed[name], stored[name])


def test_unknown_targets_are_an_error_that_lists_layers() -> None:
    for model, targets in (("resnet18", LoraConfig().targets), ("test_glnet", ("qkv", "query"))):
        with pytest.raises(InputError, match=r"targets has .*(fc2|query).*end with"):
            Freezing(None, 0, LoraConfig(targets=targets)).prepare(timm.create_model(model, num_classes=3))


@pytest.mark.parametrize(
    "adapters", ["none", {"rank": 0}, {"rank": 3}, {"rank": 2, "alpha": "x"}, {"rank": 2, "run": "me"}]
)
def test_malformed_descriptions_of_adapters_are_errors(
    lora_run: tuple[Classification, Path], tmp_path: Path, adapters: Any
) -> None:
    content = torch.load(lora_run[1], weights_only=True)
    content["glmix"]["lora"] = adapters
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(InputError, match=r"lora|adapter"):
        glmix.load(tmp_path / "bad.ckpt")


def test_adapter_folder_loads_with_peft(lora_run: tuple[Classification, Path], tmp_path: Path) -> None:
    import peft

    module, path = lora_run
    _convert(path, tmp_path / "adapter", "--adapter", "--raw")
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    torch.manual_seed(module.seed)
    base = task().build(module.num_classes)  # the initial weights of the run
    network = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), module.model.eval()(images))
    with pytest.raises(InputError, match="already"):
        _convert(path, tmp_path / "adapter", "--adapter")


def test_converted_checkpoint_is_a_plain_folder_of_timm(lora_run: tuple[Classification, Path], tmp_path: Path) -> None:
    module, path = lora_run
    _convert(path, tmp_path / "plain", "--raw")
    plain = timm.create_model(f"local-dir:{tmp_path / 'plain'}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), module.model.eval()(images), rtol=1e-4, atol=1e-5)


def _convert(*arguments: Any) -> None:
    from glmix_cli.convert import add_arguments, run

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([str(argument) for argument in arguments])) == 0


def test_detector_with_a_frozen_backbone() -> None:
    config = DetectorConfig(kind="retinanet", channels=16, frozen_statistics=False)
    net = Detection(model="test_glnet", detector=config).build(3)
    Freezing(1, 0, None).prepare(net)
    net.train()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert {name.split(".stages.")[-1][0] for name in frozen if ".stages." in name} == {"0", "1", "2"}
    assert all(name.startswith("backbone.pyramid.model.") for name in frozen)
    norms = {name for name, m in net.named_modules() if isinstance(m, BatchNorm) and m.training}
    assert norms == {"backbone.pyramid.model.stages.3.downsample.norm"}
