"""Images answered in batches: what arrives while the network computes waits, and is computed together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from frostline.classifier.classifier import TOP, Classifier, Prediction
from frostline.classifier.many import steady
from frostline.classifier.reference import Reference, explanations, noting
from frostline.data.decoding import UnreadableImageError
from frostline.serve.counters import Counters
from frostline.serve.decoders import Decoders
from frostline.serve.limits import Limits

T = TypeVar("T")


class BusyError(Exception):
    """More images wait than the limit allows."""


class ModelError(Exception):
    """The network failed; its device may have had too little memory."""


@dataclass(frozen=True)
class Asked:
    """What is asked about an image: the number of classes; coverage and why as in `explained`."""

    top: int = TOP
    coverage: float | None = None
    why: int = 0

    @property
    def more(self) -> bool:
        return self.coverage is not None or self.why > 0


@dataclass(frozen=True, eq=False)
class _Waiting:
    name: str
    picture: np.ndarray
    asked: Asked
    answer: asyncio.Future[Prediction]


@dataclass(frozen=True, eq=False)
class Served:
    """What a server answers with.

    reference: for sets and nearest images; None if the run has none. images: the folder of the training images, from
    which answers can show some; None if unknown.
    """

    classifier: Classifier
    reference: Reference | None = None
    images: Path | None = None


class Batches:
    """A classifier that answers many clients at once.

    served: the classifier, with what it needs to explain its answers.
    """

    def __init__(self, served: Served, limits: Limits, counters: Counters) -> None:
        self.served = served
        self.limits, self.counters = limits, counters
        self.decoders = Decoders(served.classifier.preprocessing, limits, counters.crashes.inc)
        self._thread = ThreadPoolExecutor(1, "network")  # one, so that batches do not share the cores
        many = served.classifier.many() if served.classifier.many is not None else None
        self._steady = None if many is None else steady(many)
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._turns = asyncio.Semaphore(self.decoders.count)
        self._coming = 0  # images that are being decoded
        self._unanswered = 0

    async def predict(self, images: Sequence[tuple[str, bytes]], asked: Asked) -> list[Prediction]:
        """The predictions of named images, the content of files, in order; an unreadable one has an error.

        Raises BusyError if too many images wait, CrashedError and ModelError.
        """
        if self._unanswered + len(images) > self.limits.waiting:
            raise BusyError
        self._count(len(images))
        own = asyncio.Semaphore(max(1, self.decoders.count - 1))  # of one request; one process is left for others
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._predicted(name, content, asked, own)) for name, content in images]
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            self._count(-len(images))
        return [task.result() for task in tasks]

    async def thumbnail(self, content: bytes) -> bytes:
        """A small JPEG of an image; raises like `Decoders.thumbnail`."""
        self._count(1)
        try:
            return await self._decoded(self.decoders.thumbnail, content)
        finally:
            self._count(-1)

    async def between(self, work: Callable[[], T]) -> T:
        """Do some work between two batches: tracing a network changes for a moment how all modules are called."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def run(self) -> None:
        """Answer batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [each for each in await self._gathered() if not each.answer.done()]  # whose client has left is
            if not batch:
                continue
            self.counters.batches.observe(len(batch))
            try:
                predictions = await loop.run_in_executor(self._thread, self._computed, batch)
            except ModelError as error:
                for each in batch:
                    if not each.answer.done():
                        each.answer.set_exception(error)
                continue
            for each, prediction in zip(batch, predictions, strict=True):
                if not each.answer.done():
                    each.answer.set_result(prediction)

    async def emptied(self) -> None:
        """Wait until no image is left to answer."""
        while self._unanswered:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """End all processes and threads, when what they do is done."""
        await asyncio.to_thread(self.decoders.close)
        await asyncio.to_thread(self._thread.shutdown)

    async def _predicted(self, name: str, content: bytes, asked: Asked, turns: asyncio.Semaphore) -> Prediction:
        self._coming += 1
        try:
            async with turns:
                picture = await self._decoded(self.decoders.decode, content)
        except UnreadableImageError as error:
            self.counters.images.labels("unreadable").inc()
            return Prediction(name, error=str(error))
        finally:
            self._coming -= 1
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Waiting(name, picture, asked, answer))
        prediction = await answer
        self.counters.images.labels("answered").inc()
        return prediction

    async def _decoded(self, decode: Callable[[bytes], T], content: bytes) -> T:
        """The result of a decoder. Its turn ends when the process is free, even if the client leaves before."""
        loop = asyncio.get_running_loop()
        await self._turns.acquire()
        result = self.decoders.threads.submit(decode, content)
        result.add_done_callback(lambda _: loop.call_soon_threadsafe(self._turns.release))
        return await asyncio.wrap_future(result)

    async def _gathered(self) -> list[_Waiting]:
        """The next batch: all that wait, and for a moment those that are being decoded."""
        loop = asyncio.get_running_loop()
        batch = [await self._queue.get()]
        end = loop.time() + self.limits.gathering
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while len(batch) < self.limits.batch and (self._coming or not self._queue.empty()):
                    batch.append(await self._queue.get())
        return batch

    def _computed(self, batch: Sequence[_Waiting]) -> list[Prediction]:
        """Predictions; raises ModelError for whatever a network raises: a thread could not hand on StopIteration."""
        try:
            return self._predictions(batch)
        except Exception as error:
            raise ModelError(f"{type(error).__name__}: {error}") from error

    def _predictions(self, batch: Sequence[_Waiting]) -> list[Prediction]:
        pictures = torch.from_numpy(np.stack([each.picture for each in batch]))
        logits, features = self._outputs(pictures, any(each.asked.more for each in batch))
        predictions = []
        classifier, reference = self.served.classifier, self.served.reference
        for i, each in enumerate(batch):
            prediction = replace(classifier, top=each.asked.top).prediction(each.name, logits[i])
            if each.asked.more and reference is not None:  # without one it was refused before
                said = explanations(
                    reference,
                    classifier.classes,
                    logits[i : i + 1],
                    features[i : i + 1],
                    each.asked.coverage,
                    each.asked.why,
                )
                prediction = replace(prediction, **said[0])
            predictions.append(prediction)
        return predictions

    def _outputs(self, pictures: Tensor, featured: bool) -> tuple[Tensor, Tensor]:
        """Logits, and features if they are needed."""
        classifier, reference = self.served.classifier, self.served.reference
        if not featured or reference is None:
            return self._logits(pictures), torch.empty(0)
        with noting(classifier.model, reference.layer) as noted:
            logits = self._logits(pictures)
        return logits, torch.cat(noted)

    def _logits(self, pictures: Tensor) -> Tensor:
        """Calibrated logits; for a single picture all cores compute each layer together."""
        classifier = self.served.classifier
        if self._steady is None or len(pictures) == 1:
            return classifier.run(pictures)
        return self._steady(pictures.numpy()) / classifier.temperature

    def _count(self, images: int) -> None:
        self._unanswered += images
        self.counters.waiting.set(self._unanswered)
