from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import SIZE, small_model
from frostline.errors import UsageError
from frostline.network.network import Network
from frostline.network.part import unfreeze
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
    unfreeze(model)
    assert model.train().norm.training


def test_what_a_part_holds_is_awake_again_after_thawing():
    model = small_model()
    _, upper = Network(model, Preprocessing(size=SIZE, resize=SIZE)).cut("block1")
    upper.freeze_modules(["block2.norm?", "block1.conv1.weight"])
    assert [name for name, p in upper.named_parameters() if not p.requires_grad] == [
        "block1.conv1.weight",
        *(f"block2.norm{i}.{name}" for i in (1, 2) for name in ("weight", "bias")),
    ]
    assert not model.train().block2.norm1.training
    assert model.block2.conv1.training
    unfreeze(model)
    assert model.train().block2.norm1.training


def test_a_part_holds_nothing_that_it_does_not_have():
    lower, upper = Network(small_model(), Preprocessing(size=SIZE, resize=SIZE)).cut("block2")
    assert "block1" in dict(lower.named_modules())
    with pytest.raises(UsageError, match=r"to freeze above the frostline 'block1'; nearest: block2"):
        upper.freeze_modules(["block1"])
