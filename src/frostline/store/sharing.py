"""A store that several machines share: a bucket with the same shards as the folder of a store.

    <url>/activations/<key>/entry.json, <digest>.shard      as in the folder (`shards.py`)
    <cache>/activations/<key>/<digest>.end                  what follows the rows of a shard in the bucket
    <cache>/activations/<key>/<digest>.damaged              the shard in the bucket is not the one that was written

A shard never changes and is named by its content, so it is sent without a lock, and nothing in the bucket is ever
removed. To find rows, only the end of each shard is read, once per machine; it is checked against the shard's name, and
every block of rows against the digests in it. The local folder keeps whole shards as far as its budget allows.
"""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import weakref
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frostline import terminal
from frostline.errors import MachineError
from frostline.files import NewFile, write_atomically
from frostline.remote import Remote
from frostline.store.shard_file import (
    BLOCK,
    HEAD,
    MAGIC,
    NAMED,
    TAIL,
    DamagedError,
    Form,
    Shard,
    block_holds,
    check_end,
    described,
    end_of,
    open_shard,
    tail_bytes,
    verify,
)
from frostline.store.shards import DESCRIPTION, Cache, Health, make_room

ACTIVATIONS = "activations"
GUESS = 64_000  # bytes from the end of a shard that hold its description, and of small ones the whole end
TRIES = 3  # readings of a block before it counts as damaged
BLOCKS = 8  # of any shards in memory, for reading without local copies
AT_ONCE = 4  # blocks that are read at once


@dataclass(frozen=True)
class RemoteFile:
    """A shard in a bucket: its end is in a local file, its rows are read block by block, and each block is checked."""

    remote: Remote
    name: str
    end: Path
    begin: int  # where the end begins
    digests: bytes = field(repr=False)

    def read(self, size: int, offset: int) -> bytes:
        """Bytes at any position; raises DamagedError, FileNotFoundError for a lost shard, MachineError."""
        if offset >= self.begin:
            content = _at(self.end, size, offset - self.begin)
        else:
            first, last = (offset - HEAD) // BLOCK, (offset + size - 1 - HEAD) // BLOCK
            blocks = b"".join(_block(self, number) for number in range(first, last + 1))
            content = blocks[offset - HEAD - first * BLOCK :][:size]
        if len(content) != size:
            raise DamagedError("too short")
        return content

    @property
    def blocks(self) -> int:
        return len(self.digests) // 16


@functools.lru_cache(maxsize=BLOCKS)
def _block(file: RemoteFile, number: int) -> bytes:
    return _fetched(file, number)


def _fetched(file: RemoteFile, number: int) -> bytes:
    """A block as it was written; one that arrives changed is read again."""
    offset = HEAD + number * BLOCK
    try:
        for _ in range(TRIES):
            content = file.remote.get_range(file.name, offset, min(BLOCK, file.begin - offset))
            if block_holds(content, file.digests, number):
                return content
        raise DamagedError(f"{file.remote}/{file.name} has changed")
    except (DamagedError, FileNotFoundError):
        with contextlib.suppress(OSError):
            write_atomically(_mark(file.end), b"")
        raise


def _mark(end: Path) -> Path:
    return end.with_suffix(".damaged")


def _at(path: Path, size: int, offset: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def place(folder: Path) -> str:
    """The name of an entry in the bucket."""
    return f"{ACTIVATIONS}/{folder.name}"


def shared_files(remote: Remote, folder: Path) -> dict[str, int]:
    """The names of an entry's shards in the bucket, with their bytes; other files are left alone."""
    found = ((name.rpartition("/"), size) for name, size in remote.list(place(folder)))
    return {name: size for (where, _, name), size in found if where == place(folder) and NAMED.fullmatch(name)}


@dataclass(frozen=True)
class Shared:
    """The shards of an entry that are in the bucket and not in the local folder. ignored: others, with the reason."""

    shards: tuple[Shard, ...] = ()
    damaged: int = 0
    ignored: tuple[str, ...] = ()


def open_shared(remote: Remote, folder: Path, form: Form, local: Collection[str]) -> Shared:
    """Open the shards in the bucket whose names are not among the local ones; no row is read.

    Raises MachineError if the bucket cannot be read, OSError if the local folder cannot be written.
    """
    shards: list[Shard] = []
    ignored: list[str] = []
    damaged = 0
    wanted = {name: size for name, size in shared_files(remote, folder).items() if name not in local}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, found in zip(
            wanted, pool.map(lambda each: _opened(remote, folder, *each), wanted.items()), strict=True
        ):
            if isinstance(found, DamagedError):
                damaged += 1
            elif found is not None and found.form == form:
                shards.append(found)
            elif found is not None:
                ignored.append(f"{name}: it belongs to another entry")
    return Shared(tuple(shards), damaged, tuple(ignored))


def _opened(remote: Remote, folder: Path, name: str, size: int) -> Shard | DamagedError | None:
    """A shard in the bucket; None for one that is lost, or is known as damaged."""
    if _mark(folder / name).exists():
        return None
    try:
        return open_remote(remote, folder, name, size)
    except DamagedError as error:
        with contextlib.suppress(OSError):
            write_atomically(_mark(folder / name), b"")
        return error
    except FileNotFoundError:  # lost since it was listed
        return None


def open_remote(remote: Remote, folder: Path, name: str, size: int) -> Shard:
    """A shard in the bucket by its end, which is kept in the folder.

    Raises DamagedError, FileNotFoundError, MachineError, and OSError if the folder cannot be written.
    """
    path = (folder / name).with_suffix(".end")
    with contextlib.suppress(OSError, DamagedError):
        return _with_end(remote, folder / name, path, path.read_bytes(), size)
    end = _end(remote, f"{place(folder)}/{name}", size)
    check_end(end, path.stem)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, end)
    return _with_end(remote, folder / name, path, end, size)


def _end(remote: Remote, name: str, size: int) -> bytes:
    """All that follows the rows of a shard in the bucket: one reading of a small shard, two or three of a large one."""
    if size < HEAD + TAIL.size:
        raise DamagedError("not a shard")
    needed = min(size, GUESS)
    for _ in range(3):
        tail = remote.get_range(name, size - needed, needed)
        if len(tail) != needed:
            raise DamagedError("cut off")
        needed = _needed(tail, size)
        if needed <= len(tail):
            return tail[len(tail) - needed :]
    raise DamagedError("length differs from its description")


def _needed(tail: bytes, size: int) -> int:
    """The bytes of a shard's end; of its description, where not even that is known yet."""
    about = tail_bytes(tail, size)
    if about > len(tail):
        return about
    form, count, _ = described(tail[-about:], size)
    return size - end_of(form, count)[0]


def _with_end(remote: Remote, path: Path, end_file: Path, end: bytes, size: int) -> Shard:
    check_end(end, path.stem)
    form, count, about = described(end[-tail_bytes(end, size) :], size)
    begin, names_end = end_of(form, count)
    if size - begin != len(end):
        raise DamagedError("length differs from its description")
    digests = end[16 * count : names_end - begin]
    file = RemoteFile(remote, f"{place(path.parent)}/{path.name}", end_file, begin, digests)
    return Shard(path, form, count, (size, 0, 0, 0), about, file)


def is_local(shard: object) -> bool:
    """Whether all of a shard is on this machine."""
    return not (isinstance(shard, Shard) and isinstance(shard.file, RemoteFile))


def fetched(shard: Shard, cache: Cache, *, stays_open: bool = True) -> Shard:
    """The shard with all its rows in the local folder; unchanged if there is no room for it.

    Raises DamagedError, FileNotFoundError for a lost shard, MachineError.
    """
    file = shard.file
    if not isinstance(file, RemoteFile) or not make_room(cache, shard.status[0], [shard.path.parent]):
        return shard
    new: NewFile | None = None
    try:
        new = NewFile(shard.path.parent, "shard")
        new.stream.write(MAGIC.ljust(HEAD, b"\0"))
        for content in _all_blocks(file):
            new.stream.write(content)
        new.stream.write(file.end.read_bytes())
        new.finish(shard.path)
        return open_shard(shard.path, stays_open)
    except FileNotFoundError:
        raise
    except OSError:  # a full or read-only disk: its rows are read from the bucket
        return shard
    finally:
        if new is not None:
            new.abandon()


def _all_blocks(file: RemoteFile) -> Iterator[bytes]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in range(0, file.blocks, AT_ONCE):
            yield from pool.map(lambda number: _fetched(file, number), range(first, min(first + AT_ONCE, file.blocks)))


# Which caches had a bucket that took no shard, for as long as a fit has them: each try may take minutes.
_refused: weakref.WeakKeyDictionary[Cache, bool] = weakref.WeakKeyDictionary()


def send(cache: Cache, shard: Shard) -> bool:
    """Send a local shard to the bucket, and the description of its entry; False, after one line, if that fails."""
    remote, folder = cache.remote, shard.path.parent
    if remote is None or _refused.get(cache):
        return False
    try:
        remote.put(f"{place(folder)}/{shard.path.name}", shard.path)
        _describe(remote, folder)
    except (MachineError, OSError) as error:
        _refused[cache] = True
        terminal.say(
            f"{error}; new rows stay in {cache.folder}, and the next command with this store sends those that it uses"
        )
        return False
    _mark(shard.path).unlink(missing_ok=True)
    return True


def _describe(remote: Remote, folder: Path) -> None:
    """Write the description of an entry if the bucket has none."""
    name = f"{place(folder)}/{DESCRIPTION}"
    try:
        remote.get(name)
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):  # lost locally: the shards describe themselves
            remote.put(name, (folder / DESCRIPTION).read_bytes())


def send_missing(cache: Cache, shards: Sequence[Shard]) -> None:
    """Send those local shards of an entry that the bucket lacks, or has only damaged."""
    if cache.remote is None or not shards or _refused.get(cache):
        return
    there = shared_files(cache.remote, shards[0].path.parent)
    for shard in shards:
        if (shard.path.name not in there or _mark(shard.path).exists()) and not send(cache, shard):
            return


def only_shared(shard: Shard, remote: Remote) -> Shard:
    """A shard that was sent, from now on read from the bucket: its local file is removed."""
    begin = end_of(shard.form, shard.count)[0]
    write_atomically(shard.path.with_suffix(".end"), shard.file.read(shard.status[0] - begin, begin))
    left = open_remote(remote, shard.path.parent, shard.path.name, shard.status[0])
    shard.path.unlink(missing_ok=True)
    return left


@dataclass(frozen=True)
class SharedEntry:
    """An entry in the bucket. files: its shards by name, with their bytes. about: its description."""

    name: str
    files: dict[str, int]
    about: dict[str, Any]

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


def shared_entries(remote: Remote) -> list[SharedEntry]:
    """All entries in the bucket, in order of their names; raises MachineError."""
    found: dict[str, dict[str, int]] = {}
    for name, size in remote.list(ACTIVATIONS):
        folder, _, file = name.removeprefix(f"{ACTIVATIONS}/").rpartition("/")
        if "/" not in folder and folder and NAMED.fullmatch(file):
            found.setdefault(folder, {})[file] = size
    return [SharedEntry(folder, files, _description(remote, folder)) for folder, files in found.items()]


def _description(remote: Remote, folder: str) -> dict[str, Any]:
    try:
        about = json.loads(remote.get(f"{ACTIVATIONS}/{folder}/{DESCRIPTION}"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) and isinstance(about.get("shape", []), list) else {}


def check_shared(remote: Remote, entry: SharedEntry) -> Health:
    """Read every byte of an entry's shards in the bucket, and remove nothing; raises MachineError."""
    damaged, ignored, intact, size = [], [], 0, 0
    with tempfile.TemporaryDirectory(prefix="frostline-") as folder:
        for name, length in entry.files.items():
            file = Path(entry.name) / name
            try:
                shard = open_remote(remote, Path(folder) / entry.name, name, length)
                verify(shard)
            except DamagedError as error:
                damaged.append((file, str(error)))
            except FileNotFoundError:
                ignored.append((file, "it is gone"))
            else:
                if shard.form.key == entry.name.partition("-")[0]:
                    intact, size = intact + 1, size + length
                else:
                    ignored.append((file, "it belongs to another entry"))
    return Health(Path(entry.name), intact, size, tuple(damaged), tuple(ignored))
