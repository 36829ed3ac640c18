"""CUDA graphs; what they compute is tested in test_gpu.py, where there is a device."""

from __future__ import annotations

import pytest
import torch

from conftest import SIZE, small_model
from frostline.engines import graphs
from frostline.engines.choice import engine_of
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_none_is_built():
    lower, _ = Network(small_model(), Preprocessing(size=SIZE, resize=36)).cut("head")
    assert engine_of(lower, find_machine("cpu", "fp32")).name == "torch"
    with pytest.raises((RuntimeError, AssertionError)):
        graphs.build(lower, find_machine("cpu", "fp32"), 2)
