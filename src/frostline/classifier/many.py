"""Predict many images: from cached activations if possible, else with the engine of a fit's pass.

Tracing a network takes seconds, so a few images use the plain network instead. Results are equal up to rounding: an
engine is compared with the network before it is used (engines/checking.py).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from frostline import terminal
from frostline.data.images import Images
from frostline.data.pictures import Marked
from frostline.data.views import PLAIN
from frostline.engines.choice import Engine, alone, engine_of
from frostline.engines.pipeline import computed, run
from frostline.errors import FrostlineError
from frostline.machine import Machine, exact
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing
from frostline.store.inventory import take_inventory
from frostline.store.reading import StoredRows, prepared
from frostline.store.rows import Rows

MANY = 256  # fewest images that are worth the tracing
CHUNK = 4_096  # images per look-up in the store, so that the first predictions come early
READ = 128  # cached rows per batch

Answers = tuple[list[int], Tensor, dict[int, str]]  # numbers of images, their logits, reasons of unreadable images


@dataclass(frozen=True, eq=False)
class Many:
    """A network that predicts many images.

    network: in evaluation mode, in fp32, on the machine's device. frostline: the one of a fit that cached activations
        of this network; "" if unknown. store: the folder of the store; None without a store.
    """

    network: Network
    machine: Machine
    frostline: str = ""
    store: Path | None = None

    def logits(self, images: Images, first: int = 0) -> Iterator[Answers]:
        """The logits from image `first` on, in order, from cached rows if possible; (B, classes, …) on the CPU."""
        for start in range(0, len(images), CHUNK):
            part = images if len(images) <= CHUNK else images.take(np.arange(start, min(start + CHUNK, len(images))))
            for numbers, logits, failed in self._of(part, max(0, first - start)):
                yield [start + i for i in numbers], logits, {start + i: reason for i, reason in failed.items()}

    def _of(self, images: Images, first: int) -> Iterator[Answers]:
        stored, rows = self._stored(images)
        marks = np.ones((len(images), 1), bool)
        marks[stored] = False
        marks[:first] = False
        done = int(np.searchsorted(stored, first))  # number of cached images handled so far, in order

        def below(end: int) -> Iterator[Answers]:
            """The cached images before that one."""
            nonlocal done
            last = int(np.searchsorted(stored, end))
            while done < last:
                some = np.arange(done, min(done + READ, last))
                done += len(some)
                assert rows is not None  # noqa: S101
                yield stored[some].tolist(), self._above(self._cut[1], rows(torch.from_numpy(some))), {}

        if marks.any():
            engine, upper, pixels = self._pass()
            steps = computed(images, Marked(marks), PLAIN, self.network.preprocessing, engine, self.machine)
            for places, _, outputs, failed in steps:
                at = {image: row for row, (image, _) in enumerate(places)}
                for some in _unbroken(sorted([*at, *failed]), stored):
                    yield from below(some[0])
                    numbers = [image for image in some if image in at]
                    logits = torch.empty(0)
                    if numbers:  # a step of which no image could be read has no outputs
                        rows_here = outputs[0][[at[image] for image in numbers]]
                        logits = self._above(upper, prepared(rows_here, pixels))
                    yield numbers, logits, {image: failed[image] for image in some if image in failed}
        yield from below(len(images))

    def _stored(self, images: Images) -> tuple[np.ndarray, StoredRows | None]:
        """The numbers of the images with cached rows, and these rows."""
        nothing = np.empty(0, np.int64), None
        if self.store is None or not self.frostline or not self._cut[0].graphs:
            return nothing
        rows = Rows(self._cut[0], PLAIN, self.machine)
        if rows.not_storable:
            return nothing
        with terminal.quiet():  # an unusable store does no harm here
            found = take_inventory(rows, images, self.store)
        numbers = np.flatnonzero(found.places[:, 0] >= 0)
        if not len(numbers):
            return nothing
        return numbers, StoredRows(found.shards, found.places[numbers, 0], rows.form, rows.pixels)

    def _above(self, upper: nn.Module, x: Tensor) -> Tensor:
        device = self.machine.device
        with torch.inference_mode(), exact(device):
            logits: Tensor = upper(x.to(device)).float().cpu()
        return logits

    def _pass(self) -> tuple[Engine, Part, Preprocessing | None]:
        """The engine for everything below the head, the head, and the preprocessing if nothing is below the head.

        Not cached, because further training of the network needs a new engine.
        """
        cut = self.network.stages[-1].start
        assert cut is not None  # noqa: S101
        lower = self.network.below(cut)
        pixels = self.network.preprocessing if lower.is_image else None
        return engine_of(lower, self.machine), self.network.above(cut).eval(), pixels

    @cached_property
    def _cut(self) -> tuple[Part, Part]:
        """The network below and above the frostline of the fit."""
        cut = self.network.find(self.frostline)
        return self.network.below(cut), self.network.above(cut).eval()


def steady(many: Many) -> Callable[[np.ndarray], Tensor]:
    """A function from pictures (B, size, size, C) of uint8 to logits (B, classes, …), for batches without an end.

    It builds the engine once, and each core takes a few pictures of a batch.
    """
    engine, upper, pixels = many._pass()
    workers = many.machine.workers
    pool = ThreadPoolExecutor(workers, "engine", initializer=alone) if engine.parallel else None

    def logits(pictures: np.ndarray) -> Tensor:
        if pool is None:
            rows = run(engine, pictures)[0]
        else:
            size = min(engine.images, -(-len(pictures) // workers))
            parts = [pictures[start : start + size] for start in range(0, len(pictures), size)]
            rows = torch.cat([outputs[0] for outputs in pool.map(engine.run, parts)])
        return many._above(upper, prepared(rows, pixels))

    return logits


def _unbroken(numbers: list[int], stored: np.ndarray) -> Iterator[list[int]]:
    """The numbers in runs without a cached image in between."""
    before = np.searchsorted(stored, numbers).tolist()
    for _, unbroken in itertools.groupby(zip(before, numbers, strict=True), key=operator.itemgetter(0)):
        yield [number for _, number in unbroken]


class WhenMany:
    """Gives `Many` for a network, traced on the first call; None if the network cannot be traced.

    The arguments are those of `Many`. It can be pickled; another process traces the network again.
    """

    def __init__(
        self,
        model: nn.Module | Network,
        preprocessing: Preprocessing,
        machine: Machine,
        frostline: str,
        store: Path | None,
    ) -> None:
        self.model, self.preprocessing, self.machine = model, preprocessing, machine
        self.frostline, self.store = frostline, store
        self._made: list[Many | None] = []

    def __call__(self) -> Many | None:
        if not self._made:
            self._made.append(self._follow())
        return self._made[0]

    def __getstate__(self) -> dict[str, Any]:
        model = self.model.model if isinstance(self.model, Network) else self.model
        return {**vars(self), "model": model, "_made": []}

    def _follow(self) -> Many | None:
        try:
            network = self.model if isinstance(self.model, Network) else Network(self.model, self.preprocessing)
            if network.trace is None or network.stages[-1].start is None:
                return None
            if self.frostline:
                network.find(self.frostline)
        except FrostlineError:
            return None
        return Many(network, self.machine, self.frostline, self.store)
