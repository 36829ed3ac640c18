"""A pass on many machines, simulated: blocks in one queue, slow workers, lost nodes.

The rules are those of `frostline/cluster.py`, the times are measured (`scale.py`). What it does not know are the
network and the place that the images come from: they must give what all workers read together.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass

import numpy as np

from frostline.cluster import Slots
from frostline.store.blocks import _blocks


@dataclass(frozen=True)
class World:
    """A cluster.

    seconds: per image on one worker, one figure for each of some real blocks. start: seconds until a process computes.
    handing: seconds that the process which hands out blocks is busy with one. slow: the share of workers that are
    `times` as slow. losses: of nodes, per node and hour. absent: seconds until another node takes its place.
    """

    workers: int
    seconds: tuple[float, ...]
    start: float
    handing: float
    slow: float = 0.0
    times: float = 1.0
    losses: float = 0.0
    absent: float = 300.0


@dataclass(frozen=True)
class Outcome:
    """seconds: of the pass. twice: the share of images that were computed again. busy: the share of worker time."""

    seconds: float
    twice: float
    busy: float


class Pass:
    """A pass in the middle: what waits, who computes what until when."""

    def __init__(self, world: World, images: int, seed: int) -> None:
        self.world, self.chance = world, random.Random(seed)  # noqa: S311
        slots = Slots(world.workers, 1, 0)
        self.waiting = deque(map(len, _blocks(np.arange(images, dtype=np.int8 if images < 128 else np.int32), slots)))
        self.pace = [world.times if self.chance.random() < world.slow else 1.0 for _ in range(world.workers)]
        self.lost_at = [self.next_loss(0.0) for _ in range(world.workers)]
        self.events: list[tuple[float, int, str, int, int]] = []  # time, order, kind, worker, images
        self.order = itertools.count()
        self.idle: list[int] = []
        self.free = 0.0  # when the handing process is free
        self.computed = self.again = 0
        self.spent = self.end = 0.0

    def next_loss(self, now: float) -> float:
        rate = self.world.losses / 3600
        return now + self.chance.expovariate(rate) if rate else math.inf

    def later(self, at: float, kind: str, worker: int, images: int = 0) -> None:
        heapq.heappush(self.events, (at, next(self.order), kind, worker, images))

    def give(self, now: float, worker: int, *, fresh: bool) -> None:
        """Hand a worker its next block. fresh: whether its process has to start first."""
        if not self.waiting:
            self.idle.append(worker)
            return
        images = self.waiting.popleft()
        self.free = max(self.free, now) + self.world.handing
        work = images * self.chance.choice(self.world.seconds) * self.pace[worker]
        end = self.free + work + self.world.start * fresh
        lost = max(now, self.lost_at[worker])
        self.spent += min(work, max(0.0, lost - self.free))
        self.later(min(end, lost), "done" if end <= lost else "lost", worker, images)

    def run(self) -> None:
        for worker in range(self.world.workers):
            self.give(0.0, worker, fresh=True)
        while self.events:
            now, _, kind, worker, images = heapq.heappop(self.events)
            if kind == "done":
                self.computed, self.end = self.computed + images, now
                self.give(now, worker, fresh=False)
            elif kind == "back":
                self.lost_at[worker] = self.next_loss(now)
                self.give(now, worker, fresh=True)
            else:
                self.again += images
                self.waiting.append(images)
                self.later(now + self.world.absent, "back", worker)
                if self.idle:
                    self.give(now, self.idle.pop(), fresh=False)


def simulated(world: World, images: int, seed: int = 0) -> Outcome:
    """The pass over some images."""
    run = Pass(world, images, seed)
    run.run()
    if run.computed != images:
        raise AssertionError(f"{run.computed} of {images} images were computed")
    return Outcome(run.end, run.again / images, run.spent / (world.workers * run.end))
