"""From files to pictures of the network's size, on all cores at once."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from frostline.data.decoding import UnreadableImageError
from frostline.data.images import Images
from frostline.data.views import Views, pixels
from frostline.preprocessing import Preprocessing

BATCH = 64  # pictures handed on at once where they are only decoded
STEP = 8  # images that a thread decodes at once
SampleIndex = tuple[int, int]  # image, view
Wanted = dict[int, list[int]]  # views of each image
Decoded = tuple[list[SampleIndex], np.ndarray, dict[int, str]]
Task = list[tuple[int, list[int]]]
T = TypeVar("T")


def decoded(
    images: Images, wanted: Wanted, views: Views, preprocessing: Preprocessing, workers: int, batch: int = BATCH
) -> Iterator[Decoded]:
    """Batches of (image, view) of each picture, pictures (B, size, size, 3) of uint8, and why images failed.

    batch: most pictures in one, but for an image that has more views. Decoded in threads, a few steps ahead of use.
    """

    def work(task: Task) -> Decoded:
        return pictures_of(images, task, views, preprocessing)

    def joined() -> Decoded:
        return places, np.concatenate(pieces), failed

    places: list[SampleIndex] = []
    pieces: list[np.ndarray] = []
    failed: dict[int, str] = {}
    for found, pictures, reasons in ahead(tasks_of(wanted, min(STEP, batch), workers), work, workers):
        if places and len(places) + len(found) > batch:
            yield joined()
            places, pieces, failed = [], [], {}
        pieces.append(pictures)
        places, failed = [*places, *found], {**failed, **reasons}
    if places or failed:
        yield joined()


def first_pictures(images: Images, wanted: Wanted, views: Views, preprocessing: Preprocessing) -> np.ndarray:
    """The pictures of the first images, as many as can be read of them: to try engines on."""
    return pictures_of(images, list(itertools.islice(wanted.items(), STEP)), views, preprocessing)[1]


def pictures_of(images: Images, task: Task, views: Views, preprocessing: Preprocessing) -> Decoded:
    places: list[SampleIndex] = []
    pieces: list[np.ndarray] = [np.empty((0, preprocessing.size, preprocessing.size, 3), np.uint8)]
    failed: dict[int, str] = {}
    for image, numbers in task:
        try:
            pieces.append(pixels(images.pictures[image], images.digests[image], numbers, views, preprocessing))
            places += [(image, number) for number in numbers]
        except UnreadableImageError as error:
            failed[image] = str(error)
    return places, np.concatenate(pieces), failed


def tasks_of(wanted: Wanted, most: int, workers: int) -> Iterator[Task]:
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


def ahead(
    tasks: Iterator[Task], work: Callable[[Task], T], workers: int, initializer: Callable[[], None] | None = None
) -> Iterator[T]:
    """What `work` makes of each task, in their order; threads are two tasks each ahead of use."""
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        waiting.extend(pool.submit(work, task) for task in itertools.islice(tasks, 2 * workers))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(work, task) for task in itertools.islice(tasks, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
