"""Convolutions of oneDNN; all known networks are tested in test_eager.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from architectures import built
from conftest import SIZE, small_model
from frostline.engines import fused
from frostline.engines.fused import FusedConv2d, fuse_activations
from frostline.network.folding import fold_batchnorm
from frostline.network.network import Network
from frostline.network.same_convolution import SameConv2d
from frostline.preprocessing import Preprocessing

pytestmark = pytest.mark.skipif(not fused.is_available(), reason="torch without oneDNN")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([SameConv2d, nn.Conv2d]),
    st.integers(1, 7),
    st.integers(1, 3),
    st.sampled_from([1, 4]),
    st.tuples(st.integers(7, 15), st.integers(7, 15)),
    st.sampled_from(["", "relu", "relu6"]),
    st.booleans(),
)
def test_a_fused_convolution_is_the_convolution(kind, kernel, stride, groups, size, activation, bias):
    """Padded on one side or on both, whatever kernel, stride and size of input."""
    torch.manual_seed(0)
    convolution = kind(4, 8, kernel, stride, groups=groups, bias=bias).requires_grad_(False)
    x = 3 * torch.randn(2, 4, *size).contiguous(memory_format=torch.channels_last)
    layers = {"": nn.Identity(), "relu": nn.ReLU(), "relu6": nn.ReLU6()}
    layer = FusedConv2d(convolution, activation)
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(layer(x), layers[activation](convolution(x)), rtol=1e-4, atol=1e-4)


def test_one_fused_convolution_takes_images_of_several_sizes():
    convolution = SameConv2d(3, 8, 3, 2).requires_grad_(False)
    layer = FusedConv2d(convolution, "")
    for size in (8, 9, 8, 12):
        x = torch.randn(1, 3, size, size + 1)
        torch.testing.assert_close(layer(x), convolution(x), rtol=1e-4, atol=1e-4)


def test_without_onednn_a_part_stays_as_it_is(monkeypatch):
    part = fold_batchnorm(Network(small_model(), Preprocessing(size=SIZE, resize=36)).cut("head")[0])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert fuse_activations(part) is part


def test_without_its_calls_a_part_stays_as_it_is(monkeypatch):
    """torch.ops.mkldnn of another torch, as of macOS, has none of them."""
    part = fold_batchnorm(Network(small_model(), Preprocessing(size=SIZE, resize=36)).cut("head")[0])
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert fuse_activations(part) is part


def test_a_convolution_and_what_follows_it_are_one_step():
    lower, _ = Network(small_model(), Preprocessing(size=SIZE, resize=36)).cut("head")
    x = torch.randn(3, 3, SIZE, SIZE)
    fused = fuse_activations(fold_batchnorm(lower))
    kinds = [type(module) for module in fused.modules()]
    assert nn.Conv2d not in kinds
    assert [m.activation[0] for m in fused.modules() if isinstance(m, FusedConv2d)].count("relu") >= 1
    torch.testing.assert_close(fused(x), lower(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v2", "timm:tf_efficientnet_lite0"])
def test_fusing_known_networks(name):
    model, preprocessing = built(name)
    lower, _ = Network(model, preprocessing).cut("head")
    x = torch.randn(2, 3, preprocessing.size, preprocessing.size)
    torch.testing.assert_close(fuse_activations(fold_batchnorm(lower))(x), lower(x), rtol=1e-3, atol=1e-3)


class Shared(nn.Module):
    """One convolution runs twice, of another one the output is used before and after its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.before = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.relu, self.head = nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.twice(torch.sigmoid(self.twice(x))))
        y = self.before(x)
        return self.head((y + self.relu(self.mirrored(self.relu(y)))).mean((2, 3)))


def test_what_is_used_more_than_once_is_not_fused_away():
    lower, _ = Network(Shared().eval(), Preprocessing(size=SIZE, resize=36)).cut("head")
    x = torch.randn(3, 3, SIZE, SIZE)
    torch.testing.assert_close(fuse_activations(fold_batchnorm(lower))(x), lower(x), rtol=1e-4, atol=1e-5)
