"""Images with any number of channels and with 16 bits: decoding, transforms and statistics."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glmix.data.classification.channels import array_input, array_transform, channel_statistics
from glmix.data.classification.files import FileReader
from glmix.data.classification.transforms import TransformConfig
from glmix.data.core.arrays import decode_array, needs_array, read_array, unit_range
from glmix.data.core.decoding import decode
from glmix.errors import InputError

tifffile = pytest.importorskip("tifffile")


def pixels(channels: int, dtype: str = "uint16", height: int = 6, width: int = 9) -> np.ndarray:
    high = 1 if dtype.startswith("float") else np.iinfo(dtype).max
    values = np.random.default_rng(channels).random((height, width, channels)) * high
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_npy_and_tiff_files_keep_channels_and_values(tmp_path: Path, channels: int, dtype: str) -> None:
    image = pixels(channels, dtype)
    np.save(tmp_path / "a.npy", image)
    planar = "contig" if channels > 1 else None
    tifffile.imwrite(tmp_path / "last.tif", image, photometric="minisblack", planarconfig=planar)
    tifffile.imwrite(tmp_path / "first.tif", image.transpose(2, 0, 1), photometric="minisblack")  # one page per channel
    for name in ("a.npy", "last.tif", "first.tif"):
        found = read_array(tmp_path / name, channels)
        assert found.dtype == image.dtype
        assert np.array_equal(found, image), name


def test_files_of_pillow(tmp_path: Path) -> None:
    grey = pixels(1)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey16.png")
    assert np.array_equal(read_array(tmp_path / "grey16.png", 1)[..., 0], grey)
    rgb = pixels(3, "uint8")
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    assert np.array_equal(read_array(tmp_path / "rgb.png", 3), rgb)
    assert read_array(tmp_path / "rgb.png", 1).shape == (6, 9, 1)
    assert read_array(tmp_path / "rgb.png", 4).shape == (6, 9, 4)
    with pytest.raises(InputError, match=r"only TIFF and .npy files can have 5 channels"):
        read_array(tmp_path / "rgb.png", 5)


def test_invalid_arrays_are_errors(tmp_path: Path) -> None:
    def npy(array: np.ndarray, **options: bool) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array, **options)
        return buffer.getvalue()

    for content, words in (
        (npy(pixels(5)), r"shape \(6, 9, 5\), but \(height, width, 4\)"),
        (npy(np.full((4, 4, 4), np.nan)), "not finite"),
        (npy(np.array([[[None] * 4]]), allow_pickle=True), "Python objects"),
        (npy(np.zeros((4, 4, 4), complex)), "values of type complex128"),
    ):
        with pytest.raises(InputError, match=words):
            decode_array(content, 4)
    with pytest.raises(InputError, match="54 pixels, and at most 50"):
        decode_array(npy(pixels(4)), 4, max_pixels=50)
    for damaged in (npy(pixels(4))[:100], b"II*\0garbage", b"no image"):
        (tmp_path / "x.bin").write_bytes(damaged)
        with pytest.raises(InputError, match=r"x.bin cannot be read"):
            read_array(tmp_path / "x.bin", 4)


def test_files_that_pillow_reads_as_rgb_are_left_to_it(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", pixels(3, "float32"), photometric="rgb")
    np.save(tmp_path / "c.npy", pixels(3))
    assert [needs_array(tmp_path / name, 3) for name in ("a.tif", "b.tif", "c.npy")] == [False, True, True]
    assert needs_array(tmp_path / "a.tif", 5)


def test_transforms_of_arrays() -> None:
    image = pixels(5, height=40, width=50)
    config = TransformConfig(size=16, mean=(0.5,) * 5, std=(0.25,) * 5)
    torch.manual_seed(0)
    one, two = (array_transform(config, True)(image) for _ in range(2))
    assert one.shape == (5, 16, 16)
    assert not torch.equal(one, two)
    whole = array_input(image, (40, 50), (0.5,) * 5, (0.25,) * 5)
    assert torch.allclose(whole, (unit_range(image) - 0.5) / 0.25, atol=1e-5)
    crop = array_transform(TransformConfig(size=40, crop=1.0, mean=(0.0,) * 5, std=(1.0,) * 5), False)(image)
    assert torch.allclose(crop, unit_range(image)[:, :, 5:45], atol=1e-5)


def test_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    images = [pixels(4, height=5 + k) for k in range(3)]
    images = [np.concatenate([image[..., :3], np.full_like(image[..., :1], 65535)], axis=2) for image in images]
    for index, image in enumerate(images):
        np.save(tmp_path / f"{index}.npy", image)
    reader = FileReader(tmp_path, [f"{index}.npy" for index in range(3)], np.zeros(3, np.int64), {"a": 0})
    mean, std = channel_statistics(reader, 4)
    values = np.concatenate([image.reshape(-1, 4) for image in images]) / 65535
    assert mean == pytest.approx(values.mean(0), rel=1e-5)
    assert std == pytest.approx([*values.std(0)[:3], 1.0], rel=1e-5)  # the constant channel has 1


def test_photographs_are_turned_upright() -> None:
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue()).size == (20, 30)
    assert decode(buffer.getvalue(), upright=False).size == (30, 20)
