"""Layers of a network, beside torch's own counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from architectures import built
from conftest import SIZE, small_model, state_of
from frostline.network.counting import macs_by_position, parameters_by_position
from frostline.network.layers import layers_of
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize(
    "name",
    ["torchvision:resnet18", "timm:vit_tiny_patch16_224", "torchvision:swin_t", "timm:levit_128s", "timm:fastvit_t8"],
)
def test_layers_add_up_to_the_network(name):
    model, preprocessing = built(name)
    network = Network(model, preprocessing)
    layers = layers_of(network)
    assert sum(p.numel() for layer in layers for p in layer.parameters) == sum(parameters_by_position(network))
    assert sum(layer.macs for layer in layers) == sum(macs_by_position(network))
    assert layers[-1].output_shape == network.trace.output_shape


def test_layers_come_in_running_order_with_their_shapes():
    layers = layers_of(Network(small_model(), HOW))
    assert [layer.name for layer in layers][:4] == ["conv", "norm", "relu", "block1.conv1"]
    assert (layers[0].kind, layers[0].output_shape, layers[0].macs) == ("Conv2d", (8, 16, 16), 3 * 9 * 8 * 256)
    assert not {layer.name for layer in layers} & {"", "block1", "block2"}


def test_what_is_used_twice_is_counted_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.second = nn.Conv2d(3, 3, 1)
            self.second.weight = self.first.weight
            self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.flat(self.pool(self.second(self.first(self.first(x))))))

    layers = {layer.name: layer for layer in layers_of(Network(Twice(), HOW))}
    assert sum(p.numel() for p in layers["first"].parameters) == 12
    assert sum(p.numel() for p in layers["second"].parameters) == 3
    assert layers["first"].macs == 2 * layers["second"].macs == 2 * 9 * SIZE * SIZE


def test_asking_changes_nothing():
    model = small_model().train()
    before = state_of(model)
    layers_of(Network(model, HOW))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
