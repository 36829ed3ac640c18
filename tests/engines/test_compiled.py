from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from conftest import SIZE, small_model
from frostline.engines import compiled
from frostline.engines.eager import reference
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_the_compiled_part_gives_its_own_numbers():
    lower, _ = Network(small_model(), Preprocessing(size=SIZE, resize=36)).cut("head")
    machine = find_machine("cpu", "fp32", 2)
    pictures = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    (rows,) = compiled.build(lower, machine, 8)(pictures)
    torch.testing.assert_close(rows, reference(lower, machine, pictures)[0], rtol=1e-3, atol=1e-3)
