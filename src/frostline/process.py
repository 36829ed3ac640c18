"""The cores and memory that this process may use. It does not import torch, because it must run before that."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
import sys
from pathlib import Path

from frostline.errors import UsageError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # as malloc.h numbers them
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")
MOST_WORKERS = 16  # threads by default


ON, OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def offline(*variables: str) -> str:
    """Which of FROSTLINE_OFFLINE and these variables forbids downloads, as in "FROSTLINE_OFFLINE=1"; "" if none does.

    Raises UsageError for a FROSTLINE_OFFLINE that is neither on nor off: it may have been meant to forbid them.
    """
    own = os.environ.get("FROSTLINE_OFFLINE", "")
    if own.lower() not in ON + OFF:
        raise UsageError(f"FROSTLINE_OFFLINE is {own!r}; set it to 1 to forbid downloads, to 0 to allow them")
    names = (name for name in ("FROSTLINE_OFFLINE", *variables) if os.environ.get(name, "").lower() in ON)
    return next((f"{name}={os.environ[name]}" for name in names), "")


def usable_cores() -> int:
    """The number of cores that this process may use: its affinity, or less if a cgroup limits its CPU time.

    A container with `--cpus 2` sees all 64 cores of its host, but 64 threads in it would wait for each other.
    """
    cores, limit = _affinity(), cgroup_cores(CGROUPS, OWN_CGROUP)
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def limit_threads() -> None:
    """Limit the threads of libraries loaded later to the cgroup's limit, which OpenMP ignores.

    This affects the whole process, so only the command line calls it. `OMP_NUM_THREADS` takes precedence.
    """
    if usable_cores() < _affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # from Python 3.13
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup_cores(root: Path, membership: Path) -> float | None:
    """The number of cores that the strictest of the process's cgroups (version 1 or 2) allows; None without a limit.

    root: where cgroups are mounted. membership: the file that lists the cgroups of the process.
    """
    limits = [_quota(folder) for folder in _cgroup_folders(root, membership)]
    return min((limit for limit in limits if limit is not None), default=None)


def _cgroup_folders(root: Path, membership: Path) -> set[Path]:
    """The process's cgroups and all their parents; in a container the root itself is the cgroup."""
    mounts = [root, root / "cpu", root / "cpu,cpuacct"]
    folders = set(mounts)
    with contextlib.suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                for mount in mounts:
                    own = mount / path.lstrip("/")
                    folders |= {own, *(parent for parent in own.parents if parent.is_relative_to(mount))}
    return folders


def _quota(folder: Path) -> float | None:
    """The CPU time that one cgroup allows, in cores: quota / period; version 2 has both in `cpu.max`."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((folder / file).read_text() for file in files).split()
            if quota != "max" and int(quota) > 0:
                return int(quota) / int(period)
    return None


@functools.cache
def cpu_model() -> str:
    """The name of the processor, on Linux with family and model, because virtual processors share names."""
    values: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in CPU_INFO.read_text().partition("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            values[key.strip()] = value.strip()
    name = values.get("model name") or platform.processor() or platform.machine()
    numbers = " ".join(f"{key.removeprefix('cpu ')} {values[key]}" for key in ("cpu family", "model") if key in values)
    return f"{name}, {numbers}" if numbers else name


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next layer or batch: asking the kernel again costs up to a fifth.

    This affects the whole process, including other threads, so only the owner of the process should call it: the
    command line does, the library never. Call it before anything large is allocated. Without glibc it does nothing.

    >>> from frostline.process import keep_freed_memory
    >>> keep_freed_memory()
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = _libc()
        libc.mallopt(M_ARENA_MAX, 1)  # glibc returns other arenas whole
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest value that glibc accepts


def give_back_freed_memory() -> None:
    """Return freed memory to the system at the end of a pass; no setting changes."""
    with contextlib.suppress(OSError, AttributeError):
        _libc().malloc_trim(0)


def memory_now() -> int:
    """The memory of this process in bytes; where the system does not tell, the maximum so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return used_memory()


def used_memory() -> int:
    """The maximum memory of this process so far, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _libc() -> ctypes.CDLL:
    """The C library; raises OSError if it is not glibc."""
    if sys.platform != "linux":
        raise OSError(f"no glibc on {sys.platform}")
    return ctypes.CDLL("libc.so.6")
