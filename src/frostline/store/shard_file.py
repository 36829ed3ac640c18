"""One file of stored rows: written in one stream, never changed, read by position.

    64 bytes    FROSTROW and zeros
    rows        one after the other, numbers as in memory
    names       16 bytes per row
    digests     16 bytes per block of 4 MB of the rows
    about       JSON: key, shape and dtype of a row, their number, and what computed them
    32 bytes    the length of `about`, a digest of names, digests and `about`, FROSTROW

So a shard describes itself, and any damage is detected: the digest at the end covers the digests, which cover the
rows. A shard is created by one rename and never changed, so any number of processes may share a store.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from frostline.errors import reason
from frostline.files import NewFile

ENDING = ".shard"
NAMED = re.compile(r"[0-9a-f]{32}\.shard")
MAGIC = b"FROSTROW"
HEAD = 64
TAIL = struct.Struct("<Q16s8s")
BLOCK = 4_000_000
PIECE = 16_000_000  # bytes per read
MOST_OPEN = 128  # files per entry that stay open, so that rows outlive the removal of their store
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "uint8": torch.uint8}
Status = tuple[int, int, int, int]  # size in bytes, mtime and ctime in ns, inode


class DamagedError(Exception):
    """A shard's bytes differ from those that were written."""


@dataclass(frozen=True)
class Form:
    """The form of an entry's rows. key: of the entry. shape: of a stored row. dtype: torch's name."""

    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * torch.empty(0, dtype=DTYPES[self.dtype]).element_size()

    def rows(self, content: np.ndarray) -> Tensor:
        """Rows (B, …) from their bytes (B, row_bytes) of uint8."""
        if not content.size:
            return torch.empty((len(content), *self.shape), dtype=DTYPES[self.dtype])
        return torch.from_numpy(content).view(DTYPES[self.dtype]).view(len(content), *self.shape)


class Source(Protocol):
    """The bytes of a shard, from any place: raises DamagedError if there are fewer than asked for."""

    def read(self, size: int, offset: int) -> bytes: ...


class _File:
    """A file to read at any position, from several threads; another process opens its own."""

    def __init__(self, path: Path, stays_open: bool = True) -> None:
        self.path, self.descriptor = path, -1
        if stays_open and hasattr(os, "pread"):
            self.descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self.descriptor)

    def __reduce__(self) -> tuple[type[_File], tuple[Path]]:
        return _File, (self.path,)

    def read(self, size: int, offset: int) -> bytes:
        if self.descriptor >= 0:
            content = os.pread(self.descriptor, size, offset)
        else:
            with self.path.open("rb") as stream:
                stream.seek(offset)
                content = stream.read(size)
        if len(content) != size:
            raise DamagedError("too short")
        return content


@dataclass(frozen=True)
class Shard:
    """Stored rows. about: their entry, number and provenance. status: of the file when it was opened."""

    path: Path
    form: Form
    count: int
    status: Status
    about: dict[str, Any] = field(compare=False, repr=False)
    file: Source = field(compare=False, repr=False)

    def __hash__(self) -> int:
        return hash((self.path, self.status))

    def __len__(self) -> int:
        return self.count

    @property
    def provenance(self) -> str:
        """The provenance of the rows, as text: engine, precision, device, versions."""
        return json.dumps(self.about.get("provenance"), sort_keys=True)

    def names(self) -> np.ndarray:
        """The names (n, 16) of uint8 of all rows."""
        offset = HEAD + self.count * self.form.row_bytes
        return np.frombuffer(self.file.read(16 * self.count, offset), np.uint8).reshape(-1, 16)

    def read(self, numbers: np.ndarray) -> Tensor:
        """Rows (B, …) by their numbers (B,) of int64: read in file order, neighbours in one read."""
        size = self.form.row_bytes
        content = np.empty((len(numbers), size), np.uint8)
        order = np.argsort(numbers, kind="stable")
        for part in _runs(numbers[order], max(1, PIECE // max(1, size))):
            start, count = int(numbers[order[part.start]]), part.stop - part.start
            piece = np.frombuffer(self.file.read(count * size, HEAD + start * size), np.uint8)
            content[order[part]] = piece.reshape(count, size)
        return self.form.rows(content)


@dataclass(frozen=True)
class Held:
    """Rows in memory instead of a file, with the interface of a shard."""

    rows: Tensor
    provenance: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, numbers: np.ndarray) -> Tensor:
        return self.rows[torch.from_numpy(numbers)]


def _runs(ordered: np.ndarray, most: int) -> Iterator[slice]:
    """Runs of consecutive numbers, none longer than `most`."""
    start = 0
    for end in [*(np.flatnonzero(np.diff(ordered) != 1) + 1).tolist(), len(ordered)]:
        for begin in range(start, end, most):
            yield slice(begin, min(end, begin + most))
        start = end


class ShardWriter:
    """A growing shard, in a temporary file until it is complete.

    Raises OSError (a full disk, no permission) wherever bytes are written.
    """

    def __init__(self, folder: Path, form: Form, provenance: dict[str, Any], sketch: list[float]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.form, self.started = folder, form, time.monotonic()
        self.about: dict[str, Any] = {"key": form.key, "shape": list(form.shape), "dtype": form.dtype}
        self.about |= {"provenance": provenance, "sketch": sketch}
        self.count = 0
        self._names: list[bytes] = []
        self._digests: list[bytes] = []
        self._block, self._room = hashlib.blake2b(digest_size=16), BLOCK
        self._file = NewFile(folder, "shard")
        self._file.stream.write(MAGIC.ljust(HEAD, b"\0"))

    @property
    def bytes(self) -> int:
        return self.count * self.form.row_bytes

    def add(self, rows: Tensor, names: np.ndarray) -> None:
        """Append rows (B, …) with their names (B, 16) of uint8."""
        if tuple(rows.shape[1:]) != self.form.shape or rows.dtype != DTYPES[self.form.dtype]:
            raise ValueError(f"rows {tuple(rows.shape)} of {rows.dtype}; this store has {self.form}")
        rest = memoryview(b"")
        if rows.numel():
            rest = rows.contiguous().view(-1).view(torch.uint8).numpy().data
        self._file.stream.write(rest)
        while len(rest):
            piece, rest = rest[: self._room], rest[self._room :]
            self._block.update(piece)
            self._room -= len(piece)
            if not self._room:
                self._end_block()
        self._names.append(names.tobytes())
        self.count += len(rows)

    def _end_block(self) -> None:
        self._digests.append(self._block.digest())
        self._block, self._room = hashlib.blake2b(digest_size=16), BLOCK

    def close(self) -> Shard:
        """Turn it into a shard, durably and atomically."""
        if self._room < BLOCK:
            self._end_block()
        about = json.dumps({**self.about, "count": self.count}).encode()
        end = b"".join(self._names) + b"".join(self._digests) + about
        digest = hashlib.blake2b(end, digest_size=16)
        path = self.folder / f"{digest.hexdigest()}{ENDING}"
        try:
            self._file.stream.write(end + TAIL.pack(len(about), digest.digest(), MAGIC))
            self._file.finish(path)
        except BaseException:
            self.abandon()
            raise
        return open_shard(path)

    def abandon(self) -> None:
        """Remove the temporary file."""
        self._file.abandon()


def status_of(path: Path) -> Status:
    """A status that changes with the file; raises OSError, also for anything but a regular file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def open_shard(path: Path, stays_open: bool = True) -> Shard:
    """Open a shard by its own description, without checking its rows.

    Raises DamagedError if the description is inconsistent, OSError if the file cannot be read.
    """
    status = status_of(path)
    file = _File(path, stays_open)
    if status[0] < HEAD + TAIL.size or file.read(HEAD, 0) != MAGIC.ljust(HEAD, b"\0"):
        raise DamagedError("not a shard")
    needed = tail_bytes(file.read(TAIL.size, status[0] - TAIL.size), status[0])
    form, count, about = described(file.read(needed, status[0] - needed), status[0])
    return Shard(path, form, count, status, about, file)


def tail_bytes(tail: bytes, size: int) -> int:
    """The number of bytes at the end of a shard that describe it. tail: its last bytes. size: of the whole shard.

    Raises DamagedError if it does not end as a shard does.
    """
    length, _, magic = TAIL.unpack(tail[-TAIL.size :])
    if magic != MAGIC or length > size - HEAD - TAIL.size:
        raise DamagedError("cut off")
    return int(length) + TAIL.size


def described(tail: bytes, size: int) -> tuple[Form, int, dict[str, Any]]:
    """The form and number of a shard's rows, and all that it says about itself, from its last `tail_bytes`.

    Raises DamagedError if the description is inconsistent.
    """
    try:
        about = json.loads(tail[: -TAIL.size])
        form, count = Form(about["key"], tuple(about["shape"]), about["dtype"]), int(about["count"])
        expected = end_of(form, count)[1] + len(tail)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"unreadable description ({reason(error)})") from None
    if expected != size:
        raise DamagedError("length differs from its description")
    return form, count, about


def end_of(form: Form, count: int) -> tuple[int, int]:
    """The offsets of a shard's names and of its description."""
    begin = HEAD + count * form.row_bytes
    return begin, begin + 16 * count + 16 * -(-count * form.row_bytes // BLOCK)


def verify(shard: Shard) -> None:
    """Read every byte; raises DamagedError if any byte has changed, OSError if the file cannot be read."""
    begin, about = end_of(shard.form, shard.count)
    end = shard.file.read(shard.status[0] - begin, begin)
    check_end(end, shard.path.stem)
    digests = end[16 * shard.count : about - begin]

    def holds(block: int) -> bool:
        offset = HEAD + block * BLOCK
        content = shard.file.read(min(BLOCK, begin - offset), offset)
        return block_holds(content, digests, block)

    with ThreadPoolExecutor(4) as pool:
        if not all(pool.map(holds, range(len(digests) // 16))):
            raise DamagedError("rows changed")


def check_end(end: bytes, name: str) -> None:
    """Check all that follows a shard's rows against its own digest and the name of its file (without `.shard`).

    Raises DamagedError.
    """
    digest = hashlib.blake2b(end[: -TAIL.size], digest_size=16).digest()
    if digest != TAIL.unpack(end[-TAIL.size :])[1] or digest.hex() != name:
        raise DamagedError("names or digests changed")


def block_holds(content: bytes, digests: bytes, block: int) -> bool:
    """Whether the bytes of a block are those that were written. digests: of all blocks, one after the other."""
    return hashlib.blake2b(content, digest_size=16).digest() == digests[16 * block : 16 * block + 16]
