"""The pass that makes activations: decode → view → frozen part → rows, for one frostline or several at once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from frostline import terminal
from frostline.data.decoding import DECODER
from frostline.data.images import Images
from frostline.data.views import Views
from frostline.engines import fastest
from frostline.engines.eager import normalised
from frostline.machine import Machine, give_back_freed_memory
from frostline.part import Part
from frostline.pipeline import Place, Wanted, computed, first_pictures
from frostline.preprocessing import Preprocessing
from frostline.store import Cache, Shard, make_room, open_shards, write_shard

FORMAT = 1  # of the rows; part of the key
SHARD_BYTES = 8_000_000
MEMORY_BYTES = 1_000_000_000  # rows kept in memory at most when they cannot be stored


class Rows:
    """What the rows of one frostline are: of which frozen part, in which form, and what identifies them."""

    def __init__(self, lower: Part, views: Views, on: Machine) -> None:
        self.lower, self.views, self.on = lower, views, on
        self.how: Preprocessing = lower.preprocessing
        self.dtype = torch.bfloat16 if on.precision == "bf16" else torch.float32
        if lower.is_image:
            self.dtype = torch.uint8  # nothing is frozen: what is computed once is the decoded image

    @cached_property
    def about(self) -> dict[str, object]:
        """Everything that a row depends on but the image and its view; and a label for people."""
        return {
            "format": FORMAT,
            "frozen": self.lower.fingerprint(),
            "preprocessing": asdict(self.how),
            "precision": "uint8" if self.lower.is_image else self.on.precision,
            "device": self.on.device.type,
            "decoder": DECODER,
            "torch": torch.__version__,
            "label": f"below {self.lower.frostline}",
            "shape": list(self.lower.output_shape),
        }

    def key(self) -> str:
        text = json.dumps({name: v for name, v in self.about.items() if name != "label"}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def row_bytes(self) -> int:
        return int(np.prod(self.lower.output_shape)) * torch.empty(0, dtype=self.dtype).element_size()

    def normalise(self, rows: Tensor) -> Tensor:
        """From rows as stored to what the upper part takes: (B, …) of float32, maps channels-last."""
        if self.lower.is_image:
            return normalised(rows.movedim(-1, 1), self.how)
        return (rows.movedim(-1, 1) if rows.ndim == 4 else rows).float()


class Filling:
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

    def add(self, places: list[Place], rows: Tensor) -> bool:
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


def fill(fillings: Sequence[Filling], frozen: Part, label: str) -> bool:
    """One pass over the images that makes all missing rows; False where they turned out to have no place.

    frozen: gives the rows of each filling that are not the pictures themselves, in their order.
    """
    first = max(fillings, key=lambda filling: filling.rows.views.count)
    wanted = {
        image: sorted({number for filling in fillings for number in filling.wanted.get(image, ())})
        for image in sorted({image for filling in fillings for image in filling.wanted})
    }
    if not wanted:
        return True
    total = sum(len(numbers) for numbers in wanted.values())
    views, images, on, cache = first.rows.views, first.images, first.rows.on, first.cache
    sample = first_pictures(images, wanted, views, first.rows.how)
    engine = fastest(frozen, on, sample, total, cache.folder if cache else None)
    with terminal.progress(f"computing {label}", total, "views") as advance:
        for places, pictures, outputs, failed in computed(images, wanted, views, first.rows.how, engine, on):
            made = iter(outputs)
            for filling in fillings:
                filling.failed |= failed
            rows = [torch.from_numpy(pictures) if f.rows.lower.is_image else next(made) for f in fillings if places]
            if not all(filling.add(places, piece) for filling, piece in zip(fillings, rows, strict=bool(places))):
                return False
            advance(len(places))
    give_back_freed_memory()
    return all(filling.flush() for filling in fillings)
