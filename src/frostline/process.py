"""What this process may use of the machine, and how it keeps memory. Needs no torch, so that it can come first."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # as malloc.h numbers them
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """How many cores this process may keep busy: those of its affinity, less where a cgroup allows less time.

    A container with `--cpus 2` sees all 64 cores of its host; 64 threads in it would wait for one another.
    """
    cores, limit = _affinity(), cgroup_cores(CGROUPS, OWN_CGROUP)
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def limit_threads() -> None:
    """Let libraries that are loaded from here on keep to the cgroup's limit, which OpenMP does not look at.

    It holds for the whole process, so only the command line does it. `OMP_NUM_THREADS` wins where it is set.
    """
    if usable_cores() < _affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # from Python 3.13
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup_cores(root: Path, membership: Path) -> float | None:
    """The least number of cores that the process's cgroups allow, version 1 or 2; None without a limit.

    root: where the groups are mounted. membership: the file that says which groups the process is in.
    """
    limits = [_quota(folder) for folder in _cgroup_folders(root, membership)]
    return min((limit for limit in limits if limit is not None), default=None)


def _cgroup_folders(root: Path, membership: Path) -> set[Path]:
    """The process's groups and all above them; in a container the root itself is the group."""
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
    """Cores' worth of time that one group allows: `cpu.max` holds "quota period" in version 2."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((folder / file).read_text() for file in files).split()
            if quota != "max" and int(quota) > 0:
                return int(quota) / int(period)
    return None


@functools.cache
def cpu_model() -> str:
    """The processor's own name, with family and model where Linux tells them: names of virtual ones repeat."""
    values: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in CPU_INFO.read_text().partition("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            values[key.strip()] = value.strip()
    name = values.get("model name") or platform.processor() or platform.machine()
    numbers = " ".join(f"{key.removeprefix('cpu ')} {values[key]}" for key in ("cpu family", "model") if key in values)
    return f"{name}, {numbers}" if numbers else name


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next layer or batch: asking the kernel again costs up to a fifth.

    It holds for the whole process, threads of others included, so it is for whoever owns that: the command line does
    it, the library never. Call it before anything large is allocated. Elsewhere than on Linux with glibc nothing
    happens.

    >>> from frostline.process import keep_freed_memory
    >>> keep_freed_memory()
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = _libc()
        libc.mallopt(M_ARENA_MAX, 1)  # other arenas are given back whole
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most it takes


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM for the milliseconds of a clean-up that must not stop half-way."""
    if threading.current_thread() is not threading.main_thread():  # Python signals only the main thread
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def give_back_freed_memory() -> None:
    """Return to the system what was freed and kept, at the end of a pass; changes no setting."""
    with contextlib.suppress(OSError, AttributeError):
        _libc().malloc_trim(0)


def memory_now() -> int:
    """The bytes that this process holds; where only the most so far can be asked, that."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return used_memory()


def used_memory() -> int:
    """The most bytes that this process has held so far; 0 where that cannot be asked."""
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _libc() -> ctypes.CDLL:
    """Raises OSError where there is no glibc."""
    if sys.platform != "linux":
        raise OSError(f"no glibc on {sys.platform}")
    return ctypes.CDLL("libc.so.6")
