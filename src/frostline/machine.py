"""What the computer can do: device, precision, threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from frostline.errors import MachineError, UsageError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # as malloc.h numbers them
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Machine:
    """Where and how to compute: a torch device, the precision of the frozen part, threads that decode images."""

    device: torch.device
    precision: str
    workers: int

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Mixed precision, as torch decides it for each operation."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def to_device(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """Move a module to a device, in another precision if wanted, convolutions laid out as they run fastest."""
    module.to(device, dtype)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
    return module


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next layer or batch: asking the kernel again costs a third of a pass.

    For the whole process, and harmless; elsewhere than on Linux with glibc nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_ARENA_MAX, 1)  # other arenas are given back whole
            libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
            libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most it takes


def give_back_freed_memory() -> None:
    """Undo what `keep_freed_memory` gathered, at the end of a pass."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def find_machine(device: str = "auto", precision: str = "auto", workers: int | None = None) -> Machine:
    """Resolve what people ask for against what there is.

    Raises MachineError for a device or precision that is not here, UsageError for a value out of range.
    """
    chosen = _device(device)
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}; one of {', '.join(PRECISIONS)}")
    if workers is not None and not 0 < workers <= 256:
        raise UsageError(f"{workers} workers; between 1 and 256 are possible")
    if precision == "auto":
        precision = "bf16" if _has_bf16(chosen) else "fp32"
    return Machine(chosen, precision, workers or min(os.cpu_count() or 1, 16))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise MachineError(f"no device {name!r} here; there is {', '.join(there)}") from error
    return device


def _has_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed in hardware; emulated it would be slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """However many threads torch is told to use inside, afterwards it uses as many as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
