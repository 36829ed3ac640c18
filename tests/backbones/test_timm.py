from __future__ import annotations

import pytest
import timm as library

from frostline.backbones.provenance import Provenance
from frostline.backbones.timm import build, names
from frostline.errors import UsageError


@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto"])
def test_preprocessing_is_the_weights_own(name):
    model, preprocessing, provenance = build(name, "none")
    config = library.data.resolve_model_data_config(model)
    assert provenance == Provenance()
    assert (preprocessing.size, preprocessing.mean, preprocessing.std) == (
        config["input_size"][1],
        tuple(config["mean"]),
        tuple(config["std"]),
    )
    assert preprocessing.resize == int(config["input_size"][1] / config["crop_pct"])
    assert preprocessing.interpolation == config["interpolation"]


def test_a_feature_extractor_gets_a_final_layer():
    model, _, _ = build("eva02_tiny_patch14_224", "none")
    assert model.num_classes == 2


def test_other_weights_are_tags_of_the_name():
    assert "resnet18" in names()
    with pytest.raises(UsageError, match="add a tag to the name instead"):
        build("resnet18", "IMAGENET1K_V1")
