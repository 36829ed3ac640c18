"""One process at a time adds rows to an entry, so that of ten fits at once one computes the rows and nine find them.

A claim is a lock on the file `lock` of the entry. The system frees it when its process ends, also when it is killed.
Reading needs no claim. Where a disk has no locks, two processes may do the same work twice; the rows stay right.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from frostline import terminal
from frostline.files import lock

LOCK = "lock"
TRIES = 10


@contextlib.contextmanager
def claimed(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the claims of some entries; waits, after a line that says so, while another process has one."""
    with contextlib.ExitStack() as held:
        for folder in sorted(set(folders)):  # in one order for all, so that no two wait for each other
            descriptor = _claim(folder)
            if descriptor is not None:
                held.callback(os.close, descriptor)
        yield


def is_claimed(folder: Path) -> bool:
    """Whether a process adds rows to an entry now."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        return lock(descriptor) is False
    finally:
        os.close(descriptor)


def _claim(folder: Path) -> int | None:
    """The locked file of an entry; None if the entry cannot be written, which the first row will tell."""
    for _ in range(TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            _wait(descriptor, folder)
        except BaseException:  # interrupted meanwhile
            os.close(descriptor)
            raise
        if _is_there(descriptor, folder):
            return descriptor
        os.close(descriptor)  # the entry was removed meanwhile
    return None


def _wait(descriptor: int, folder: Path) -> None:
    """Lock a file and write into it who has it; waits for another process. Does nothing where there are no locks."""
    now = lock(descriptor)
    if now is False:  # perhaps only because another process looks whether it is free
        time.sleep(0.02)
        now = lock(descriptor)
    if now is False:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace")
        terminal.say(
            f"waiting for process {holder or 'unknown'}, which computes activations for {folder.name[:12]} of the "
            "store (--no-cache does not wait)"
        )
        now = lock(descriptor, wait=True)
    if now is None:
        _say_no_locks()
        return
    with contextlib.suppress(OSError):  # a full disk: then nobody learns who holds it
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)


@functools.cache
def _say_no_locks() -> None:
    terminal.say("the disk of the store has no file locks: two fits at once may compute the same activations twice")


def _is_there(descriptor: int, folder: Path) -> bool:
    """Whether an open lock is still the one of its entry."""
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat())
    except OSError:
        return False
