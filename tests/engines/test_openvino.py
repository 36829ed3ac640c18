from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")

from architectures import built
from frostline.engines import openvino
from frostline.engines.eager import reference
from frostline.machine import find_machine
from frostline.network.network import Network


@pytest.mark.parametrize(
    "name",
    [
        "timm:tf_efficientnet_lite0",
        pytest.param("torchvision:resnet18", marks=pytest.mark.long),
        pytest.param("torchvision:mobilenet_v3_small", marks=pytest.mark.long),
    ],
)
def test_known_networks_give_their_own_numbers(name):
    model, preprocessing = built(name)
    lower, _ = Network(model, preprocessing).cut("head")
    machine = find_machine("cpu", "fp32", 2)
    pictures = np.random.default_rng(0).integers(0, 256, (3, preprocessing.size, preprocessing.size, 3), np.uint8)
    (rows,) = openvino.build(lower, machine, 4)(pictures)
    (right,) = reference(lower, machine, pictures)
    torch.testing.assert_close(rows, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))


def test_nothing_is_reported_over_the_network():
    """OpenVINO's converter does so by default, and starts processes for it."""
    code = (
        "import sys, socket\n"
        "socket.socket.connect = lambda *_: sys.exit('a connection was opened')\n"
        "import frostline.engines.openvino\n"
        "from openvino.tools.ovc import convert_impl, telemetry_utils\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
        "assert convert_impl.tm.__name__ == telemetry_utils.tm.__name__ == 'openvino.tools.ovc.telemetry_stub'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
