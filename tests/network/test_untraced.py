from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import SIZE, Small, assert_same_state, draw_images, state_of
from frostline.errors import UsageError
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store.activations import computed_once
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)


def images(size: int) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


class Untraceable(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 1e9 else x * 1.0)


def test_an_untraceable_network_works_with_two_cuts():
    model = Untraceable().eval()
    network = Network(model, HOW).replace_head(4)
    assert network.untraceable
    assert network.stage_names() == ["stem", "head"]
    x = images(32)
    with torch.no_grad():
        expected = model(x)
    for stage in network.stage_names():
        lower, upper = network.cut(stage)
        with torch.no_grad():
            torch.testing.assert_close(upper.eval()(lower(x)), expected)
    lower, _ = network.cut("head")
    frozen = state_of(lower)
    model.train()
    model(x)
    assert_same_state(frozen, lower)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


class Noisy(Untraceable):
    """Declares its head first, and drops out by hand."""

    def __init__(self) -> None:
        super().__init__()
        head = self.head
        del self.head
        self.head, self.middle = head, nn.Linear(24, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(x if x.sum() > 1e9 else x * 1.0)))
        x = self.middle(self.pool(self.block2(self.block1(x))).flatten(1))
        return self.head(nn.functional.dropout(x, 0.5, self.training))


def test_the_head_is_what_makes_the_output_wherever_it_is_declared():
    assert Network(Noisy(), HOW).heads == ("head",)


def test_frozen_is_still_also_where_dropout_is_functional():
    model = Noisy().train()
    lower, _ = Network(model, HOW).cut("head")
    model.train()
    assert torch.equal(lower(images(SIZE)), lower(images(SIZE)))


def test_what_nobody_can_identify_is_not_stored(tmp_path, fp32):
    lower, _ = Network(Noisy(), HOW).cut("head")
    inputs = computed_once(lower, draw_images(5), machine=fp32, cache=Cache(tmp_path))
    assert inputs.filled.kept == "memory"
    assert not list(tmp_path.rglob("*.shard"))


def test_a_network_without_a_linear_output_is_refused():
    class Scaled(Untraceable):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    with pytest.raises(UsageError, match="its output is not that of a Linear layer"):
        Network(Scaled().eval(), HOW)


def test_the_head_of_an_untraceable_network_trains():
    _, upper = Network(Untraceable().eval(), HOW).replace_head(4).cut("head")
    upper.train()
    loss = upper(torch.randn(2, 24)).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in upper.parameters())
