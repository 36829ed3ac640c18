"""The frozen part runs once: its outputs for a set of images and views.

    train = activations(lower, images, views=Views(count=4))
    outputs, target = train[0]

Stored rows are read; the others are computed in one pass over the images and added to the store. Without a store
(turned off, disk full or read-only, budget too small) a small number of rows is kept in memory, and more are recomputed
on each access. This affects only the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frostline import terminal
from frostline.data.images import Images
from frostline.data.pictures import Marked, all_views, decoded
from frostline.data.targets import TargetReader, targets_of
from frostline.data.views import PLAIN, Views
from frostline.engines import eager
from frostline.engines.choice import engine_of
from frostline.machine import Machine, find_machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.store.blocks import can_travel, extract_on
from frostline.store.copies import travelling
from frostline.store.filling import MEMORY_BYTES, FeatureExtraction, extract
from frostline.store.inventory import Inventory, at_hand, exclusively, take_inventory
from frostline.store.reading import ComputedRows, HeldRows, Reader, RowsAbove, SomeRows, StoredRows, read_ahead
from frostline.store.rows import Rows
from frostline.store.shards import Cache, cache_at, make_room


@dataclass(frozen=True)
class Filled:
    """The origin of the rows: how many were found and computed, in what time, where they are, and their size."""

    found: int
    computed: int
    seconds: float
    bytes: int
    kept: str  # "stored", "memory", "below" (stored at a lower cut, the rest recomputed) or "recomputed"


@dataclass(frozen=True, eq=False, repr=False)
class Activations(Dataset[tuple[Tensor, Any]]):
    """The outputs of a frozen part: row `i * views + v` belongs to view `v` of image `i`.

    images: the readable ones. fetch: rows (B,) of int64 -> (B, …) of float32 on the processor. unreadable:
        (name, reason).
    key: of everything that a row depends on except its image and view; "" where that cannot be known.
    targets: rows (B,) -> class numbers (B,) of int64; labels (B, classes) of 0.0 and 1.0 for several labels per image;
        class numbers (B, size, size) for masks, -100 for ignored pixels.

    It works in a DataLoader; with workers if the rows are stored or in memory.
    """

    images: Images
    views: int
    fetch: Reader
    targets: TargetReader
    filled: Filled
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    key: str = ""

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
        """Several samples at once, for a DataLoader's batch."""
        numbers = torch.tensor(rows, dtype=torch.int64)
        targets = self.targets(numbers)
        return list(zip(self.fetch(numbers), targets.tolist() if targets.ndim == 1 else targets, strict=True))

    @property
    def slow(self) -> bool:
        """Whether each access reads files or recomputes rows."""
        if isinstance(self.fetch, StoredRows):
            return not self.fetch.few
        return isinstance(self.fetch, (RowsAbove, ComputedRows))

    def in_memory(self) -> Activations:
        """The same activations with their rows in memory, for many passes over rows that are otherwise recomputed.

        Rows of more than a gigabyte stay where they are.
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
        """The images with these numbers, with all their views."""
        rows = torch.from_numpy((numbers[:, None] * self.views + np.arange(self.views)).ravel())
        fetch, targets = SomeRows(self.fetch, rows), SomeRows(self.targets, rows)
        return replace(self, images=self.images.take(numbers), fetch=fetch, targets=targets)

    def ahead(
        self, batches: Iterable[Tensor], part: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each batch of row numbers (B,) the numbers, outputs and targets; slow rows are read one batch ahead.

        part: those numbers of a batch whose outputs are read; by default all.
        """
        return read_ahead(self.fetch, self.targets, batches, part)

    def batches(self, size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order, as (outputs, targets)."""
        for rows in self.in_order(size):
            yield self.fetch(rows), self.targets(rows)

    def in_order(self, size: int) -> Iterator[Tensor]:
        """The numbers of all rows, some at a time: those of ten million take 80 MB."""
        return (torch.arange(start, min(start + size, len(self))) for start in range(0, len(self), size))


def activations(
    lower: Part,
    images: Images,
    views: Views = PLAIN,
    *,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    cache: bool | str | Path | Cache = True,
) -> Activations:
    """The outputs of `lower` for every image and view, each computed at most once.

        train = activations(lower, data.train, Views(4))
        outputs, target = train[0]

    lower: the frozen side of `network.cut(…)`.
    images: of a data set, as in `read_data(…).train`.
    views: the augmentation; plain images by default.
    device, precision, workers: as in `fit`, with the same defaults.
    cache: True for the store of `fit`, a folder or a URL such as s3://bucket/team for another one, `Cache` for one with
        a budget of its own, or False to write nothing.

    Unreadable images are skipped and listed in `unreadable`; they raise nothing. A file may change
    between two calls, an array must not: its content is hashed once.
    Raises UsageError and MachineError for an impossible device, precision or number of workers, and for a store that
    is none or cannot be read.
    """
    machine = find_machine(device, precision, workers)
    return computed_once(lower, images, views, machine=machine, cache=_store(cache))


def _store(cache: bool | str | Path | Cache) -> Cache | None:
    if isinstance(cache, Cache):
        return cache
    return cache_at(None if cache is True else cache) if cache else None


def computed_once(
    lower: Part,
    images: Images,
    views: Views = PLAIN,
    *,
    machine: Machine | None = None,
    cache: Cache | None = None,
    keep: bool = True,
    label: str = "images",
    alone: bool = True,
) -> Activations:
    """The same as `activations` on a given machine (default: the best configuration here), by default without a store.

    keep: False recomputes the rows on each access. label: of the progress bar. alone: as in `fill`.
    """
    rows = Rows(lower, views, machine or find_machine())
    if not keep:
        return recomputed(rows, images)
    if cache is not None and rows.not_storable:
        terminal.say(f"not caching the activations below {lower.frostline}: {rows.not_storable}")
        cache = None
    images.digests.forget_changed()
    folder, remote = (cache.folder, cache.remote) if cache else (None, None)
    return fill(take_inventory(rows, images, folder, remote), cache, label, alone=alone)[0]


def fill(
    inventory: Inventory, cache: Cache | None, label: str, later: int = 0, *, alone: bool = True
) -> tuple[Activations, Inventory]:
    """All rows of an inventory, and the inventory afterwards: missing rows are computed, and stored if possible.

    later: how many more rows below the same cut will be computed, of other images. alone: wait for other processes
    that add rows to the entry, because they may add these; False for images that nobody else computes.
    Rows that can neither be stored nor kept in memory are recomputed on each access.
    """
    inventory = at_hand(inventory, cache)
    if not inventory.missing:
        return read(inventory), inventory
    if not alone:
        return _fill(inventory, cache, label, later)
    with exclusively([inventory]) as (now,):
        return _fill(now, cache, label, later)


def _fill(inventory: Inventory, cache: Cache | None, label: str, later: int) -> tuple[Activations, Inventory]:
    extraction, filled = FeatureExtraction(inventory, cache), inventory
    if inventory.missing:
        after = _extracted([extraction], inventory.rows.lower, label, later) if extraction.fits() else None
        if after is None:
            return recomputed(inventory.rows, inventory.images), inventory
        (filled,) = after
    seconds = time.perf_counter() - extraction.started
    return read(filled, filled.computed, seconds), filled if filled.folder is not None else inventory


def _extracted(
    extractions: Sequence[FeatureExtraction], frozen: Part, label: str, later: int
) -> list[Inventory] | None:
    """The inventories after a pass, in this process or on a cluster; None if there was no room for the rows."""
    cluster, stored = extractions[0].rows.machine.cluster, all(each.folder is not None for each in extractions)
    if cluster and stored and can_travel(extractions[0].images):
        return extract_on(cluster, extractions, frozen, label, later)
    if not extract(extractions, frozen, label, later):
        return None
    return [extraction.finished() for extraction in extractions]


def read(inventory: Inventory, computed: int = 0, seconds: float = 0.0) -> Activations:
    """The rows of an inventory; images with a missing row are left out as unreadable."""
    rows, images, places = inventory.rows, inventory.images, inventory.places
    gone = np.flatnonzero((places < 0).any(1))
    unreadable = [(images.names[i], inventory.failed.get(i, "unreadable")) for i in gone.tolist()]
    if len(gone):
        images, places = images.without(gone), np.delete(places, gone, axis=0)
    kept = "stored" if inventory.folder is not None else "memory"
    filled = Filled(places.size - computed, computed, seconds, places.size * rows.row_bytes(), kept)
    shards = travelling(inventory.shards, inventory.remote)
    fetch = StoredRows(shards, places.ravel(), rows.form, rows.pixels)
    targets = targets_of(images, rows.views, rows.preprocessing)
    return Activations(images, rows.views.count, fetch, targets, filled, unreadable, rows.form.key)


def extract_together(
    network: Network, inventories: Sequence[Inventory], cache: Cache, label: str, later: int = 0
) -> list[Inventory]:
    """Store the missing rows of several cuts in one pass: the frozen part of one is a part of the next.

    inventories: one per cut, of the same images. Those that exceed the budget together with the ones before stay
    unchanged, and so do all if nothing can be written.
    """
    chosen, needed = [], 0
    folders = [inventory.folder for inventory in inventories if inventory.folder is not None]
    for number, inventory in enumerate(inventories):
        if inventory.folder is None or not inventory.missing:
            continue
        if make_room(cache, needed + inventory.missing_bytes, folders):
            needed += inventory.missing_bytes
            chosen.append(number)
    with exclusively([inventories[number] for number in chosen]) as now:
        result = list(inventories)
        for number, inventory in zip(chosen, now, strict=True):
            result[number] = inventory
        _extract_together(network, [number for number in chosen if result[number].missing], result, cache, label, later)
    return result


def _extract_together(
    network: Network, chosen: Sequence[int], result: list[Inventory], cache: Cache, label: str, later: int
) -> None:
    """Replace the chosen inventories of a list by those after one pass, if their rows could be stored."""
    extractions = [FeatureExtraction(result[number], cache, store_only=True) for number in chosen]
    lowers = [result[number].rows.lower for number in chosen]
    cuts = [lower.cut for lower in lowers if lower.cut is not None and not lower.is_image]
    after = _extracted(extractions, network.below(*cuts), label, later) if chosen else None
    for number, inventory in zip(chosen, after or (), strict=after is not None):
        result[number] = inventory


def extract_above(base: Activations, middle: Part, inventory: Inventory, cache: Cache, label: str) -> Inventory:
    """Store the rows of an inventory, computed from those at a lower cut instead of the images.

    base: all rows of these images and views at the lower cut. middle: the part between.
    """
    folders = [inventory.folder] if inventory.folder is not None else []
    if len(base.images) != len(inventory.images) or not make_room(cache, inventory.missing_bytes, folders):
        return inventory
    with exclusively([inventory]) as (now,):
        return _extract_above(base, middle, now, cache, label) if now.missing else now


def _extract_above(base: Activations, middle: Part, inventory: Inventory, cache: Cache, label: str) -> Inventory:
    extraction, rows = FeatureExtraction(inventory, cache), inventory.rows
    run = eager.forward_from(middle, rows.machine)
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
    """The outputs of a frozen part for stored rows, recomputed on each access.

    base: the rows at a lower cut. middle: from there to the frostline, `network.between(…)`.
    """
    fetch = RowsAbove(base.fetch, eager.forward_from(middle, machine))
    return replace(base, fetch=fetch, filled=replace(base.filled, kept="below"), key="")


def recomputed(rows: Rows, images: Images) -> Activations:
    """Rows that are recomputed on each access. First all images are decoded once, so that none fails later."""
    started, workers = time.perf_counter(), rows.machine.workers
    failed: dict[int, str] = {}
    every = Marked(np.ones((len(images), 1), bool))
    for _, _, reasons in decoded(images, every, PLAIN, rows.preprocessing, workers, needed=all_views):
        failed |= reasons
    unreadable = [(images.names[i], failed[i]) for i in sorted(failed)]
    usable = images.without(failed.keys())
    fetch = ComputedRows(rows, usable, engine_of(rows.lower, rows.machine))
    targets = targets_of(usable, rows.views, rows.preprocessing)
    filled = Filled(0, 0, time.perf_counter() - started, 0, "recomputed")
    return Activations(usable, rows.views.count, fetch, targets, filled, unreadable, rows.form.key)
