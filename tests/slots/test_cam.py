"""Class activation maps: their mean is the logits, and the model is unchanged."""

import pytest
import timm
import torch

from glmix.slots.evidence import class_activation
from glmix.slots.maps import recording


def small(**kwargs: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_glnet", **{"num_classes": 5, **kwargs})


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (33, 80)])
@pytest.mark.parametrize("stride", [8, 32])
def test_mean_over_positions_equals_logits(size: tuple[int, int], stride: int) -> None:
    model = small(output_stride=stride).eval()
    torch.nn.init.normal_(model.head.fc.bias)
    images = torch.randn(2, 3, *size)
    activation = class_activation(model, images)
    assert activation.shape == (2, 5, -(-size[0] // stride), -(-size[1] // stride))
    torch.testing.assert_close(activation.mean((2, 3)), model(images), atol=1e-5, rtol=1e-4)


def test_model_is_unchanged() -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    activation = class_activation(model, torch.randn(2, 3, 64, 64))
    assert not activation.requires_grad
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_forward_pass_gives_activation_and_slot_maps() -> None:
    model = small()
    with recording(model) as maps:
        class_activation(model, torch.randn(1, 3, 64, 64))
    assert [block.index for block in maps] == list(range(len(maps)))
    assert maps[0].assignment.shape[0] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_classes": 0}, "num_classes=0"), ({"global_pool": "max"}, "average pooling.*got 'max'")],
)
def test_models_without_class_activation_raise(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_activation(small(**options), torch.randn(1, 3, 64, 64))


def test_other_architectures_raise() -> None:
    with pytest.raises(ValueError, match="GLNet, got a ResNet"):
        class_activation(timm.create_model("test_resnet"), torch.randn(1, 3, 64, 64))
