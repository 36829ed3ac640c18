"""The pass that makes activations: decode → view → frozen part → rows, for one frostline or several at once."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from frostline import terminal
from frostline.data.decoding import DECODER, UnreadableImageError
from frostline.data.images import Images
from frostline.data.views import Views, pixels
from frostline.folding import fold_batchnorm
from frostline.machine import Machine
from frostline.part import Part
from frostline.preprocessing import Preprocessing
from frostline.store import Cache, Shard, make_room, open_shards, write_shard

FORMAT = 1  # of the rows; part of the key
BATCH = 64  # images in one pass through the frozen part
SHARD_BYTES = 8_000_000
MEMORY_BYTES = 1_000_000_000  # rows kept in memory at most when they cannot be stored

Place = tuple[int, int]  # image, view
Wanted = dict[int, list[int]]  # views of each image
Engine = Callable[[np.ndarray], list[Tensor]]  # (B, size, size, 3) of uint8 -> rows as stored, for each output


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


def normalised(images: Tensor, how: Preprocessing) -> Tensor:
    """Images (B, 3, H, W) of uint8 as the network wants them."""
    mean = torch.tensor(how.mean, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(how.std, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std


def frozen_engine(frozen: Part, on: Machine) -> Engine:
    """A frozen part as fast as this machine runs it: folded, channels-last, in the machine's precision."""
    dtype = torch.bfloat16 if on.precision == "bf16" else torch.float32
    network = fold_batchnorm(frozen)
    device = on.device
    if frozen.graph is not None:
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:  # no copy: an untraced network stays where its owner put it
        device = next((parameter.device for parameter in frozen.parameters()), device)

    def run(pictures: np.ndarray) -> list[Tensor]:
        with torch.inference_mode(), on.autocast():
            images = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2)
            outputs = network(normalised(images, frozen.preprocessing))
            rows = [output.to(dtype) for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
            return [(row.movedim(1, -1) if row.ndim == 4 else row).contiguous().cpu() for row in rows]

    return run


def engine_of(frozen: Part, on: Machine) -> Engine:
    """The engine of a part; below the first stage the rows are the pictures themselves."""
    return (lambda pictures: [as_stored(pictures)]) if frozen.is_image else frozen_engine(frozen, on)


def as_stored(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures)


def decoded(
    images: Images, wanted: Wanted, views: Views, how: Preprocessing, workers: int
) -> Iterator[tuple[list[Place], np.ndarray, dict[int, str]]]:
    """Batches of (image, view) of each picture, pictures (B, size, size, 3) of uint8, and why images failed.

    Decoded in threads, a few batches ahead of use.
    """
    ahead: deque[tuple[int, list[int], Future[np.ndarray]]] = deque()
    todo = iter(wanted.items())
    with ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # remarks about odd metadata; what matters raises

        def fill_up() -> None:
            while sum(len(numbers) for _, numbers, _ in ahead) < 2 * BATCH and (task := next(todo, None)) is not None:
                image, numbers = task
                job = pool.submit(pixels, images.pictures[image], images.digests[image], numbers, views, how)
                ahead.append((image, numbers, job))

        fill_up()
        places: list[Place] = []
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


def fill(fillings: Sequence[Filling], engine: Engine, label: str) -> bool:
    """One pass over the images that makes all missing rows; False where they turned out to have no place.

    engine: gives the rows of each filling, in their order.
    """
    first = max(fillings, key=lambda filling: filling.rows.views.count)
    wanted = {
        image: sorted({number for filling in fillings for number in filling.wanted.get(image, ())})
        for image in sorted({image for filling in fillings for image in filling.wanted})
    }
    if not wanted:
        return True
    total = sum(len(numbers) for numbers in wanted.values())
    how, workers = first.rows.how, first.rows.on.workers
    with terminal.progress(f"computing {label}", total, "views") as advance:
        for places, pictures, failed in decoded(first.images, wanted, first.rows.views, how, workers):
            outputs = engine(pictures) if places else []
            for filling in fillings:
                filling.failed |= failed
            if not all(filling.add(places, rows) for filling, rows in zip(fillings, outputs, strict=bool(outputs))):
                return False
            advance(len(places))
    return all(filling.flush() for filling in fillings)
