"""What stands for the content of a picture: 16 bytes, the same wherever and under whatever name it lies.

Files are read for it once. A store remembers what they gave, as long as their size and times stay the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from frostline.data.decoding import Item, Picture, open_image
from frostline.errors import reason

MEMORY = "digests.sqlite"  # in the folder of a store
SETTLED = 2_000_000_000  # ns that a file must have lain still: a clock may be too coarse to show a second change
TABLE = """CREATE TABLE IF NOT EXISTS digests (
    folder BLOB, name BLOB, size INTEGER, modified INTEGER, changed INTEGER, digest BLOB, PRIMARY KEY (folder, name)
) WITHOUT ROWID"""

File = tuple[bytes, bytes, int, int, int]  # folder, name, size in bytes, times of content and status in ns


def digest(picture: Picture) -> bytes:
    """16 bytes that stand for the content of a picture."""
    return _digest(picture)[0]


def _digest(picture: Picture) -> tuple[bytes, bool]:
    """The digest, and whether the picture could be read for it."""
    try:
        if isinstance(picture, Item):  # its pixels as they are used: palettes, EXIF and transparency decide them too
            picture = np.asarray(open_image(picture))
        if isinstance(picture, np.ndarray):
            head = f"{picture.shape}{picture.dtype}".encode()
            return _short(head + np.ascontiguousarray(picture).tobytes()), True
        if not stat.S_ISREG(picture.stat().st_mode):  # reading a pipe would never end
            raise OSError("not a regular file")
        return _short(picture.read_bytes()), True
    except Exception as error:  # whatever it is, decoding will meet it again and tell it
        where = (id(picture.source), picture.index, picture.field) if isinstance(picture, Item) else picture
        return _short(f"unreadable {where} {reason(error)}".encode("utf-8", "surrogateescape")), False


def _short(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def digests(pictures: Sequence[Picture], store: Path | None = None) -> list[bytes]:
    """`digest` of each picture. store: a folder that remembers those of files, if it can."""
    files = [_file(picture) for picture in pictures] if store else [None] * len(pictures)
    known = _recall(store / MEMORY, {file[0] for file in files if file}) if store else {}
    result = [known.get(file, b"") if file else b"" for file in files]
    unknown = [i for i, found in enumerate(result) if not found]
    settled, learned = time.time_ns() - SETTLED, []
    with ThreadPoolExecutor() as pool:
        for i, (found, good) in zip(unknown, pool.map(_digest, [pictures[i] for i in unknown]), strict=True):
            result[i], file = found, files[i]
            if good and file and max(file[3:]) < settled:
                learned.append((*file, found))
    if store and learned:
        _remember(store / MEMORY, learned)
    return result


def _file(picture: Picture) -> File | None:
    """What tells whether a file is still the same; None for what is no file."""
    if not isinstance(picture, Path):
        return None
    try:
        status = picture.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    folder, _, name = str(picture.absolute()).rpartition(os.sep)
    return os.fsencode(folder), os.fsencode(name), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _recall(memory: Path, folders: Collection[bytes]) -> dict[File, bytes]:
    """All that is remembered of files in these folders; nothing where the memory is missing or unusable."""
    known: dict[File, bytes] = {}
    if memory.is_file():
        with contextlib.suppress(sqlite3.Error), _opened(memory) as rows:
            for folder in folders:
                for row in rows.execute("SELECT * FROM digests WHERE folder = ?", [folder]):
                    known[row[:5]] = row[5]
    return known


def _remember(memory: Path, learned: Sequence[tuple[bytes | int, ...]]) -> None:
    """Keep it for the next run; on a full or read-only disk that run reads the files again."""
    with contextlib.suppress(sqlite3.Error, OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with _opened(memory) as rows, rows:
            rows.execute(TABLE)
            rows.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?)", learned)


@contextlib.contextmanager
def _opened(memory: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(memory, timeout=10)
    try:
        yield connection
    finally:
        connection.close()
