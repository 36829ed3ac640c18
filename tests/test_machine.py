from __future__ import annotations

import pytest
import torch

from frostline.errors import MachineError, UsageError
from frostline.machine import machine


def test_the_best_of_what_is_there():
    on = machine()
    assert on.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert on.precision in ("fp32", "bf16")
    assert on.workers >= 1


def test_precision_is_what_the_frozen_part_computes_in():
    layer, x = torch.nn.Linear(4, 4), torch.zeros(2, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with machine("cpu", precision).autocast(), torch.no_grad():
            assert layer(x).dtype is dtype


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "gpu"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(MachineError, match=f"no device '{name}' here; there is cpu"):
        machine(name)


@pytest.mark.parametrize("options", [{"precision": "fp8"}, {"workers": 0}, {"workers": 10_000}])
def test_values_out_of_range(options):
    with pytest.raises(UsageError):
        machine("cpu", **options)
