"""From files to what a network makes of them, on all cores at once.

A step is a few images: a thread decodes them, makes their views, runs the engine on them and goes on to the next step.
So no core waits for another one, and at most two steps a thread are in memory.
"""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from frostline.data.decoding import UnreadableImageError
from frostline.data.images import Images
from frostline.data.views import Views, pixels
from frostline.engines import Engine, alone
from frostline.engines.eager import threads_kept
from frostline.machine import Machine, keep_freed_memory
from frostline.preprocessing import Preprocessing

BATCH = 64  # pictures handed on at once where they are only decoded
STEP = 8  # images that a thread decodes at once

Place = tuple[int, int]  # image, view
Wanted = dict[int, list[int]]  # views of each image
Decoded = tuple[list[Place], np.ndarray, dict[int, str]]
Computed = tuple[list[Place], np.ndarray, list[Tensor], dict[int, str]]
Task = list[tuple[int, list[int]]]
T = TypeVar("T")


def decoded(images: Images, wanted: Wanted, views: Views, how: Preprocessing, workers: int) -> Iterator[Decoded]:
    """Batches of (image, view) of each picture, pictures (B, size, size, 3) of uint8, and why images failed.

    Decoded in threads, a few steps ahead of use.
    """

    def work(task: Task) -> Decoded:
        return _pictures(images, task, views, how)

    def joined() -> Decoded:
        return places, np.concatenate(pieces), failed

    places: list[Place] = []
    pieces: list[np.ndarray] = []
    failed: dict[int, str] = {}
    for found, pictures, reasons in _ahead(_tasks(wanted, STEP, workers), work, workers):
        pieces.append(pictures)
        places, failed = [*places, *found], {**failed, **reasons}
        if len(places) >= BATCH:
            yield joined()
            places, pieces, failed = [], [], {}
    if places or failed:
        yield joined()


def computed(
    images: Images, wanted: Wanted, views: Views, how: Preprocessing, engine: Engine, on: Machine
) -> Iterator[Computed]:
    """Steps of (image, view) of each picture, the pictures, the engine's outputs for them, and why images failed."""

    def work(task: Task) -> Computed:
        places, pictures, failed = _pictures(images, task, views, how)
        return places, pictures, run(engine, pictures), failed

    keep_freed_memory()
    if engine.parallel:
        with threads_kept():
            yield from _ahead(_tasks(wanted, engine.images, on.workers), work, on.workers, alone)
        return
    for places, pictures, failed in decoded(images, wanted, views, how, on.workers):
        yield places, pictures, run(engine, pictures), failed


def run(engine: Engine, pictures: np.ndarray) -> list[Tensor]:
    """The outputs of an engine for any number of pictures; none for none."""
    parts = [engine.run(pictures[i : i + engine.images]) for i in range(0, len(pictures), engine.images)]
    return parts[0] if len(parts) == 1 else [torch.cat(output) for output in zip(*parts, strict=True)]


def first_pictures(images: Images, wanted: Wanted, views: Views, how: Preprocessing) -> np.ndarray:
    """The pictures of the first images, as many as can be read of them: to try engines on."""
    return _pictures(images, list(itertools.islice(wanted.items(), STEP)), views, how)[1]


def _pictures(images: Images, task: Task, views: Views, how: Preprocessing) -> Decoded:
    places: list[Place] = []
    pieces: list[np.ndarray] = [np.empty((0, how.size, how.size, 3), np.uint8)]
    failed: dict[int, str] = {}
    for image, numbers in task:
        try:
            pieces.append(pixels(images.pictures[image], images.digests[image], numbers, views, how))
            places += [(image, number) for number in numbers]
        except UnreadableImageError as error:
            failed[image] = str(error)
    return places, np.concatenate(pieces), failed


def _tasks(wanted: Wanted, most: int, workers: int) -> Iterator[Task]:
    """The images in groups of at most so many pictures (all views of an image together), enough groups for all."""
    total = sum(len(numbers) for numbers in wanted.values())
    most = max(1, min(most, -(-total // workers)))
    task: Task = []
    size = 0
    for image, numbers in wanted.items():
        if task and size + len(numbers) > most:
            yield task
            task, size = [], 0
        task.append((image, numbers))
        size += len(numbers)
    if task:
        yield task


def _ahead(
    tasks: Iterator[Task], work: Callable[[Task], T], workers: int, initializer: Callable[[], None] | None = None
) -> Iterator[T]:
    """What `work` makes of each task, in their order; threads are two tasks each ahead of use."""
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # remarks about odd metadata; what matters raises
            waiting.extend(pool.submit(work, task) for task in itertools.islice(tasks, 2 * workers))
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(work, task) for task in itertools.islice(tasks, 1))
                yield done
    finally:
        pool.shutdown(cancel_futures=True)
