"""The pass that computes activations: decode → view → frozen part → rows, for one or several frostlines at once."""

from __future__ import annotations

import contextlib
import errno
import platform
import time
import weakref
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from frostline import terminal
from frostline.data.pictures import Marked, SampleIndex, first_pictures
from frostline.engines.choice import FEW, OF_TORCH, Engine, EngineError, engine_named, failed, fastest, plain_engine
from frostline.engines.pipeline import computed
from frostline.files import unfinished
from frostline.machine import Machine
from frostline.network.part import Part
from frostline.process import give_back_freed_memory
from frostline.store.inventory import Inventory
from frostline.store.net import sketch, trust
from frostline.store.rows import view_names
from frostline.store.shard_file import Held, Shard, ShardWriter
from frostline.store.shards import Cache, describe, free_bytes, left_of, make_room
from frostline.store.sharing import only_shared, send

SHARD_BYTES = 128_000_000
SHARD_SECONDS = 120  # maximum time per shard: a killed process loses no more than that
PIECE_BYTES = 8_000_000  # rows in memory are joined from this size on
MEMORY_BYTES = 1_000_000_000  # maximum of rows in memory when they cannot be stored


class FeatureExtraction:
    """The state of computing and storing the missing rows of one frostline.

    store_only: give up if the rows cannot be stored.
    """

    def __init__(self, inventory: Inventory, cache: Cache | None, *, store_only: bool = False) -> None:
        self.inventory, self.cache, self.store_only = inventory, cache, store_only
        self.rows, self.images = inventory.rows, inventory.images
        self.folder = inventory.folder
        self.needed, self.places = inventory.needed.copy(), inventory.places.copy()
        self.shards: list[Shard | Held] = list(inventory.shards)
        self.failed: dict[int, str] = {}
        self.provenance: dict[str, str] = {}
        self.sketch: list[float] = []
        self.started = time.perf_counter()
        self._writer: ShardWriter | None = None
        self._stored = sum(map(len, self.shards))  # rows in shards
        self._pass = (len(self.shards), self._stored)  # where the current pass began
        self._pending: list[Tensor] = []

    @property
    def computed(self) -> int:
        """The number of computed rows."""
        return self._stored + self._unfinished - sum(map(len, self.inventory.shards))

    @property
    def _unfinished(self) -> int:
        return self._writer.count if self._writer is not None else sum(map(len, self._pending))

    def fits(self) -> bool:
        """Whether the missing rows can be kept at all; gives up the store if they exceed its budget."""
        needed = self.inventory.missing_bytes
        if self.cache is not None and self.cache.remote is not None:  # shards that were sent may go
            needed = min(needed, 2 * self._shard_bytes)
        if self.folder is not None and self.cache is not None and not make_room(self.cache, needed, [self.folder]):
            size, free = terminal.human_bytes(needed), free_bytes(self.cache.folder)
            limit = f"more than the budget of {terminal.human_bytes(self.cache.budget)} (--cache-budget)"
            if needed > (left := left_of(self.cache)) and self.cache.most is not None:
                limit = f"more than the {terminal.human_bytes(left)} that may be added to the store (--disk)"
            if needed > free:
                limit = f"more than the {terminal.human_bytes(free)} that the disk of {self.cache.folder} has for them"
            terminal.say(f"not caching: the activations need {size}, {limit}")
            self.folder = None
        return self.folder is not None or self.inventory.missing_bytes <= MEMORY_BYTES

    @property
    def _shard_bytes(self) -> int:
        """Bytes of rows per shard: with a bucket the local budget has to hold only a few shards."""
        if self.cache is None or self.cache.remote is None:
            return SHARD_BYTES
        return min(SHARD_BYTES, max(1, self.cache.budget // 4))

    def still_needed(self, image: int, numbers: Iterable[int]) -> list[int]:
        """The views to compute of an image whose digest is now known."""
        if self.images.digests.known[image]:
            names = view_names(self.images.digests.values[image : image + 1], self.rows.views)[0]
            found = self.inventory.index.find(names)
            self.places[image, found >= 0] = found[found >= 0]
            self.needed[image, found >= 0] = False
        return [number for number in numbers if number < self.needed.shape[1] and self.needed[image, number]]

    def add(self, samples: Sequence[SampleIndex], rows: Tensor) -> bool:
        """Add the needed rows of a batch; False if there is no room for them."""
        at = np.array(samples, np.int64).reshape(-1, 2)
        chosen = at[:, 1] < self.needed.shape[1]
        chosen[chosen] = self.needed[at[chosen, 0], at[chosen, 1]]
        if not chosen.any():
            return True
        rows, at = (rows if chosen.all() else rows[torch.from_numpy(chosen)]), at[chosen]
        first = self._stored + self._unfinished
        self.places[at[:, 0], at[:, 1]] = np.arange(first, first + len(at))
        self.needed[at[:, 0], at[:, 1]] = False
        return self._store(at, rows) if self.folder is not None else self._hold(rows)

    def flush(self) -> bool:
        """Turn pending rows into a shard, stored or in memory; False if it could not be stored."""
        try:
            self._end_shard()
        except OSError as error:
            return self._give_up(error)
        if self._pending:
            self.shards.append(Held(torch.cat(self._pending)))
            self._stored += len(self.shards[-1])
            self._pending = []
        return True

    def drop_pass(self) -> None:
        """Drop all rows of the current pass: no row of a failed engine is used."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        for shard in self.shards[self._pass[0] :]:
            if isinstance(shard, Shard):
                shard.path.unlink(missing_ok=True)
        del self.shards[self._pass[0] :]
        self._stored, self._pending = self._pass[1], []
        self._miss_from(self._stored)

    def begin_pass(self, engine: str) -> bool:
        """Record the engine of the next pass; False if there is nothing to compute."""
        self._pass = (len(self.shards), self._stored)
        self.provenance = provenance(engine, self.rows.machine)
        if self.folder is not None and self.needed.any() and not self.sketch:
            self.sketch = sketch(self.rows.lower)
        return bool(self.needed.any())

    def finished(self) -> Inventory:
        """The inventory after the pass."""
        return self.inventory.filled(self.folder, tuple(self.shards), self.places, self.failed, self.computed)

    def _store(self, at: np.ndarray, rows: Tensor) -> bool:
        digests = np.stack([np.frombuffer(self.images.digests[image], np.uint8) for image in at[:, 0].tolist()])
        names = view_names(digests, self.rows.views)[np.arange(len(at)), at[:, 1]]
        assert self.folder is not None  # noqa: S101
        try:
            if self._writer is None:
                describe(self.folder, self.rows.about)
                unfinished(self.folder, remove=True)
                self._writer = ShardWriter(self.folder, self.rows.form, self.provenance, self.sketch)
            self._writer.add(rows, names)
            if self._writer.bytes >= self._shard_bytes or time.monotonic() - self._writer.started > SHARD_SECONDS:
                self._end_shard()
        except OSError as error:
            return self._give_up(error)
        return True

    def _end_shard(self) -> None:
        if self._writer is not None:
            shard = self._writer.close()
            self._writer = None
            trust(self.rows, shard)
            self.shards.append(shard)
            self._stored += len(shard)
            self._share(shard)

    def _share(self, shard: Shard) -> None:
        """Send the last shard to the bucket of the store; its local file goes if the budget is short.

        Raises OSError if there is no more room for rows.
        """
        if self.cache is None or self.cache.remote is None:
            return
        sent = send(self.cache, shard)
        if make_room(self.cache, self._shard_bytes, [shard.path.parent]):
            return
        if not sent:
            raise OSError(errno.EDQUOT, f"more than the budget of {terminal.human_bytes(self.cache.budget)}")
        self.shards[-1] = only_shared(shard, self.cache.remote)

    def _give_up(self, error: OSError) -> bool:
        """Go on in memory; the rows of the unfinished shard are recomputed."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
        if not self.store_only and self.cache is not None:
            _say_once(
                self.cache,
                f"cannot store activations in {self.cache.folder} ({error.strerror}): going on without a cache",
            )
        self.folder = None
        self._miss_from(self._stored)
        return not self.store_only

    def _miss_from(self, first: int) -> None:
        lost = self.places >= first
        self.places[lost] = -1
        self.needed |= lost

    def _hold(self, rows: Tensor) -> bool:
        self._pending.append(rows)
        if sum(piece.nbytes for piece in self._pending) >= PIECE_BYTES:
            self.flush()
        return sum(shard.rows.nbytes for shard in self.shards if isinstance(shard, Held)) <= MEMORY_BYTES


# What was said of a cache, for as long as a fit has it.
_said: weakref.WeakKeyDictionary[Cache, set[str]] = weakref.WeakKeyDictionary()


def _say_once(cache: Cache, line: str) -> None:
    """Say what is wrong with a cache once per fit, and not once per pass."""
    said = _said.setdefault(cache, set())
    if line not in said:
        said.add(line)
        terminal.say(line)


def provenance(engine: str, machine: Machine) -> dict[str, str]:
    """The provenance of rows, which is not part of their key."""
    cuda = machine.device.type == "cuda"
    processor = torch.cuda.get_device_name(machine.device) if cuda else torch.backends.cpu.get_cpu_capability()
    return {
        "engine": engine,
        "precision": machine.precision,
        "device": machine.device.type,
        "processor": f"{platform.machine()} {processor}",
        "torch": torch.__version__,
    }


def extract(
    extractions: Sequence[FeatureExtraction], frozen: Part, label: str, later: int = 0, engine: Engine | None = None
) -> bool:
    """Compute all missing rows; False if there was no room for them.

    frozen: gives the rows of each extraction, except of pictures, in their order.
    later: how many more views the next pass will compute with it. engine: by default `chosen_engine`.
    One pass uses one engine: if it fails in the middle, the pass restarts with torch and drops its rows.
    """
    first, cache = extractions[0], extractions[0].cache
    if not marks_of(extractions).any():
        return True
    engine = engine or chosen_engine(extractions, frozen, later)
    while True:
        begun = [extraction.begin_pass(engine.name) for extraction in extractions]
        if not any(begun):  # a second pass computes rows that were lost on a full disk
            break
        try:
            if not _pass(extractions, engine, label):
                return False
        except EngineError as error:
            terminal.say(f"{engine.name} failed ({error}); restarting with torch")
            for extraction in extractions:
                extraction.drop_pass()
            failed(engine)
            engine = plain_engine(frozen, first.rows.machine)
    if cache is not None:
        first.images.digests.remember(cache.folder)
    give_back_freed_memory()
    return True


def chosen_engine(extractions: Sequence[FeatureExtraction], frozen: Part, later: int = 0) -> Engine:
    """The engine that computes the missing rows: that of the latest stored ones, else the fastest for so many."""
    first = max(extractions, key=lambda extraction: extraction.rows.views.count)
    marks = marks_of(extractions)
    views, machine, cache = first.rows.views, first.rows.machine, first.cache
    count, folder = int(marks.sum()), cache.folder if cache else None
    if recorded := _recorded(extractions, frozen, count + later):
        return recorded
    sample = first_pictures(first.images, Marked(marks), views, first.rows.preprocessing)
    return fastest(frozen, machine, sample, count, folder, later)


def _recorded(extractions: Sequence[FeatureExtraction], frozen: Part, count: int) -> Engine | None:
    """The engine that computed the latest rows of an entry, if this machine has it and it still passes its check.

    So a pass that was interrupted and repeated gives the rows that it would have given. Only a long pass over images
    of which nothing is stored may change from torch to a faster engine.
    """
    machine = extractions[0].rows.machine
    shards = [shard for extraction in extractions for shard in extraction.inventory.shards if isinstance(shard, Shard)]
    latest = sorted(shards, key=lambda shard: shard.status[1])
    names = [name for shard in latest if (name := _engine_of(shard, machine))]
    begun = any((extraction.inventory.places >= 0).any() for extraction in extractions)
    if not names or (names[-1] in OF_TORCH and not begun and count >= FEW):
        return None
    return engine_named(names[-1], frozen, machine)


def _engine_of(shard: Shard, machine: Machine) -> str:
    """The name of the engine that computed a shard, if it was one of this kind of device; else ""."""
    about = shard.about.get("provenance")
    return (
        str(about.get("engine", "")) if isinstance(about, dict) and about.get("device") == machine.device.type else ""
    )


def marks_of(extractions: Sequence[FeatureExtraction]) -> np.ndarray:
    """The rows that any of them needs: (N, V) of bool."""
    marks = np.zeros(max((extraction.needed.shape for extraction in extractions), key=lambda shape: shape[1]), bool)
    for extraction in extractions:
        marks[:, : extraction.needed.shape[1]] |= extraction.needed
    return marks


def _pass(extractions: Sequence[FeatureExtraction], engine: Engine, label: str) -> bool:
    """One pass over the images with one engine; an interrupted pass keeps its rows."""
    first = max(extractions, key=lambda extraction: extraction.rows.views.count)
    marks = marks_of(extractions)

    def needed(image: int, numbers: Sequence[int]) -> list[int]:
        return sorted({number for extraction in extractions for number in extraction.still_needed(image, numbers)})

    with terminal.progress(f"computing {label}", int(marks.sum()), "views") as advance:
        steps = computed(
            first.images,
            Marked(marks),
            first.rows.views,
            first.rows.preprocessing,
            engine,
            first.rows.machine,
            needed,
        )
        try:
            for samples, pictures, outputs, failed in steps:
                for extraction in extractions:
                    extraction.failed |= failed
                    extraction.needed[list(failed)] = False
                output = iter(outputs)
                for extraction in extractions if samples else ():
                    image = extraction.rows.lower.is_image
                    if not extraction.add(samples, torch.from_numpy(pictures) if image else next(output)):
                        _flush_quietly(extractions)
                        return False
                advance(len(samples))
        except EngineError:
            raise
        except BaseException:
            _flush_quietly(extractions)
            raise
    flushed = [extraction.flush() for extraction in extractions]
    return all(flushed)


def _flush_quietly(extractions: Sequence[FeatureExtraction]) -> None:
    for extraction in extractions:
        with contextlib.suppress(Exception):
            extraction.flush()
