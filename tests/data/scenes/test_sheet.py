"""Contact sheets of scenes."""

import numpy as np
import pytest

from glmix.data.scenes import SHAPES, TEXTURES, SceneConfig, class_colours, contact_sheet, draw_scene


def test_colours_of_classes_are_distinct() -> None:
    colours = class_colours(len(SHAPES) * len(TEXTURES))
    assert len(np.unique(colours, axis=0)) == len(SHAPES) * len(TEXTURES) + 1


def test_sheet_contains_scenes_masks_and_legend() -> None:
    config = SceneConfig()
    scenes = [draw_scene(config, "train", index) for index in range(5)]
    sheet = np.asarray(contact_sheet(scenes, config, columns=3, scale=2))
    height, width, _ = sheet.shape
    assert width == 3 * 128 + 4 * 8
    assert height > 4 * 128, "two rows of an image and a mask"
    assert np.array_equal(sheet[8 : 8 + 128 : 2, 8 : 8 + 128 : 2], scenes[0].image)
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in class_colours(config.num_classes)[1:].tolist()} <= colours, "all in the legend"


def test_narrow_sheet_contains_the_whole_legend() -> None:
    config = SceneConfig(size=16)
    sheet = contact_sheet([draw_scene(config, "train", 0)], config, scale=1)
    assert sheet.width == 16 + 2 * 8
    assert sheet.height > 6 * 20


def test_zero_columns_are_an_error() -> None:
    with pytest.raises(ValueError, match="columns and scale must be at least 1, got 0 and 2"):
        contact_sheet([], SceneConfig(), columns=0)
