"""Many strings or paths in a few arrays: a million take the memory of their letters, without an object for each."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

ERRORS = "surrogatepass"  # every string survives the round trip, also file names that are not UTF-8


class Texts(Sequence[str]):
    """A sequence of strings, kept as one piece of bytes with the start and end of each string.

        names = Texts.of(["a.jpg", "b.jpg", "c.jpg"])
        names[1], names[np.array([2, 0])]

    A number gives a string; a slice or an array of numbers gives Texts, without copying letters. Equal to any sequence
    of the same strings.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, letters: bytes, starts: np.ndarray, ends: np.ndarray) -> None:
        self.letters, self.starts, self.ends = letters, starts, ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> Texts:
        """Those strings."""
        if isinstance(strings, Texts):
            return strings
        encoded = [text.encode("utf-8", ERRORS) for text in strings]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        return cls(b"".join(encoded), np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)], ends)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, chosen: int) -> str: ...
    @overload
    def __getitem__(self, chosen: slice | np.ndarray) -> Texts: ...
    def __getitem__(self, chosen: Any) -> str | Texts:
        if isinstance(chosen, (slice, np.ndarray)):
            return Texts(self.letters, self.starts[chosen], self.ends[chosen])
        i = operator.index(chosen)
        return self.letters[self.starts[i] : self.ends[i]].decode("utf-8", ERRORS)

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def __repr__(self) -> str:
        return _shown(self)

    @property
    def nbytes(self) -> int:
        """Memory used, in bytes."""
        return len(self.letters) + self.starts.nbytes + self.ends.nbytes


class Paths(Sequence[Path]):
    """A sequence of paths: their common folder once, and the rest of each as `Texts`.

        files = Paths.of(Path("photos").glob("*.jpg"))
        files[0], files[:10]

    A number gives a Path; a slice or an array of numbers gives Paths. Equal to any sequence of the same paths.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, root: str, names: Texts) -> None:
        self.root, self.names = root, names

    @classmethod
    def of(cls, paths: Iterable[Path | str]) -> Paths:
        """Those paths."""
        if isinstance(paths, Paths):
            return paths
        strings = [str(path) for path in paths]
        root = _common(min(strings, default=""), max(strings, default=""))
        return cls(root, Texts.of(text[len(root) :] for text in strings))

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, chosen: int) -> Path: ...
    @overload
    def __getitem__(self, chosen: slice | np.ndarray) -> Paths: ...
    def __getitem__(self, chosen: Any) -> Path | Paths:
        if isinstance(chosen, (slice, np.ndarray)):
            return Paths(self.root, self.names[chosen])
        return Path(self.root + self.names[operator.index(chosen)])

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def __repr__(self) -> str:
        return _shown(self)


def _common(first: str, last: str) -> str:
    """The common folder of the first and the last of sorted paths, and so of all between them."""
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(os.sep, 0, same) + 1]


def _equal(own: Sequence[Any], other: object) -> bool:
    if not isinstance(other, Sequence) or isinstance(other, (str, bytes)) or len(own) != len(other):
        return False
    return all(a == b for a, b in zip(own, other, strict=True))


def _shown(own: Sequence[Any]) -> str:
    return f"{type(own).__name__}({', '.join(repr(own[i]) for i in range(min(3, len(own))))}{', …' * (len(own) > 3)})"
