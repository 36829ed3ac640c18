"""Rows by number, from any source: float32 on the processor, (B,) of int64 -> (B, …), maps (B, C, H, W).

Stored rows and rows in memory may be sent to another process, as a DataLoader with workers does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from frostline.data.images import Images
from frostline.data.pictures import all_views
from frostline.data.targets import MaskTargets, TargetReader
from frostline.engines.choice import Engine, alone
from frostline.engines.pipeline import computed
from frostline.errors import DataError, WeightsError, reason
from frostline.machine import threads_kept
from frostline.preprocessing import Preprocessing, normalised
from frostline.store.rows import Rows
from frostline.store.shard_file import PIECE, DamagedError, Form, Held, Shard

TENSOR_BYTES = 256_000_000  # maximum size of a split's rows that are one tensor in memory


class Reader(Protocol):
    """A function from row numbers to rows, in any order, from any thread."""

    def __call__(self, numbers: Tensor, /) -> Tensor: ...


def prepared(rows: Tensor, pixels: Preprocessing | None) -> Tensor:
    """From stored rows to inputs of the upper part. pixels: the normalisation of pictures, None for activations."""
    if pixels is not None:
        return normalised(rows.movedim(-1, 1), pixels)
    return (rows.movedim(-1, 1) if rows.ndim == 4 else rows).float()


class StoredRows:
    """Rows from shards; if they are few, the first access reads them into one tensor.

    places: (N,) of int64, the number of each row in all shards, one after the other.
    """

    def __init__(
        self, shards: Sequence[Shard | Held], places: np.ndarray, form: Form, pixels: Preprocessing | None
    ) -> None:
        self.shards, self.places, self.form, self.pixels = tuple(shards), places, form, pixels
        self._whole: Tensor | None = None
        self._lock = threading.Lock()

    def __call__(self, numbers: Tensor) -> Tensor:
        if self._whole is None and self.few:
            with self._lock:
                if self._whole is None:
                    self._whole = self._read(self.places)
                    self.shards = ()
        rows = self._read(self.places[numbers.numpy()]) if self._whole is None else self._whole[numbers]
        return prepared(rows, self.pixels)

    @property
    def few(self) -> bool:
        """Whether the rows are small enough for one tensor in memory."""
        return len(self.places) * self.form.row_bytes <= TENSOR_BYTES

    def once(self, numbers: Tensor) -> Tensor:
        """The rows, for a single pass over all of them: nothing is kept in memory."""
        if self._whole is not None:
            return self(numbers)
        return prepared(self._read(self.places[numbers.numpy()]), self.pixels)

    def _read(self, places: np.ndarray) -> Tensor:
        """The rows at some places; each shard is read in file order and in pieces."""
        starts = np.cumsum([0, *map(len, self.shards)])
        if self.shards and len(places):
            first = int(np.searchsorted(starts, places[0], side="right")) - 1
            if starts[first] <= places.min() and places.max() < starts[first + 1]:
                return _rows_of(self.shards[first], places - starts[first])
        shard_of = np.searchsorted(starts, places, side="right") - 1
        result = self.form.rows(np.empty((len(places), self.form.row_bytes), np.uint8))
        for number in np.unique(shard_of).tolist():
            here = np.flatnonzero(shard_of == number)
            here = here[np.argsort(places[here])]
            for part in np.array_split(here, max(1, len(here) * self.form.row_bytes // PIECE)):
                result[torch.from_numpy(part)] = _rows_of(self.shards[number], places[part] - starts[number])
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def bring(reader: Reader) -> None:
    """Read a row of each shard, so that those that are on another machine are fetched now, and not within a step."""
    while isinstance(reader, SomeRows):
        reader = reader.base
    if isinstance(reader, StoredRows):
        for shard in reader.shards:
            _rows_of(shard, np.zeros(min(1, len(shard)), np.int64))


def _rows_of(shard: Shard | Held, numbers: np.ndarray) -> Tensor:
    try:
        return shard.read(numbers)
    except (DamagedError, FileNotFoundError) as error:
        raise WeightsError(
            f"stored activations were lost or damaged meanwhile ({reason(error)}); run the command again, which "
            "computes them anew (a fit with --resume)"
        ) from None


@dataclass(frozen=True, eq=False)
class HeldRows:
    """Inputs of the upper part, all in one tensor."""

    rows: Tensor

    def __call__(self, numbers: Tensor) -> Tensor:
        return self.rows[numbers]


@dataclass(frozen=True, eq=False)
class SomeRows:
    """A selection of other rows, or of their targets. numbers: the number of each in the others."""

    base: Reader
    numbers: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        return self.base(self.numbers[rows])


@dataclass(frozen=True, eq=False)
class RowsAbove:
    """The outputs of the part between two cuts for the rows at the lower one, recomputed on each access."""

    base: Reader
    run: Callable[[Tensor], Tensor]

    def __call__(self, numbers: Tensor) -> Tensor:
        return self.run(self.base(numbers)).cpu()

    def __reduce__(self) -> NoReturn:
        raise TypeError(STAYS)


@dataclass(frozen=True, eq=False)
class ComputedRows:
    """Rows that are recomputed from the images on each access.

    Raises DataError if an image can no longer be read, or is another one than it was when it was first read.
    """

    rows: Rows
    images: Images
    engine: Engine = field(repr=False)

    def __call__(self, numbers: Tensor) -> Tensor:
        rows, count = self.rows, self.rows.views.count
        requested: dict[int, list[int]] = {}
        for number in dict.fromkeys(numbers.tolist()):
            requested.setdefault(number // count, []).append(number % count)
        found: dict[int, Tensor] = {}
        steps = computed(self.images, requested, rows.views, rows.preprocessing, self.engine, rows.machine, all_views)
        for samples, _, outputs, failed in steps:
            if failed:
                image, why = next(iter(failed.items()))
                raise DataError(f"{self.images.names[image]} can no longer be read: {why}; put it back, or use a store")
            found |= {image * count + view: row for (image, view), row in zip(samples, outputs[0], strict=True)}
        return prepared(torch.stack([found[number] for number in numbers.tolist()]), rows.pixels)

    def __reduce__(self) -> NoReturn:
        raise TypeError(STAYS)


def read_ahead(
    fetch: Reader, targets: TargetReader, batches: Iterable[Tensor], part: Callable[[Tensor], Tensor] | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each batch of row numbers (B,) the numbers, rows and targets; slow rows are read one batch ahead.

    part: those numbers of a batch whose rows are read; by default all.
    """

    def read(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rows, fetch(rows if part is None else part(rows)), targets(rows)

    small = isinstance(fetch, HeldRows) or (isinstance(fetch, StoredRows) and fetch.few)
    if small and not isinstance(targets, MaskTargets):
        yield from map(read, batches)
        return
    # With as many threads as the training, waiting threads would slow it down: 1.26 times as long per epoch.
    with threads_kept(), ThreadPoolExecutor(1, initializer=alone) as reader:
        coming: deque[Future[tuple[Tensor, Tensor, Tensor]]] = deque()
        for rows in batches:
            coming.append(reader.submit(read, rows))
            if len(coming) > 1:
                yield coming.popleft().result()
        for last in coming:
            yield last.result()


STAYS = "recomputed rows cannot be sent to another process; for workers use a store, or `.in_memory()`"
