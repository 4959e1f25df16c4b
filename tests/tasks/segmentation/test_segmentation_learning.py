"""A small network learns scenes in seconds, and its predictions are consistent across sizes and inference settings."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from glmix.data.scenes import SceneConfig
from glmix.data.segmentation.datamodule import SceneMaskData
from glmix.tasks import Inference, OptimizerConfig, ScheduleConfig, Segmentation
from glmix.tasks.segmentation.inference import label_map, segment
from glmix.training.short_training import Recipe, train_on_scenes

SCENES = SceneConfig(size=64, shapes=("disc", "cross"), textures=("checks",), objects=(1, 1))
RECIPE = Recipe(epochs=6, lr=4e-3, warmup=0.1)
DECODERS: dict[str, dict[str, Any]] = {
    "fpn": {
        "decoder": "fpn",
        "decoder_args": {
            "decoder_pyramid_channels": 32,
            "decoder_segmentation_channels": 32,
            "decoder_dropout": 0.0,
        },
    },
    "upernet": {"decoder": "upernet", "decoder_args": {"decoder_channels": 24}, "auxiliary": 0.4},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: many small operations are slow with several threads on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> SceneMaskData:
    found = SceneMaskData(SCENES, train_count=160, val_count=24, batch_size=8)
    found.setup()
    return found


@pytest.fixture(scope="module", params=["fpn", pytest.param("upernet", marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, data: SceneMaskData) -> tuple[nn.Module, list[float]]:
    task = Segmentation(
        model="test_glnet",
        model_args={"depths": (1, 1, 1, 1)},
        optimizer=OptimizerConfig(lr=RECIPE.lr, base_batch=None),
        schedule=ScheduleConfig(warmup_epochs=RECIPE.warmup * RECIPE.epochs),
        **DECODERS[request.param],
    )
    scores = [epoch.score for epoch in train_on_scenes(task, data, RECIPE)]
    return task.model.eval().cpu(), scores


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the share of the object pixels of a on which b agrees."""
    objects = a > 0
    return float((a == b)[objects].float().mean())


def test_a_network_learns_in_seconds(trained: tuple[nn.Module, list[float]]) -> None:
    _, scores = trained
    # predicting the background everywhere has a score of 0.31
    assert scores[-1] > 0.6
    assert scores[-1] > scores[0]


def test_predictions_do_not_shift_when_the_image_is_cropped(
    trained: tuple[nn.Module, list[float]], data: SceneMaskData
) -> None:
    """Sizes that are not a multiple of 32 are padded, and predictions must not shift by a pixel."""
    network, _ = trained
    images, _ = next(iter(data.val_dataloader()))
    with torch.inference_mode():
        whole = label_map(segment(network, images)).clamp_max(1)  # foreground or background
        for height, width in ((64, 52), (49, 60), (55, 55)):
            cut = label_map(segment(network, images[:, :, :height, :width])).clamp_max(1)
            expected = whole[:, :height, :width]
            unshifted = agreement(expected, cut)
            assert unshifted > 0.9
            for step in (3, -3):  # shifted predictions would agree better at another offset
                assert unshifted > agreement(expected, cut.roll(step, 1))
                assert unshifted > agreement(expected, cut.roll(step, 2))


def test_inference_settings_agree(trained: tuple[nn.Module, list[float]], data: SceneMaskData) -> None:
    network, _ = trained
    images, masks = next(iter(data.val_dataloader()))
    with torch.inference_mode():
        plain = label_map(segment(network, images))
        assert torch.equal(label_map(segment(network, images, Inference("slide", window=64))), plain)
        for how in (Inference(flip=True), Inference(scales=(1.0, 1.25))):
            found = label_map(segment(network, images, how))
            assert agreement(plain, found) > 0.8
            assert agreement(masks, found) > agreement(masks, plain) - 0.1
