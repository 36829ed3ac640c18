from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from conftest import Small, assert_same_state, small_model, state_of
from frostline.backbones import SOURCES, Backbone, list_backbones, load_backbone, resolve
from frostline.errors import FrostlineError, MachineError, UsageError
from frostline.preprocessing import Preprocessing


def test_bare_names_are_taken_where_one_source_has_them():
    assert resolve("efficientnet-lite0") == ("bundled", "efficientnet-lite0")
    assert resolve("tf_efficientnet_lite0") == ("timm", "tf_efficientnet_lite0")
    assert resolve("timm:resnet50.a1_in1k") == ("timm", "resnet50.a1_in1k")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "use torchvision:resnet18 or timm:resnet18"),
        ("torchvision:resnet19", "nearest: torchvision:resnet18"),
        ("hub:resnet18", "unknown source of backbones 'hub'"),
        ("efficientnet-lite9", "nearest: bundled:efficientnet-lite"),
    ],
)
def test_other_names_are_answered_with_the_nearest(name, message):
    with pytest.raises(UsageError, match=message):
        resolve(name)


def test_every_source_is_listed():
    assert {name.partition(":")[0] for name in list_backbones()} == set(SOURCES)
    assert list_backbones("timm:vit_tiny_patch16_2*")[0] == "timm:vit_tiny_patch16_224"
    assert "torchvision:resnet18" in list_backbones("resnet18")


def test_your_own_module_is_a_backbone():
    backbone = load_backbone(small_model(), preprocessing=Preprocessing(size=32))
    assert (backbone.name, backbone.weights) == ("Small", "given")
    assert load_backbone(backbone) is backbone
    assert load_backbone(small_model()).preprocessing == Preprocessing()


def test_the_seed_decides_random_weights_and_the_new_head():
    def state(seed: int) -> list[torch.Tensor]:
        backbone = load_backbone("torchvision:squeezenet1_1", "none", seed=seed, image_size=32)
        return list(backbone.network(3, seed).model.state_dict().values())

    one, again, other = state(1), state(1), state(2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_loading_does_not_touch_the_global_random_state():
    before = torch.get_rng_state()
    load_backbone("torchvision:squeezenet1_1", "none").network(3)
    assert torch.equal(before, torch.get_rng_state())


def test_another_image_size_keeps_the_cropped_share():
    backbone = load_backbone("torchvision:resnet18", "none", image_size=112)
    assert (backbone.preprocessing.size, backbone.preprocessing.resize) == (112, 128)
    with pytest.raises(UsageError, match="it must be 16 … 4096"):
        load_backbone("torchvision:resnet18", "none", image_size=8)


def test_a_transformer_is_resized_with_its_position_embedding():
    backbone = load_backbone("timm:vit_tiny_patch16_224", "none", image_size=96)
    assert backbone.network(2).stages[1].input_shape == (37, 192)


def test_without_a_network_the_message_says_what_to_do(monkeypatch, tmp_path):
    import urllib.request

    def offline(*_args, **_options):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(
        MachineError, match="give --weights FILE, --weights none, or use the backbone efficientnet-lite0"
    ):
        load_backbone("torchvision:resnet18")


def test_a_backbone_is_a_value():
    backbone = Backbone("mine", Small(), Preprocessing())
    with pytest.raises(dataclasses.FrozenInstanceError):
        backbone.name = "other"


class Mapping(nn.Module):
    """Gives a map in place of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_a_network_that_gives_a_map_is_no_classifier(task):
    backbone = load_backbone(Mapping(), preprocessing=Preprocessing(size=32))
    with pytest.raises(
        UsageError, match=r"Mapping gives an output of shape \(5, 32, 32\) per image.*use a classification network"
    ):
        backbone.network(3, task=task)


def test_several_labels_have_the_head_of_one(small):
    one, several = small.network(4, seed=1).model, small.network(4, seed=1, task="multilabel").model
    assert_same_state(state_of(one), several)


def mini_vgg(channels: int, size: int = 28) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (size // 2) ** 2, 5),
    ).train()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_module_gets_images_of_as_many_channels_as_it_takes(channels):
    backbone = load_backbone(mini_vgg(channels), preprocessing=Preprocessing(size=28, resize=28))
    assert backbone.preprocessing.channels == len(backbone.preprocessing.std) == channels
    assert backbone.model.training
    network = backbone.network(2)
    lower, upper = network.cut("3")
    assert lower.output_shape == (8, 14, 14)
    assert upper(lower(torch.zeros(2, channels, 28, 28))).shape == (2, 2)


def test_the_channels_are_those_at_the_size_that_is_asked_for():
    backbone = load_backbone(mini_vgg(1), image_size=28)
    assert (backbone.preprocessing.size, backbone.preprocessing.channels) == (28, 1)


def test_a_mean_of_ones_own_says_the_channels():
    own = Preprocessing(size=28, resize=28, mean=(0.1307,), std=(0.3081,))
    assert load_backbone(mini_vgg(1), preprocessing=own).preprocessing == own
    with pytest.raises(UsageError, match=r"28 × 28 pixels and 1 channel: .*expected input"):
        load_backbone(mini_vgg(3), preprocessing=own).network(2)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_a_module_of_other_channels_is_refused(channels):
    with pytest.raises(UsageError, match=f"needs images of {channels} channels; use one for 3 .* or 1"):
        load_backbone(mini_vgg(channels), preprocessing=Preprocessing(size=28, resize=28))


def test_a_module_that_runs_on_nothing_says_why():
    backbone = load_backbone(mini_vgg(3), preprocessing=Preprocessing(size=32, resize=32))
    with pytest.raises(UsageError, match="does not take images of 32 × 32 pixels: .*shapes cannot be multiplied"):
        backbone.network(2)


def test_auto_is_no_backbone_of_its_own():
    with pytest.raises(UsageError, match="only fit and compare accept backbone auto"):
        load_backbone("auto")


def test_one_spelling_of_the_default():
    """Stumble 37."""
    with pytest.raises(UsageError, match="use timm:efficientnet_lite0 or efficientnet-lite0"):
        load_backbone("efficientnet_lite0", "none")
    assert load_backbone("timm:efficientnet_lite0", "none").name == "timm:efficientnet_lite0"


def test_weights_with_the_separator_of_the_system_are_a_file(monkeypatch):
    monkeypatch.setattr("os.sep", "\\")
    with pytest.raises(FrostlineError, match="there is no weights file not there"):
        load_backbone("timm:test_resnet", "not there\\weights")
