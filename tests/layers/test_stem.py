"""Tests of the stem and the transitions, with stride and with dilation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmix.layers import Stem, transition


@pytest.mark.parametrize("order", ["norm_conv", "conv_norm"])
@pytest.mark.parametrize("kernel_size", [2, 3])
@given(height=st.integers(4, 19), width=st.integers(4, 19))
def test_transition_with_stride_1_matches_stride_2_on_every_second_pixel(order, kernel_size, height, width):
    strided = transition(6, 8, order, kernel_size, stride=2).eval()
    dense = transition(6, 8, order, kernel_size, stride=1).eval()
    dense.load_state_dict(strided.state_dict())
    x = torch.randn(1, 6, height, width)
    expected = strided(x)
    got = dense(x)
    assert got.shape[-2:] == (height, width)
    torch.testing.assert_close(got[:, :, ::2, ::2][:, :, : expected.shape[2], : expected.shape[3]], expected)


@pytest.mark.parametrize("style", ["patch", "conv"])
def test_stem_downsamples_by_4_and_returns_channels_last_memory(style):
    pixels = Stem(3, 16, style).eval()(torch.randn(2, 3, 64, 96))
    assert pixels.shape == (2, 16, 16, 24)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Stem(3, 16, "swin"), "stem must be 'patch' or 'conv', got 'swin'"),
        (lambda: transition(4, 8, "conv"), "transition_order must be 'norm_conv' or 'conv_norm', got 'conv'"),
        (lambda: transition(4, 8, kernel_size=5), "transition_kernel must be 2 or 3, got 5"),
    ],
)
def test_unknown_values_raise_an_error(make, words):
    with pytest.raises(ValueError, match=words):
        make()
