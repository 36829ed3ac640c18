from __future__ import annotations

import itertools

import pytest

from architectures import EVERY, built
from conftest import SIZE, small_model
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing

KNOWN = {
    "torchvision:alexnet": "stem features.3 features.6 classifier head",
    "torchvision:vgg16": "stem features.5 features.10 features.17 features.24 classifier head",
    "torchvision:densenet121": "stem features.denseblock1 features.transition1 features.denseblock2 "
    "features.transition2 features.denseblock3 features.transition3 features.denseblock4 pool head",
    "torchvision:convnext_tiny": "stem " + " ".join(f"features.{i}" for i in range(1, 8)) + " head",
    "timm:tf_efficientnet_lite0": "stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 blocks.6 pool head",
    "timm:vit_tiny_patch16_224": "stem " + " ".join(f"blocks.{i}" for i in range(12)) + " pool head",
    "timm:swin_tiny_patch4_window7_224": "stem layers.0 layers.1 layers.2 layers.3 pool head",
    "timm:resnet50d": "stem layer1 layer2 layer3 layer4 pool head",
}


@pytest.mark.parametrize("name", KNOWN)
def test_stages_are_those_that_people_would_name(name):
    assert Network(*built(name)).stage_names() == KNOWN[name].split()


@pytest.mark.parametrize("name", EVERY)
def test_stages_are_a_chain_that_holds_every_trained_parameter_once(name):
    network = Network(*built(name))
    shapes = [(stage.input_shape, stage.shape) for stage in network.stages]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(shapes))
    assert len(set(network.stage_names())) == len(network.stages)
    owned = network.stage_parameters()
    everything = [p for parameters in owned.values() for p in parameters]
    assert len({id(p) for p in everything}) == len(everything)
    assert {s.name: s.parameters for s in network.stages} == {n: sum(p.numel() for p in ps) for n, ps in owned.items()}


def test_a_network_of_ones_own_has_stages():
    network = Network(small_model(), Preprocessing(size=SIZE, resize=SIZE))
    assert network.stage_names() == ["stem", "block1", "block2", "pool", "head"]
    assert [stage.shape for stage in network.stages] == [(8, 16, 16), (16, 8, 8), (24, 4, 4), (24,), (5,)]
