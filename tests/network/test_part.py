from __future__ import annotations

import linecache

import pytest
import torch
from torch import nn

from conftest import SIZE, assert_same_state, small_model, state_of
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


def test_torch_keeps_no_source_of_what_is_computed():
    """It would keep that of every graph of every fit."""
    before = set(linecache.cache)
    network = Network(small_model(), Preprocessing(size=SIZE, resize=SIZE))
    for cut in ("stem", "block2", "head"):
        lower, upper = network.cut(cut)
        upper(lower(torch.randn(2, 3, SIZE, SIZE)))
        upper.train()(lower(torch.randn(2, 3, SIZE, SIZE)))
    assert not [name for name in linecache.cache.keys() - before if "eval_with_key" in name]


def test_unfreezing_gives_train_its_meaning_back():
    model = small_model()
    Network(model, Preprocessing(size=SIZE, resize=SIZE)).cut("head")
    model.train()
    assert not model.norm.training
    unfreeze(model)
    assert model.train().norm.training


def test_what_a_part_freezes_trains_again_after_unfreezing():
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


def test_a_part_freezes_nothing_that_it_does_not_have():
    lower, upper = Network(small_model(), Preprocessing(size=SIZE, resize=SIZE)).cut("block2")
    assert "block1" in dict(lower.named_modules())
    with pytest.raises(UsageError, match=r"to freeze above the frostline 'block1'; nearest: block2"):
        upper.freeze_modules(["block1"])


def flags_of(model: nn.Module) -> list[object]:
    modules = [(name, module.training, sorted(vars(module))) for name, module in model.named_modules()]
    return [*modules, *((name, p.requires_grad) for name, p in model.named_parameters())]


@pytest.mark.parametrize("training", [True, False])
def test_asking_for_parts_changes_nothing_in_the_network(training):
    model = small_model()
    network = Network(model, Preprocessing(size=SIZE, resize=SIZE))
    model.train(training).block2.conv1.requires_grad_(False)
    before, flags = state_of(model), flags_of(model)
    block1, block2, head = (network.find(name) for name in ("block1", "block2", "head"))
    x = torch.randn(4, 3, SIZE, SIZE)
    for part in (network.below(head), network.below(block1, head), network.between(block1, block2)):
        part.train()
        part.eval()
        part.fingerprint()
    assert not network.below(head)(x).requires_grad
    assert torch.equal(network.below(head)(x), network.below(head)(x))
    assert network.name_of(block2) == network.resolve("block2") == "block2"
    network.stage_parameters()
    Network(model, Preprocessing(size=SIZE, resize=SIZE))
    assert_same_state(before, model)
    assert flags_of(model) == flags


def test_asking_leaves_a_cut_as_it_is():
    model = small_model()
    network = Network(model, Preprocessing(size=SIZE, resize=SIZE))
    _, upper = network.cut("block1")
    flags = flags_of(model)
    network.below(network.find("head")).fingerprint()
    assert flags_of(model) == flags
    assert all(p.requires_grad for p in upper.parameters())


def test_a_part_knows_its_place_from_its_constructor():
    network = Network(small_model(), Preprocessing(size=SIZE, resize=SIZE))
    lower, upper = network.cut("block[23]")
    cut = network.find("block2")
    assert (lower.cut, lower.frostline, lower.output_shape, lower.is_image) == (cut, "block[23]", cut.shape, False)
    assert network.below(network.find("stem")).is_image
    assert (network.below(cut).frostline, network.below(cut).frozen, upper.frozen) == ("block2", True, False)


def test_a_part_that_is_only_asked_about_is_not_compiled():
    network = Network(small_model(), Preprocessing(size=SIZE, resize=SIZE))
    part = network.below(network.find("head"))
    part.fingerprint()
    assert not part.forwards
    assert part.compile_graphs().forwards.keys() == {False}


class Dropping(nn.Module):
    """Two layers above a first one, each with a dropout that is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 64), Dropped()
        self.third, self.head = Dropped(), nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.third(self.second(self.first(x.mean((2, 3))).tanh())))


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.layer(x).tanh(), 0.5, self.training)


@pytest.mark.parametrize(("frozen", "drops"), [(["second", "third"], False), (["second"], True), (["third"], True)])
def test_only_what_is_frozen_above_the_frostline_drops_nothing_in_training(frozen, drops):
    _, upper = Network(Dropping().eval(), Preprocessing(size=SIZE, resize=SIZE)).cut("second", frozen)
    upper.train()
    features = torch.randn(4, 64)
    assert torch.equal(upper(features), upper(features)) != drops
