from __future__ import annotations

import pytest
import timm
import torch

from frostline.backbones import load_backbone
from frostline.backbones.efficientnet_lite import SCALES, EfficientNetLite, rounded
from frostline.backbones.timm import preprocessing


@pytest.mark.parametrize("name", SCALES)
def test_it_is_timms_network_bit_for_bit(name):
    mine = load_backbone(name, "none")
    theirs = timm.create_model(f"tf_{name.replace('-', '_')}").eval()
    assert list(mine.model.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(mine.model.state_dict())
    assert mine.preprocessing == preprocessing(theirs)
    for size in (64, 65, 33):  # odd sizes are padded differently
        x = torch.randn(2, 3, size, size)
        with torch.inference_mode():
            assert torch.equal(mine.model(x), theirs(x))


@pytest.mark.parametrize(("channels", "right"), [(35.2, 32), (44.0, 48), (123.2, 120), (17.6, 16), (3, 8), (26.4, 24)])
def test_widths_are_rounded_to_eights(channels, right):
    assert rounded(channels) == right


def test_random_weights_are_the_seeds():
    def weights(seed: int) -> torch.Tensor:
        return next(load_backbone("efficientnet-lite0", "none", seed=seed).model.parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_random_weights_keep_signals_alive():
    torch.manual_seed(0)
    with torch.inference_mode():
        out = EfficientNetLite(SCALES["efficientnet-lite0"]).train()(torch.randn(8, 3, 64, 64))
    assert 1e-3 < float(out.std()) < 1e3
