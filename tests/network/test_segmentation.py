"""Laws 1 and 2 for networks that answer for every pixel."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from architectures import built
from conftest import SIZE, Small, assert_same_state, small_model, state_of
from frostline.backbones import load_backbone
from frostline.errors import UsageError
from frostline.network.network import Network
from frostline.network.segmentation import dense_network
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=SIZE, resize=36)
CLASSES = 4
SOME = (
    "torchvision:convnext_tiny",
    "torchvision:densenet121",
    "torchvision:efficientnet_b0",
    "torchvision:mobilenet_v3_small",
    "torchvision:resnet18",
    "torchvision:squeezenet1_1",
    "torchvision:swin_t",
    "torchvision:vgg16",
    "timm:convnextv2_atto",
    "timm:mobilenetv4_conv_small",
    "timm:tf_efficientnet_lite0",
    "timm:tiny_vit_5m_224",
)


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=SOME)
def segmenting(request) -> tuple[dict[str, nn.Parameter], Network]:
    """The parameters of a network as it was built, and the one that segments made of it."""
    model, preprocessing = built(request.param)
    return dict(model.named_parameters()), dense_network(model, preprocessing, CLASSES)


@pytest.mark.long
def test_upper_of_lower_is_the_network_at_every_stage(segmenting):
    bare, network = segmenting
    size = network.preprocessing.size
    assert network.stage_names()[0] == "stem"
    assert network.stage_names()[-1] == "head"
    assert network.heads == ("segmentation.0", "segmentation.1", "segmentation.3")
    x = images(size)
    with torch.no_grad():
        expected = network.model.eval()(x)
    assert expected.shape == (2, CLASSES, size, size)
    assert expected.std((2, 3)).min() > 0
    for stage in network.stages:
        lower, upper = network.cut(stage.name)
        activations = lower(x)
        assert tuple(activations.shape[1:]) == stage.input_shape == lower.output_shape
        with torch.no_grad():
            torch.testing.assert_close(upper.eval()(activations), expected, rtol=1e-4, atol=1e-5)
        for part in (lower, upper):
            own = {n: p for n, p in part.named_parameters() if not n.startswith("segmentation.")}
            assert all(bare[n] is p for n, p in own.items())


def test_parameters_have_the_names_of_the_bare_network_and_of_the_new_head(segmenting):
    bare, network = segmenting
    names = {name for name, _ in network.model.named_parameters()}
    head = {"segmentation.0.weight", "segmentation.1.weight", "segmentation.1.bias"}
    assert names - bare.keys() == {*head, "segmentation.3.weight", "segmentation.3.bias"}
    assert sum(stage.parameters for stage in network.stages) == sum(p.numel() for p in network.model.parameters())


def test_the_head_sees_all_channels_at_a_position_for_every_16_pixels(segmenting):
    _, network = segmenting
    shape = network.stages[-1].input_shape
    assert shape.count(min(shape)) == 2
    assert min(shape) * 16 >= network.preprocessing.size
    assert network.model.get_submodule("segmentation.0").in_channels == max(shape)


def test_what_is_frozen_is_still_while_the_rest_trains(segmenting):
    _, network = segmenting
    lower, upper = network.cut(network.stages[-2].name)
    frozen, trained = state_of(lower), state_of(upper)
    optimizer = torch.optim.SGD([p for p in network.model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    assert len(optimizer.param_groups[0]["params"]) == len(list(upper.parameters()))
    for _ in range(3):
        network.model.train()
        upper.train()
        x = images(network.preprocessing.size)
        loss = upper(lower(x)).square().mean() + network.model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same_state(frozen, lower)
    assert not any(p.requires_grad for p in lower.parameters())
    still = [name for name, parameter in upper.named_parameters() if torch.equal(trained[name], parameter)]
    assert still == []


def test_a_network_without_fine_maps_takes_the_last_one():
    layers = nn.Conv2d(3, 8, 32, 32), nn.MaxPool2d(2), nn.Conv2d(8, 9, 1), nn.Flatten(), nn.Linear(9, 2)
    coarse = nn.Sequential(*layers)
    network = dense_network(coarse, Preprocessing(size=64, resize=64), CLASSES)
    assert network.stages[-1].input_shape == (8, 1, 1)
    assert network.model(images(64)).shape == (2, CLASSES, 64, 64)


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:levit_128s"])
def test_a_network_without_maps_is_refused(name):
    model, preprocessing = built(name)
    with pytest.raises(UsageError, match="no feature map to segment from; use a convolutional backbone"):
        dense_network(model, preprocessing, CLASSES)


def test_a_network_that_cannot_be_followed_is_refused():
    class Untraceable(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 1e9 else x * 1.0)

    with pytest.raises(UsageError, match="no feature map"):
        dense_network(Untraceable().eval(), HOW, CLASSES)


@pytest.fixture(scope="module")
def whole() -> Preprocessing:
    return dense_network(small_model(), HOW, CLASSES).preprocessing


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(16, 500))
def test_the_whole_image_is_seen_whatever_its_shape(whole, width, height, size):
    assert whole.box(width, height) == pytest.approx((0, 0, width, height))
    assert whole.at_size(size).box(width, height) == pytest.approx((0, 0, width, height))


def test_nothing_of_the_preprocessing_changes_but_the_crop(whole):
    assert whole == dataclasses.replace(HOW, crop="squash", resize=SIZE)


def test_the_seed_decides_the_head_and_the_backbone_stays_as_it_was(small):
    before = state_of(small.model)

    def made(seed: int) -> Network:
        return small.network(CLASSES, seed, "segmentation")

    one, again, other = made(1), made(1), made(2)
    assert_same_state(state_of(one.model), again.model)
    different = [
        n for n, value in one.model.state_dict().items() if not torch.equal(value, other.model.state_dict()[n])
    ]
    assert different == ["segmentation.0.weight", "segmentation.3.weight", "segmentation.3.bias"]
    assert_same_state(before, small.model)


def test_below_the_head_are_the_weights_of_the_backbone(small):
    network = small.network(CLASSES, task="segmentation")
    own = small.model.state_dict()
    below = {n: v for n, v in network.model.state_dict().items() if not n.startswith("segmentation.")}
    assert below
    assert all(torch.equal(own[name], value) for name, value in below.items())


def test_the_number_type_of_the_network_is_that_of_its_head():
    network = dense_network(small_model().double(), HOW, CLASSES)
    assert {p.dtype for p in network.model.parameters()} == {torch.float64}
    assert network.model(images(SIZE).double()).dtype == torch.float64


def test_logits_of_one_image_do_not_depend_on_the_others():
    model = dense_network(small_model(), HOW, CLASSES).model.eval()
    x = images(SIZE, 5)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-4, atol=1e-5)


def test_another_image_size_is_segmented_at_that_size():
    network = load_backbone("torchvision:squeezenet1_1", "none", image_size=48).network(3, task="segmentation")
    assert network.model(images(48)).shape == (2, 3, 48, 48)
