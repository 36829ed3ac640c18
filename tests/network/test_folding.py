from __future__ import annotations

import pytest
import torch
from torch import nn

from architectures import built
from conftest import SIZE, assert_same_state, small_model, state_of
from frostline.network.folding import fold_batchnorm
from frostline.network.network import Network
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
    model, preprocessing = built(name)
    lower, _ = Network(model, preprocessing).cut("head")
    x = torch.randn(2, 3, preprocessing.size, preprocessing.size)
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
