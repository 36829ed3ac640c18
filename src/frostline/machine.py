"""The abilities of this computer: device, precision, threads."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from frostline.errors import MachineError, UsageError
from frostline.files import default_folder, write_atomically
from frostline.process import MOST_WORKERS, cpu_model, usable_cores

if TYPE_CHECKING:
    from frostline.cluster import Cluster

PRECISIONS = ("auto", "fp32", "bf16")
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # torch's names; the last two are ARM's
FASTER = 1.1  # minimum speed-up of bf16 over fp32
ROUNDS = 4
MEMORY = "machine.json"  # in the folder of the store


@dataclass(frozen=True)
class Machine:
    """Where and how to compute.

    device: of torch. precision: of the frozen part and its rows, "fp32" or "bf16". workers: threads that decode images.
    training_precision: of the computation between parameters and loss above the frostline.
    cluster: whose nodes compute the passes over images; None for this process.
    """

    device: torch.device
    precision: str
    workers: int
    training_precision: str = "fp32"
    cluster: Cluster | None = None

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Mixed precision for the frozen part, as torch's autocast chooses it per operation."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """On an NVIDIA device: convolutions in full fp32 instead of TF32, and every sum in the same order.

    So the same seed gives the same weights, and an image gets the same logits in every batch. Torch's flags apply to
    the whole process; they are restored afterwards.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=True, allow_tf32=False):
        yield


def to_device(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """Move a module to a device, optionally in another precision, with convolutions in their fastest memory layout."""
    module.to(device, dtype)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
    return module


def find_machine(device: str = "auto", precision: str = "auto", workers: int | None = None) -> Machine:
    """The machine for some options.

    device: "auto" (CUDA, else Apple's MPS, else the processor) or a name that torch knows. precision: "fp32" or "bf16"
    for the frozen part and for training; "auto" takes for each the one that is faster on this device.
    workers: 1 … 256; by default one per core that this process may use, at most 16.

    Raises MachineError for a device that this machine lacks, UsageError for a value out of range.

    >>> find_machine("cpu", "fp32", 2).training_precision
    'fp32'
    """
    chosen = _device(device)
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    if workers is not None and not 0 < workers <= 256:
        raise UsageError(f"workers is {workers}; it must be 1 … 256")
    workers = workers or min(usable_cores(), MOST_WORKERS)
    if precision != "auto":
        return Machine(chosen, precision, workers, precision)
    frozen, training = (_faster_precision(chosen, training) for training in (False, True))
    return Machine(chosen, frozen, workers, training)


def _device(name: str) -> torch.device:
    if name == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(name)
        torch.ones(1, device=device).add(1).item()  # "meta" is a device that computes nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        present = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        present += ["mps"] if torch.backends.mps.is_available() else []
        raise MachineError(f"this machine has no device {name!r}; it has {', '.join(present)}") from error
    return device


def _faster_precision(device: torch.device, training: bool) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_is_faster_in_bf16(training) else "fp32"


@functools.cache
def _cpu_is_faster_in_bf16(training: bool) -> bool:
    """The processor's instructions decide; in doubt a measurement does, once per machine.

    oneDNN's own list of supported types does not help: on every AVX-512 processor it emulates bf16, slower than fp32.
    """
    instructions = bf16_instructions()
    if not instructions or not torch.backends.mkldnn.is_available():
        return False
    limited = "".join(os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"))
    if {"avx512_bf16", "amx_bf16"} <= instructions and not limited:
        return True
    return _remembered(
        f"bf16 is faster: {'training' if training else 'frozen'}, {cpu_model()} {limited}, torch {torch.__version__}",
        lambda: _seconds(torch.float32, training) > FASTER * _seconds(torch.bfloat16, training),
    )


def _remembered(name: str, measure: Callable[[], bool]) -> bool:
    """The result of a measurement, which is kept for later runs: a near tie must not change their results."""
    file = default_folder() / MEMORY
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        known = {}
    known = known if isinstance(known, dict) else {}
    if not isinstance(known.get(name), bool):
        known[name] = measure()
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(known, indent=2).encode())
    return bool(known[name])


def bf16_instructions() -> frozenset[str]:
    """The processor's instructions for bf16 products."""
    if hasattr(torch.cpu, "get_capabilities"):
        present = torch.cpu.get_capabilities()
        return frozenset(name for name in BF16_INSTRUCTIONS if present.get(name))
    checks = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return frozenset(name for name, check in checks.items() if getattr(torch.cpu, check, bool)())


def _seconds(dtype: torch.dtype, training: bool) -> float:
    """Seconds of two usual convolutions, 3 × 3 and 1 × 1, on four images; in training also of their gradients."""
    channels = 64
    x = torch.ones(4, channels, 28, 28).to(dtype, memory_format=torch.channels_last).requires_grad_(training)
    weights = [torch.ones(channels, channels, size, size) for size in (3, 1)]
    weights = [w.to(dtype, memory_format=torch.channels_last).requires_grad_(training) for w in weights]
    times = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        with torch.set_grad_enabled(training):
            out = torch.conv2d(torch.conv2d(x, weights[0], padding=1), weights[1])
        if training:
            torch.autograd.grad(out.sum(), [x, *weights])
        times.append(time.perf_counter() - started)
    return min(times[1:])


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """Restore torch's number of threads afterwards."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
