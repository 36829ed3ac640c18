from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from conftest import SIZE, small_model
from frostline.engines import compiled
from frostline.engines.eager import reference
from frostline.machine import machine
from frostline.network import Network
from frostline.preprocessing import Preprocessing


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_the_compiled_part_gives_its_own_numbers():
    lower, _ = Network(small_model(), Preprocessing(size=SIZE, resize=36)).cut("head")
    on = machine("cpu", "fp32", 2)
    pictures = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    (rows,) = compiled.build(lower, on, 8)(pictures)
    torch.testing.assert_close(rows, reference(lower, on, pictures)[0], rtol=1e-3, atol=1e-3)
