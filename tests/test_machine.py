from __future__ import annotations

import pytest
import torch

from frostline.errors import MachineError, UsageError
from frostline.machine import find_machine, give_back_freed_memory, keep_freed_memory, to_device


def test_the_best_of_what_is_there():
    machine = find_machine()
    assert machine.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert machine.precision in ("fp32", "bf16")
    assert machine.workers >= 1


def test_precision_is_what_the_frozen_part_computes_in():
    layer, x = torch.nn.Linear(4, 4), torch.zeros(2, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with find_machine("cpu", precision).autocast(), torch.no_grad():
            assert layer(x).dtype is dtype


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "gpu"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(MachineError, match=f"no device '{name}' here; there is cpu"):
        find_machine(name)


@pytest.mark.parametrize("options", [{"precision": "fp8"}, {"workers": 0}, {"workers": 10_000}])
def test_values_out_of_range(options):
    with pytest.raises(UsageError):
        find_machine("cpu", **options)


def test_a_placed_network_computes_the_same_with_its_convolutions_channels_last():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv3d(1, 2, 1)).eval()
    weights = [parameter.clone() for parameter in model.parameters()]
    assert to_device(model, torch.device("cpu")) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[2].weight.dtype is torch.float32
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert to_device(model, torch.device("cpu"), torch.bfloat16)[0].weight.dtype is torch.bfloat16


def test_keeping_freed_memory_may_be_asked_for_at_any_time(monkeypatch):
    keep_freed_memory()
    give_back_freed_memory()
    keep_freed_memory.cache_clear()
    monkeypatch.setattr("sys.platform", "darwin")
    keep_freed_memory()
    give_back_freed_memory()
