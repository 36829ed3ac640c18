"""What is frozen is computed once: the outputs of the lower part for a set of images and views.

    train = activations(lower, images, views=Views(count=4))
    outputs, target = train[0]

Rows that a store has are read from it; the others are computed in one pass over the images and added. Without a store
(none wanted, disk full or read-only, budget too small) they are kept in memory if they are few, else computed again
whenever they are asked for. Which of these happens changes the time and nothing else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frostline import terminal
from frostline.data.images import Images
from frostline.data.pictures import Marked, decoded
from frostline.data.targets import TargetReader, targets_of
from frostline.data.views import PLAIN, Views
from frostline.engines import eager
from frostline.engines.choice import alone, engine_of
from frostline.files import default_folder
from frostline.machine import Machine, find_machine, threads_kept
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.store.filling import MEMORY_BYTES, FeatureExtraction, extract
from frostline.store.inventory import Inventory, take_inventory
from frostline.store.reading import ComputedRows, HeldRows, Reader, RowsAbove, SomeRows, StoredRows
from frostline.store.rows import Rows
from frostline.store.shards import Cache, make_room


@dataclass(frozen=True)
class Filled:
    """How the rows came about: how many were found and computed, in which time, where they are, how large."""

    found: int
    computed: int
    seconds: float
    bytes: int
    kept: str  # "stored", "memory", "below" (stored there, the rest computed again) or "recomputed"


@dataclass(frozen=True, eq=False, repr=False)
class Activations(Dataset[tuple[Tensor, Any]]):
    """The outputs of a frozen part: row `i * views + v` belongs to view `v` of image `i`.

    images: those that could be read. fetch: rows (B,) of int64 -> (B, …) of float32 on the processor. unreadable:
        (name, reason).
    targets: rows (B,) -> class numbers (B,) of int64; labels (B, classes) of 0.0 and 1.0 where an image has several;
        of masks class numbers (B, size, size), -100 for what counts for nothing.

    A DataLoader takes it as it is; with workers where the rows are stored or in memory.
    """

    images: Images
    views: int
    fetch: Reader
    targets: TargetReader
    filled: Filled
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images) * self.views

    def __repr__(self) -> str:
        size = terminal.human_bytes(self.filled.bytes)
        return f"Activations({len(self.images)} images × {self.views} views, {size}, {self.filled.kept})"

    def __getitem__(self, row: int) -> tuple[Tensor, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return self.__getitems__([row % len(self)])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Tensor, Any]]:
        """Several at once, as a DataLoader asks for a batch."""
        numbers = torch.tensor(rows, dtype=torch.int64)
        targets = self.targets(numbers)
        return list(zip(self.fetch(numbers), targets.tolist() if targets.ndim == 1 else targets, strict=True))

    def in_memory(self) -> Activations:
        """The same with its rows at hand, for many passes over rows that would be computed again in each.

        Rows of more than a gigabyte stay as they are.
        """
        if self.filled.kept in ("stored", "memory") or not len(self):
            return self
        first = self.fetch(torch.arange(1))
        if len(self) * first.nbytes > MEMORY_BYTES:
            return self
        rows = torch.empty(len(self), *first.shape[1:])
        for numbers in torch.arange(len(self)).split(512):
            rows[numbers] = self.fetch(numbers)
        return replace(self, fetch=HeldRows(rows))

    def some(self, numbers: np.ndarray) -> Activations:
        """Those images with all their views."""
        rows = torch.from_numpy((numbers[:, None] * self.views + np.arange(self.views)).ravel())
        fetch, targets = SomeRows(self.fetch, rows), SomeRows(self.targets, rows)
        return replace(self, images=self.images.take(numbers), fetch=fetch, targets=targets)

    def ahead(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each batch of row numbers (B,) the numbers, outputs and targets; what takes time is read a batch ahead."""
        small = isinstance(self.fetch, HeldRows) or (isinstance(self.fetch, StoredRows) and self.fetch.few)
        if small and self.images.task != "segmentation":
            yield from map(self._batch, batches)
            return
        # With as many threads as the training's own, its waiting ones would hold up that: 1.26 times as long an epoch.
        with threads_kept(), ThreadPoolExecutor(1, initializer=alone) as reader:
            coming: deque[Future[tuple[Tensor, Tensor, Tensor]]] = deque()
            for rows in batches:
                coming.append(reader.submit(self._batch, rows))
                if len(coming) > 1:
                    yield coming.popleft().result()
            for last in coming:
                yield last.result()

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rows, self.fetch(rows), self.targets(rows)

    def batches(self, size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order, as (outputs, targets)."""
        for rows in torch.arange(len(self)).split(size):
            yield self.fetch(rows), self.targets(rows)


def activations(
    lower: Part,
    images: Images,
    views: Views = PLAIN,
    *,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    cache: bool | Cache = True,
) -> Activations:
    """The outputs of `lower` for every image and view, each computed at most once.

        train = activations(lower, data.train, Views(4))
        outputs, target = train[0]

    lower: the frozen side of `network.cut(…)`.
    images: of a data set, as `read_data(…).train`.
    views: how the images are varied; plain by default.
    device, precision, workers: as in `fit`, whose defaults they have.
    cache: True for the store that `fit` has, another one as `Cache(folder)`, or False: then nothing is written.

    Images that cannot be read are left out and named in `unreadable`; nothing is raised for them. A file may change
    between two calls, an array must not: its content is looked at once.
    Raises UsageError and MachineError for a device, precision or number of workers that there is not.
    """
    machine = find_machine(device, precision, workers)
    store = Cache(default_folder()) if cache is True else cache or None
    return computed_once(lower, images, views, machine=machine, cache=store)


def computed_once(
    lower: Part,
    images: Images,
    views: Views = PLAIN,
    *,
    machine: Machine | None = None,
    cache: Cache | None = None,
    keep: bool = True,
    label: str = "images",
) -> Activations:
    """The same on a machine, by default the best that is here, and without a store where none is given.

    keep: False computes the rows again whenever they are asked for. label: of the progress bar.
    """
    rows = Rows(lower, views, machine or find_machine())
    if not keep:
        return recomputed(rows, images)
    if cache is not None and rows.not_storable:
        terminal.say(f"the activations below {lower.frostline} are not stored: {rows.not_storable}")
        cache = None
    images.digests.forget_changed()
    return fill(take_inventory(rows, images, cache.folder if cache else None), cache, label)[0]


def fill(inventory: Inventory, cache: Cache | None, label: str, later: int = 0) -> tuple[Activations, Inventory]:
    """All rows of an inventory, and what is stored afterwards: what is missing is computed, and stored where it can be.

    later: how many more rows below the same cut are going to be computed, of other images.
    Where rows are neither stored nor few enough for the memory, they are computed whenever they are asked for.
    """
    extraction = FeatureExtraction(inventory, cache)
    if inventory.missing and not (extraction.fits() and extract([extraction], inventory.rows.lower, label, later)):
        return recomputed(inventory.rows, inventory.images), inventory
    filled = extraction.finished()
    seconds = time.perf_counter() - extraction.started
    return read(filled, extraction.computed, seconds), filled if filled.folder is not None else inventory


def read(inventory: Inventory, computed: int = 0, seconds: float = 0.0) -> Activations:
    """The rows that an inventory has; images of which one is missing are left out as unreadable."""
    rows, images, places = inventory.rows, inventory.images, inventory.places
    gone = np.flatnonzero((places < 0).any(1))
    unreadable = [(images.names[i], inventory.failed.get(i, "unreadable")) for i in gone.tolist()]
    if len(gone):
        images, places = images.without(gone), np.delete(places, gone, axis=0)
    kept = "stored" if inventory.folder is not None else "memory"
    filled = Filled(places.size - computed, computed, seconds, places.size * rows.row_bytes(), kept)
    fetch = StoredRows(inventory.shards, places.ravel(), rows.form, rows.pixels)
    targets = targets_of(images, rows.views, rows.preprocessing)
    return Activations(images, rows.views.count, fetch, targets, filled, unreadable)


def extract_together(
    network: Network, inventories: Sequence[Inventory], cache: Cache, label: str, later: int = 0
) -> list[Inventory]:
    """Put missing rows of several cuts into the store in one pass: what is frozen for one is a part of the next.

    inventories: each cut once, of the same images. Those that the budget does not hold beside the ones before are left
    as they are, and so are all where nothing can be written.
    """
    chosen, needed = [], 0
    folders = [inventory.folder for inventory in inventories if inventory.folder is not None]
    for number, inventory in enumerate(inventories):
        if inventory.folder is None or not inventory.missing:
            continue
        if make_room(cache, needed + inventory.missing_bytes, folders):
            needed += inventory.missing_bytes
            chosen.append(number)
    result = list(inventories)
    if chosen:
        lowers = [inventories[number].rows.lower for number in chosen]
        extractions = [FeatureExtraction(inventories[number], cache, store_only=True) for number in chosen]
        cuts = [lower.cut for lower in lowers if lower.cut is not None and not lower.is_image]
        if extract(extractions, network.below(*cuts), label, later):
            for number, extraction in zip(chosen, extractions, strict=True):
                result[number] = extraction.finished()
    return result


def extract_above(base: Activations, middle: Part, inventory: Inventory, cache: Cache, label: str) -> Inventory:
    """Put the rows of an inventory into the store, made of those at a lower cut instead of the images.

    base: all rows of these images and views at the lower cut. middle: what lies between.
    """
    extraction, rows = FeatureExtraction(inventory, cache), inventory.rows
    run = eager.forward_from(middle, rows.machine)
    folders = [inventory.folder] if inventory.folder is not None else []
    if len(base.images) != len(inventory.images) or not make_room(cache, inventory.missing_bytes, folders):
        return inventory
    extraction.begin_pass("torch from a lower cut")
    needed = torch.from_numpy(np.flatnonzero(extraction.needed.ravel()))
    with terminal.progress(f"computing {label}", len(needed), "views") as advance:
        for numbers in needed.split(eager.step(rows.lower, rows.machine)):
            samples = [divmod(number, rows.views.count) for number in numbers.tolist()]
            if not extraction.add(samples, eager.as_rows(run(base.fetch(numbers)), rows.dtype)[0]):
                return inventory
            advance(len(numbers))
    extraction.flush()
    return extraction.finished()


def from_lower_cut(base: Activations, middle: Part, machine: Machine) -> Activations:
    """What a frozen part makes of stored rows, computed whenever they are asked for.

    base: the rows at a lower cut. middle: from there to the frostline, `network.between(…)`.
    """
    fetch = RowsAbove(base.fetch, eager.forward_from(middle, machine))
    return replace(base, fetch=fetch, filled=replace(base.filled, kept="below"))


def recomputed(rows: Rows, images: Images) -> Activations:
    """Rows that are computed whenever they are asked for. Images are tried once, so that none fails later."""
    started, workers = time.perf_counter(), rows.machine.workers
    failed: dict[int, str] = {}
    every = Marked(np.ones((len(images), 1), bool))
    for _, _, reasons in decoded(images, every, PLAIN, rows.preprocessing, workers):
        failed |= reasons
    unreadable = [(images.names[i], failed[i]) for i in sorted(failed)]
    usable = images.without(failed.keys())
    fetch = ComputedRows(rows, usable, engine_of(rows.lower, rows.machine))
    targets = targets_of(usable, rows.views, rows.preprocessing)
    filled = Filled(0, 0, time.perf_counter() - started, 0, "recomputed")
    return Activations(usable, rows.views.count, fetch, targets, filled, unreadable)
