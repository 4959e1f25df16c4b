"""ScenesData and ImageData: batches, exact resume and distributed sampling."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glmix.data.classification.datamodule import ImageData, ScenesData
from glmix.data.classification.source import ImageSource
from glmix.data.classification.transforms import TransformConfig
from glmix.data.core.sampling import EpochSampler, ShardSampler, seeded
from glmix.data.scenes import SceneConfig
from glmix.data.scenes.tensors import dihedral
from tests.data.conftest import resumes_exactly, take

SMALL = SceneConfig(size=32, objects=(1, 1))


def scenes(**kwargs: Any) -> ScenesData:
    counts = {"train_count": 40, "val_count": 21, "test_count": 5, "batch_size": 8}
    data = ScenesData(**{"scenes": SMALL, **counts, **kwargs})
    data.setup()
    return data


def images(root: Path, **kwargs: Any) -> ImageData:
    settings = {"transforms": TransformConfig(size=24), "batch_size": 4, "num_workers": 0, **kwargs}
    data = ImageData(ImageSource(root=str(root)), **settings)
    data.setup("fit")
    return data


def test_scenes_have_normalised_images_and_classes() -> None:
    data = scenes()
    x, y = take(data.train_dataloader(), 1)[0]
    assert x.shape == (8, *data.input_size)
    assert x.dtype == torch.float32
    assert x.abs().max() < 3
    assert y.dtype == torch.int64
    assert data.class_names is not None
    assert len(data.class_names) == data.num_classes == 6
    assert len(take(data.test_dataloader(), 1)[0][0]) == 5


def test_scenes_of_several_objects_have_multi_label_targets() -> None:
    data = scenes(scenes=SceneConfig(size=32))
    _, y = take(data.train_dataloader(), 1)[0]
    assert y.shape == (8, 6)
    assert set(y.unique().tolist()) == {0.0, 1.0}
    with pytest.raises(ValueError, match="multi_label"):
        ScenesData(scenes=SceneConfig(), multi_label=False)


def test_token_labels_of_scenes_are_rotated_with_the_image() -> None:
    data = scenes(token_labels=True)
    _, y, dense = take(data.train_dataloader(), 1)[0]
    assert dense.shape == (8, 7, 7, 6)
    assert torch.equal(dense.sum((1, 2)).argmax(1), y)  # one object: its cells show its class
    x = torch.rand(16, 3, 14, 14)
    codes = torch.arange(16) % 8
    pooled = torch.nn.functional.avg_pool2d(dihedral(x, codes), 2)
    assert torch.allclose(pooled, dihedral(torch.nn.functional.avg_pool2d(x, 2), codes))
    assert len({dihedral(x[:1], torch.tensor([k])).sum(1).flatten()[0].item() for k in range(8)}) == 4  # four corners


@pytest.mark.parametrize("workers", [0, 2])
def test_scenes_resume_exactly(workers: int) -> None:
    data = scenes(num_workers=workers)  # 5 batches per epoch
    resumes_exactly(data.train_dataloader, [0, 3, 5, 7, 10] if workers == 0 else [3, 5], total=12)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_resume_exactly(folder: Path, workers: int) -> None:
    data = images(folder, num_workers=workers)  # 6 batches per epoch
    resumes_exactly(data.train_dataloader, [1, 6, 8] if workers == 0 else [6, 8], total=13)


def test_batches_do_not_depend_on_workers_and_global_generators_are_unchanged(folder: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    without_workers = take(images(folder).train_dataloader(), 7)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))
    with_workers = take(images(folder, num_workers=2).train_dataloader(), 7)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(without_workers, with_workers, strict=True))
    assert not torch.equal(without_workers[0][0], take(images(folder, seed=1).train_dataloader(), 1)[0][0])


def test_epochs_differ_and_contain_every_sample_once() -> None:
    sampler = EpochSampler(24, 4, seed=1)
    epochs = [[draw.sample for draw in sampler] for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    sampler.set_epoch(0)
    assert [draw.sample for draw in sampler] == epochs[0]


def test_two_processes_draw_the_same_samples_as_one() -> None:
    one = list(EpochSampler(50, 8, seed=5, repeats=2))
    halves = [list(EpochSampler(50, 4, seed=5, repeats=2, rank=rank, world=2)) for rank in (0, 1)]
    for batch in range(6):
        together = [draw for half in halves for draw in half[4 * batch : 4 * batch + 4]]
        assert sorted(together) == sorted(one[8 * batch : 8 * batch + 8])


def test_repeated_augmentation_repeats_images_with_different_augmentation(folder: Path) -> None:
    draws = list(EpochSampler(24, 4, repeats=3))
    assert len(draws) == 24
    assert len({draw.sample for draw in draws}) == 8
    x, y = take(images(folder, repeats=4).train_dataloader(), 1)[0]
    assert len(set(y.tolist())) == 1
    assert not torch.equal(x[0], x[1])


def test_evaluation_yields_each_sample_once_with_uneven_shards() -> None:
    shards = [list(ShardSampler(11, rank, 4)) for rank in range(4)]
    assert sorted(index for shard in shards for index in shard) == list(range(11))
    assert [len(shard) for shard in shards] == [3, 3, 3, 2]
    assert sum(len(y) for _, y in scenes().val_dataloader()) == 21


def test_too_few_samples_for_a_batch_are_an_error() -> None:
    with pytest.raises(ValueError, match="batch_size may be at most 5"):
        EpochSampler(10, 8, world=2)


def test_seeded_restores_the_generators() -> None:
    draws = []
    for _ in range(2):
        state = torch.get_rng_state()
        with seeded(1, 2, 3):
            draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        assert torch.equal(state, torch.get_rng_state())
    assert draws[0] == draws[1]
