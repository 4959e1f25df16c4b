"""Scenes: labels, masks, boxes, statistics and determinism."""

import zlib
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glmix.data.scenes import SHAPES, TEXTURES, Scene, SceneConfig, Split, draw_scene
from glmix.data.scenes.patterns import power_law_noise, rotate_axes, unit_grid

SINGLE = SceneConfig(objects=(1, 1))
LATIN = replace(SINGLE, labelling="latin", textures=("stripes", "checks", "dots"))

configs = st.builds(
    SceneConfig,
    size=st.integers(16, 97),
    shapes=st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, unique=True).map(tuple),
    textures=st.lists(st.sampled_from(sorted(TEXTURES)), min_size=1, unique=True).map(tuple),
    objects=st.tuples(st.integers(1, 8), st.integers(1, 8)).map(lambda pair: tuple(sorted(pair))),
    camouflage=st.floats(0, 1),
    noise=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
splits = st.sampled_from(get_args(Split))
indices = st.integers(0, 2**40)


def same(a: Scene, b: Scene) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@settings(max_examples=150, deadline=None)
@given(configs, splits, indices)
def test_scenes_are_consistent(config: SceneConfig, split: Split, index: int) -> None:
    scene = draw_scene(config, split, index)
    n = len(scene.labels)
    assert scene.image.shape == (config.size, config.size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.instances.shape == (config.size, config.size)
    assert 1 <= n <= config.objects[1], "number of objects"
    assert set(np.unique(scene.instances)) - {0} == set(range(1, n + 1)), "objects have consecutive numbers"
    assert (scene.labels >= 0).all()
    assert (scene.labels < config.num_classes).all()
    assert (scene.areas >= 0.6 * scene.whole_areas).all(), "at least 60 % of each object is visible"
    assert {len(scene.shapes), len(scene.textures), len(scene.camouflaged), len(scene.boxes)} == {n}
    assert np.array_equal(scene.semantic == 0, scene.instances == 0)
    for k in range(n):
        mask = scene.instances == k + 1
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert scene.boxes[k].tolist() == box, "boxes are tight around the visible part"
        assert (scene.semantic[mask] == scene.labels[k] + 1).all()
        assert np.array_equal(scene.masks[k], mask)


@settings(max_examples=30, deadline=None)
@given(configs, splits, indices)
def test_the_same_call_gives_the_same_scene(config: SceneConfig, split: Split, index: int) -> None:
    first = draw_scene(config, split, index)
    draw_scene(config, split, index + 1)
    assert same(first, draw_scene(replace(config), split, index))


def test_seeds_splits_and_indices_give_different_scenes() -> None:
    config = SceneConfig()
    scenes = [draw_scene(config, split, index) for split in get_args(Split) for index in range(3)]
    scenes += [draw_scene(replace(config, seed=seed), "train", 0) for seed in (1, 2)]
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


OTHER = SceneConfig(
    size=96,
    objects=(1, 1),
    seed=7,
    labelling="latin",
    shapes=("square", "triangle", "crescent"),
    textures=("dots", "zigzag", "checks"),
)


@pytest.mark.parametrize(
    ("config", "split", "index", "crc", "labels", "quarters"),
    [
        (SceneConfig(), "train", 0, 3755908133, [3, 1, 3], [83.67, 110.44, 103.68, 114.56]),
        (SceneConfig(), "val", 12, 1725985165, [1, 0], [124.92, 132.16, 113.03, 122.6]),
        (OTHER, "test", 123456, 1462415558, [1], [172.73, 169.48, 143.53, 149.6]),
    ],
)
def test_scenes_do_not_change(
    config: SceneConfig, split: Split, index: int, crc: int, labels: list[int], quarters: list[float]
) -> None:
    # Masks must be identical. Images are compared by the means of quarters, because FFTs vary slightly by machine.
    scene = draw_scene(config, split, index)
    half = config.size // 2
    assert zlib.crc32(scene.instances.tobytes()) == crc
    assert scene.labels.tolist() == labels
    assert scene.image.reshape(2, half, 2, half, 3).mean((1, 3, 4)).ravel().tolist() == pytest.approx(quarters, abs=0.1)


def test_appearance_options_do_not_change_the_masks() -> None:
    plain, hidden = SceneConfig(camouflage=0.0, noise=0.0), SceneConfig(camouflage=1.0)
    for index in range(20):
        one, other = draw_scene(plain, "train", index), draw_scene(hidden, "train", index)
        assert np.array_equal(one.instances, other.instances)
        assert not one.camouflaged.any()
        assert other.camouflaged.all()
        assert not np.array_equal(one.image, other.image)


def counts(config: SceneConfig) -> np.ndarray[Any, Any]:
    """Return the number of objects with each (shape, texture, class) in 1200 scenes."""
    table = np.zeros((len(config.shapes), len(config.textures), config.num_classes), int)
    for index in range(1200):
        scene = draw_scene(config, "train", index)
        np.add.at(table, (scene.shapes, scene.textures, scene.labels), 1)
    return table


def best_share(table: np.ndarray[Any, Any]) -> float:
    """Return the accuracy of the best prediction of the class (last axis) from the cue (other axes)."""
    return float(table.max(-1).sum() / table.sum())


def test_pair_labelling_needs_both_cues() -> None:
    table = counts(replace(SINGLE, size=16))
    assert best_share(table.sum(1)) == pytest.approx(1 / 2, abs=0.04), "shape alone"
    assert best_share(table.sum(0)) == pytest.approx(1 / 3, abs=0.04), "texture alone"
    assert best_share(table) == 1.0, "both"
    assert table.sum((0, 1)) == pytest.approx(np.full(6, 200), abs=60), "classes are equally frequent"


def test_single_cues_are_uninformative_in_latin_labelling() -> None:
    table = counts(replace(LATIN, size=16))
    assert best_share(table.sum(1)) == pytest.approx(1 / 3, abs=0.05), "shape alone"
    assert best_share(table.sum(0)) == pytest.approx(1 / 3, abs=0.05), "texture alone"
    assert best_share(table) == 1.0, "both"


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_have_both_colours_equally_often(name: str) -> None:
    grid = unit_grid(600) * 20
    u, v = rotate_axes(grid, grid[:, None], 0.3)
    assert TEXTURES[name](u, v).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_touch_the_unit_circle_and_stay_inside(name: str) -> None:
    grid = (unit_grid(800) - 0.5) * 3
    u, v = rotate_axes(grid, grid[:, None], 0.4)
    reach = np.hypot(u, v)[SHAPES[name](u, v)].max()
    assert 0.97 < reach < 1.001


def test_object_sizes_are_in_their_range() -> None:
    def radii(config: SceneConfig) -> list[float]:
        scenes = [draw_scene(config, "train", index) for index in range(200)]
        areas = np.concatenate([scene.whole_areas for scene in scenes])
        return (np.sqrt(areas / np.pi) / config.size).tolist()

    discs = SceneConfig(shapes=("disc",))
    assert 0.195 < min(radii(discs)) < 0.22
    assert 0.30 < max(radii(discs)) < 0.325
    assert 0.255 < min(radii(replace(discs, objects=(1, 1)))) < 0.28
    assert 0.38 < max(radii(replace(discs, objects=(1, 1)))) < 0.405


def test_scenes_have_one_to_three_objects() -> None:
    numbers = np.bincount([len(draw_scene(SceneConfig(), "train", index).labels) for index in range(300)])
    assert len(numbers) == 4
    assert numbers[0] == 0
    assert (numbers[1:] > 60).all()


def test_objects_without_space_are_dropped() -> None:
    scene = draw_scene(SceneConfig(objects=(60, 60)), "train", 0)
    assert 3 <= len(scene.labels) < 60
    assert (scene.areas >= 0.6 * scene.whole_areas).all()


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("exponent", [1.4, 2.6])
def test_background_amplitude_follows_a_power_law(size: int, exponent: float) -> None:
    fields = [power_law_noise(np.random.default_rng(seed), size, exponent) for seed in range(40)]
    spectrum = np.sqrt(np.mean([np.abs(np.fft.fft2(field)) ** 2 for field in fields], axis=0))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    band = (frequency > 0.05) & (frequency < 0.45)
    slope = np.polyfit(np.log(frequency[band]), np.log(spectrum[band]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)
    assert np.std(fields[0]) == pytest.approx(1, abs=1e-3)


def overlap(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_colour_clustering_does_not_find_the_objects() -> None:
    """2-means on colours with the better cluster chosen by ground truth is about as good as "all foreground"."""
    found, everything = [], []
    for index in range(100):
        scene = draw_scene(SceneConfig(), "train", index)
        objects, pixels = scene.instances > 0, scene.image.astype(float)
        side = pixels.mean(2) > pixels.mean()
        for _ in range(10):
            one, other = pixels[side].mean(0), pixels[~side].mean(0)
            side = ((pixels - one) ** 2).sum(2) < ((pixels - other) ** 2).sum(2)
        found.append(max(overlap(side, objects), overlap(~side, objects)))
        everything.append(objects.mean())
    assert np.mean(found) < np.mean(everything) + 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 15}, "size must be at least 16 pixels, got 15"),
        ({"shapes": ("disc", "blob")}, "shapes has no 'blob'; accepted names: disc, cross, ring"),
        ({"textures": ("plaid",)}, "textures has no 'plaid'; accepted names: stripes, checks"),
        ({"shapes": "disc"}, "shapes must be a sequence, got the single string 'disc'"),
        ({"shapes": ()}, "shapes must be one or more different names"),
        ({"textures": ("dots", "dots")}, "textures must be one or more different names"),
        ({"labelling": "greek"}, "labelling must be 'pair' or 'latin', got 'greek'"),
        ({"labelling": "latin"}, "as many textures as shapes, got 3 shapes and 2 textures"),
        ({"objects": (0, 2)}, "objects must be two numbers, 1 <= minimum <= maximum <= 255"),
        ({"objects": (3, 1)}, "objects must be two numbers"),
        ({"objects": (1,)}, "objects must be two numbers"),
        ({"camouflage": 1.5}, "camouflage must be a probability from 0 to 1, got 1.5"),
        ({"camouflage": float("nan")}, "camouflage must be a probability"),
        ({"noise": -0.1}, "noise must be from 0 to 1, got -0.1"),
        ({"seed": -1}, "seed must be from 0"),
    ],
)
def test_invalid_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        SceneConfig(**options)


def test_invalid_split_and_index_are_errors() -> None:
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'valid'"):
        draw_scene(SceneConfig(), "valid", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="index must be 0 or more, got -1"):
        draw_scene(SceneConfig(), "train", -1)


def test_lists_from_yaml_give_the_same_configuration() -> None:
    config = SceneConfig(shapes=["disc", "ring"], objects=[1, 2])  # type: ignore[arg-type]
    assert config == SceneConfig(shapes=("disc", "ring"), objects=(1, 2))
    assert hash(config) == hash(replace(config))


def test_class_names_match_class_numbers() -> None:
    config = SceneConfig()
    assert config.class_names[0] == "disc_stripes"
    assert len(set(config.class_names)) == config.num_classes == 6
    for index in range(10):
        scene = draw_scene(config, "train", index)
        for shape, texture, label in zip(scene.shapes, scene.textures, scene.labels, strict=True):
            assert config.class_names[label] == f"{config.shapes[shape]}_{config.textures[texture]}"
    assert LATIN.class_names == ("latin_0", "latin_1", "latin_2")
