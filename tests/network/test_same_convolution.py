from __future__ import annotations

import math

import pytest
import timm.layers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.network.same_convolution import SameConv2d

small = st.integers(1, 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), small, st.booleans())
def test_it_computes_what_timms_does_and_keeps_the_size_but_for_the_stride(height, width, kernel, stride, depthwise):
    torch.manual_seed(0)
    groups = 2 if depthwise else 1
    own = SameConv2d(2, 4, kernel, stride, groups=groups)
    other = timm.layers.Conv2dSame(2, 4, kernel, stride, groups=groups)
    other.load_state_dict(own.state_dict())
    x = torch.randn(3, 2, height, width)
    torch.testing.assert_close(own(x), other(x))
    assert own(x).shape == (3, 4, math.ceil(height / stride), math.ceil(width / stride))


@pytest.mark.parametrize(
    ("kernel", "stride", "length", "margins"),
    [(3, 2, 4, (0, 1)), (3, 1, 4, (1, 1)), (5, 2, 8, (1, 2)), (1, 2, 7, (0, 0))],
)
def test_an_odd_pixel_goes_to_the_right_and_to_the_bottom(kernel, stride, length, margins):
    assert SameConv2d(1, 1, kernel, stride).margins(length, 0) == margins
