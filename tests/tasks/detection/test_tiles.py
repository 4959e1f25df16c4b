"""Detection by tiles: each object of a large image is found once, with its box and its mask."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from glmix.data.detection.rle import decode_segmentation, encode_mask, encode_part
from glmix.errors import InputError
from glmix.tasks.detection.predictor import DetectionPredictor
from glmix.tasks.detection.tiles import Tiles


@pytest.mark.parametrize("place", [(0, 0), (3, 5), (30, 44)])
def test_a_mask_is_encoded_at_its_place(place: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((10, 16)) < 0.6
    mask[:, 3:6] = True  # runs that continue in the next column, if the mask is as high as the image
    for part, (top, left) in ((mask, place), (np.zeros_like(mask), place), (np.ones((40, 9), bool), (0, place[1]))):
        whole = np.zeros((40, 60), bool)
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        assert encode_part(part, top, left, (40, 60)) == encode_mask(whole)


def test_tiles_cover_the_image_and_overlap() -> None:
    seen = np.zeros((100, 70), int)
    for tile in Tiles(32, 8).of(100, 70):
        assert (tile.bottom - tile.top, tile.right - tile.left) == (32, 32)
        seen[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert seen.min() == 1
    assert len(list(Tiles(32, 8).of(20, 32))) == 1
    with pytest.raises(InputError, match="from 0 to half of their side of 32, got 17"):
        Tiles(32, 17)


class Heads(nn.Module):
    score_thresh, nms_thresh = 0.05, 0.5

    def has_mask(self) -> bool:
        return True


class Rectangles(nn.Module):
    """A detector with the interface of torchvision's, which finds each bright rectangle that it sees, cut or not."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.roi_heads = Heads()
        self.transform: Any = nn.Module()
        self.transform.min_size, self.transform.max_size = (800,), 1333

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.detect(image[0]) for image in images]

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        values = [int(value) for value in image.unique() if value > 0]
        masks = torch.stack([image == value for value in values]) if values else torch.zeros(0, *image.shape)
        boxes = [[*part.nonzero().amin(0).flip(0), *part.nonzero().amax(0).flip(0) + 1] for part in masks]
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.ones(len(values), dtype=torch.long),
            "scores": torch.tensor(values) / 255,
            "masks": masks.float().unsqueeze(1),
        }


def test_each_object_is_found_once_where_tiles_overlap() -> None:
    generator = np.random.default_rng(0)
    image = np.zeros((230, 310, 3), np.uint8)
    taken, expected = np.zeros((230, 310), bool), {}
    for value in range(1, 255):
        height, width = generator.integers(3, 21, 2)
        top, left = generator.integers(0, 230 - height), generator.integers(0, 310 - width)
        area = slice(top, top + height), slice(left, left + width)
        if not taken[area].any():
            taken[area], image[area] = True, value
            expected[value] = [left, top, left + width, top + height]
    assert len(expected) > 80
    predict = DetectionPredictor(Rectangles(), ["thing"], score=0.0, tiles=Tiles(64, 24))
    (row,) = predict.compute([torch.from_numpy(image).permute(2, 0, 1)])
    assert row["mode"] == "tiles"
    values = [round(score * 255) for score in row["scores"]]
    assert sorted(values) == sorted(expected)
    assert values == sorted(values, reverse=True)
    for value, box, mask in zip(values, row["boxes"], row["masks"], strict=True):
        assert box == expected[value]
        pixels = decode_segmentation({"size": [230, 310], "counts": mask}, 230, 310)
        assert np.array_equal(pixels, image[..., 0] == value)
