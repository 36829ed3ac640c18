"""Images that are parts of a file somewhere: members of a tar, or whole files in a bucket.

Each is read by itself, by its place, and nothing is unpacked or copied to the disk.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from frostline.data.texts import Texts
from frostline.errors import MachineError
from frostline.remote import Remote, is_address


@dataclass(frozen=True)
class Part:
    """A part of a file: `root` and `name` make its path or URL. offset: -1 for the whole file. size: in bytes."""

    root: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return self.root + self.name

    def read(self, most: int | None = None) -> bytes:
        """Its bytes, or at most so many of the first.

        Raises OSError if this part cannot be read, MachineError if the bucket cannot.
        """
        whole = self.offset < 0
        start, size = max(self.offset, 0), most if whole else min(self.size, most or self.size)
        content = self._remote(start, size) if is_address(self.root) else self._local(start, size)
        if not whole and len(content) != size:
            raise OSError(f"{self} is shorter than it was")
        return content

    def _local(self, start: int, size: int | None) -> bytes:
        with open(self.root + self.name, "rb") as stream:  # noqa: PTH123  # a Path for each takes longer
            stream.seek(start)
            return stream.read(-1 if size is None else size)

    def _remote(self, start: int, size: int | None) -> bytes:
        bucket = Remote(self.root.rstrip("/"))
        try:
            return bucket.get(self.name) if size is None else bucket.get_range(self.name, start, size)
        except MachineError as error:
            said = error.of_one
            if not said:
                raise
        raise OSError(said)


class Parts(Sequence[Part]):
    """Many parts in a few arrays, without an object for each.

    root: what all places begin with. names: the rest of each. offsets, sizes: (N,) of int64, as in `Part`. marks: (N,)
    of int64, changes with the content of the file; 0 if that is not known.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, root: str, names: Texts, offsets: np.ndarray, sizes: np.ndarray, marks: np.ndarray) -> None:
        self.root, self.names, self.offsets, self.sizes, self.marks = root, names, offsets, sizes, marks

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, chosen: int) -> Part: ...
    @overload
    def __getitem__(self, chosen: slice | np.ndarray) -> Parts: ...
    def __getitem__(self, chosen: Any) -> Part | Parts:
        if isinstance(chosen, (slice, np.ndarray)):
            arrays = (self.offsets[chosen], self.sizes[chosen], self.marks[chosen])
            return Parts(self.root, self.names[chosen], *arrays)
        i = operator.index(chosen)
        return Part(self.root, self.names[i], int(self.offsets[i]), int(self.sizes[i]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __repr__(self) -> str:
        return f"Parts({len(self)} below {self.root})"

    def status(self) -> np.ndarray:
        """Size and mark of each, as `Digests` keeps them, (N, 3) of int64."""
        return np.stack([self.sizes, self.marks, self.marks], 1)

    @classmethod
    def joined(cls, parts: Sequence[Parts]) -> Parts:
        """Several, of one root, in one."""
        first = parts[0].names
        if all(part.names.letters is first.letters for part in parts):
            starts, ends = ([getattr(part.names, side) for part in parts] for side in ("starts", "ends"))
            names = Texts(first.letters, np.concatenate(starts), np.concatenate(ends))
        else:
            names = Texts.of(name for part in parts for name in part.names)
        arrays = [np.concatenate([getattr(part, what) for part in parts]) for what in ("offsets", "sizes", "marks")]
        return cls(parts[0].root, names, *arrays)


@dataclass(frozen=True, eq=False)
class Bucket:
    """A folder in a bucket as the root of a manifest. found: size and mark of each file; None if it was not listed."""

    url: str
    found: Mapping[str, tuple[int, int]] | None

    def __str__(self) -> str:
        return self.url

    def has(self, name: str) -> bool:
        """Whether the file is there; without a list it is taken to be."""
        return self.found is None or name in self.found

    def pictures(self, names: Texts) -> Parts:
        """The files with these names."""
        found = self.found or {}
        status = np.array([found.get(name, (0, 0)) for name in names], np.int64).reshape(-1, 2)
        return Parts(f"{self.url}/", names, np.full(len(names), -1, np.int64), status[:, 0], status[:, 1])


def mark_of(text: str) -> int:
    """A mark from what changes with a content, such as an ETag: 1 … 2⁶²; 0 for no text."""
    if not text:
        return 0
    return 1 + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") // 4
