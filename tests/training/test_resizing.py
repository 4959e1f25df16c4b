"""Progressive resizing: sizes by epoch, masks, and validation in the full size. `test_freezing.py` tests resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch

from glmix.data.scenes import SceneConfig
from glmix.errors import InputError
from glmix.tasks import Detection
from glmix.training.resizing import ResizingConfig, resize_batch
from tests.runs import data, task, trainer

LARGE = SceneConfig(size=64, objects=(1, 1))


def test_sizes_grow_to_the_full_size() -> None:
    config = ResizingConfig(start=0.5, epochs=4)
    assert [config.side(224, epoch) for epoch in range(6)] == [128, 128, 160, 192, 224, 224]
    assert ResizingConfig(start=0.1).side(48, 0) == 32
    assert ResizingConfig(start=1.0).side(100, 0) == 96


def test_images_and_masks_have_the_same_size() -> None:
    config = ResizingConfig(start=0.5, epochs=2, multiple=4)
    masks = torch.tensor([[3, 255]]).repeat_interleave(8, 1).repeat(1, 16, 1)  # left 3, right to be ignored
    images = masks[:, None].float().expand(-1, 3, -1, -1)
    small, targets = resize_batch(images, masks, config, 0)
    assert small.shape == (1, 3, 8, 8)
    assert targets.dtype == torch.int64
    assert torch.equal(targets, torch.tensor([[3, 255]]).repeat_interleave(4, 1).repeat(1, 8, 1))
    assert resize_batch(images, masks, config, 2)[0] is images


def test_detection_is_an_error() -> None:
    with pytest.raises(InputError, match=r"Detection.*progressive_resizing"):
        Detection(progressive_resizing=ResizingConfig())


@pytest.mark.parametrize("options", [{"start": 0.0}, {"start": 1.5}, {"epochs": 0}])
def test_invalid_configurations_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="progressive_resizing"):
        ResizingConfig(**options)


def test_training_uses_the_sizes_and_validation_the_full_one(tmp_path: Path) -> None:
    module = task(progressive_resizing=ResizingConfig(start=0.5, epochs=2, multiple=16), ema_decay=None)
    sizes: list[tuple[bool, int]] = []
    module.configure_model = lambda configure=module.configure_model: (  # type: ignore[method-assign]
        configure(),
        module.model.register_forward_pre_hook(lambda net, inputs: sizes.append((net.training, inputs[0].shape[-1]))),
    )
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=1, num_sanity_val_steps=1).fit(
        module, data(scenes=LARGE)
    )
    assert list(dict.fromkeys(sizes)) == [(False, 64), (True, 32), (True, 48), (True, 64)]
