"""Laws 1 and 2: a cut changes nothing that the network computes, and what is frozen is still."""

from __future__ import annotations

import contextlib
import fnmatch
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from architectures import EVERY, built
from conftest import SIZE, assert_same_state, small_model, state_of
from frostline.errors import UsageError
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=32, resize=36)


def images(size: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", EVERY, scope="module")  # so that a network is built once for both
def test_upper_of_lower_is_the_network_at_every_stage(name):
    model, preprocessing = built(name)
    network = Network(model, preprocessing).replace_head(3)
    assert network.untraceable == ""
    assert network.stage_names()[0] == "stem"
    assert network.stage_names()[-1] == "head"
    x = images(preprocessing.size)
    with torch.no_grad():
        expected = model.eval()(x)
    assert expected.shape == (3, 3)
    for stage in network.stages:
        lower, upper = network.cut(stage.name)
        activations = lower(x)
        assert tuple(activations.shape[1:]) == stage.input_shape == lower.output_shape
        with torch.no_grad():
            torch.testing.assert_close(upper.eval()(activations), expected, rtol=1e-4, atol=1e-5)
        names = dict(model.named_parameters())
        for part in (lower, upper):
            assert all(names[name] is parameter for name, parameter in part.named_parameters())


@pytest.mark.parametrize("name", EVERY, scope="module")
def test_what_is_frozen_is_still_while_the_rest_trains(name):
    model, preprocessing = built(name)
    network = Network(model, preprocessing).replace_head(3)
    middle = network.stages[-3 if len(network.stages) > 3 else -2].name
    lower, upper = network.cut(middle)
    frozen, trained = state_of(lower), state_of(upper)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for step in range(2):
        model.train()  # what users do, and what must not wake the frozen part
        upper.train()
        x = images(preprocessing.size, 4 + step)
        whole = model(x)
        loss = upper(lower(x)).square().mean() + getattr(whole, "logits", whole).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same_state(frozen, lower)
    assert not any(p.requires_grad for p in lower.parameters())
    assert any(not torch.equal(trained[name], value) for name, value in upper.state_dict().items())


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:resnet18",
        "timm:tf_efficientnet_lite0",
        pytest.param("timm:vit_tiny_patch16_224", marks=pytest.mark.long),
    ],
)
def test_every_single_cut_holds(name):
    model, preprocessing = built(name)
    network = Network(model, preprocessing)
    x = images(preprocessing.size)
    with torch.no_grad():
        expected = model.eval()(x)
    paths = {key.rpartition(".")[0] for key, _ in model.named_parameters()} - {""}
    tried = 0
    for path in sorted(paths):
        try:
            lower, upper = network.cut(path)
        except UsageError:  # inside a block
            continue
        tried += 1
        with torch.no_grad():
            torch.testing.assert_close(upper.eval()(lower(x)), expected, rtol=1e-4, atol=1e-5)
        assert path in {key.rpartition(".")[0] for key, _ in upper.named_parameters()}
        assert path not in {key.rpartition(".")[0] for key, _ in lower.named_parameters()}
    assert tried > 10


def test_stages_of_a_resnet_are_those_everybody_knows():
    model, preprocessing = built("torchvision:resnet18")
    network = Network(model, preprocessing)
    assert network.stage_names() == ["stem", "layer1", "layer2", "layer3", "layer4", "pool", "head"]
    assert {s.name: s.parameters for s in network.stages}["layer4"] == sum(p.numel() for p in model.layer4.parameters())
    assert sum(s.parameters for s in network.stages) == sum(p.numel() for p in model.parameters())


def test_a_cut_bears_the_name_of_what_is_above_it():
    network = Network(small_model(), HOW)
    for stage in network.stages:
        assert network.name_of(stage.start) == stage.name
    inside = [cut for cut in network.trace.cuts if cut not in [stage.start for stage in network.stages]]
    assert [network.name_of(cut) for cut in inside] == ["norm", "drop", "head"]


def test_a_residual_block_is_not_cut_inside():
    network = Network(small_model(), HOW)
    with pytest.raises(UsageError, match=r"right below 'block2.conv2'.*block2"):
        network.cut("block2.conv2")


def test_an_unknown_stage_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown stage 'blok2'; nearest: block2"):
        Network(small_model(), HOW).cut("blok2")


def test_a_glob_means_the_lowest_of_what_it_matches():
    network = Network(small_model(), HOW)
    assert network.resolve("block[12]") == "block1"
    assert network.resolve("block?") == "block1"
    assert network.resolve("*2") == "block2"
    assert network.resolve("h*") == "head"
    assert network.resolve("*") == "stem"
    assert network.resolve("block2.*") == "block2.conv1"


@given(st.sampled_from("abcdehlnoprstuw.123"), st.sampled_from(["{}*", "*{}*", "*{}", "[{}]*", "?{}*"]))
def test_a_glob_is_the_lowest_place_by_name(chain, letter, shape):
    network, places = chain
    pattern = shape.format(letter)
    matching = {name: depth for name, depth in places.items() if fnmatch.fnmatchcase(name, pattern)}
    if matching:
        assert places[network.resolve(pattern)] == min(matching.values())
    else:
        with pytest.raises(UsageError):
            network.resolve(pattern)


@pytest.fixture(scope="module")
def chain():
    """A network, and the depth of every stage and module below which it can be cut."""
    model, preprocessing = built("torchvision:squeezenet1_1")
    network, places = Network(model, preprocessing), {}
    for name in [*network.stage_names(), *(name for name, _ in model.named_modules() if name)]:
        with contextlib.suppress(UsageError):
            places[name] = network.depth(name)
    assert len(places) > 20
    return network, places


def test_what_is_no_glob_is_itself():
    network = Network(small_model(), HOW)
    assert network.resolve("block2") == "block2"
    assert network.resolve("blok2") == "blok2"


def test_a_glob_cuts_where_its_name_does():
    network = Network(small_model(), HOW)
    globbed, named = network.cut("block[2-9]"), network.cut("block2")
    for one, other in zip(globbed, named, strict=True):
        assert one.state_dict().keys() == other.state_dict().keys()


def test_a_glob_that_matches_nothing_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown stage 'blok2\*'; nearest: .*block2"):
        Network(small_model(), HOW).cut("blok2*")


def test_a_glob_of_places_that_cannot_be_cut_says_why():
    with pytest.raises(UsageError, match=r"cannot be cut right below 'block2.conv2'"):
        Network(small_model(), HOW).cut("block2.*2")


def train_some(model: nn.Module, upper: nn.Module, lower: nn.Module) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        model.train()
        upper.train()
        loss = upper(lower(images(32, 4))).square().mean() + model(images(32, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


FREEZABLE = sorted(
    {n.rpartition(".")[0] for n, _ in small_model().named_parameters()} - {"head"} | {"block1", "block2"}
)


@settings(max_examples=12, deadline=None)
@given(st.sets(st.sampled_from(FREEZABLE), min_size=1))
def test_modules_frozen_above_the_frostline_are_still_and_all_others_train(frozen):
    model = small_model()
    lower, upper = Network(model, HOW).cut("stem", sorted(frozen))
    before = state_of(model)
    inside = {n for n in before if any(n.startswith(f"{name}.") for name in frozen)}
    train_some(model, upper, lower)
    assert changed(before, model) == before.keys() - inside
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name not in inside)
        assert (parameter.grad is None) == (name in inside)
    for name in frozen:
        assert not any(module.training for module in upper.get_submodule(name).modules())


@pytest.mark.parametrize("name", ["torchvision:googlenet", "timm:resnet50d", "timm:fastvit_t8"])
def test_stages_frozen_above_the_frostline_are_still(name):
    model, preprocessing = built(name)
    network = Network(model, preprocessing).replace_head(3)
    stages = [stage.name for stage in network.stages[1:-1] if stage.parameters][-2:]
    lower, upper = network.cut("stem", [f"{stage}*" for stage in stages])
    before = state_of(upper)
    for _ in range(2):
        model.train()
        upper.train()
        upper(lower(images(preprocessing.size))).square().mean().backward()
    moved = changed(before, upper)
    assert not [n for n in moved if n.startswith(tuple(stages))]
    with_gradient = {n for n, p in upper.named_parameters() if p.grad is not None}
    assert with_gradient
    assert not [n for n in with_gradient if n.startswith(tuple(stages))]


def test_one_parameter_can_be_frozen():
    model = small_model()
    lower, upper = Network(model, HOW).cut("block1", ["block2.norm?.bias", "block1.conv1.weight"])
    before = state_of(model)
    train_some(model, upper, lower)
    names = {name for name, p in upper.named_parameters() if not p.requires_grad}
    assert names == {"block2.norm1.bias", "block2.norm2.bias", "block1.conv1.weight"}
    assert not names & changed(before, model)
    assert {"block2.norm1.weight", "block2.norm1.running_mean"} <= changed(before, model)


def test_the_next_cut_releases_what_was_frozen():
    model = small_model()
    network = Network(model, HOW)
    network.cut("stem", ["block2"])
    lower, upper = network.cut("stem")
    before = state_of(model)
    train_some(model, upper, lower)
    assert changed(before, model) == before.keys()


def test_freezing_changes_nothing_that_the_network_computes():
    model = small_model()
    lower, upper = Network(model, HOW).cut("block1", ["block2*"])
    x = images(32)
    with torch.no_grad():
        torch.testing.assert_close(upper.eval()(lower(x)), model.eval()(x), rtol=1e-4, atol=1e-5)


class Restless(nn.Module):
    """Drops out and normalises by function, and has stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.depth = nn.Linear(3, 16), StochasticDepth(0.5, "row")
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("var", torch.ones(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.batch_norm(self.mix(x), self.mean, self.var, training=self.training)
        return self.depth(functional.dropout(x, 0.5, self.training))


class WithRestless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Restless(), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.mean((2, 3))))


def test_what_is_frozen_is_still_also_where_it_works_by_functions():
    network = Network(WithRestless().eval(), HOW)
    _, upper = network.cut("stem")
    x = images(32, 8)
    assert not torch.equal(upper.train()(x), upper(x))
    _, upper = network.cut("stem", ["body"])
    before = state_of(upper)
    upper.train()
    assert torch.equal(upper(x), upper(x))
    torch.testing.assert_close(upper(x), upper.eval()(x))
    assert_same_state(before, upper)


@pytest.mark.parametrize("freeze", [["*"], ["head"], ["block2", "h*"], ["head.weight"], ["*.weight"], ["*weight"]])
def test_the_new_head_is_never_frozen_along_with_the_rest(freeze):
    network = Network(small_model(), HOW).replace_head(3)
    for frostline in ("stem", "block2", "head"):
        with pytest.raises(UsageError, match=r"freezes the new head too|to freeze above the frostline 'block2'"):
            network.cut(frostline, freeze)
    _, upper = network.cut("head")
    assert all(p.requires_grad for p in upper.parameters())


@pytest.mark.parametrize("freeze", [["segmentation*"], ["segmentation.3"], ["segmentation.0.weight"]])
def test_a_head_for_pixels_is_not_frozen_in_part(small, freeze):
    with pytest.raises(UsageError, match="freezes the new head too"):
        small.network(3, task="segmentation").cut("block2", freeze)


@pytest.mark.parametrize(
    ("freeze", "nearest"),
    [("block2.conv3", "block2.conv"), ("blok2*", "block2"), ("conv", "block2.conv"), ("", "")],
)
def test_nothing_of_that_name_above_the_frostline_names_the_nearest(freeze, nearest):
    told = rf"unknown module to freeze above the frostline '{re.escape(freeze)}'; nearest: .*{nearest}"
    with pytest.raises(UsageError, match=told):
        Network(small_model(), HOW).cut("block2", ["block2.norm1", freeze])


def test_dropout_before_the_head_stays_with_what_trains():
    network = Network(small_model(), HOW)
    lower, upper = network.cut("head")
    x = lower(images(32))
    upper.train()
    torch.manual_seed(0)
    assert not torch.equal(upper(x), upper(x))
    upper.eval()
    assert torch.equal(upper(x), upper(x))


def test_train_on_the_whole_model_does_not_wake_the_frozen_part():
    model = small_model()
    network = Network(model, HOW)
    lower, _ = network.cut("block2")
    frozen = state_of(lower)
    model.train()
    model(images(32))
    assert not model.norm.training
    assert not model.block1.norm1.training
    assert model.block2.norm1.training
    assert_same_state(frozen, lower)


def test_cutting_lower_unfreezes():
    model = small_model()
    network = Network(model, HOW)
    network.cut("head")
    _, upper = network.cut("block1")
    upper.train()
    assert model.block1.norm1.training
    assert model.block1.conv1.weight.requires_grad
    assert not model.conv.weight.requires_grad


def test_state_dict_of_the_parts_together_is_that_of_the_model():
    model = small_model()
    lower, upper = Network(model, HOW).cut("block2")
    assert {**lower.state_dict(), **upper.state_dict()}.keys() == model.state_dict().keys()
    assert not lower.state_dict().keys() & upper.state_dict().keys()


def test_a_frozen_model_can_still_be_pickled():
    model = small_model()
    Network(model, HOW).cut("head")
    assert_same_state(state_of(model), pickle.loads(pickle.dumps(model)))


def test_the_fingerprint_changes_with_every_parameter_and_buffer_below():
    model = small_model()
    network = Network(model, HOW)
    before = network.cut("block2")[0].fingerprint()
    assert network.cut("block2")[0].fingerprint() == before
    frozen = dict(network.cut("block2")[0].state_dict())
    for name, value in frozen.items():
        changed = value.clone()
        changed.view(-1)[0] += 1
        with torch.no_grad():
            original = value.clone()
            value.copy_(changed)
            assert network.cut("block2")[0].fingerprint() != before, name
            value.copy_(original)
    with torch.no_grad():
        model.head.weight += 1
    assert network.cut("block2")[0].fingerprint() == before


def test_the_fingerprint_changes_with_a_layers_settings():
    model = small_model()
    network = Network(model, HOW)
    before = network.cut("head")[0].fingerprint()
    model.norm.eps = 0.1
    assert network.cut("head")[0].fingerprint() != before


def test_a_network_that_is_no_classifier_is_refused():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) * self.scale

    with pytest.raises(UsageError, match="no final layer to replace"):
        Network(Bare(), HOW)


def test_a_wrong_image_size_says_so():
    model, _ = built("timm:vit_tiny_patch16_224")
    with pytest.raises(UsageError, match="does not take images of 100 × 100 pixels"):
        Network(model, Preprocessing(size=100, resize=100))


@pytest.mark.parametrize(("channels", "text"), [(1, "pixels and 1 channel: "), (2, "pixels and 2 channels: ")])
def test_a_wrong_number_of_channels_says_so(channels, text):
    with pytest.raises(UsageError, match=text):
        Network(small_model(), Preprocessing(size=32, mean=(0.5,) * channels, std=(0.5,) * channels))


class Tokens(nn.Module):
    """A network whose head takes one token of several: the layers before the head see all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, 2, 1)
        self.top = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        return self.top(self.body(x).flatten(2).transpose(1, 2)).mean(1)


def test_an_untrained_upper_end_over_tokens_is_kept():
    """One linear layer in place of layers that see every token would see what they do not."""
    model = Tokens()
    network = Network(model, Preprocessing(size=SIZE, resize=SIZE))
    network = network.replace_head(3, frozenset({"top.0.weight", "top.0.bias"}))
    assert isinstance(model.top, nn.Sequential)
    assert network.pooled == {}


def test_an_untrained_upper_end_is_replaced_by_one_linear_layer():
    model, preprocessing = built("torchvision:vgg16")
    network = Network(model, preprocessing)
    untrained = frozenset(n for n, _ in model.named_parameters() if n.startswith(("classifier.0", "classifier.3")))
    network = network.replace_head(3, untrained)
    assert network.pooled == {"classifier": (512, 7, 7)}
    lower, upper = network.cut("head")
    assert lower.output_shape == (512,)
    assert sum(p.numel() for p in upper.parameters()) == 513 * 3
    x = images(preprocessing.size)
    with torch.no_grad():
        torch.testing.assert_close(upper.eval()(lower(x)), model.eval()(x))
