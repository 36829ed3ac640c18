"""Convolution and BatchNorm as one while both train: the same outputs, the same gradients."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from architectures import built
from conftest import SIZE, assert_same_state, small_model, state_of
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing
from frostline.training.folding import GlobalMean, NormedConv2d, fold_for_training


def repeatable(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output with always the same dropout."""
    torch.manual_seed(0)
    return part(x)


def gradients_of(part: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    part.zero_grad()
    out = repeatable(part, x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return {name: p.grad.clone() for name, p in part.named_parameters() if p.grad is not None}


def training_with_frozen_statistics(name: str, frostline: str) -> tuple[Part, torch.Tensor]:
    """What lies above a frostline, in double precision and with statistics that are not those of a new BatchNorm."""
    model, preprocessing = built(name) if ":" in name else (small_model(), Preprocessing(size=SIZE, resize=36))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    lower, upper = Network(model, preprocessing).cut(frostline)
    x = lower(torch.randn(2, 3, preprocessing.size, preprocessing.size)).double().clone()
    upper.double().train()
    for module in upper.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return upper, x


@pytest.mark.parametrize(
    ("name", "frostline"),
    [
        ("small", "block1"),
        ("torchvision:resnet18", "layer4"),
        ("torchvision:densenet121", "features.denseblock4"),
        ("timm:tf_efficientnet_lite0", "blocks.5"),
    ],
)
def test_folded_for_training_outputs_and_gradients_are_the_same(name, frostline):
    upper, x = training_with_frozen_statistics(name, frostline)
    faster = fold_for_training(upper, x, batch_size=10**6)
    assert any(isinstance(m, NormedConv2d) for m in faster.modules())
    torch.testing.assert_close(repeatable(faster, x), repeatable(upper, x), rtol=1e-9, atol=1e-9)
    wanted, found = gradients_of(upper, x), gradients_of(faster, x)
    assert {id(p) for p in upper.parameters()} == {id(p) for p in faster.parameters()}
    names = {id(p): name for name, p in upper.named_parameters()}
    found = {names[id(p)]: found[name] for name, p in faster.named_parameters() if name in found}
    assert found.keys() == wanted.keys()
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-7, atol=1e-8, msg=parameter)


def test_folding_for_training_leaves_the_network_as_it_is():
    upper, x = training_with_frozen_statistics("small", "block1")
    before, names = state_of(upper), [name for name, _ in upper.named_modules()]
    fold_for_training(upper, x, batch_size=10**6)(x).sum().backward()
    assert [name for name, _ in upper.named_modules()] == names
    assert_same_state(before, upper)
    assert upper.training


def test_a_part_with_hooks_of_its_own_is_not_folded_for_training():
    upper, x = training_with_frozen_statistics("small", "block1")
    upper.register_forward_hook(lambda *_: None)
    assert fold_for_training(upper, x, batch_size=10**6) is upper


def test_a_mean_inside_a_layer_is_left_to_the_layer():
    class Inside(nn.ReLU):  # torch.fx takes it as one layer
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.pool(x)

    Inside.__module__ = "torch.nn.inside"
    layer = Inside()
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), inside=layer, flat=nn.Flatten(), fc=nn.Linear(4, 2)))
    model.flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    _, upper = Network(model.eval(), Preprocessing(size=SIZE, resize=36)).cut("inside")
    faster = fold_for_training(upper, torch.randn(2, 4, 8, 8), batch_size=2)
    assert type(layer.pool) is nn.AdaptiveAvgPool2d
    assert type(faster.get_submodule("flat.0")) is GlobalMean


@pytest.mark.parametrize(("batch_size", "folds"), [(1, False), (10**6, True)])
def test_a_batchnorm_is_folded_for_training_where_the_weights_are_fewer_than_the_activations(batch_size, folds):
    upper, x = training_with_frozen_statistics("torchvision:resnet18", "layer4")
    faster = fold_for_training(upper, x, batch_size)
    assert any(isinstance(m, NormedConv2d) for m in faster.modules()) == folds


def test_a_convolution_with_a_bias_and_a_batchnorm_without_parameters_are_folded_for_training():
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 4, 3),
            conv=nn.Conv2d(4, 8, 3, bias=True),
            norm=nn.BatchNorm2d(8, affine=False),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(8, 3),
        )
    )
    nn.init.uniform_(model.norm.running_mean, -0.5, 0.5)
    _, upper = Network(model.eval(), Preprocessing(size=SIZE, resize=36)).cut("conv")
    upper.double()
    x = torch.randn(2, 4, 10, 10, dtype=torch.float64)
    faster = fold_for_training(upper, x, batch_size=1000)
    assert {type(m) for m in faster.modules()} >= {NormedConv2d, GlobalMean}
    torch.testing.assert_close(faster(x), upper(x))
    for found, wanted in zip(gradients_of(faster, x).values(), gradients_of(upper, x).values(), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_a_global_mean_is_laid_out_like_its_map(layout):
    x = torch.randn(2, 5, 3, 4).contiguous(memory_format=layout).requires_grad_()
    weights = torch.randn(2, 5, 1, 1)
    (GlobalMean()(x) * weights).sum().backward()
    assert x.grad.stride() == x.stride()
    torch.testing.assert_close(x.grad, (weights / 12).expand(2, 5, 3, 4))
