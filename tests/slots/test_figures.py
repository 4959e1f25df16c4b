"""Slot figures and their parts: measures, representatives, panels."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import timm
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from glmix.data.scenes import SceneConfig, draw_scene
from glmix.slots import BlockMaps, slot_maps
from glmix.slots.figure.draw import Column, save_figure, slot_figure
from glmix.slots.figure.panels import Block, canvas_of
from glmix.slots.measures import (
    assignment_logits,
    effective_slots_per_image,
    effective_slots_per_pixel,
    representative_slots,
    resize_assignment,
    strongest_slots,
)


def shares(*shape: int, sharpness: float = 3.0) -> torch.Tensor:
    """Return a random assignment (B, S, N)."""
    return (sharpness * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).softmax(1)


def one_hot(slots: int, labels: list[int]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), slots).T.float()[None]


def test_effective_slots_are_between_1_and_the_number_of_slots():
    assignment = shares(2, 7, 30)
    for found in (effective_slots_per_pixel(assignment), effective_slots_per_image(assignment)):
        assert ((found >= 1) & (found <= 7)).all()
    hard = one_hot(4, [0, 1, 2, 3, 3, 2, 1, 0])
    assert effective_slots_per_pixel(hard).tolist() == [[1.0] * 8]
    assert effective_slots_per_image(hard).item() == pytest.approx(4)
    assert effective_slots_per_image(one_hot(4, [1] * 8)).item() == pytest.approx(1)
    even = torch.full((1, 5, 8), 0.2)
    assert effective_slots_per_pixel(even).mean().item() == pytest.approx(5)
    half = torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1)
    assert effective_slots_per_pixel(half).item() == pytest.approx(2)


def test_strongest_slots_prefer_the_first_maximum():
    assert strongest_slots(torch.tensor([[[0.2, 0.4], [0.4, 0.2], [0.4, 0.4]]])).tolist() == [[1, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_softmax_of_assignment_logits_is_the_assignment(dtype):
    assignment = shares(1, 6, 20).to(dtype)
    torch.testing.assert_close(assignment_logits(assignment).softmax(1).to(dtype), assignment, rtol=0, atol=1e-2)
    assert assignment_logits(one_hot(3, [0, 1, 2]).to(dtype)).isfinite().all()


def test_resized_assignment_sums_to_one():
    assignment = shares(2, 5, 6 * 8)
    torch.testing.assert_close(resize_assignment(assignment, (6, 8), (6, 8)), assignment)
    finer = resize_assignment(assignment, (6, 8), (30, 40))
    assert finer.shape == (2, 5, 1200)
    torch.testing.assert_close(finer.sum(1), torch.ones(2, 1200))
    even = torch.full((1, 5, 48), 0.2)
    torch.testing.assert_close(resize_assignment(even, (6, 8), (9, 7)), torch.full((1, 5, 63), 0.2))
    centre = finer.unflatten(2, (30, 40))[..., 2::5, 2::5].flatten(2)  # centre of each coarse pixel
    torch.testing.assert_close(centre, assignment)
    with pytest.raises(ValueError, match=r"48 pixels .* 7 x 7"):
        resize_assignment(assignment, (7, 7), (14, 14))


def test_resizing_keeps_hard_assignments_and_their_boundaries():
    finer = resize_assignment(one_hot(2, [0, 0, 1, 1]), (1, 4), (4, 16)).unflatten(2, (4, 16))
    expected = torch.cat([torch.ones(4, 8), torch.zeros(4, 8)], 1)
    torch.testing.assert_close(finer[0, 0], expected, rtol=0, atol=1e-6)


def test_representatives_cover_each_kind_of_slot():
    kinds = torch.eye(3).repeat_interleave(5, 1)  # three kinds of maps over 15 pixels
    maps = torch.cat([kinds[kind] * (1 - 0.01 * i) for kind in range(3) for i in range(4)]).view(12, 15)
    chosen = representative_slots(maps, 3)
    assert sorted(slot // 4 for slot in chosen) == [0, 1, 2]


def test_representatives_are_deterministic_and_sorted_by_size():
    maps = shares(1, 20, 50)[0]
    chosen = representative_slots(maps, 6)
    assert len(set(chosen)) == 6
    assert chosen == representative_slots(maps.clone(), 6)
    share = maps.sum(1)[chosen]
    assert torch.equal(share, share.sort(descending=True).values)


def test_identical_slots_are_represented_once():
    maps = torch.full((6, 10), 1 / 6)
    assert representative_slots(maps, 4) == [0]
    maps[3] = torch.linspace(0, 1, 10)
    assert sorted(representative_slots(maps, 4)) == [0, 3]
    assert sorted(representative_slots(shares(1, 3, 9)[0], 8)) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        representative_slots(maps, 0)


def image_and_maps(width: int, height: int, **options: object) -> tuple[Image.Image, list[BlockMaps]]:
    """Return an image of any shape and its slot maps."""
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", **options)
    image = Image.fromarray(draw_scene(SceneConfig(size=64), "val", 0).image).resize((width, height))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return image, slot_maps(model, pixels)


@pytest.mark.parametrize("size", [(64, 96), (320, 224), (224, 45)])
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figure_of_any_image_shape(tmp_path, size, kind):
    image, maps = image_and_maps(*size)
    figure = slot_figure(image, [Column("test_glnet", maps[1:], [("ring", 0.9)])], title="a.png")
    path = tmp_path / f"figure.{kind}"
    save_figure(figure, path, dpi=80)
    if kind == "png":
        assert min(Image.open(path).size) > 500
    else:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "options",
    [
        {"num_slots": 1},
        {"num_slots": 2},
        {"num_slots": 150},
        {"slot_grid": (3, 7)},
        {"clustering": "kmeans"},
        {"clustering": "static"},
        {"slot_attention": False},
        {"slot_scale": 1e-6},
    ],
    ids=str,
)
def test_figure_of_any_number_and_kind_of_slots(tmp_path, options):
    image, maps = image_and_maps(64, 64, **options)
    for own_scale in (False, True):
        figure = slot_figure(image, [Column("test_glnet", maps[1:2])], own_scale=own_scale)
        save_figure(figure, tmp_path / "figure.png", dpi=40)


def test_figures_are_reproducible_byte_for_byte(tmp_path):
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        image, maps = image_and_maps(64, 64)
        save_figure(slot_figure(image, [Column("test_glnet", maps[:1])]), tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def grids(figure) -> list:
    """Return the panels with the grid of all maps, which are the only ones with NaN gaps."""
    return [axes for axes in figure.axes if axes.images and np.ma.getmaskarray(axes.images[0].get_array()).any()]


def test_maps_of_a_block_share_one_scale_across_models():
    image, maps = image_and_maps(64, 64)
    sharp = image_and_maps(64, 64, slot_scale=30.0)[1]
    figure = slot_figure(image, [Column("soft", maps), Column("sharp", sharp)])
    ends = [axes.images[0].norm.vmax for axes in grids(figure)]
    assert ends[:3] == ends[3:]
    assert {axes.images[0].norm.vmin for axes in grids(figure)} == {0}
    own = grids(slot_figure(image, [Column("soft", maps)], own_scale=True))
    assert {axes.images[0].norm.vmax for axes in own} == {1}
    assert all(axes.images[0].get_array().max() == 1 for axes in own)


def test_uniform_maps_have_low_contrast():
    image, maps = image_and_maps(64, 64, slot_scale=1e-6)
    (axes,) = grids(slot_figure(image, [Column("even", maps[:1])]))
    array = axes.images[0].get_array()
    assert array.std() < 1e-6
    assert axes.images[0].norm.vmax == pytest.approx(2 / 16)


def test_representatives_are_framed_in_the_grid():
    image, maps = image_and_maps(64, 96)
    (axes,) = grids(slot_figure(image, [Column("test_glnet", maps[:1])]))
    block = Block(maps[0], canvas_of(image), 6)
    sheet = axes.images[0].get_array()
    height, width = sheet.shape[0] / 4, sheet.shape[1] / 4
    centres = [patch.get_center() for patch in axes.patches if isinstance(patch, Rectangle)]
    framed = [int(y / height) * 4 + int(x / width) for x, y in centres]
    assert framed == block.representatives
    assert len(framed) == 6


def test_segmentation_shows_the_strongest_slots():
    image, maps = image_and_maps(64, 64)
    block = Block(maps[1], canvas_of(image), 4)
    coarse = strongest_slots(maps[1].assignment)[0].view(8, 8)
    step = block.labels.shape[0] // 8
    centres = block.labels[step // 2 :: step, step // 2 :: step]
    assert (centres == coarse.numpy()).mean() > 0.95
    painted = block.segments()
    assert painted.shape == (256, 256, 3)
    assert painted.min() >= 0
    assert painted.max() <= 1
    assert block.effective.shape == (8, 8)


def test_block_header_contains_its_numbers():
    image, maps = image_and_maps(64, 64)
    figure = slot_figure(image, [Column("$test_glnet$", maps, [], "Random weights.")], size=(64, 64), title="$a_{.png")
    texts = "\n".join(text.get_text() for text in figure.texts)
    assert "Block 1" in texts
    assert "stages.1.blocks.0" in texts
    effective = effective_slots_per_pixel(maps[1].assignment).mean()
    assert f"8 x 8 pixels, 4 x 4 slots, scale 8.  Effective slots: {effective:.1f} per pixel" in texts
    assert "Random weights." in texts
    assert "$a_{.png" in texts
    assert "64 x 64 pixels" in texts


def test_blocks_are_numbered_from_0_and_sizes_are_width_by_height():
    image, maps = image_and_maps(96, 64, slot_grid=(2, 5))
    figure = slot_figure(image, [Column("test_glnet", maps[:1])], size=(64, 96), view="whole")
    texts = "\n".join(text.get_text() for text in figure.texts)
    assert "Block 0" in texts
    assert "24 x 16 pixels, 5 x 2 slots" in texts
    assert "whole image, 96 x 64 pixels" in texts


def test_invalid_figures_raise(tmp_path):
    image, maps = image_and_maps(64, 64)
    with pytest.raises(ValueError, match=r"number of blocks per model.* got \[2, 3\]"):
        slot_figure(image, [Column("a", maps), Column("b", maps[:2])])
    with pytest.raises(ValueError, match="number of blocks per model"):
        slot_figure(image, [])
    with pytest.raises(ValueError, match="1 to 8 slots, got"):
        slot_figure(image, [Column("a", maps)], representatives=9)
    figure = slot_figure(image, [Column("a", maps[:1])])
    with pytest.raises(ValueError, match=r"as .png or .svg, got 'a.gif'"):
        save_figure(figure, tmp_path / "a.gif")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        save_figure(figure, tmp_path / "file" / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
