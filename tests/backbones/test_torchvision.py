from __future__ import annotations

import pytest
import torchvision

from frostline.backbones.provenance import Provenance
from frostline.backbones.torchvision import build, names
from frostline.data.views import FILTERS
from frostline.errors import UsageError


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
    with pytest.raises(UsageError, match="there are IMAGENET1K_V1, IMAGENET1K_V2"):
        build("resnet50", "V3")
