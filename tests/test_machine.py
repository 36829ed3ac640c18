from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from frostline import machine
from frostline.errors import MachineError, UsageError
from frostline.machine import bf16_instructions, exact, find_machine, threads_kept, to_device


def test_the_best_of_what_is_there():
    found = find_machine()
    assert found.device.type in ("cuda", "mps", "cpu")
    assert found.precision in ("fp32", "bf16")
    assert found.training_precision in ("fp32", "bf16")
    assert found.workers >= 1


def test_precision_is_what_the_frozen_part_computes_in():
    layer, x = torch.nn.Linear(4, 4), torch.zeros(2, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with find_machine("cpu", precision).autocast(), torch.no_grad():
            assert layer(x).dtype is dtype


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "gpu", "meta"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(MachineError, match=f"no device '{name}'; it has cpu"):
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


def processor(monkeypatch, instructions, speedup=1.0, mkldnn=True):
    """A processor with those instructions, bf16 `speedup` times as fast as fp32; returns what is measured."""
    measured = []

    def seconds(dtype, training):
        measured.append((dtype, training))
        return 1.0 / speedup if dtype == torch.bfloat16 else 1.0

    machine._cpu_is_faster_in_bf16.cache_clear()
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "bf16_instructions", lambda: frozenset(instructions))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: mkldnn)
    monkeypatch.setattr(machine, "_seconds", seconds)
    return measured


@pytest.fixture(autouse=True)
def nothing_remembered():
    yield
    machine._cpu_is_faster_in_bf16.cache_clear()


def test_a_processor_without_bf16_instructions_computes_in_fp32_unmeasured(monkeypatch):
    """AVX-512 of Skylake to Ice Lake: oneDNN says that it supports bf16, and emulates it."""
    measured = processor(monkeypatch, ())
    assert (find_machine("cpu").precision, find_machine("cpu").training_precision) == ("fp32", "fp32")
    assert measured == []


def test_a_processor_with_all_signs_computes_in_bf16_unmeasured(monkeypatch):
    measured = processor(monkeypatch, ("avx512_bf16", "amx_bf16"))
    assert (find_machine("cpu").precision, find_machine("cpu").training_precision) == ("bf16", "bf16")
    assert measured == []


@pytest.mark.parametrize("instructions", [("avx512_bf16",), ("amx_bf16",), ("bf16",)])
@pytest.mark.parametrize(("speedup", "precision"), [(3.0, "bf16"), (1.05, "fp32"), (0.5, "fp32")])
def test_where_signs_leave_a_doubt_a_measurement_decides_once(instructions, speedup, precision, monkeypatch):
    measured = processor(monkeypatch, instructions, speedup)
    for _ in range(2):
        assert find_machine("cpu").precision == precision
    assert measured == [(d, t) for t in (False, True) for d in (torch.float32, torch.bfloat16)]


def test_frozen_part_and_training_are_decided_apart(monkeypatch):
    processor(monkeypatch, ("avx512_bf16",))
    monkeypatch.setattr(
        machine, "_seconds", lambda dtype, training: 2.0 if training == (dtype == torch.bfloat16) else 1.0
    )
    found = find_machine("cpu")
    assert (found.precision, found.training_precision) == ("bf16", "fp32")


def test_a_near_tie_is_decided_once_for_all_later_processes(monkeypatch):
    """The precision decides the weights in the end: the next fit must not find the other one a hair faster."""
    processor(monkeypatch, ("avx512_bf16",), speedup=1.11)
    assert find_machine("cpu").precision == "bf16"
    measured = processor(monkeypatch, ("avx512_bf16",), speedup=1.09)
    assert find_machine("cpu").precision == "bf16"
    assert measured == []
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    machine._cpu_is_faster_in_bf16.cache_clear()
    assert find_machine("cpu").precision == "fp32"


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 5000, '{"bf16 is faster": 1}'])
def test_a_damaged_memory_is_measured_again(content, monkeypatch, own_cache):
    processor(monkeypatch, ("avx512_bf16",), speedup=3.0)
    memory = own_cache / machine.MEMORY
    memory.write_text(content)
    assert find_machine("cpu").precision == "bf16"
    assert True in json.loads(memory.read_text()).values()


def test_without_a_place_to_remember_it_is_measured_each_time(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "file" / "folder"))
    for _ in range(2):
        assert processor(monkeypatch, ("avx512_bf16",), speedup=3.0) == []
        assert find_machine("cpu").precision == "bf16"


def test_a_limited_onednn_is_measured(monkeypatch):
    measured = processor(monkeypatch, ("avx512_bf16", "amx_bf16"), speedup=0.3)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    assert find_machine("cpu").precision == "fp32"
    assert measured


def test_without_onednn_everything_is_in_fp32(monkeypatch):
    """As on macOS, where torch.ops.mkldnn has none of its functions."""
    assert processor(monkeypatch, ("bf16",), speedup=3.0, mkldnn=False) == []
    assert find_machine("cpu").precision == "fp32"


@pytest.mark.parametrize("way", ["capabilities", "checks", "nothing"])
def test_the_instructions_are_read_from_any_torch(way, monkeypatch):
    cpu = SimpleNamespace()
    if way == "capabilities":
        cpu.get_capabilities = lambda: {"avx512_bf16": True, "amx_bf16": False, "sse": True, "cpu_name": "x"}
    elif way == "checks":
        cpu._is_avx512_bf16_supported, cpu._is_amx_tile_supported = (lambda: True), (lambda: False)
    monkeypatch.setattr(torch, "cpu", cpu)
    assert bf16_instructions() == (set() if way == "nothing" else {"avx512_bf16"})


def test_measuring_takes_some_time_and_changes_nothing():
    threads = torch.get_num_threads()
    assert machine._seconds(torch.float32, False) > 0
    assert machine._seconds(torch.bfloat16, True) > 0
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_given_holds_for_both(precision):
    found = find_machine("cpu", precision)
    assert (found.precision, found.training_precision) == (precision, precision)


@pytest.mark.parametrize(("cuda", "mps", "best"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_cuda_then_mps_then_the_processor(cuda, mps, best, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    found = find_machine()
    assert found.device.type == best
    if best != "cpu":
        assert (found.precision, found.training_precision) == ("fp32", "fp32")
        with found.autocast():
            pass


def test_threads_that_decode_are_as_many_as_cores_may_be_used(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 3)
    assert find_machine("cpu").workers == 3
    monkeypatch.setattr(machine, "usable_cores", lambda: 64)
    assert find_machine("cpu").workers == 16
    assert find_machine("cpu", workers=64).workers == 64


def test_threads_are_as_before():
    threads = torch.get_num_threads()
    with threads_kept():
        torch.set_num_threads(1)
    assert torch.get_num_threads() == threads


def test_on_an_nvidia_device_fp32_has_all_its_bits_and_sums_one_order_and_afterwards_all_is_as_before():
    cudnn = torch.backends.cudnn

    def flags():
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32

    before = flags()
    with exact(torch.device("cuda")):
        assert flags() == (*before[:2], True, False)
    assert flags() == before
    with exact(torch.device("cpu")):
        assert flags() == before
