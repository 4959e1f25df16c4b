"""The forward pass does not copy, permute into new memory, cast or repeat tensors."""

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

COPIES = {"clone", "_to_copy", "copy_", "repeat", "contiguous", "_reshape_copy", "cat"}


class Recorder(TorchDispatchMode):
    """Records the names of all executed operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["test_glnet", "glnet_stl", "glnet_stl_paramslot", "glnet_4g"])
def test_a_forward_pass_copies_no_tensor(name):
    model = timm.create_model(name).eval()
    x = torch.randn(2, 3, 96, 128).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), Recorder() as recorder:
        model(x)
    assert "convolution" in recorder.names
    assert not COPIES & set(recorder.names)


def test_an_image_in_another_memory_format_is_copied_once():
    model = timm.create_model("test_glnet").eval()
    with torch.no_grad(), Recorder() as recorder:
        model(torch.randn(2, 3, 96, 128))
    assert sum(name in COPIES for name in recorder.names) == 1


@pytest.mark.parametrize("name", ["test_glnet", "glnet_stl"])
def test_every_stage_returns_channels_last_memory(name):
    model = timm.create_model(name).eval()
    with torch.inference_mode():
        for stage in model.forward_intermediates(torch.randn(2, 3, 96, 128), intermediates_only=True):
            assert stage.is_contiguous(memory_format=torch.channels_last)
