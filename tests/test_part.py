from __future__ import annotations

import torch
from torch import nn

from conftest import SIZE, small_model
from frostline.network import Network
from frostline.part import thaw
from frostline.preprocessing import Preprocessing


class Shared(nn.Module):
    """One dropout below and above the frostline."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 64), nn.Linear(64, 64), nn.Linear(64, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.first(x.mean((2, 3))).tanh())
        return self.head(self.drop(self.second(x).tanh()))


def test_a_dropout_on_both_sides_works_above_only():
    network = Network(Shared().eval(), Preprocessing(size=SIZE, resize=SIZE))
    lower, upper = network.cut("second")
    x = torch.randn(4, 3, SIZE, SIZE)
    upper.train()
    features = lower(x)
    assert torch.equal(features, lower(x))
    assert not torch.equal(upper(features), upper(features))


def test_a_frozen_part_gives_no_graph_and_stays_in_evaluation():
    lower, _ = Network(small_model(), Preprocessing(size=SIZE, resize=SIZE)).cut("head")
    lower.train()
    assert not lower.training
    assert not lower(torch.randn(2, 3, SIZE, SIZE, requires_grad=True)).requires_grad


def test_thawing_gives_train_its_meaning_back():
    model = small_model()
    Network(model, Preprocessing(size=SIZE, resize=SIZE)).cut("head")
    model.train()
    assert not model.norm.training
    thaw(model)
    assert model.train().norm.training
