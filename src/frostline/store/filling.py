"""The pass that makes activations: decode → view → frozen part → rows, for one frostline or several at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from frostline import terminal
from frostline.data.images import Images
from frostline.data.pictures import SampleIndex, Wanted, first_pictures
from frostline.engines.choice import fastest
from frostline.engines.pipeline import computed
from frostline.network.part import Part
from frostline.process import give_back_freed_memory
from frostline.store.rows import Rows
from frostline.store.shards import Cache, Shard, make_room, open_shards, write_shard

SHARD_BYTES = 8_000_000
MEMORY_BYTES = 1_000_000_000  # rows kept in memory at most when they cannot be stored


class FeatureExtraction:
    """The rows of one frostline while they are found, made and stored. Holds the state of that."""

    def __init__(self, rows: Rows, images: Images, cache: Cache | None) -> None:
        self.rows, self.images, self.cache = rows, images, cache
        self.folder: Path | None = cache.folder / "activations" / rows.key() if cache else None
        self.shards: list[Shard] = []
        self.failed: dict[int, str] = {}
        self.computed = 0
        self.store_only = False  # give up where the rows cannot be stored
        self.started = time.perf_counter()
        self._pending: list[tuple[Tensor, list[bytes]]] = []
        self._memory = 0
        if cache:
            images.recall_digests(cache.folder)
        self._find()
        self.wanted = self._missing()
        self.missing = sum(len(numbers) for numbers in self.wanted.values())
        self.found = len(images) * rows.views.count - self.missing

    def fits(self) -> bool:
        """Whether the missing rows may be kept at all; gives up the store where they exceed its budget."""
        needed = self.missing * self.rows.row_bytes()
        if self.cache is not None and self.folder is not None and not make_room(self.cache, needed, [self.folder]):
            size, budget = terminal.human_bytes(needed), terminal.human_bytes(self.cache.budget)
            terminal.say(f"the activations need {size}, the store's budget of {budget} does not hold them: not stored")
            self.folder = None
        return self.folder is not None or needed <= MEMORY_BYTES

    def add(self, places: list[SampleIndex], rows: Tensor) -> bool:
        """Take of a batch what is wanted here; False where there is no place left for it."""
        chosen = [i for i, (image, view) in enumerate(places) if view in self.wanted.get(image, ())]
        if chosen:
            digests = self.images.digests
            names = [self.rows.views.name(digests[places[i][0]], places[i][1]) for i in chosen]
            self._pending.append((rows if len(chosen) == len(places) else rows[chosen], names))
            self.computed += len(chosen)
        return sum(rows.nbytes for rows, _ in self._pending) < SHARD_BYTES or self.flush()

    def flush(self) -> bool:
        """Turn pending rows into a shard: stored, else in memory; False where there is too much for that."""
        if not self._pending:
            return True
        rows = torch.cat([piece for piece, _ in self._pending])
        names = [name for _, piece in self._pending for name in piece]
        self._pending = []
        if self.folder is not None:
            try:
                self.shards.append(write_shard(self.folder, self.rows.about, rows, names))
            except OSError as error:
                if self.store_only:
                    return False
                terminal.say(f"activations cannot be stored in {self.folder} ({error.strerror}): going on without")
                self.folder = None
            else:
                return True
        self._memory += rows.nbytes
        self.shards.append(Shard(rows, names))
        return self._memory <= MEMORY_BYTES

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

    def _missing(self) -> Wanted:
        views = self.rows.views
        wanted: Wanted = {}
        asked = {name for shard in self.shards for name in shard.names}
        for i, digest in enumerate(self.images.digests):
            names = {number: views.name(digest, number) for number in range(views.count)}
            numbers = [number for number, name in names.items() if name not in asked]
            asked |= {names[number] for number in numbers}  # the same picture twice is computed once
            if numbers:
                wanted[i] = numbers
        return wanted


def extract(extractions: Sequence[FeatureExtraction], frozen: Part, label: str) -> bool:
    """One pass over the images that makes all missing rows; False where they turned out to have no place.

    frozen: gives the rows of each filling that are not the pictures themselves, in their order.
    """
    first = max(extractions, key=lambda extraction: extraction.rows.views.count)
    wanted = {
        image: sorted({number for extraction in extractions for number in extraction.wanted.get(image, ())})
        for image in sorted({image for extraction in extractions for image in extraction.wanted})
    }
    if not wanted:
        return True
    total = sum(len(numbers) for numbers in wanted.values())
    views, images, machine, cache = first.rows.views, first.images, first.rows.machine, first.cache
    sample = first_pictures(images, wanted, views, first.rows.preprocessing)
    engine = fastest(frozen, machine, sample, total, cache.folder if cache else None)
    with terminal.progress(f"computing {label}", total, "views") as advance:
        for places, pictures, outputs, failed in computed(
            images, wanted, views, first.rows.preprocessing, engine, machine
        ):
            made = iter(outputs)
            for extraction in extractions:
                extraction.failed |= failed
            rows = [torch.from_numpy(pictures) if f.rows.lower.is_image else next(made) for f in extractions if places]
            if not all(
                extraction.add(places, piece) for extraction, piece in zip(extractions, rows, strict=bool(places))
            ):
                return False
            advance(len(places))
    give_back_freed_memory()
    return all(extraction.flush() for extraction in extractions)
