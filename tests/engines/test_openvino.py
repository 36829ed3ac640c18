from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")

from architectures import built
from frostline.engines import openvino
from frostline.engines.eager import reference
from frostline.machine import machine
from frostline.network import Network


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "timm:tf_efficientnet_lite0", "torchvision:mobilenet_v3_small"]
)
def test_known_networks_give_their_own_numbers(name):
    model, how = built(name)
    lower, _ = Network(model, how).cut("head")
    on = machine("cpu", "fp32", 2)
    pictures = np.random.default_rng(0).integers(0, 256, (3, how.size, how.size, 3), np.uint8)
    (rows,) = openvino.build(lower, on, 4)(pictures)
    (right,) = reference(lower, on, pictures)
    torch.testing.assert_close(rows, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))
