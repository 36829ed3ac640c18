"""Decode files to pictures of the network's size, on all cores."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from frostline.data.decoding import Picture, UnreadableImageError
from frostline.data.images import Images
from frostline.data.views import Views, pixels
from frostline.preprocessing import Preprocessing

BATCH = 64  # pictures per batch if they are only decoded
STEP = 8  # images per task of a thread
SampleIndex = tuple[int, int]  # image, view
Requested = Mapping[int, Sequence[int]]  # views per image
Decoded = tuple[list[SampleIndex], np.ndarray, dict[int, str]]
Task = list[tuple[int, Sequence[int]]]
Needed = Callable[[int, Sequence[int]], Sequence[int]]  # the views to decode of an image whose digest is known now
T = TypeVar("T")


class Marked(Mapping[int, list[int]]):
    """The marked views of each image, without an object per image. marks: (N, V) of bool."""

    def __init__(self, marks: np.ndarray) -> None:
        self.marks = marks
        self.images = np.flatnonzero(marks.any(1))

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[int]:
        return (int(image) for image in self.images)

    def __getitem__(self, image: int) -> list[int]:
        numbers: list[int] = np.flatnonzero(self.marks[image]).tolist()
        if not numbers:
            raise KeyError(image)
        return numbers


def decoded(
    images: Images,
    requested: Requested,
    views: Views,
    preprocessing: Preprocessing,
    workers: int,
    batch: int = BATCH,
    needed: Needed | None = None,
) -> Iterator[Decoded]:
    """Batches: (image, view) of each picture, pictures (B, size, size, 3) of uint8, and the reasons of failed images.

    batch: most pictures per batch; an image with more views has its own. Threads decode a few steps ahead of use.
    needed: as `pictures_of` takes it.
    """

    def work(task: Task) -> Decoded:
        return pictures_of(images, task, views, preprocessing, needed)

    def joined() -> Decoded:
        return places, np.concatenate(pieces), failed

    places: list[SampleIndex] = []
    pieces: list[np.ndarray] = []
    failed: dict[int, str] = {}
    for found, pictures, reasons in ahead(tasks_of(requested, min(STEP, batch), workers), work, workers):
        if places and len(places) + len(found) > batch:
            yield joined()
            places, pieces, failed = [], [], {}
        pieces.append(pictures)
        places, failed = [*places, *found], {**failed, **reasons}
    if places or failed:
        yield joined()


def first_pictures(images: Images, requested: Requested, views: Views, preprocessing: Preprocessing) -> np.ndarray:
    """The readable pictures among the first images, to try engines on."""
    return pictures_of(images, list(itertools.islice(requested.items(), STEP)), views, preprocessing)[1]


def pictures_of(
    images: Images, task: Task, views: Views, preprocessing: Preprocessing, needed: Needed | None = None
) -> Decoded:
    """The pictures of some views of some images.

    A file is read once, for its digest and for decoding. A plain view needs no digest. needed: called for each image
    whose digest was not known before; the views that it leaves out are not decoded.
    """
    places: list[SampleIndex] = []
    pieces: list[np.ndarray] = [np.empty((0, preprocessing.size, preprocessing.size, preprocessing.channels), np.uint8)]
    failed: dict[int, str] = {}
    for image, numbers in task:
        picture: Picture = images.pictures[image]
        if (needed is not None or any(numbers)) and not images.digests.known[image]:
            picture, _ = images.digests.read(image)
            numbers = numbers if needed is None else needed(image, numbers)
        elif needed is not None:  # the row is stored under this digest, so the digest must match the bytes
            picture, same = images.digests.read_again(image)
            if not same:
                failed[image] = "it has changed since the data set was read"
                continue
        if not numbers:
            continue
        digest = images.digests[image] if any(numbers) else b""
        try:
            pieces.append(pixels(picture, digest, list(numbers), views, preprocessing))
            places += [(image, number) for number in numbers]
        except UnreadableImageError as error:
            failed[image] = str(error)
    return places, np.concatenate(pieces), failed


def all_views(_: int, views: Sequence[int]) -> Sequence[int]:
    """All views of an image are needed; that it is asked has its file compared with what was read first."""
    return views


def tasks_of(requested: Requested, most: int, workers: int) -> Iterator[Task]:
    """The images in tasks of at most `most` pictures, with enough tasks for all workers; views stay together."""
    total = sum(len(numbers) for numbers in requested.values())
    most = max(1, min(most, -(-total // workers)))
    task: Task = []
    size = 0
    for image, numbers in requested.items():
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
    """The results of `work` for all tasks, in order; each thread works two tasks ahead of use."""
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
