"""Token-level cutmix in the training forward pass of the model."""

import timm
import torch

from glmix.models.token_label import random_box, swap_in_box

SMALL = {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "head_dim": 16, "num_slots": 4, "num_classes": 5}


def test_boxes_are_inside_the_grid_and_reproducible() -> None:
    boxes = [random_box(7, 5) for _ in range(500)]
    for top, bottom, left, right in boxes:
        assert 0 <= top <= bottom <= 7
        assert 0 <= left <= right <= 5
    assert any(b > t and r > le for t, b, le, r in boxes)
    torch.manual_seed(3)
    first = random_box(7, 7)
    torch.manual_seed(3)
    assert random_box(7, 7) == first


def test_swapping_twice_restores_the_input() -> None:
    x = torch.randn(4, 3, 14, 14)
    mixed = swap_in_box(x, (1, 4, 2, 7), scale=2)
    assert torch.equal(swap_in_box(mixed, (1, 4, 2, 7), scale=2), x)
    assert torch.equal(mixed[0, :, 2:8, 4:14], x[3, :, 2:8, 4:14])
    assert torch.equal(mixed[0, :, :2], x[0, :, :2])


def test_dense_forward_pass() -> None:
    model = timm.create_model("glnet_4g_tklb", **SMALL)
    images = torch.randn(4, 3, 64, 96)
    cls, aux, box = model.train().forward_dense(images)
    assert cls.shape == (4, 5)
    assert aux.shape == (4, 2, 3, 5)
    assert box is not None
    model.eval()
    with torch.no_grad():
        cls, aux, box = model.forward_dense(images)
        assert box is None
        assert torch.allclose(model(images), cls + 0.5 * aux.flatten(1, 2).amax(1), atol=1e-6)


def test_a_box_over_the_whole_grid_reverses_the_batch() -> None:
    model = timm.create_model("glnet_4g_tklb", **SMALL).train()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        cls, aux, _ = model.forward_dense(images, box=(0, 0, 0, 0))
        reversed_cls, same_aux, _ = model.forward_dense(images, box=(0, 2, 0, 2))
    assert torch.allclose(reversed_cls, cls.flip(0), atol=1e-5)
    assert torch.allclose(same_aux, aux, atol=1e-5)
