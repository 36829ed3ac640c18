"""MACs against torch's own count of the whole network, of parts of it, and against figures that others published."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model_weights

from architectures import built
from conftest import SIZE, Small, small_model, state_of
from frostline.backbones import load_backbone
from frostline.network.counting import macs_by_position, parameters_by_position
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=SIZE, resize=36)
SOME = (
    "torchvision:densenet121",
    "torchvision:googlenet",
    "torchvision:mobilenet_v3_small",
    "torchvision:resnet18",
    "timm:fastvit_t8",
    "timm:levit_128s",
    "timm:tf_efficientnet_lite0",
)


def macs_of(module: nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2


def test_counting_says_nothing(capsys):
    assert sum(macs_by_position(Network(small_model(), Preprocessing(size=SIZE, resize=36))))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", SOME)
@pytest.mark.long
def test_what_lies_above_a_frostline_is_what_its_upper_part_computes_and_trains(name):
    model, preprocessing = built(name)
    network = Network(model.eval(), preprocessing)
    parameters, macs = parameters_by_position(network), macs_by_position(network)
    image = torch.zeros(1, 3, preprocessing.size, preprocessing.size)
    assert sum(macs) == macs_of(model, image) > 0
    for stage in network.stages:
        lower, upper = network.cut(stage.name)
        above = network.depth(stage.name) + 1
        assert sum(macs[above:]) == macs_of(upper.eval(), lower(image))
        assert sum(parameters[above:]) == sum(p.numel() for p in upper.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_torchvision_publishes_the_same_figure(name):
    network = load_backbone(f"torchvision:{name}", "none").network(classes=1000)
    published = get_model_weights(name).DEFAULT.meta["_ops"]  # in 1e9, three decimals
    assert sum(macs_by_position(network)) / 1e9 == pytest.approx(published, abs=0.0006)


class Attending(nn.Module):
    """8 × 8 patches, one layer of attention in the given form, a head for 5 classes."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, 4)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.form = form
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.form == "kernel":
            x = nn.functional.scaled_dot_product_attention(x, x, x)
        elif self.form == "module":
            x = self.attention(x, x, x, need_weights=False)[0]
        else:
            x = self.layer(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("form", "of_attention"),
    [
        ("kernel", 2 * 64 * 64 * 64),
        ("module", 2 * 64 * 64 * 64 + 4 * 64 * 64 * 64),
        ("layer", 2 * 64 * 64 * 64 + 4 * 64 * 64 * 64 + 2 * 64 * 64 * 128),
    ],
)
def test_attention_counts_in_every_form(form, of_attention):
    network = Network(Attending(form).eval(), HOW)
    assert not network.untraceable
    assert sum(macs_by_position(network)) == 64 * 64 * 3 * 16 + of_attention + 64 * 5


@pytest.mark.parametrize("fused", [True, False])
def test_torchs_own_setting_of_attention_is_put_back(fused):
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(fused)
        macs_by_position(Network(small_model(), HOW))
        assert torch.backends.mha.get_fastpath_enabled() == fused
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Untraceable(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 1e9 else x * 1.0)


def test_an_untraceable_network_counts_below_and_in_its_head():
    traced, whole = Network(small_model(), HOW), Network(Untraceable().eval(), HOW)
    assert whole.untraceable
    assert macs_by_position(whole) == [0, sum(macs_by_position(traced)) - 24 * 5, 24 * 5]
    assert parameters_by_position(whole) == [0, sum(parameters_by_position(traced)) - 25 * 5, 25 * 5]


class Uncountable(Untraceable):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _get_current_dispatch_mode() is not None:
            raise RuntimeError("no counters here")
        return super().forward(x)


def test_none_where_it_cannot_be_told():
    network = Network(Uncountable().eval(), HOW)
    assert macs_by_position(network) is None
    assert sum(parameters_by_position(network)) == sum(p.numel() for p in network.model.parameters())


@pytest.mark.parametrize("kind", [Small, Untraceable, Uncountable])
def test_counting_leaves_no_trace(kind):
    network = Network(kind(), HOW)
    network.model.train()
    network.model.block1.eval()
    modes = [module.training for module in network.model.modules()]
    before = state_of(network.model)
    macs_by_position(network)
    assert [module.training for module in network.model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.model.parameters())
    assert not network.model.head._forward_pre_hooks
