"""The store: a folder of entries, each with the shards of one frozen part.

    <cache>/activations/<key>/entry.json      what this is, for people and for `frostline cache ls`
    <cache>/activations/<key>/<digest>.shard  rows and their names (`shard_file.py`)
    <cache>/activations/<key>/verified.json   size and times of shards whose every byte was checked
    <cache>/activations/<key>-1/ …            the same key, where what is stored there differs from what is computed

The key stands for everything that the rows depend on but the image: the frozen part, preprocessing, precision,
decoder. A row's name stands for the image's content and the view. Shards are only ever added, in one rename: any number
of processes may share a store. What lies there and is no shard of the entry is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frostline.errors import reason
from frostline.files import write_atomically
from frostline.store.index import Index, index_of
from frostline.store.shard_file import (
    MOST_OPEN,
    NAMED,
    TEMPORARY,
    DamagedError,
    Form,
    Shard,
    open_shard,
    verify,
)

DEFAULT_BUDGET = 20_000_000_000
RESERVE = 500_000_000  # bytes of the disk that are left free, a twentieth of a small one
DESCRIPTION, VERIFIED = "entry.json", "verified.json"
SETTLED = 2_000_000_000  # ns that a shard must have lain still: a clock may be too coarse to show a second change
RECENT = 3600  # seconds: what was used since belongs to work that goes on


@dataclass(frozen=True)
class Cache:
    """A folder that activations may fill up to a budget in bytes; some of the disk stays free whatever the budget.

    most: bytes that it may hold without any entry giving way, where somebody allows less than the budget.
    """

    folder: Path
    budget: int = DEFAULT_BUDGET
    most: int | None = None


@dataclass(frozen=True)
class Opened:
    """The shards of an entry that can be used. damaged: how many were removed. ignored: what is none, and why."""

    shards: tuple[Shard, ...] = ()
    damaged: int = 0
    ignored: tuple[str, ...] = ()

    @property
    def index(self) -> Index:
        return index_of(self.shards)


@dataclass(frozen=True)
class Entry:
    """One entry as `frostline cache ls` shows it. leftover: bytes of files that a killed process left unfinished."""

    folder: Path
    about: dict[str, Any]
    bytes: int
    used: float  # seconds since the epoch
    leftover: int = 0


def open_entry(folder: Path, form: Form) -> Opened:
    """The shards of an entry that are whole and belong to it; those that are damaged are removed.

    Every byte of a shard is read when it is opened for the first time, and again when its size or times changed.
    Raises OSError where the folder cannot be read.
    """
    if not folder.is_dir():
        return Opened()
    verified = _Verified(folder)
    damaged = 0
    shards: list[Shard] = []
    ignored: list[str] = []
    for file in _named(folder):
        try:
            shard = _checked(file, verified, len(shards) < MOST_OPEN)
        except DamagedError:
            file.unlink(missing_ok=True)
            damaged += 1
        except FileNotFoundError:  # another process removed it
            continue
        except OSError as error:
            ignored.append(f"{file.name}: {error.strerror or reason(error)}")
        else:
            if shard.form == form:
                shards.append(shard)
            else:
                ignored.append(f"{file.name}: it belongs to another entry")
    verified.keep()
    if shards:
        _touch(folder)
    return Opened(tuple(shards), damaged, tuple(ignored))


def _named(folder: Path) -> list[Path]:
    with os.scandir(folder) as files:
        return sorted(folder / file.name for file in files if NAMED.fullmatch(file.name))


def _checked(file: Path, verified: _Verified, stays_open: bool) -> Shard:
    shard = open_shard(file, stays_open)
    if not verified.holds(shard):
        verify(shard)
        verified.add(shard)
    return shard


class _Verified:
    """The memory of an entry's shards whose every byte was checked; lost or damaged, they are checked again."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / VERIFIED
        self.changed = False
        try:
            content = json.loads(self.file.read_bytes()) if self.file.is_file() else {}
        except (OSError, ValueError, RecursionError):
            content = {}
        self.status: dict[str, Any] = content if isinstance(content, dict) else {}

    def holds(self, shard: Shard) -> bool:
        return self.status.get(shard.path.name) == list(shard.status)

    def add(self, shard: Shard) -> None:
        if max(shard.status[1:3]) < time.time_ns() - SETTLED:
            self.status[shard.path.name] = list(shard.status)
            self.changed = True

    def keep(self) -> None:
        if self.changed:
            with contextlib.suppress(OSError):  # a read-only store is checked again next time
                write_atomically(self.file, json.dumps(self.status).encode())


def describe(folder: Path, about: dict[str, Any]) -> None:
    """Say what an entry is; raises OSError."""
    if not (folder / DESCRIPTION).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / DESCRIPTION, json.dumps(about, indent=2).encode())


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left unfinished; what is younger than an hour may be in the making."""
    for file, status in _files(folder):
        if _is_leftover(file, status):
            file.unlink(missing_ok=True)


def _is_leftover(file: Path, status: os.stat_result) -> bool:
    return file.name.endswith(TEMPORARY) and file.name.startswith(".") and status.st_mtime < time.time() - RECENT


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files of a folder with what is known of them; none where it cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(OSError):
                if file.is_file(follow_symlinks=False):
                    yield folder / file.name, file.stat()


def entries(cache: Path) -> list[Entry]:
    """All entries under a cache folder, the most recently used first."""
    found = []
    for folder in [path for path in cache.glob("activations/*") if path.is_dir()]:
        try:
            about = json.loads((folder / DESCRIPTION).read_bytes()) if (folder / DESCRIPTION).is_file() else {}
        except (OSError, ValueError, RecursionError):
            about = {}
        files = list(_files(folder))
        size = sum(status.st_size for _, status in files)
        leftover = sum(status.st_size for file, status in files if _is_leftover(file, status))
        with contextlib.suppress(OSError):  # another process may remove it meanwhile
            used = max((status.st_mtime for file, status in files if file.name == DESCRIPTION), default=None)
            used = folder.stat().st_mtime if used is None else used
            found.append(Entry(folder, about if isinstance(about, dict) else {}, size, used, leftover))
    return sorted(found, key=lambda entry: -entry.used)


def make_room(cache: Cache, needed: int, keep: Collection[Path]) -> bool:
    """Whether `needed` more bytes fit, after removing the entries that were not used for longest.

    The limit is the budget, or what the disk can hold with some of it left free where that is less.
    """
    if needed > cache.budget:
        return False
    existing = entries(cache.folder)
    held = sum(entry.bytes for entry in existing)
    limit = min(cache.budget, held + free_bytes(cache.folder))
    if needed > limit or (cache.most is not None and held + needed > cache.most):
        return False
    spared = {entry.folder for entry in existing if entry.used >= time.time() - RECENT}
    _, left = prune(cache.folder, limit - needed, spared.union(keep))
    return left + needed <= limit


def stored_bytes(folder: Path) -> int:
    """Bytes of all rows in a store."""
    return sum(entry.bytes for entry in entries(folder))


def left_of(cache: Cache) -> int:
    """Bytes that a fit may hold in the store: its budget, or what somebody allows to be added where that is less."""
    if cache.most is None:
        return cache.budget
    return min(cache.budget, max(0, cache.most - stored_bytes(cache.folder)))


def free_bytes(folder: Path) -> int:
    """Bytes that may be written to the disk of a folder, which need not exist yet."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(place)
    return max(0, usage.free - min(RESERVE, usage.total // 20))


def prune(cache: Path, limit: int, keep: Collection[Path] = ()) -> tuple[int, int]:
    """Remove the least recently used entries until `limit` bytes are left at most: how many went, how much is left."""
    existing = entries(cache)
    left, removed = sum(entry.bytes for entry in existing), 0
    for entry in reversed(existing):
        if left <= limit:
            break
        if entry.folder not in keep:
            remove(entry)
            left, removed = left - entry.bytes, removed + 1
    return removed, left


def remove(entry: Entry) -> None:
    shutil.rmtree(entry.folder, ignore_errors=True)


@dataclass(frozen=True)
class Health:
    """What `frostline cache verify` found of one entry. damaged, ignored: file and reason."""

    folder: Path
    intact: int
    bytes: int
    damaged: tuple[tuple[Path, str], ...] = field(default=())
    ignored: tuple[tuple[Path, str], ...] = field(default=())


def check(folder: Path) -> Health:
    """Read every byte of an entry's shards, whatever is remembered of them, and remove nothing."""
    intact, size, damaged, ignored = 0, 0, [], []
    verified = _Verified(folder)
    for file in _named(folder):
        try:
            shard = open_shard(file, stays_open=False)
            verify(shard)
        except DamagedError as error:
            damaged.append((file, str(error)))
        except OSError as error:
            ignored.append((file, error.strerror or reason(error)))
        else:
            if shard.form.key != folder.name.partition("-")[0]:
                ignored.append((file, "it belongs to another entry"))
                continue
            verified.add(shard)
            intact, size = intact + 1, size + shard.status[0]
    verified.keep()
    return Health(folder, intact, size, tuple(damaged), tuple(ignored))


def _touch(folder: Path) -> None:
    try:
        os.utime(folder / DESCRIPTION)
    except OSError:  # a read-only store is still a good store
        return
