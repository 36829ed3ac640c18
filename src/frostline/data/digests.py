"""Digests: 16 bytes that identify the content of a picture, whatever its name and folder.

A file is read once, for its digest and for decoding. A store remembers the digest as long as the size and times of the
file stay the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from frostline.data.decoding import Item, Picture, open_image
from frostline.data.parts import Part, Parts
from frostline.data.texts import Paths
from frostline.errors import MachineError, reason

BYTES = 16
MEMORY = "digests.sqlite"  # in the folder of a store
SETTLED = 2_000_000_000  # ns that a file must be unchanged: a coarse clock may not show a second change
TASK = 256  # pictures per task of a thread
BLOCK = 10_000  # files per transaction
TABLE = """CREATE TABLE IF NOT EXISTS digests (
    folder BLOB, name BLOB, size INTEGER, modified INTEGER, changed INTEGER, digest BLOB, PRIMARY KEY (folder, name)
) WITHOUT ROWID"""


class Digests(Sequence[bytes]):
    """The digests of some pictures; each is computed on first access.

    values: (N, 16) of uint8. known: (N,) of bool. status: size and times (N, 3) of the files when they were first
    asked for, else zeros. learned: (N,) of bool, the digests computed since.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        pictures: Sequence[Picture],
        values: np.ndarray,
        known: np.ndarray,
        status: np.ndarray,
        learned: np.ndarray,
    ) -> None:
        self.pictures = pictures
        self.values, self.known, self.status, self.learned = values, known, status, learned
        self.recalled: Path | None = None

    @classmethod
    def of(cls, pictures: Sequence[Picture]) -> Digests:
        count = len(pictures)
        status = np.zeros((count if isinstance(pictures, Paths) else 0, 3), np.int64)
        status = pictures.status() if isinstance(pictures, Parts) else status
        return cls(pictures, np.zeros((count, BYTES), np.uint8), np.zeros(count, bool), status, np.zeros(count, bool))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chosen: int) -> bytes:  # type: ignore[override]  # of one picture; `take` gives several
        i = operator.index(chosen)
        if not self.known[i]:
            self.read(i)
        found: bytes = self.values[i].tobytes()
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def take(self, pictures: Sequence[Picture], numbers: np.ndarray) -> Digests:
        """The digests of some of the pictures."""
        status = self.status[numbers] if len(self.status) else self.status
        taken = Digests(pictures, self.values[numbers], self.known[numbers], status, self.learned[numbers])
        taken.recalled = self.recalled
        return taken

    @classmethod
    def joined(cls, pictures: Sequence[Picture], parts: Sequence[Digests]) -> Digests:
        """The digests of several sequences of pictures, concatenated; known digests stay known."""
        together = cls.of(pictures)
        for name in ("values", "known", "learned", *(["status"] if isinstance(pictures, (Paths, Parts)) else [])):
            setattr(together, name, np.concatenate([getattr(part, name) for part in parts]))
        return together

    def read(self, number: int) -> tuple[Picture, bytes]:
        """The content of one picture and its digest; an unreadable file stays a path."""
        content, found, good = _read(self.pictures[number])
        self.values[number] = np.frombuffer(found, np.uint8)
        self.known[number] = True
        self.learned[number] = good
        return content, found

    def read_again(self, number: int) -> tuple[Picture, bool]:
        """The current content of one picture, and whether it still matches its digest."""
        content, now, good = _read(self.pictures[number])
        return content, not good or now == self.values[number].tobytes()

    def forget_changed(self) -> None:
        """Forget the digests of files whose size or times have changed; a deleted file keeps its digest."""
        if isinstance(self.pictures, Parts):  # the bucket was listed when they were read
            return
        numbers = np.flatnonzero(self.known[: len(self.status)] & (self.status[:, 1] > 0)) if len(self.status) else ()
        for i in numbers:
            self.known[i] = _status(str(self.pictures[int(i)])) in (None, tuple(self.status[i].tolist()))
        self.status[~self.known[: len(self.status)]] = 0  # those are asked again before a store is believed
        self.recalled = None

    def all(self, store: Path | None = None) -> np.ndarray:
        """The digests (N, 16) of uint8 of all pictures; reads missing ones. store: remembers the digests of files."""
        self._read_missing(np.ones(len(self), bool), store)
        return self.values

    def contents(self, store: Path | None = None) -> np.ndarray:
        """The number of the content of each picture, (N,): copies, byte for byte, have the same number.

        A file of a size that no other file has is not read, and files without content are no copies. In a bucket copies
        are told by its own tag of their content. store: remembers the digests of files.
        """
        maybe = np.ones(len(self), bool)
        if isinstance(self.pictures, Parts) and (self.pictures.offsets < 0).all():
            return self._contents_by_tag()
        if isinstance(self.pictures, (Paths, Parts)):
            if store is not None:
                self.recall(store)
            sizes = self.sizes()
            _, size, counts = np.unique(sizes, return_inverse=True, return_counts=True)
            maybe = (counts[size] > 1) & (sizes > 0)
        self._read_missing(maybe, store)
        contents = np.arange(len(self))
        _, first, number = np.unique(self.values[maybe], axis=0, return_index=True, return_inverse=True)
        contents[maybe] = np.flatnonzero(maybe)[first[number.ravel()]]
        return contents

    def _contents_by_tag(self) -> np.ndarray:
        status, count = self.status, len(self)
        alone = np.where(status[:, 1] > 0, 0, np.arange(1, count + 1))  # without a tag each is its own
        _, first, number = np.unique(
            np.column_stack([status[:, :2], alone]), axis=0, return_index=True, return_inverse=True
        )
        contents: np.ndarray = first[number.ravel()]
        return contents

    def sizes(self) -> np.ndarray:
        """The size of each file in bytes, (N,) of int64; 0 for files that are not there. Each file is asked once."""
        for i in () if isinstance(self.pictures, Parts) else np.flatnonzero(self.status[:, 1] == 0).tolist():
            self.status[i] = _status(self.pictures.root + self.pictures.names[i]) or 0  # type: ignore[attr-defined]
        return self.status[:, 0].copy()

    def _read_missing(self, wanted: np.ndarray, store: Path | None) -> None:
        if store is not None:
            self.recall(store)
        unknown = np.flatnonzero(wanted & ~self.known)

        def work(task: np.ndarray) -> None:
            for number in task.tolist():
                self.read(number)

        with ThreadPoolExecutor() as pool:
            list(pool.map(work, np.array_split(unknown, max(1, -(-len(unknown) // TASK)))))
        if store is not None:
            self.remember(store)

    def recall(self, store: Path) -> None:
        """Load the digests that a store remembers for files with the same size and times."""
        if self.recalled == store or not isinstance(self.pictures, (Paths, Parts)):
            return
        self.recalled = store
        folders: dict[str, int] = {}
        split = _split(self.pictures)
        inside = np.fromiter((folders.setdefault(folder, len(folders)) for folder, _ in split), np.int64)
        order = np.argsort(inside, kind="stable")
        ends = np.cumsum(np.bincount(inside, minlength=len(folders)))
        with _opened(store / MEMORY) if (store / MEMORY).is_file() else contextlib.nullcontext() as table:
            for folder, start, end in zip(folders, [0, *ends], ends, strict=False):
                self._recall_folder(table, folder, order[start:end])

    def _recall_folder(self, table: sqlite3.Connection | None, folder: str, numbers: np.ndarray) -> None:
        remembered: dict[bytes, tuple[int, int, int, bytes]] = {}
        if table is not None:
            with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):  # of a damaged file's own error message
                query = "SELECT name, size, modified, changed, digest FROM digests WHERE folder = ?"
                remembered = {record[0]: record[1:] for record in table.execute(query, [os.fsencode(folder)])}
        assert isinstance(self.pictures, (Paths, Parts))  # noqa: S101
        for i, (_, name) in zip(numbers.tolist(), _split(self.pictures[numbers]), strict=True):
            if not self.status[i, 1] and isinstance(self.pictures, Paths):
                self.status[i] = _status(f"{folder}{os.sep}{name}") or 0
            if not self.status[i, 1]:
                continue
            status = tuple(self.status[i].tolist())
            entry = remembered.get(os.fsencode(name))
            if entry is None or self.known[i] or entry[:3] != status or not isinstance(entry[3], bytes):
                continue
            if entry[3] == _sealed(entry[3][:BYTES], status):
                self.values[i] = np.frombuffer(entry[3], np.uint8, BYTES)
                self.known[i] = True

    def remember(self, store: Path) -> None:
        """Save new digests for the next run; if the disk is full or read-only, that run reads the files again."""
        if not len(self.status):
            return
        settled = time.time_ns() - SETTLED if isinstance(self.pictures, Paths) else np.iinfo(np.int64).max
        times = self.status[:, 1:].max(1)
        numbers = np.flatnonzero(self.learned & (times > 0) & (times < settled))
        self.learned[:] = False
        with contextlib.suppress(sqlite3.Error, OSError, UnicodeDecodeError):
            for block in np.array_split(numbers, -(-len(numbers) // BLOCK)) if len(numbers) else ():
                _write(store / MEMORY, self._records(block))

    def _records(self, numbers: np.ndarray) -> Iterator[tuple[bytes | int, ...]]:
        for i in numbers.tolist():
            folder, name = next(_split(self.pictures[i : i + 1]))  # type: ignore[arg-type]
            status = tuple(self.status[i].tolist())
            yield os.fsencode(folder), os.fsencode(name), *status, _sealed(self.values[i].tobytes(), status)


def digest(picture: Picture) -> bytes:
    """16 bytes that identify the content of a picture."""
    return _read(picture)[1]


def _read(picture: Picture) -> tuple[Picture, bytes, bool]:
    """The content of a picture, its digest, and whether it could be read."""
    try:
        if isinstance(picture, Item):  # its pixels as they are used: palettes, EXIF and transparency decide them too
            pixels = np.asarray(open_image(picture))
            return pixels, _of_array(pixels), True
        if isinstance(picture, np.ndarray):
            return picture, _of_array(picture), True
        if isinstance(picture, bytes):
            return picture, _short(picture), True
        if isinstance(picture, Part):
            content = picture.read()
            return content, _short(content), True
        if not stat.S_ISREG(picture.stat().st_mode):  # reading a pipe would never end
            raise OSError("not a regular file")
        content = picture.read_bytes()
        return content, _short(content), True
    except MachineError:
        raise
    except Exception as error:  # decoding will meet the same error and report it
        where = (id(picture.source), picture.index, picture.field) if isinstance(picture, Item) else picture
        return picture, _short(f"unreadable {where!s} {reason(error)}".encode("utf-8", "surrogateescape")), False


def _of_array(pixels: np.ndarray) -> bytes:
    head = f"{pixels.shape}{pixels.dtype}".encode()
    return _short(head + np.ascontiguousarray(pixels).tobytes())


def _short(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=BYTES).digest()


def _sealed(digest: bytes, status: tuple[int, ...]) -> bytes:
    """A digest with a checksum of four bytes, which shows a damaged record."""
    return digest + hashlib.blake2b(digest + repr(status).encode(), digest_size=4).digest()


def _split(paths: Paths | Parts) -> Iterator[tuple[str, str]]:
    """The absolute folder and the name of each file; for parts the place of their file, and where they begin in it."""
    if isinstance(paths, Parts):
        for name, offset in zip(paths.names, paths.offsets.tolist(), strict=True):
            folder, _, last = (paths.root + name).rpartition("/")
            yield (folder, last) if offset < 0 else (paths.root + name, str(offset))
        return
    for name in paths.names:
        path = paths.root + name
        if not path.startswith(os.sep) or ".." in path:  # what is absolute already is so quickly
            path = os.path.abspath(path)  # noqa: PTH100  # pathlib keeps ".."
        folder, _, last = path.rpartition(os.sep)
        yield folder, last


def _status(file: str) -> tuple[int, int, int] | None:
    """Size and times of a file, which show a change; None if it is not a regular file."""
    try:
        status = os.stat(file)  # noqa: PTH116  # a Path for each takes twice as long
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if stat.S_ISREG(status.st_mode) else None


def _write(memory: Path, records: Iterator[tuple[bytes | int, ...]]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    with _opened(memory) as table, table:
        table.execute(TABLE)
        table.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?)", records)


@contextlib.contextmanager
def _opened(memory: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(memory, timeout=10)
    try:
        yield connection
    finally:
        connection.close()
