"""Windows of large image files equal the same part of the whole image."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from glmix.data.core.image_files import ImageReader
from glmix.data.core.windows import open_windows, write_label_map
from glmix.errors import InputError

WINDOWS = [(0, 0, 90, 130), (17, 33, 40, 64), (89, 129, 1, 1), (60, 0, 30, 20)]


def image(kind: str = "uint8") -> Any:
    return np.random.default_rng(0).integers(0, 256, (90, 130, 3)).astype(kind) * (257 if kind == "uint16" else 1)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "layout",
    [
        None,
        {"tile": (32, 48), "compression": "zlib"},
        {"rowsperstrip": 7},
        {"planarconfig": "separate", "tile": (32, 16)},
    ],
    ids=["npy", "tiles", "strips", "planes"],
)
def test_windows_equal_the_whole_image(tmp_path: Path, layout: dict[str, Any] | None, kind: str) -> None:
    pixels = image(kind)
    file = tmp_path / ("image.npy" if layout is None else "image.tif")
    if layout is None:
        np.save(file, pixels)
    else:
        separate = layout.get("planarconfig") == "separate"
        tifffile.imwrite(file, pixels.transpose(2, 0, 1) if separate else pixels, photometric="rgb", **layout)
    windows = pickle.loads(pickle.dumps(open_windows(file)))
    assert windows.shape == (3, 90, 130)
    for top, left, height, width in WINDOWS:
        expected = image()[top : top + height, left : left + width].transpose(2, 0, 1)
        assert np.array_equal(windows.read(top, left, height, width).numpy(), expected)
    lazy, size = ImageReader(max_pixels=100, windows_above=90 * 130 - 1)(file)
    assert (size, type(lazy)) == ((130, 90), type(windows))
    whole, _ = ImageReader(max_pixels=90 * 130, windows_above=90 * 130)(file)
    assert np.array_equal(whole.numpy(), image().transpose(2, 0, 1))


def test_grey_levels_become_three_channels(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", image()[..., 0])
    windows = open_windows(tmp_path / "grey.npy")
    assert windows is not None
    assert np.array_equal(windows.read(3, 4, 5, 6).numpy(), np.stack([image()[3:8, 4:10, 0]] * 3))


def test_other_files_are_not_read_in_windows(tmp_path: Path) -> None:
    Image.fromarray(image()).save(tmp_path / "a.png")
    np.save(tmp_path / "float.npy", image().astype(np.float32))
    np.save(tmp_path / "bands.npy", np.zeros((9, 9, 7), np.uint8))
    tifffile.imwrite(tmp_path / "turned.tif", image(), photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    for name in ("a.png", "float.npy", "bands.npy", "turned.tif", "absent.tif"):
        assert open_windows(tmp_path / name) is None


def test_damaged_files_are_reported(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image(), photometric="rgb", tile=(32, 32), compression="zlib")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    windows = open_windows(tmp_path / "a.tif")
    assert windows is not None
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        start = tiff.pages[0].dataoffsets[0]
    content[start : start + 50] = bytes(50)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.tif cannot be read"):
        windows.read(0, 0, 40, 40)
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\x01\x00damaged")
    with pytest.raises(InputError, match=r"b\.npy cannot be read"):
        open_windows(tmp_path / "b.npy")


def test_a_label_map_is_written_in_parts_with_the_place_of_a_geotiff(tmp_path: Path) -> None:
    scale, corner = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 600000.0, 5700000.0, 0.0)
    tags = [(33550, 12, 3, scale, True), (33922, 12, 6, corner, True)]
    tifffile.imwrite(tmp_path / "geo.tif", image(), photometric="rgb", tile=(32, 32), extratags=tags)
    labels = np.random.default_rng(1).integers(0, 4, (600, 300), dtype=np.uint8)
    colours = np.arange(12, dtype=np.uint8).reshape(4, 3) * 20
    windows = open_windows(tmp_path / "geo.tif")
    assert windows is not None
    write_label_map(tmp_path / "mask.tif", np.split(labels, [100, 101, 420]), labels.shape, colours, windows.geo_tags())
    with Image.open(tmp_path / "mask.tif") as mask:
        assert np.array_equal(np.asarray(mask), labels)
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask.convert("RGB")), colours[labels])
    with tifffile.TiffFile(tmp_path / "mask.tif") as tiff:
        assert tiff.pages[0].tags[33922].value == corner
