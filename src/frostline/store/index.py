"""Finding rows by name: the names of all shards of an entry, sorted, in two flat arrays.

Ten million rows take 240 MB and about a second. The index is never written to disk: it is built from the shards' blocks
of names, so it cannot be stale, and a killed process cannot damage it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from frostline.store.shard_file import Shard

PIECE = 1_000_000


@dataclass(frozen=True, eq=False)
class Index:
    """The names of all rows, found by binary search.

    names: (N, 2) of uint64, in the order of the rows. sorted: (N,) of uint64, for each row the first bits of its name
    and, in the last `bits` bits, its row number: sorting this is several times as fast as sorting row numbers.
    """

    names: np.ndarray
    sorted: np.ndarray
    bits: int

    def __len__(self) -> int:
        return len(self.names)

    def find(self, names: np.ndarray) -> np.ndarray:
        """The row numbers (M,) of int64 of names (M, 16) of uint8, -1 for missing ones."""
        requested = np.ascontiguousarray(names).view(np.uint64).reshape(-1, 2)
        found = np.full(len(requested), -1, np.int64)
        last = np.uint64((1 << self.bits) - 1)
        first = requested[:, 0] & ~last
        order = np.argsort(first)  # binary search is faster in order
        place = np.empty(len(requested), np.int64)
        place[order] = np.searchsorted(self.sorted, first[order])
        left = np.flatnonzero(place < len(self))
        while len(left):  # one round, except for the few names with the same first bits
            candidates = self.sorted[place[left]]
            alike = (candidates & ~last) == first[left]
            left, rows = left[alike], (candidates[alike] & last).astype(np.int64)
            hit = (self.names[rows] == requested[left]).all(1)
            found[left[hit]] = rows[hit]
            left = left[~hit]
            place[left] += 1
            left = left[place[left] < len(self)]
        return found


def index_names(names: np.ndarray) -> Index:
    """The index of names (N, 16) of uint8."""
    words = names.view(np.uint64).reshape(-1, 2)
    bits = max(1, len(words).bit_length())
    packed = words[:, 0] & ~np.uint64((1 << bits) - 1)
    for start in range(0, len(words), PIECE):  # the numbers of ten million rows at once would take 80 MB more
        part = packed[start : start + PIECE]
        part |= np.arange(start, start + len(part), dtype=np.uint64)
    packed.sort()
    return Index(words, packed, bits)


@functools.lru_cache(maxsize=2)  # several phases and splits use the same
def index_of(shards: tuple[Shard, ...]) -> Index:
    """The index of the rows of some shards, one shard after the other."""
    names = np.empty((sum(len(shard) for shard in shards), 16), np.uint8)
    start = 0
    for shard in shards:
        names[start : start + len(shard)] = shard.names()
        start += len(shard)
    return index_names(names)
