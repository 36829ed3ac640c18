"""What is frozen is computed once: the outputs of the lower part for a set of images and views.

    train = activations(lower, images, views=Views(count=4))
    outputs, target = train[0]

Rows that a store has are read from it; the others are computed in one pass over the images and added. Without a store
(none wanted, disk full or read-only, budget too small) they are kept in memory if they are few, else computed again
whenever they are asked for. Which of these happens changes the time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frostline import terminal
from frostline.data.decoding import DECODER, UnreadableImageError
from frostline.data.images import Images
from frostline.data.views import PLAIN, Views, pixels
from frostline.folding import fold_batchnorm
from frostline.machine import Machine, machine
from frostline.network import Part
from frostline.preprocessing import Preprocessing
from frostline.store import Cache, Shard, make_room, open_shards, write_shard

FORMAT = 1  # of the rows; part of the key
BATCH = 64  # images in one pass through the frozen part
SHARD_BYTES = 8_000_000
MEMORY_BYTES = 1_000_000_000  # rows kept in memory at most when they cannot be stored

Engine = Callable[[np.ndarray], Tensor]  # (B, size, size, 3) of uint8 -> rows as they are stored


@dataclass(frozen=True)
class Filled:
    """How the rows came about: how many were found and computed, in which time, where they are, how large."""

    found: int
    computed: int
    seconds: float
    bytes: int
    kept: str  # "stored", "memory" or "recomputed"


@dataclass(frozen=True, eq=False)
class Activations(Dataset[tuple[Tensor, int]]):
    """The outputs of a frozen part: row `i * views + v` belongs to view `v` of image `i`.

    images: those that could be read. fetch: rows (B,) of int64 -> (B, …) of float32. unreadable: (name, reason).
    """

    images: Images
    views: int
    fetch: Callable[[Tensor], Tensor]
    filled: Filled
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images) * self.views

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        return self.fetch(torch.tensor([row]))[0], int(self.images.targets[row // self.views])

    def targets(self, rows: Tensor) -> Tensor:
        """The class numbers (B,) that belong to rows (B,)."""
        return torch.from_numpy(self.images.targets)[rows // self.views]

    def in_memory(self) -> Activations:
        """The same, its rows at hand: for many passes over rows that would be computed again in each."""
        if self.filled.kept != "recomputed":
            return self
        rows = torch.cat([x for x, _ in self.batches()])
        return replace(self, fetch=rows.__getitem__)

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
    make = _Maker(lower, views, on)
    if not keep:
        return _recomputed(make, images, time.perf_counter())
    return _Filling(make, images, label, cache).run()


class _Maker:
    """Turns images into rows: decodes, shows a view, runs the frozen part."""

    def __init__(self, lower: Part, views: Views, on: Machine) -> None:
        self.lower, self.views, self.on = lower, views, on
        self.how: Preprocessing = lower.preprocessing
        self.is_pixels = not list(lower.children()) and not list(lower.parameters())
        self.dtype = torch.bfloat16 if on.precision == "bf16" else torch.float32
        if self.is_pixels:
            self.dtype = torch.uint8  # nothing is frozen: what is computed once is the decoded image
        self._engine: Engine | None = None

    def about(self) -> dict[str, object]:
        """Everything that a row depends on but the image and its view."""
        return {
            "format": FORMAT,
            "frozen": self.lower.fingerprint(),
            "preprocessing": asdict(self.how),
            "precision": "uint8" if self.is_pixels else self.on.precision,
            "device": self.on.device.type,
            "decoder": DECODER,
            "label": self.lower.label,
            "shape": list(self.lower.output_shape),
        }

    def key(self) -> str:
        text = json.dumps({name: v for name, v in self.about().items() if name != "label"}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = as_stored if self.is_pixels else _frozen_engine(self.lower, self.on, self.dtype)
        return self._engine

    def normalise(self, rows: Tensor) -> Tensor:
        """From rows as stored to what the upper part takes: (B, …) of float32, maps channels-last."""
        if self.is_pixels:
            return normalised(rows.movedim(-1, 1), self.how)
        return (rows.movedim(-1, 1) if rows.ndim == 4 else rows).float()

    def rows_of(
        self, images: Images, wanted: list[tuple[int, list[int]]]
    ) -> Iterator[tuple[list[tuple[int, int]], Tensor, dict[int, str]]]:
        """Batches of ((image, view) of each row, rows, reasons of images that failed), in the order wanted."""
        engine = self.engine()
        for places, pictures, failed in decoded(images, wanted, self.views, self.how, self.on.workers):
            yield places, engine(pictures) if places else torch.empty(0), failed


def as_stored(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures)


def normalised(images: Tensor, how: Preprocessing) -> Tensor:
    """Images (B, 3, H, W) of uint8 as the network wants them."""
    mean = torch.tensor(how.mean, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(how.std, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std


def _frozen_engine(lower: Part, on: Machine, dtype: torch.dtype) -> Engine:
    """The frozen part as fast as this machine runs it: folded, channels-last, in the machine's precision."""
    network = fold_batchnorm(lower).to(on.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(pictures: np.ndarray) -> Tensor:
        with torch.inference_mode(), on.autocast():
            images = torch.from_numpy(pictures).to(on.device).permute(0, 3, 1, 2)
            outputs: Tensor = network(normalised(images, lower.preprocessing)).to(dtype)
            return (outputs.movedim(1, -1) if outputs.ndim == 4 else outputs).contiguous().cpu()

    return run


def decoded(
    images: Images, wanted: list[tuple[int, list[int]]], views: Views, how: Preprocessing, workers: int
) -> Iterator[tuple[list[tuple[int, int]], np.ndarray, dict[int, str]]]:
    """Decode in threads, a few batches ahead of use."""
    ahead: deque[tuple[int, list[int], Future[np.ndarray]]] = deque()
    todo = iter(wanted)
    with ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # remarks about odd metadata; what matters raises

        def fill_up() -> None:
            while len(ahead) < 3 * BATCH and (task := next(todo, None)) is not None:
                image, numbers = task
                job = pool.submit(pixels, images.pictures[image], images.digests[image], numbers, views, how)
                ahead.append((image, numbers, job))

        fill_up()
        places: list[tuple[int, int]] = []
        pieces: list[np.ndarray] = []
        failed: dict[int, str] = {}
        while ahead:
            image, numbers, job = ahead.popleft()
            fill_up()
            try:
                pieces.append(job.result())
                places += [(image, number) for number in numbers]
            except UnreadableImageError as error:
                failed[image] = str(error)
            if len(places) >= BATCH or not ahead:
                empty = np.empty((0, how.size, how.size, 3), np.uint8)
                yield places, np.concatenate(pieces) if pieces else empty, failed
                places, pieces, failed = [], [], {}


class _Filling:
    """One pass that makes the rows that are missing. Holds the state of that pass."""

    def __init__(self, make: _Maker, images: Images, label: str, cache: Cache | None) -> None:
        self.make, self.images, self.label, self.cache = make, images, label, cache
        self.folder: Path | None = cache.folder / "activations" / make.key() if cache else None
        self.shards: list[Shard] = []
        self.failed: dict[int, str] = {}
        self.pending: list[Tensor] = []
        self.pending_names: list[bytes] = []
        self.computed = 0
        self.memory = 0
        self.started = time.perf_counter()

    def run(self) -> Activations:
        self._find()
        known = {name for shard in self.shards for name in shard.names}
        wanted = self._wanted(known)
        missing = sum(len(numbers) for _, numbers in wanted)
        found = len(self.images) * self.make.views.count - missing
        if wanted and not self._fits(missing):
            return _recomputed(self.make, self.images, self.started)
        if wanted and not self._compute(wanted, missing):
            return _recomputed(self.make, self.images, self.started)
        return self._finish(found)

    def _find(self) -> None:
        if self.folder is None or not self.folder.is_dir():
            return
        try:
            self.shards, damaged = open_shards(self.folder)
        except OSError as error:
            terminal.say(f"the store of activations cannot be read ({error.strerror}); they are computed again")
            return
        if damaged:
            terminal.say(f"{damaged} damaged shard{'s' * (damaged > 1)} of stored activations removed; computed again")

    def _wanted(self, known: set[bytes]) -> list[tuple[int, list[int]]]:
        views, digests = self.make.views, self.images.digests
        wanted, asked = [], set(known)
        for i, digest in enumerate(digests):
            names = {number: views.name(digest, number) for number in range(views.count)}
            numbers = [number for number, name in names.items() if name not in asked]
            asked |= {names[number] for number in numbers}  # the same picture twice is computed once
            if numbers:
                wanted.append((i, numbers))
        return wanted

    def _fits(self, missing: int) -> bool:
        """Whether the missing rows may be kept at all; gives up the store where they exceed its budget."""
        needed = missing * self._row_bytes()
        if self.cache is not None and self.folder is not None and not make_room(self.cache, needed, self.folder):
            size, budget = terminal.human_bytes(needed), terminal.human_bytes(self.cache.budget)
            terminal.say(f"the activations need {size}, the store's budget of {budget} does not hold them: not stored")
            self.folder = None
        return self.folder is not None or needed <= MEMORY_BYTES

    def _row_bytes(self) -> int:
        how = self.make.how
        shape = (3, how.size, how.size) if self.make.is_pixels else self.make.lower.output_shape
        if not shape:  # an untraced network: ask it
            shape = tuple(self.make.engine()(np.zeros((1, how.size, how.size, 3), np.uint8)).shape[1:])
        return int(np.prod(shape)) * torch.empty(0, dtype=self.make.dtype).element_size()

    def _compute(self, wanted: list[tuple[int, list[int]]], missing: int) -> bool:
        """Run the pass; False where the rows turned out to have no place."""
        with terminal.progress(f"computing {self.label}", missing, "views") as advance:
            for places, rows, failed in self.make.rows_of(self.images, wanted):
                self.failed |= failed
                if places:
                    self.pending.append(rows)
                    digests = self.images.digests
                    self.pending_names += [self.make.views.name(digests[i], number) for i, number in places]
                    self.computed += len(places)
                if sum(p.nbytes for p in self.pending) >= SHARD_BYTES and not self._flush():
                    return False
                advance(len(places))
        return self._flush()

    def _flush(self) -> bool:
        """Turn pending rows into a shard: stored, else in memory; False where there is too much for that."""
        if not self.pending:
            return True
        rows, names = torch.cat(self.pending), self.pending_names
        self.pending, self.pending_names = [], []
        if self.folder is not None:
            try:
                self.shards.append(write_shard(self.folder, self.make.about(), rows, names))
            except OSError as error:
                terminal.say(f"activations cannot be stored in {self.folder} ({error.strerror}): going on without")
                self.folder = None
            else:
                return True
        self.memory += rows.nbytes
        self.shards.append(Shard(rows, names))
        return self.memory <= MEMORY_BYTES

    def _finish(self, found: int) -> Activations:
        place = {
            name: (number, row) for number, shard in enumerate(self.shards) for row, name in enumerate(shard.names)
        }
        views, digests = self.make.views, self.images.digests
        failed = {i for i, digest in enumerate(digests) if digest not in place}
        reasons = {digests[i]: reason for i, reason in self.failed.items()}
        unreadable = [(self.images.names[i], reasons.get(digests[i], "unreadable")) for i in sorted(failed)]
        images = self.images.without(failed)
        where = torch.tensor([place[views.name(d, v)] for d in images.digests for v in range(views.count)]).view(-1, 2)
        kept = "stored" if self.folder is not None else "memory"
        size = len(where) * self._row_bytes()
        seconds = time.perf_counter() - self.started
        filled = Filled(found, self.computed, seconds, size, kept)
        return Activations(images, views.count, _gather(self.shards, where, self.make.normalise), filled, unreadable)


def _gather(shards: list[Shard], where: Tensor, normalise: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def fetch(rows: Tensor) -> Tensor:
        places = where[rows]
        first = int(places[0, 0])
        if bool((places[:, 0] == first).all()):
            return normalise(shards[first].rows[places[:, 1]])
        like = shards[first].rows
        result = torch.empty((len(rows), *like.shape[1:]), dtype=like.dtype)
        for number in places[:, 0].unique().tolist():
            here = places[:, 0] == number
            result[here] = shards[number].rows[places[here, 1]]
        return normalise(result)

    return fetch


def _recomputed(make: _Maker, images: Images, started: float) -> Activations:
    """Rows that are computed whenever they are asked for. Images are tried once, so that none fails later."""
    count = make.views.count
    failed: dict[int, str] = {}
    for _, _, reasons in decoded(images, [(i, [0]) for i in range(len(images))], PLAIN, make.how, make.on.workers):
        failed |= reasons
    unreadable = [(images.names[i], failed[i]) for i in sorted(failed)]
    usable = images.without(failed.keys())

    def fetch(rows: Tensor) -> Tensor:
        wanted = [(int(row) // count, [int(row) % count]) for row in rows]
        return make.normalise(torch.cat([piece for _, piece, _ in make.rows_of(usable, wanted)]))

    filled = Filled(0, 0, time.perf_counter() - started, 0, "recomputed")
    return Activations(usable, count, fetch, filled, unreadable)
