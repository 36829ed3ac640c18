"""Shards of a bucket as they travel to another process, which may run on another machine with a folder of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from frostline.files import default_folder
from frostline.remote import Remote
from frostline.store.shard_file import DamagedError, Held, Shard, Source, open_shard, verify
from frostline.store.shards import Cache
from frostline.store.sharing import ACTIVATIONS, fetched, open_remote


def travelling(shards: Sequence[Shard | Held], remote: Remote | None) -> tuple[Shard | Held, ...]:
    """The same shards; if their store is a bucket, another process finds them wherever it runs."""
    if remote is None:
        return tuple(shards)
    return tuple(_travelling(shard, remote) if isinstance(shard, Shard) else shard for shard in shards)


def _travelling(shard: Shard, remote: Remote) -> Shard:
    return replace(shard, file=Copied(remote, shard.path, shard.status[0], shard.file))


class Copied:
    """The bytes of a shard that is in a bucket.

    Another process reads the same file if it sees it, else the copy in its own store. It fetches one when it first
    reads; without room for it, it reads from the bucket. remote: the bucket. path: of the shard on the machine that
    sends it. size: of the shard.
    """

    def __init__(self, remote: Remote, path: Path, size: int, source: Source | None = None) -> None:
        self.remote, self.path, self.size = remote, path, size
        self._source, self._lock = source, threading.Lock()

    def __reduce__(self) -> tuple[type[Copied], tuple[Remote, Path, int]]:
        return Copied, (self.remote, self.path, self.size)

    def read(self, size: int, offset: int) -> bytes:
        """Bytes at any position; raises DamagedError, FileNotFoundError for a lost shard, MachineError."""
        return self._found().read(size, offset)

    def read_into(self, content: np.ndarray, offset: int) -> None:
        """Fill an array of uint8 from a position on."""
        self._found().read_into(content, offset)

    def _found(self) -> Source:
        with self._lock:
            if self._source is None:
                self._source = _file_of(self.remote, self.path, self.size)
            return self._source


def _file_of(remote: Remote, path: Path, size: int) -> Source:
    with contextlib.suppress(OSError, DamagedError):
        return open_shard(path).file
    own = default_folder() / ACTIVATIONS / path.parent.name / path.name
    with contextlib.suppress(OSError, DamagedError):
        shard = open_shard(own)
        verify(shard)  # the process that sent it has checked its own file
        return shard.file
    return fetched(open_remote(remote, own.parent, own.name, size), Cache(default_folder(), remote=remote)).file
