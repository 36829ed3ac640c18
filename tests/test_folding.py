from __future__ import annotations

import pytest
import torch
from torch import nn

from architectures import built
from conftest import SIZE, assert_same_state, small_model, state_of
from frostline.folding import FusedConv2d, fold_batchnorm, fuse_activations
from frostline.network import Network
from frostline.preprocessing import Preprocessing


def test_folding_changes_rounding_only_and_shares_nothing():
    model = small_model()
    lower, _ = Network(model, Preprocessing(size=SIZE, resize=36)).cut("head")
    before, x = state_of(model), torch.randn(3, 3, SIZE, SIZE)
    folded = fold_batchnorm(lower)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(x), lower(x), rtol=1e-4, atol=1e-5)
    assert not {id(p) for p in folded.parameters()} & {id(p) for p in lower.parameters()}
    assert_same_state(before, model)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:densenet121", "timm:tf_efficientnet_lite0"])
def test_folding_known_networks(name):
    model, how = built(name)
    lower, _ = Network(model, how).cut("head")
    x = torch.randn(2, 3, how.size, how.size)
    torch.testing.assert_close(fold_batchnorm(lower)(x), lower(x), rtol=1e-3, atol=1e-4)


class Standardised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)


@pytest.mark.parametrize("kind", ["subclass", "weight_norm", "hook"])
def test_what_computes_something_else_is_left_alone(kind):
    model = small_model()
    if kind == "subclass":
        model.conv = Standardised(3, 8, 3, 2, 1, bias=False)
    elif kind == "weight_norm":
        model.conv = nn.utils.parametrizations.weight_norm(model.conv)
    else:
        model.conv.register_forward_hook(lambda _module, _args, output: output * 2)
    lower, _ = Network(model.eval(), Preprocessing(size=SIZE, resize=36)).cut("head")
    x = torch.randn(3, 3, SIZE, SIZE)
    torch.testing.assert_close(fold_batchnorm(lower)(x), lower(x), rtol=1e-4, atol=1e-5)


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
    model, how = built(name)
    lower, _ = Network(model, how).cut("head")
    x = torch.randn(2, 3, how.size, how.size)
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
