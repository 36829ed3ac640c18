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
from frostline.data.pictures import decoded
from frostline.data.targets import targets_of
from frostline.data.views import PLAIN, Views
from frostline.engines import eager
from frostline.engines.choice import engine_of
from frostline.engines.pipeline import computed
from frostline.machine import Machine, find_machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.network.tracing import Cut
from frostline.store.filling import FeatureExtraction, extract
from frostline.store.rows import Rows
from frostline.store.shards import Cache, Shard, entries, make_room

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
    machine: Machine | None = None,
    cache: Cache | None = None,
    keep: bool = True,
    label: str = "images",
) -> Activations:
    """The outputs of `lower` for every image and view, each computed at most once.

    lower: the frozen side of `network.cut(…)`.
    images: of a data set, as `read_data(…).train`.
    views: how the images are varied; plain by default.
    machine: device, precision and decoding threads; by default the best that is here.
    cache: the folder that keeps rows from run to run, with its budget; without one, nothing is written.
    keep: False computes the rows again whenever they are asked for.

    Images that cannot be read are left out and named in `unreadable`; nothing is raised for them.
    """
    machine = machine or find_machine()
    rows = Rows(lower, views, machine)
    if not keep:
        return _recomputed(rows, images)
    if cache is not None and rows.not_storable:
        terminal.say(f"the activations below {lower.frostline} are not stored: {rows.not_storable}")
        cache = None
    extraction = FeatureExtraction(rows, images, cache)
    if extraction.missing and not (extraction.fits() and extract([extraction], lower, label)):
        return _recomputed(rows, images)
    return _finished(extraction)


def extract_together(
    network: Network, wanted: Sequence[tuple[Part, Views]], images: Images, machine: Machine, cache: Cache, label: str
) -> list[int]:
    """Put the rows of several lower parts into the store in one pass: what is frozen for one is a part of the next.

    wanted: each part once. Returns how many rows were stored for each; none where the store cannot hold them all.
    """
    all_rows = [Rows(lower, views, machine) for lower, views in wanted]
    if any(rows.not_storable for rows in all_rows):
        return [0] * len(wanted)
    extractions = [FeatureExtraction(rows, images, cache) for rows in all_rows]
    for extraction in extractions:
        extraction.store_only = True
    needed = sum(extraction.missing * extraction.rows.row_bytes() for extraction in extractions)
    folders = [extraction.folder for extraction in extractions if extraction.folder]
    cuts = [lower.cut for lower, _ in wanted if lower.cut is not None and not lower.is_image]
    if needed and make_room(cache, needed, folders) and extract(extractions, network.below(*cuts), label):
        return [extraction.computed for extraction in extractions]
    return [0] * len(wanted)


def from_lower_cut(base: Activations, middle: Part, machine: Machine) -> Activations:
    """What a frozen part makes of stored rows, computed whenever they are asked for.

    base: the rows at a lower cut. middle: from there to the frostline, `network.between(…)`.
    """
    run = eager.forward_from(middle, machine)
    filled = replace(base.filled, kept="below")
    return replace(base, fetch=lambda rows: run(base.fetch(rows)), filled=filled)


def stored_below(
    network: Network, lower: Part, images: Images, views: Views, machine: Machine, cache: Cache
) -> tuple[Cut, Activations] | None:
    """The highest cut below a part's own at which a store has all rows, and these; None where there is none."""
    assert network.trace is not None  # noqa: S101
    assert lower.cut is not None  # noqa: S101
    shapes = [entry.about.get("shape") for entry in entries(cache.folder)]
    rows = Rows(lower, views, machine)
    own = FeatureExtraction(rows, images, cache) if shapes and not rows.not_storable else None
    if own is None or not own.missing:
        return None
    for cut in reversed([c for c in network.trace.cuts if c.position < lower.cut.position]):
        if list(cut.shape) in shapes:
            extraction = FeatureExtraction(Rows(network.below(cut), views, machine), images, cache)
            if not extraction.missing:
                return cut, _finished(extraction)
    return None


def extract_above(
    base: Activations,
    middle: Part,
    lower: Part,
    images: Images,
    views: Views,
    machine: Machine,
    cache: Cache,
    label: str,
) -> None:
    """Put the rows of `lower` into the store, made of those at a lower cut instead of the images.

    base: of all these images and views. middle: what lies between.
    """
    extraction, run = FeatureExtraction(Rows(lower, views, machine), images, cache), eager.forward_from(middle, machine)
    if len(base.images) != len(images) or not extraction.fits():
        return
    with terminal.progress(f"computing {label}", len(base), "views") as advance:
        for numbers in torch.arange(len(base)).split(eager.step(lower, machine)):
            places = [divmod(number, views.count) for number in numbers.tolist()]
            if not extraction.add(places, eager.as_rows(run(base.fetch(numbers)), extraction.rows.dtype)[0]):
                return
            advance(len(numbers))
    extraction.flush()


def _finished(extraction: FeatureExtraction) -> Activations:
    rows, images = extraction.rows, extraction.images
    views, digests = rows.views, images.digests
    place = {
        name: (number, row) for number, shard in enumerate(extraction.shards) for row, name in enumerate(shard.names)
    }
    failed = {i for i, digest in enumerate(digests) if digest not in place}
    reasons = {digests[i]: reason for i, reason in extraction.failed.items()}
    unreadable = [(images.names[i], reasons.get(digests[i], "unreadable")) for i in sorted(failed)]
    images = images.without(failed)
    where = torch.tensor([place[views.name(d, v)] for d in images.digests for v in range(views.count)]).view(-1, 2)
    kept = "stored" if extraction.folder is not None else "memory"
    seconds = time.perf_counter() - extraction.started
    filled = Filled(extraction.found, extraction.computed, seconds, len(where) * rows.row_bytes(), kept)
    fetch, targets = _gather(extraction.shards, where, rows.normalise), targets_of(images, views, rows.preprocessing)
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
    started, workers, count = time.perf_counter(), rows.machine.workers, rows.views.count
    engine = engine_of(rows.lower, rows.machine)
    failed: dict[int, str] = {}
    for _, _, reasons in decoded(images, {i: [0] for i in range(len(images))}, PLAIN, rows.preprocessing, workers):
        failed |= reasons
    unreadable = [(images.names[i], failed[i]) for i in sorted(failed)]
    usable = images.without(failed.keys())

    def fetch(wanted: Tensor) -> Tensor:
        places: dict[int, list[int]] = {}
        for row in wanted.tolist():
            places.setdefault(row // count, []).append(row % count)
        made: dict[int, Tensor] = {}
        for batch, _, outputs, _ in computed(usable, places, rows.views, rows.preprocessing, engine, rows.machine):
            made |= {image * count + view: row for (image, view), row in zip(batch, outputs[0], strict=True)}
        return rows.normalise(torch.stack([made[row] for row in wanted.tolist()]))

    filled = Filled(0, 0, time.perf_counter() - started, 0, "recomputed")
    return Activations(usable, count, fetch, targets_of(usable, rows.views, rows.preprocessing), filled, unreadable)
