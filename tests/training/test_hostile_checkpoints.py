"""Untrusted checkpoints and folders: loading them uses neither the internet nor other files."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import glmix
from glmix.errors import InputError
from glmix.models import load_folder
from glmix.tasks import Classification, Detection, DetectorConfig, Segmentation, TokenLabelling, load_trained, read_info
from glmix.training.task import Task

SMALL = {"widths": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "head_dim": 16, "num_slots": 4}


def checkpoint_of(task: Task, classes: int = 3) -> dict[str, Any]:
    """Return the checkpoint of an untrained task, as `glmix fit` saves it."""
    network = task.build(classes)
    return {
        "state_dict": {f"model.{name}": tensor for name, tensor in network.state_dict().items()},
        "glmix": {
            "task": type(task).__name__,
            "build_args": task.build_args(),
            "class_names": [f"class {k}" for k in range(classes)],
            "mean": (0.5, 0.5, 0.5),
            "std": (0.2, 0.2, 0.2),
            "input_size": (3, 32, 32),
            "crop_pct": 1.0,
            "model": task.model_name,
            "model_args": task.model_args,
            "num_classes": classes,
            "ema_is_better": False,
            "best": 0.5,
        },
    }


def classification() -> Task:
    return Classification(model="test_glnet", model_args=dict(SMALL))


def detection() -> Task:
    detector = DetectorConfig("retinanet", channels=16, min_size=32, max_size=64)
    return Detection(detector, model="test_glnet", model_args=dict(SMALL))


TASKS = {
    "Classification": classification,
    "TokenLabelling": lambda: TokenLabelling(model="glnet_4g_tklb", model_args=dict(SMALL)),
    "Segmentation": lambda: Segmentation("fpn", {"decoder_pyramid_channels": 16}, model="test_glnet", model_args=SMALL),
    "Detection": detection,
}


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List of files opened outside the folder of the test, and of attempts to use the internet.

    Files of imported Python packages are allowed.
    """
    touched: list[str] = []
    allowed = (str(tmp_path), sys.prefix, sys.base_prefix, str(Path(glmix.__file__).parent))
    active = True

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if not active:
            return
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
            touched.append(event)
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path, writes = os.fsdecode(args[0]), bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes or not os.path.abspath(path).startswith((*allowed, "/proc", "/sys", "/dev")):
                touched.append(f"open {path}")
        elif event in ("os.mkdir", "os.rename", "subprocess.Popen", "os.system"):
            touched.append(f"{event} {args}")

    sys.addaudithook(audit)  # cannot be removed, only disabled
    yield touched
    active = False


def load(path: Path, checkpoint: dict[str, Any], touched: list[str]) -> torch.nn.Module:
    torch.save(checkpoint, path)
    touched.clear()
    return load_trained(path)


@pytest.mark.parametrize("task", TASKS)
def test_checkpoints_of_all_tasks_load_without_internet_and_other_files(task, guarded, tmp_path):
    network = load(tmp_path / "good.ckpt", checkpoint_of(TASKS[task]()), guarded)
    assert not network.training
    assert guarded == []


HOSTILE_ARGS: dict[str, Any] = {
    "cache_dir": "stolen",
    "checkpoint_path": "secret.pth",
    "pretrained_cfg": {"url": "http://attacker.invalid/sitecustomize.py"},
    "pretrained_cfg_overlay": {"url": "http://attacker.invalid/sitecustomize.py"},
    "features_only": True,
    "pretrained_strict": False,
    "pretrained_filter_fn": "x",
    "num_classes": 4,
    "device": "meta",
    "widths": "large",
    "in_chans": 3.5,
    "drop_path_rate": float("nan"),
    "global_pool": ["avg"],
}


@pytest.mark.parametrize("model", ["test_glnet", "resnet18"])
@pytest.mark.parametrize("name", HOSTILE_ARGS)
def test_unsafe_model_arguments_are_refused(model, name, guarded, tmp_path):
    checkpoint = checkpoint_of(classification())
    checkpoint["glmix"] |= {"model": model, "model_args": {"pretrained": True, name: HOSTILE_ARGS[name]}}
    with pytest.raises(InputError, match=rf"evil\.ckpt .*{name}"):
        load(tmp_path / "evil.ckpt", checkpoint, guarded)
    assert guarded == []
    assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"]


def test_pretrained_in_a_checkpoint_downloads_nothing(guarded, tmp_path):
    checkpoint = checkpoint_of(Classification(model="resnet18"))
    checkpoint["glmix"]["model_args"] = {"pretrained": True}
    assert type(load(tmp_path / "resnet.ckpt", checkpoint, guarded)).__name__ == "ResNet"
    assert guarded == []


@pytest.mark.parametrize("name", ["hf-hub:attacker/model", "local-dir:/tmp", "../evil", "", None, 7, ["test_glnet"]])
def test_only_registered_models_are_built(name, guarded, tmp_path):
    checkpoint = checkpoint_of(classification())
    checkpoint["glmix"]["model"] = name
    with pytest.raises(InputError, match="registered models"):
        load(tmp_path / "evil.ckpt", checkpoint, guarded)
    assert guarded == []


@pytest.mark.parametrize(
    ("task", "build_args"),
    [
        ("Classification", {"checkpoint": "secret.pth"}),
        ("Classification", {"multi_label": "yes"}),
        ("Classification", None),
        ("TokenLabelling", {"checkpoint": "secret.pth"}),
        ("Segmentation", {"checkpoint": "secret.pth"}),
        ("Segmentation", {"decoder": "fpn", "decoder_args": {"encoder_weights": "imagenet"}}),
        ("Segmentation", {"decoder": ["fpn"]}),
        ("Segmentation", {"decoder": "fpn", "auxiliary": -1.0}),
        ("Detection", {"checkpoint": "secret.pth"}),
        ("Detection", {"detector": {"kind": "retinanet", "options": {"backbone": "x"}}}),
        ("Detection", {"detector": {"kind": "other"}}),
        ("Detection", {"detector": {"kind": "retinanet", "channels": "many"}}),
        ("Detection", {"detector": [1]}),
    ],
)
def test_invalid_build_args_are_refused(task, build_args, guarded, tmp_path):
    checkpoint = checkpoint_of(classification())
    checkpoint["glmix"] |= {"task": task, "build_args": build_args}
    with pytest.raises(InputError, match=r"evil\.ckpt"):
        load(tmp_path / "evil.ckpt", checkpoint, guarded)
    assert guarded == []


WRONG: list[tuple[str, Any]] = [
    ("task", None), ("task", "Task"), ("task", ["Classification"]), ("model_args", None), ("model_args", "x"),
    ("num_classes", None), ("num_classes", 0), ("num_classes", 4), ("num_classes", True), ("num_classes", "3"),
    ("class_names", "abc"), ("class_names", ["a"]), ("class_names", [1, 2, 3]), ("class_names", [torch.ones(1)] * 3),
    ("mean", 0.5), ("mean", (0.5,)), ("mean", ()), ("mean", "abc"), ("mean", None), ("mean", (float("inf"), 0.0, 0.0)),
    ("std", (0.0, 1.0, 1.0)), ("std", (None,) * 3), ("input_size", 32), ("input_size", (3, 32)),
    ("input_size", (3, 0, 32)), ("crop_pct", "1"), ("crop_pct", -1.0), ("ema_is_better", "no"), ("resize", (1,)),
    ("category_ids", [1]), ("model_args", {"depths": [1, 1]}), ("model_args", {"head_dim": 0}),
    ("model_args", {"widths": [16, 16, 16, -1]}), ("model_args", {"mixers": [[], [], [], []]}),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "value"), WRONG)
def test_invalid_entries_are_refused_with_the_name_of_the_file(entry, value, tmp_path):
    checkpoint = checkpoint_of(classification())
    checkpoint["glmix"][entry] = value
    torch.save(checkpoint, tmp_path / "wrong.ckpt")
    with pytest.raises(InputError, match=r"wrong\.ckpt"):
        load_trained(tmp_path / "wrong.ckpt")


def test_metadata_is_read_and_written_to_the_backbone(tmp_path):
    torch.save(checkpoint_of(TASKS["Segmentation"]()), tmp_path / "good.ckpt")
    network = load_trained(tmp_path / "good.ckpt")
    backbone = next(module for module in network.modules() if isinstance(module, glmix.GLNet))
    assert backbone.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert read_info(tmp_path / "good.ckpt")["class_names"] == ["class 0", "class 1", "class 2"]


HOSTILE_CONFIGS: dict[str, Any] = {
    "overlay": {"model_args": {"pretrained_cfg_overlay": {"url": "http://attacker.invalid/x"}}},
    "cache": {"model_args": {"cache_dir": "stolen"}},
    "features": {"model_args": {"features_only": True}},
    "checkpoint": {"model_args": {"checkpoint_path": "secret.pth"}},
    "hub": {"architecture": "hf-hub:attacker/model"},
    "name": {"architecture": 3},
    "args": {"model_args": [1]},
    "config": {"pretrained_cfg": []},
    "mean": {"pretrained_cfg": {"mean": "abc"}},
    "names": {"label_names": ["one"]},
}


@pytest.mark.parametrize("kind", HOSTILE_CONFIGS)
def test_unsafe_folder_configs_are_refused(kind, guarded, tmp_path):
    glmix.save_model(timm.create_model("test_glnet", num_classes=3, **SMALL), tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | HOSTILE_CONFIGS[kind]))
    guarded.clear()
    with pytest.raises(InputError, match=r"config\.json"):
        load_folder(tmp_path / "saved")
    assert guarded == []


def test_weight_urls_in_a_folder_are_ignored(guarded, tmp_path):
    model = timm.create_model("test_glnet", num_classes=3, **SMALL).eval()
    glmix.save_model(model, tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= {"url": "http://attacker.invalid/x", "hf_hub_id": "a/b", "custom_load": True}
    path.write_text(json.dumps(config))
    guarded.clear()
    x = torch.randn(1, 3, 32, 32)
    for again in (
        load_folder(tmp_path / "saved"),
        timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True),
    ):
        with torch.no_grad():
            assert torch.equal(again.eval()(x), model(x))
    assert guarded == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"architecture": "test_glnet", "pretrained_cfg": 1}']
)
def test_malformed_config_is_refused_with_its_name(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json"):
        load_folder(tmp_path)
