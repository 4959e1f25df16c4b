"""Numerical parity with the authors' implementation, on random substitutes for the authors' weights."""

import numpy as np
import pytest
import timm
import torch

from glmix.layers import SoftBridge
from glmix.models import OFFICIAL_VARIANTS
from glmix.models.official import to_glmix_names
from tests.parity.official_weights import HERE, image_batch, official_state_dict

GOLDEN = np.load(HERE / "golden.npz")


def golden(key: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[key]).float()


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module", params=OFFICIAL_VARIANTS)
def loaded(request):
    model = timm.create_model(request.param, device="meta").eval()  # without the time to draw initial weights
    model.load_state_dict(to_glmix_names(official_state_dict(request.param)), assign=True)
    return request.param, model


@pytest.mark.parametrize("size", [(2, 224, 224), (1, 192, 256)])
def test_logits_stages_and_assignments_are_the_authors(loaded, size):
    variant, model = loaded
    key = f"{variant}/{size[0]}x{size[1]}x{size[2]}"
    stages, assignments = [], []
    hooks = [stage.register_forward_hook(lambda m, i, out: stages.append(out)) for stage in model.stages]
    hooks += [
        module.register_forward_hook(lambda m, i, out: assignments.append(out[1]))
        for module in model.modules()
        if isinstance(module, SoftBridge)
    ]
    with torch.inference_mode():
        logits = model(image_batch(*size))
    for hook in hooks:
        hook.remove()

    assert relative_error(logits, golden(f"{key}/logits")) <= 1e-5
    for i, stage in enumerate(stages):
        assert list(stage.shape) == GOLDEN[f"{key}/stage{i}.shape"].tolist()
        assert relative_error(stage.mean((2, 3)), golden(f"{key}/stage{i}.mean")) <= 1e-5
    for n in (0, 4, 9):
        assert list(assignments[n].shape) == GOLDEN[f"{key}/assign{n}.shape"].tolist()
        torch.testing.assert_close(assignments[n][0, :4], golden(f"{key}/assign{n}"), atol=1e-3, rtol=0)
