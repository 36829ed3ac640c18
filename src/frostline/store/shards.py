"""The store: a folder of entries, each with the shards of one frozen part.

    <cache>/activations/<key>/entry.json      a description, for people and for `frostline cache ls`
    <cache>/activations/<key>/<digest>.shard  rows and their names (`shard_file.py`)
    <cache>/activations/<key>/verified.json   size and times of shards whose every byte was checked
    <cache>/activations/<key>/lock            locked by the process that adds rows
    <cache>/activations/<key>-1/ …            the same key, for a network with other outputs than the stored ones

The key identifies everything that the rows depend on except the image: the frozen part, preprocessing, precision,
decoder. A row's name identifies the image's content and the view. Shards are only ever added, in one rename: any number
of processes may share a store (`claims.py`). Other files in the folder are left alone.
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
from frostline.files import unfinished, write_atomically
from frostline.remote import Remote, at, is_address, local_folder
from frostline.store.claims import is_claimed
from frostline.store.index import Index, index_of
from frostline.store.shard_file import (
    MOST_OPEN,
    NAMED,
    DamagedError,
    Form,
    Shard,
    open_shard,
    verify,
)

DEFAULT_BUDGET = 20_000_000_000
RESERVE = 500_000_000  # bytes of the disk that stay free; a twentieth of a small disk
DESCRIPTION, VERIFIED = "entry.json", "verified.json"
SETTLED = 2_000_000_000  # ns without change before a shard counts as verified: a coarse clock may hide a change
BESIDE = ("engines.json", "machine.json")  # files of a store beside its entries that are replaced
MOST_BRACKETS = 100  # in a description: what is nested more deeply than any is damaged, and cannot be printed
RECENT = 3600  # seconds: entries used since then may belong to running work


@dataclass(frozen=True)
class Cache:
    """A folder that activations may fill up to a budget in bytes; some of the disk always stays free.

    most: maximum of bytes in the folder without removing entries, if less than the budget is allowed.
    remote: the bucket that holds the same for several machines; the folder then keeps what fits its budget.
    """

    folder: Path
    budget: int = DEFAULT_BUDGET
    most: int | None = None
    remote: Remote | None = None


def cache_at(store: str | Path | None, budget: int = DEFAULT_BUDGET) -> Cache:
    """The store at a folder or URL, by default the one of this machine.

    Raises UsageError for what names no store, MachineError for a URL that cannot be read.
    """
    if not is_address(store):
        return Cache(local_folder(store), budget)
    remote = at(str(store))
    remote.check("activations")  # before hours of work
    return Cache(local_folder(store), budget, remote=remote)


@dataclass(frozen=True)
class Opened:
    """The usable shards of an entry. damaged: number of removed shards. ignored: other files, with the reason."""

    shards: tuple[Shard, ...] = ()
    damaged: int = 0
    ignored: tuple[str, ...] = ()

    @property
    def index(self) -> Index:
        return index_of(self.shards)


@dataclass(frozen=True)
class Entry:
    """One entry as `frostline cache ls` shows it. leftover: bytes of unfinished files of a killed process."""

    folder: Path
    about: dict[str, Any]
    bytes: int
    used: float  # seconds since the epoch
    leftover: int = 0


def open_entry(folder: Path, form: Form) -> Opened:
    """The intact shards of an entry; damaged ones are removed.

    Every byte of a shard is read when it is first opened, and again after a change of its size or times.
    Raises OSError if the folder cannot be read.
    """
    if not folder.is_dir():
        return Opened()
    verified = _Verified(folder)
    damaged = 0
    shards: list[Shard] = []
    ignored: list[str] = []
    for file in shard_files(folder):
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
        touch(folder)
    return Opened(tuple(shards), damaged, tuple(ignored))


def shard_files(folder: Path) -> list[Path]:
    """The files of an entry that have the name of a shard; raises OSError if it cannot be read."""
    with os.scandir(folder) as files:
        return sorted(folder / file.name for file in files if NAMED.fullmatch(file.name))


def _checked(file: Path, verified: _Verified, stays_open: bool) -> Shard:
    shard = open_shard(file, stays_open)
    if not verified.holds(shard):
        verify(shard)
        verified.add(shard)
    return shard


class _Verified:
    """A record of an entry's fully checked shards; if it is lost or damaged, the shards are checked again."""

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
            with contextlib.suppress(OSError):  # a read-only store: check again next time
                write_atomically(self.file, json.dumps(self.status).encode())


def describe(folder: Path, about: dict[str, Any]) -> None:
    """Write the description of an entry; raises OSError."""
    if not (folder / DESCRIPTION).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / DESCRIPTION, json.dumps(about, indent=2).encode())


def remove_leftovers(cache: Path) -> None:
    """Remove the unfinished files of killed processes from a store."""
    for folder in [path for path in cache.glob("activations/*") if path.is_dir()]:
        unfinished(folder, remove=True)
    for name in BESIDE:
        unfinished(cache, name, remove=True)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files of a folder with their status; empty if it cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(OSError):
                if file.is_file(follow_symlinks=False):
                    yield folder / file.name, file.stat()


def entries(cache: Path) -> list[Entry]:
    """All entries under a cache folder, most recently used first."""
    found = []
    for folder in [path for path in cache.glob("activations/*") if path.is_dir()]:
        about = _description(folder)
        files = list(_files(folder))
        size = sum(status.st_size for _, status in files)
        leftover = sum(size for _, size in unfinished(folder))
        with contextlib.suppress(OSError):  # another process may have removed it
            used = max((status.st_mtime for file, status in files if file.name == DESCRIPTION), default=None)
            used = folder.stat().st_mtime if used is None else used
            found.append(Entry(folder, about, size, used, leftover))
    return sorted(found, key=lambda entry: -entry.used)


def _description(folder: Path) -> dict[str, Any]:
    """What `describe` wrote; empty if it is lost or damaged."""
    try:
        content = (folder / DESCRIPTION).read_bytes()
        about = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return {}
    intact = isinstance(about, dict) and isinstance(about.get("shape", []), list)
    return about if intact and content.count(b"[") + content.count(b"{") <= MOST_BRACKETS else {}


def make_room(cache: Cache, needed: int, keep: Collection[Path]) -> bool:
    """Whether `needed` more bytes fit, after removing the least recently used entries.

    The limit is the budget, or what the disk can hold with its reserve, whichever is less.
    """
    if needed > cache.budget:
        return False
    existing = entries(cache.folder)
    held = sum(entry.bytes for entry in existing)
    limit = min(cache.budget, held + free_bytes(cache.folder))
    if needed > limit or (cache.most is not None and held + needed > cache.most):
        return False
    recent = time.time() - RECENT
    spared = {entry.folder for entry in existing if entry.used >= recent or is_claimed(entry.folder)}
    _, left = prune(cache.folder, limit - needed, spared.union(keep))
    return left + needed <= limit


def stored_bytes(folder: Path) -> int:
    """Bytes of all rows in a store."""
    return sum(entry.bytes for entry in entries(folder))


def left_of(cache: Cache) -> int:
    """Bytes that a fit may hold in the store: its budget, or what it may add, whichever is less."""
    if cache.most is None:
        return cache.budget
    return min(cache.budget, max(0, cache.most - stored_bytes(cache.folder)))


def free_bytes(folder: Path) -> int:
    """Bytes that may be written to the disk of a folder; the folder need not exist yet."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(place)
    return max(0, usage.free - min(RESERVE, usage.total // 20))


def prune(cache: Path, limit: int, keep: Collection[Path] = ()) -> tuple[int, int]:
    """Remove unfinished files of killed processes, then least recently used entries down to `limit` bytes.

    Returns the number of removed entries, and the bytes left.
    """
    remove_leftovers(cache)
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
    """The result of `frostline cache verify` for one entry. damaged, ignored: file and reason."""

    folder: Path
    intact: int
    bytes: int
    damaged: tuple[tuple[Path, str], ...] = field(default=())
    ignored: tuple[tuple[Path, str], ...] = field(default=())


def check(folder: Path) -> Health:
    """Read every byte of an entry's shards, verified before or not, and remove nothing."""
    intact, size, damaged, ignored = 0, 0, [], []
    verified = _Verified(folder)
    for file in shard_files(folder):
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


def touch(folder: Path) -> None:
    """Record that an entry is used now."""
    try:
        os.utime(folder / DESCRIPTION)
    except OSError:  # a read-only store is still usable
        return
