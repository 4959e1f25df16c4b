"""Malformed checkpoint files cause an error message with the file name in all functions that read them."""

import argparse
import functools
import io
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

import glmix
import glmix_cli
from glmix.errors import InputError
from glmix.tasks import load_trained, load_weights


@functools.cache
def model() -> torch.nn.Module:
    return timm.create_model("test_glnet", num_classes=3)


def good_weights() -> dict[str, torch.Tensor]:
    return dict(model().state_dict())


def saved(content: Any, **kwargs: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


def flipped(content: bytes, places: range) -> bytes:
    """Flip some bits; the choice is deterministic."""
    generator = random.Random(len(content))
    changed = bytearray(content)
    for _ in range(20):
        changed[generator.choice(places)] ^= 1 << generator.randrange(8)
    return bytes(changed)


def with_first(change: Any) -> dict[str, Any]:
    """Return weights of which the first tensor is changed."""
    weights: dict[str, Any] = good_weights()
    name = next(iter(weights))
    weights[name] = change(weights[name])
    return weights


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


WEIGHTS: dict[str, Any] = {
    "numbers": lambda: dict.fromkeys(good_weights(), 1),
    "None": lambda: {"model": None},
    "None each": lambda: dict.fromkeys(good_weights()),
    "nested": lambda: {"model": {"model": good_weights()}},
    "a tensor": lambda: torch.ones(3),
    "a list": lambda: [good_weights()],
    "a namespace": lambda: argparse.Namespace(a=1),
    "a tensor as model": lambda: {"model": torch.ones(3)},
    "a tensor as state_dict": lambda: {"state_dict": torch.ones(2), "glmix": torch.ones(2)},
    "keys that are numbers": lambda: dict(enumerate(good_weights().values())),
    "mixed keys": lambda: {**good_weights(), 3: torch.ones(1), None: torch.ones(1)},
    "no dimensions": lambda: {name: tensor.new_zeros(()) for name, tensor in good_weights().items()},
    "other shapes": lambda: {name: torch.zeros(2, 3) for name in good_weights()},
    "whole numbers": lambda: with_first(lambda tensor: tensor.to(torch.int64)),
    "complex numbers": lambda: with_first(lambda tensor: tensor.to(torch.complex64)),
    "a sparse tensor": lambda: with_first(lambda tensor: tensor.to_sparse()),
    "a compressed tensor": lambda: with_first(lambda tensor: tensor.flatten(1).to_sparse_csr()),
    "a meta tensor": lambda: with_first(lambda tensor: tensor.to("meta")),
    "a quantised tensor": lambda: with_first(quantised),
    "an empty dictionary": dict,
    "one less": lambda: dict(list(good_weights().items())[1:]),
    "a run without description": lambda: {"state_dict": {"model.x": torch.ones(1)}},
    "a run that describes nothing": lambda: {"state_dict": {"model.x": torch.ones(1)}, "glmix": {}},
    "a run with a list": lambda: {"state_dict": {"model.x": torch.ones(1)}, "glmix": [1]},
    "a run with numbers": lambda: {"state_dict": {"model.x": 1}, "glmix": {"task": "Classification"}},
}


def safe(header: bytes, data: bytes = b"\0" * 16) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


BYTES: dict[str, Any] = {
    "empty": lambda: b"",
    "one byte": lambda: b"\x80",
    "text": lambda: b"not a checkpoint, but quite a long text" * 10,
    "an object": lambda: pickle.dumps(Path("x")),
    "a number": lambda: pickle.dumps(3),
    "prefixed": lambda: b"junk" + saved(good_weights()),
    "no header": lambda: safe(b"")[:8],
    "a long header": lambda: (1 << 60).to_bytes(8, "little") + b"{}",
    "a header that is no JSON": lambda: safe(b"{nonsense"),
    "a header of a list": lambda: safe(b'{"a": [1]}'),
    "offsets outside": lambda: safe(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,1600]}}'),
    "offsets backwards": lambda: safe(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}'),
    "a negative shape": lambda: safe(b'{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}'),
    "an unknown dtype": lambda: safe(b'{"a":{"dtype":"X9","shape":[4],"data_offsets":[0,16]}}'),
    "another tensor": lambda: safe(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "a shape that does not match": lambda: safe(b'{"a":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}}'),
    "no shape": lambda: safe(b'{"a":{"dtype":"F32","data_offsets":[0,16]}}'),
}
for share in (0.1, 0.5, 0.9, 0.999):
    BYTES[f"truncated at {share}"] = lambda share=share: (lambda c: c[: int(len(c) * share)])(saved(good_weights()))
    BYTES[f"older format truncated at {share}"] = lambda share=share: (lambda c: c[: int(len(c) * share)])(
        saved(good_weights(), _use_new_zipfile_serialization=False)
    )
    BYTES[f"safetensors truncated at {share}"] = lambda share=share: (lambda c: c[: int(len(c) * share)])(
        safetensors.torch.save(good_weights())
    )
for seed in range(6):
    BYTES[f"a pickle with flipped bits {seed}"] = lambda seed=seed: (
        lambda c: flipped(c, range(30 + 200 * seed, 230 + 200 * seed))
    )(saved(good_weights()))
    BYTES[f"an older pickle with flipped bits {seed}"] = lambda seed=seed: (
        lambda c: flipped(c, range(100 * seed, 100 + 100 * seed))
    )(saved(good_weights(), _use_new_zipfile_serialization=False))
    BYTES[f"a header with flipped bits {seed}"] = lambda seed=seed: (
        lambda c: flipped(c, range(8 + 50 * seed, 58 + 50 * seed))
    )(safetensors.torch.save(good_weights()))

CASES = {**{name: lambda make=make: saved(make()) for name, make in WEIGHTS.items()}, **BYTES}


def commands(path: Path) -> dict[str, list[str]]:
    return {
        "convert": ["convert", str(path), str(path.parent / "folder")],
        "predict": ["predict", "x.png", "--model", "test_glnet", "--checkpoint", str(path)],
    }


# Files are known by their content. Each case has one suffix in turn, some have all, and the slow tests all pairs.
SUFFIXES = (".pth", ".ckpt", ".safetensors")
ALL_SUFFIXES = ("numbers", "empty", "text", "prefixed", "no header", "truncated at 0.5", "safetensors truncated at 0.5")
FILES = [
    pytest.param(case, suffix, marks=() if case in ALL_SUFFIXES or n % 3 == k else pytest.mark.slow)
    for n, case in enumerate(CASES)
    for k, suffix in enumerate(SUFFIXES)
]


@pytest.mark.parametrize(("case", "suffix"), FILES)
def test_a_malformed_file_raises_an_error_with_its_name(case, suffix, tmp_path, capsys):
    path = tmp_path / f"malformed{suffix}"
    path.write_bytes(CASES[case]())
    overlay = {"file": str(path)}
    readers = {
        "load_official": lambda: glmix.load_official(path, "test_glnet"),
        "load_weights": lambda: load_weights(model(), path),
        "load_trained": lambda: load_trained(path),
        "create_model": lambda: timm.create_model(
            "test_glnet", num_classes=3, pretrained=True, pretrained_cfg_overlay=overlay
        ),
    }
    for name, read in readers.items():
        with pytest.raises(InputError) as refusal:
            read()
        assert path.name in str(refusal.value), name
    for name, arguments in commands(path).items():
        assert glmix_cli.main(arguments) == 2, name  # which raises what is not meant for users
        assert path.name in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


def test_a_folder_raises_an_error(tmp_path, capsys):
    for read in (glmix.load_official, lambda path: load_weights(torch.nn.Identity(), path)):
        with pytest.raises(InputError, match=f"{tmp_path} is a folder"):
            read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):  # a folder may hold a model
        glmix.load(tmp_path)
    for arguments in commands(tmp_path).values():
        assert glmix_cli.main(arguments) == 2
        assert str(tmp_path) in capsys.readouterr().err


def test_the_error_for_a_training_checkpoint_explains_how_to_load_it(tmp_path):
    torch.save({"state_dict": {"model.x": torch.ones(1)}, "glmix": {}}, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match=r"best\.ckpt is a checkpoint of `glmix fit`: .*glmix\.load"):
        glmix.load_official(tmp_path / "best.ckpt")
