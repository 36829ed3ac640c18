"""The folder for the Hugging Face Hub: timm loads it and gives the same probabilities."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from exports import ABOUT, CLASSES, images
from frostline.backbones import load_backbone
from frostline.classifier.classifier import Classifier
from frostline.errors import UsageError
from frostline.export import hub_format
from frostline.export.verifying import agreement
from frostline.export.whole import whole
from frostline.machine import find_machine
from frostline.preprocessing import Preprocessing


def classifier(name: str, size: int = 64, task: str = "classification", temperature: float = 1.7) -> Classifier:
    network = load_backbone(name, "none", image_size=size).network(len(CLASSES))
    return Classifier(
        network.model.eval(), CLASSES, network.preprocessing, find_machine("cpu", "fp32", 2), task, temperature
    )


def written(name: str, made: Classifier, folder):
    about = {**ABOUT, "backbone": name, "licence": "mit", "card": "# ä"}
    hub_format.write(whole(made), about, folder)
    return folder


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("bundled:efficientnet-lite0", "classification"),
        ("timm:test_resnet", "multilabel"),
        ("timm:test_vit", "classification"),  # its position embedding fits one size only
        ("timm:test_convnext", "classification"),  # its last layer is not at the top of its tree
        ("timm:deit_tiny_distilled_patch16_224", "classification"),  # two last layers
    ],
)
def test_timm_gives_the_same_probabilities(name, task, tmp_path):
    """Stumble 5."""
    made = classifier(name, task=task)
    folder = written(name, made, tmp_path / "hub")
    found = agreement(hub_format.answering(folder, whole(made)), made, images())
    assert found.largest < 1e-5
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "README.md").read_text("utf-8") == "# ä"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert tuple(model.pretrained_cfg["label_names"]) == CLASSES
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    with torch.inference_mode():
        logits = model(transform(Image.fromarray(image))[None])
    theirs = logits.sigmoid() if task == "multilabel" else logits.softmax(1)
    assert np.abs(theirs.numpy() - made.predict_proba([image])).max() < 1e-3


@pytest.mark.parametrize(
    ("key", "value"),
    [("crop_pct", 1.0), ("crop_mode", "squash"), ("mean", [0.4, 0.5, 0.5]), ("interpolation", "bilinear")],
)
def test_another_preprocessing_in_the_configuration_is_seen(key, value, tmp_path):
    made = classifier("bundled:efficientnet-lite0")
    folder = written("bundled:efficientnet-lite0", made, tmp_path / "hub")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the pixels of timm's transform differ by"):
        agreement(hub_format.answering(folder, whole(made)), made)


def test_the_temperature_is_in_the_last_layer_only(tmp_path):
    made = classifier("timm:test_resnet", temperature=2.0)
    folder = written("timm:test_resnet", made, tmp_path / "hub")
    own, theirs = made.model.state_dict(), timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    changed = [name for name in own if not torch.equal(own[name], theirs[name])]
    assert changed == ["fc.weight", "fc.bias"]
    assert torch.equal(theirs["fc.weight"], own["fc.weight"] / 2)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "Small"])
def test_a_network_that_timm_cannot_build_is_refused_with_other_formats(name, tmp_path):
    made = classifier("timm:test_resnet")
    with pytest.raises(UsageError, match=f"timm cannot build {name}, .* use format onnx, openvino, torch"):
        written(name, made, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_another_last_layer_is_refused(tmp_path):
    made = classifier("timm:test_resnet")
    made.model.fc = nn.Sequential(made.model.fc)
    with pytest.raises(UsageError, match="the last layer of this timm:test_resnet is not the one that timm builds"):
        written("timm:test_resnet", made, tmp_path / "hub")


@given(st.integers(16, 1200), st.integers(8, 2000))
def test_timm_resizes_to_the_same_length(size, resize):
    share = hub_format._share(Preprocessing(size=size, resize=resize))
    assert math.floor(size / share) == resize


def test_a_usual_share_stays_as_it_is_written():
    usual = replace(Preprocessing(), size=224, resize=math.floor(224 / 0.9))
    assert hub_format._share(usual) == 0.9
    assert hub_format._share(Preprocessing(224, 256)) == 0.875
