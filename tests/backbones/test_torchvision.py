from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torchvision

from frostline.backbones import Backbone
from frostline.backbones.provenance import Provenance
from frostline.backbones.torchvision import build, names
from frostline.classifier.elsewhere import building
from frostline.data.views import FILTERS
from frostline.errors import UsageError
from frostline.preprocessing import Preprocessing


def test_only_classification_models_are_listed():
    assert {"resnet18", "vgg16", "vit_b_16"} <= set(names())
    assert not any("rcnn" in name or "raft" in name or "r3d" in name for name in names())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b1", "convnext_tiny", "vit_b_16", "swin_t"])
def test_preprocessing_is_the_weights_own(name):
    _, preprocessing, provenance = build(name, "none")
    transforms = next(iter(torchvision.models.get_model_weights(name))).transforms()
    assert provenance == Provenance("none", "none", None)
    assert [preprocessing.size, preprocessing.resize] == [transforms.crop_size[0], transforms.resize_size[0]]
    assert (preprocessing.mean, preprocessing.std) == (tuple(transforms.mean), tuple(transforms.std))
    assert preprocessing.interpolation == transforms.interpolation.value
    assert preprocessing.interpolation in FILTERS


def test_weights_by_name_of_the_enum():
    with pytest.raises(UsageError, match="it has IMAGENET1K_V1, IMAGENET1K_V2"):
        build("resnet50", "V3")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_without_weights_it_is_the_network_that_has_them(name, monkeypatch):
    """What a run of pretrained weights loads into is built without weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torchvision.models.get_model(name, init_weights=False).state_dict()
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: state)
    monkeypatch.setattr("frostline.backbones.torchvision.refuse_unless_cached", lambda _: None)
    pretrained, bare = build(name, "pretrained")[0].eval(), build(name, "none")[0].eval()
    bare.load_state_dict(pretrained.state_dict())
    images = torch.rand(2, 3, 96, 96)
    assert torch.equal(pretrained(images), bare(images))
    namespace: dict[str, Any] = {}
    network = Backbone(f"torchvision:{name}", pretrained, Preprocessing(size=96, resize=96)).network(3)
    code = building(f"torchvision:{name}", network, 3, "classification")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(f"import torch\n{code}", namespace)  # noqa: S102
    namespace["model"].load_state_dict(network.model.state_dict())
    assert torch.equal(namespace["model"].eval()(images), network.model.eval()(images))
