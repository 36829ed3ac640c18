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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from frostline import terminal
from frostline.data.images import Images
from frostline.data.views import PLAIN, Views
from frostline.engines import eager, engine_of
from frostline.filling import Filling, Rows, fill
from frostline.machine import Machine, machine
from frostline.network import Network
from frostline.part import Part
from frostline.pipeline import computed, decoded
from frostline.store import Cache, Shard, entries, make_room
from frostline.targets import targets_of
from frostline.tracing import Cut

TENSOR_BYTES = 256_000_000  # rows of a split up to which they are one tensor in memory


@dataclass(frozen=True)
class Filled:
    """How the rows came about: how many were found and computed, in which time, where they are, how large."""

    found: int
    computed: int
    seconds: float
    bytes: int
    kept: str  # "stored", "memory", "below" (stored there, the rest computed again) or "recomputed"


@dataclass(frozen=True, eq=False)
class Activations(Dataset[tuple[Tensor, Any]]):
    """The outputs of a frozen part: row `i * views + v` belongs to view `v` of image `i`.

    images: those that could be read. fetch: rows (B,) of int64 -> (B, …) of float32. unreadable: (name, reason).
    targets: rows (B,) -> class numbers (B,) of int64; labels (B, classes) of 0.0 and 1.0 where an image has several;
        of masks class numbers (B, size, size), -100 for what counts for nothing.
    """

    images: Images
    views: int
    fetch: Callable[[Tensor], Tensor]
    targets: Callable[[Tensor], Tensor]
    filled: Filled
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images) * self.views

    def __getitem__(self, row: int) -> tuple[Tensor, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        rows = torch.tensor([row % len(self)])
        target = self.targets(rows)[0]
        return self.fetch(rows)[0], int(target) if target.ndim == 0 else target

    def in_memory(self) -> Activations:
        """The same, its rows at hand: for many passes over rows that would be computed again in each."""
        if self.filled.kept in ("stored", "memory"):
            return self
        rows = torch.cat([x for x, _ in self.batches()])
        return replace(self, fetch=rows.__getitem__)

    def ahead(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each batch of row numbers (B,) the numbers, outputs and targets; what takes time is read a batch ahead."""
        small = self.filled.kept in ("stored", "memory") and self.filled.bytes <= TENSOR_BYTES
        if small and self.images.task != "segmentation":
            yield from map(self._batch, batches)
            return
        with ThreadPoolExecutor(1) as reader:
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
    on: Machine | None = None,
    cache: Cache | None = None,
    keep: bool = True,
    label: str = "images",
) -> Activations:
    """The outputs of `lower` for every image and view, each computed at most once.

    lower: the frozen side of `network.cut(…)`.
    images: of a data set, as `read_data(…).train`.
    views: how the images are varied; plain by default.
    on: device, precision and decoding threads; by default the best that is here.
    cache: the folder that keeps rows from run to run, with its budget; without one, nothing is written.
    keep: False computes the rows again whenever they are asked for.

    Images that cannot be read are left out and named in `unreadable`; nothing is raised for them.
    """
    on = on or machine()
    rows = Rows(lower, views, on)
    if not keep:
        return _recomputed(rows, images)
    if not _can_be_found_again(lower, views):
        cache = None
    filling = Filling(rows, images, cache)
    if filling.missing and not (filling.fits() and fill([filling], lower, label)):
        return _recomputed(rows, images)
    return _finished(filling)


def _can_be_found_again(lower: Part, views: Views) -> bool:
    """Whether anybody can tell what is computed: not of an untraced network, and not of somebody's own function."""
    return (bool(lower.graphs) or lower.is_image) and views.repeatable


def fill_together(
    network: Network, wanted: Sequence[tuple[Part, Views]], images: Images, on: Machine, cache: Cache, label: str
) -> list[int]:
    """Put the rows of several lower parts into the store in one pass: what is frozen for one is a part of the next.

    wanted: each part once. Returns how many rows were stored for each; none where the store cannot hold them all.
    """
    if network.untraceable or not all(views.repeatable for _, views in wanted):
        return [0] * len(wanted)
    fillings = [Filling(Rows(lower, views, on), images, cache) for lower, views in wanted]
    for filling in fillings:
        filling.store_only = True
    needed = sum(filling.missing * filling.rows.row_bytes() for filling in fillings)
    folders = [filling.folder for filling in fillings if filling.folder]
    cuts = [lower.cut for lower, _ in wanted if lower.cut is not None and not lower.is_image]
    if needed and make_room(cache, needed, folders) and fill(fillings, network.below(*cuts), label):
        return [filling.computed for filling in fillings]
    return [0] * len(wanted)


def raised(base: Activations, middle: Part, on: Machine) -> Activations:
    """What a frozen part makes of stored rows, computed whenever they are asked for.

    base: the rows at a lower cut. middle: from there to the frostline, `network.between(…)`.
    """
    run = eager.upwards(middle, on)
    filled = replace(base.filled, kept="below")
    return replace(base, fetch=lambda rows: run(base.fetch(rows)), filled=filled)


def stored_below(
    network: Network, lower: Part, images: Images, views: Views, on: Machine, cache: Cache
) -> tuple[Cut, Activations] | None:
    """The highest cut below a part's own at which a store has all rows, and these; None where there is none."""
    assert network.trace is not None  # noqa: S101
    assert lower.cut is not None  # noqa: S101
    shapes = [entry.about.get("shape") for entry in entries(cache.folder)]
    own = Filling(Rows(lower, views, on), images, cache) if shapes else None
    if own is None or not own.missing:
        return None
    for cut in reversed([c for c in network.trace.cuts if c.position < lower.cut.position]):
        if list(cut.shape) in shapes:
            filling = Filling(Rows(network.below(cut), views, on), images, cache)
            if not filling.missing:
                return cut, _finished(filling)
    return None


def fill_above(
    base: Activations,
    middle: Part,
    lower: Part,
    images: Images,
    views: Views,
    on: Machine,
    cache: Cache,
    label: str,
) -> None:
    """Put the rows of `lower` into the store, made of those at a lower cut instead of the images.

    base: of all these images and views. middle: what lies between.
    """
    filling, run = Filling(Rows(lower, views, on), images, cache), eager.upwards(middle, on)
    if len(base.images) != len(images) or not filling.fits():
        return
    with terminal.progress(f"computing {label}", len(base), "views") as advance:
        for numbers in torch.arange(len(base)).split(eager.step(lower, on)):
            places = [divmod(number, views.count) for number in numbers.tolist()]
            if not filling.add(places, eager.as_rows(run(base.fetch(numbers)), filling.rows.dtype)[0]):
                return
            advance(len(numbers))
    filling.flush()


def _finished(filling: Filling) -> Activations:
    rows, images = filling.rows, filling.images
    views, digests = rows.views, images.digests
    place = {name: (number, row) for number, shard in enumerate(filling.shards) for row, name in enumerate(shard.names)}
    failed = {i for i, digest in enumerate(digests) if digest not in place}
    reasons = {digests[i]: reason for i, reason in filling.failed.items()}
    unreadable = [(images.names[i], reasons.get(digests[i], "unreadable")) for i in sorted(failed)]
    images = images.without(failed)
    where = torch.tensor([place[views.name(d, v)] for d in images.digests for v in range(views.count)]).view(-1, 2)
    kept = "stored" if filling.folder is not None else "memory"
    seconds = time.perf_counter() - filling.started
    filled = Filled(filling.found, filling.computed, seconds, len(where) * rows.row_bytes(), kept)
    fetch, targets = _gather(filling.shards, where, rows.normalise), targets_of(images, views, rows.how)
    return Activations(images, views.count, fetch, targets, filled, unreadable)


def _gather(shards: list[Shard], where: Tensor, normalise: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Rows by their numbers: out of one tensor in memory where it is small enough, else out of the mapped shards."""
    shards = list(shards)
    together: list[Tensor] = []

    def fetch(rows: Tensor) -> Tensor:
        if not together and _bytes(shards, where) <= TENSOR_BYTES:
            together.append(_picked(shards, where))
            shards.clear()  # what was mapped counts as this process's memory
        return normalise(together[0][rows] if together else _picked(shards, where[rows]))

    return fetch


def _bytes(shards: list[Shard], where: Tensor) -> int:
    return len(where) * shards[0].rows[0].nbytes if shards else 0


def _picked(shards: list[Shard], places: Tensor) -> Tensor:
    """The rows at places (shard, row), each shard read once and in the order of its file."""
    like = shards[0].rows
    result = torch.empty((len(places), *like.shape[1:]), dtype=like.dtype)
    for number in places[:, 0].unique().tolist():
        here = (places[:, 0] == number).nonzero()[:, 0]
        rows, order = places[here, 1].sort()
        result[here[order]] = shards[number].rows[rows]
    return result


def _recomputed(rows: Rows, images: Images) -> Activations:
    """Rows that are computed whenever they are asked for. Images are tried once, so that none fails later."""
    started, workers, count = time.perf_counter(), rows.on.workers, rows.views.count
    engine = engine_of(rows.lower, rows.on)
    failed: dict[int, str] = {}
    for _, _, reasons in decoded(images, {i: [0] for i in range(len(images))}, PLAIN, rows.how, workers):
        failed |= reasons
    unreadable = [(images.names[i], failed[i]) for i in sorted(failed)]
    usable = images.without(failed.keys())

    def fetch(wanted: Tensor) -> Tensor:
        places: dict[int, list[int]] = {}
        for row in wanted.tolist():
            places.setdefault(row // count, []).append(row % count)
        made: dict[int, Tensor] = {}
        for batch, _, outputs, _ in computed(usable, places, rows.views, rows.how, engine, rows.on):
            made |= {image * count + view: row for (image, view), row in zip(batch, outputs[0], strict=True)}
        return rows.normalise(torch.stack([made[row] for row in wanted.tolist()]))

    filled = Filled(0, 0, time.perf_counter() - started, 0, "recomputed")
    return Activations(usable, count, fetch, targets_of(usable, rows.views, rows.how), filled, unreadable)
