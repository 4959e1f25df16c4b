"""Classification and token labelling: losses, metrics, checkpoints and invalid arguments."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from glmix.data.scenes import SceneConfig
from glmix.tasks import Classification, ScheduleConfig, TokenLabelling, load_trained, load_weights
from tests.runs import FEW, data, task, trainer, weights


def tklb(**kwargs: Any) -> TokenLabelling:
    small = {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "head_dim": 16, "num_slots": 4}
    options = {"model": "glnet_4g_tklb", "model_args": small, "schedule": ScheduleConfig(warmup_epochs=0)}
    return TokenLabelling(**{**options, **kwargs})


def test_raw_and_ema_weights_are_validated_and_the_best_score_is_logged(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=2)
    run.fit(task(), data())
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    assert {"val/top1", "val/top1_ema", "val/top5", "val/loss", "val/loss_ema", "val/best_top1"} <= metrics.keys()
    assert metrics["val/best_top1"] >= max(metrics["val/top1"], metrics["val/top1_ema"])
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    trained = load_trained(tmp_path / "checkpoints" / "best.ckpt", use_ema=True)
    assert trained.num_classes == 6
    expected = {"label_names": data().class_names, "input_size": (3, 32, 32), "crop_pct": 1.0}
    assert expected.items() <= trained.pretrained_cfg.items()
    run.validate(task(), data(), ckpt_path=str(tmp_path / "checkpoints" / "best.ckpt"))
    run.test(task(), data(test_count=9), ckpt_path=str(tmp_path / "checkpoints" / "best.ckpt"))
    assert "test/top1_ema" in run.callback_metrics


def test_ema_weights_are_the_exponential_moving_average(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=2, limit_train_batches=1, limit_val_batches=0).fit(task(ema_decay=0.75), data())
    files = sorted((tmp_path / "checkpoints").glob("step-*.ckpt"))
    first, second = (torch.load(file, weights_only=True)["state_dict"] for file in files)
    name = "stages.0.blocks.0.mlp.fc1.weight"
    expected = 0.75 * first[f"ema.module.{name}"] + 0.25 * second[f"model.{name}"]
    assert torch.allclose(second[f"ema.module.{name}"], expected)


def test_metrics_count_every_image_once() -> None:
    module = task(num_classes=6, ema_decay=None)
    module.configure_model()
    module.eval()
    images, targets = torch.randn(7, 3, 32, 32), torch.randint(6, (7,))
    for part in (slice(0, 4), slice(4, 7)):
        module.validation_step((images[part], targets[part]), 0)
    scores = module.compute_scores()[""]
    logits = module.model(images)
    assert scores["top1"] == (logits.argmax(1) == targets).float().mean()
    assert torch.allclose(scores["loss"], torch.nn.functional.cross_entropy(logits, targets))


def test_multi_label(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=1)
    module = task(mix=None, multi_label=True, schedule=ScheduleConfig(warmup_epochs=0))
    run.fit(module, data(scenes=SceneConfig(size=32, objects=(1, 3))))
    assert "val/mAP" in run.callback_metrics
    assert "val/best_mAP" in run.callback_metrics


def test_token_labels(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=1)
    scenes = SceneConfig(size=64, objects=(1, 1))
    run.fit(tklb(), data(scenes=scenes, token_labels=True, token_grid=2))
    assert "val/top1" in run.callback_metrics
    with pytest.raises(ValueError, match="set the label grid to 1/32 of the image size"):
        trainer(tmp_path / "b", max_epochs=1).fit(tklb(), data(scenes=scenes, token_labels=True, token_grid=7))
    with pytest.raises(ValueError, match=r"needs batches \(images, targets, dense\), got 2"):
        trainer(tmp_path / "c", max_epochs=1).fit(tklb(), data(scenes=scenes))
    with pytest.raises(ValueError, match="needs a model with a dense head"):
        trainer(tmp_path / "d", max_epochs=1).fit(tklb(model="test_glnet", model_args={}), data(scenes=scenes))


def test_token_label_loss() -> None:
    """The loss is cls + 0.5 * dense; the image-level target is mixed by the area of the box."""
    module = tklb(num_classes=6)
    module.configure_model()
    module.check_loss = lambda loss: loss  # type: ignore[method-assign]
    cls, aux = torch.randn(2, 6), torch.randn(2, 2, 2, 6)
    dense = torch.rand(2, 2, 2, 6).softmax(-1)
    module.model.forward_dense = lambda images: (cls, aux, (0, 1, 0, 1))  # type: ignore[assignment]
    targets = dense.mean((1, 2))
    targets = 0.75 * targets + 0.25 * targets.flip(0)
    expected = -(targets * cls.log_softmax(-1)).sum(-1).mean() - 0.5 * (dense * aux.log_softmax(-1)).sum(-1).mean()
    assert torch.allclose(module.training_step((None, torch.tensor([0, 1]), dense), 0), expected)


@pytest.mark.parametrize("kind", ["safetensors", "ckpt", "pth"])
def test_training_starts_from_a_checkpoint_with_another_number_of_classes(tmp_path: Path, kind: str) -> None:
    source = timm.create_model("test_glnet", num_classes=6)
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    elif kind == "pth":
        torch.save({"model": source.state_dict()}, path)
    else:
        torch.save({"state_dict": {f"model.{k}": v for k, v in source.state_dict().items()}}, path)
    module = Classification(model="test_glnet", num_classes=4, checkpoint=str(path))
    module.configure_model()
    state = module.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in source.state_dict().items() if not k.startswith("head.fc"))
    assert state["head.fc.weight"].shape == (4, 96)
    same = timm.create_model("test_glnet", num_classes=6)
    assert load_weights(same, path) == []
    assert torch.equal(same.state_dict()["head.fc.weight"], source.state_dict()["head.fc.weight"])


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data have 6 classes, but model\.num_classes is 9"):
        trainer(tmp_path).fit(task(num_classes=9), data())
    with pytest.raises(ValueError, match=r"no argument 'drop_pat'. Did you mean 'drop_rate'"):
        trainer(tmp_path).fit(task(model_args={"drop_pat": 1}), data())
    with pytest.raises(ValueError, match=r"No model is named 'test_glnt'. Did you mean 'test_glnet'"):
        trainer(tmp_path).fit(task(model="test_glnt"), data())
    with pytest.raises(ValueError, match="ema_decay must "):
        task(ema_decay=1.5)
    path = tmp_path / "w.pth"
    torch.save(timm.create_model("test_glnet", **{**FEW, "widths": (16, 16)}, head_dim=16).state_dict(), path)
    with pytest.raises(ValueError, match="does not fit test_glnet:\n  wrong shape"):
        trainer(tmp_path).fit(task(checkpoint=str(path)), data())


def test_gradient_checkpointing_does_not_change_the_weights(tmp_path: Path) -> None:
    plain, checkpointed = tmp_path / "plain", tmp_path / "checkpointed"
    trainer(plain, max_epochs=2, limit_train_batches=1).fit(task(), data())
    trainer(checkpointed, max_epochs=2, limit_train_batches=1).fit(task(grad_checkpointing=True), data())
    for a, b in zip(weights(plain).values(), weights(checkpointed).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_compiled_training(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=2, limit_train_batches=1).fit(task(compile=True), data())
    assert not any("_orig_mod" in name for name in weights(tmp_path))
