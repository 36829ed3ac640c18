from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch

from frostline.classifier.classifier import Classifier
from frostline.serve.batches import Asked, Batches, BusyError, ModelError, Served
from frostline.serve.counters import Counters
from frostline.serve.limits import Limits
from serving import classifier_of, picture


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return classifier_of()


def during(classifier: Classifier, work: Callable[[Batches], Awaitable[Any]], limits: Limits | None = None) -> Any:
    """The result of some work with batches that run."""

    async def run() -> Any:
        batches = Batches(Served(classifier), limits or Limits(), Counters(()))
        task = asyncio.create_task(batches.run())
        try:
            return await work(batches)
        finally:
            task.cancel()
            await batches.close()

    return asyncio.run(run())


def test_many_clients_get_the_answers_of_predict(classifier):
    """S03: alone or in a batch, to 1e-5, and every client its own."""
    contents = [picture(seed) for seed in range(60)]
    expected = classifier.predict_proba(contents)

    async def work(batches: Batches) -> Any:
        asked = [batches.predict([(f"image {i}", content)], Asked(top=5)) for i, content in enumerate(contents)]
        answers = await asyncio.gather(*asked)
        return [each for (each,) in answers], batches.counters

    found, counters = during(classifier, work)
    for i, (prediction, row) in enumerate(zip(found, expected, strict=True)):
        assert prediction.path == f"image {i}"
        assert prediction.label == classifier.classes[row.argmax()]
        assert prediction.probabilities == pytest.approx(row, abs=1e-5)
    text = counters.text().decode()
    assert 'frostline_images_total{result="answered"} 60.0' in text
    batches_made = float(text.partition("frostline_batch_images_count ")[2].partition("\n")[0])
    assert batches_made < 60
    assert "frostline_waiting_images 0.0" in text


def test_an_unreadable_image_is_an_entry(classifier):
    async def work(batches: Batches) -> Any:
        return await batches.predict([("a", picture()), ("b", b"no image"), ("c", picture(1))], Asked(top=2))

    first, second, third = during(classifier, work)
    assert (first.error, second.error, third.error) == ("", "not an image of a known format", "")
    assert len(first.top) == len(third.top) == 2


def test_too_many_images_are_refused_at_once(classifier):
    async def work(batches: Batches) -> Any:
        images = [("a", picture())] * 4
        found = await asyncio.gather(*(batches.predict(images, Asked()) for _ in range(3)), return_exceptions=True)
        return found, await batches.predict(images, Asked())

    found, after = during(classifier, work, Limits(waiting=8))
    assert [isinstance(each, BusyError) for each in found] == [False, False, True]
    assert len(after) == 4


def test_a_network_that_fails_fails_one_batch(classifier, monkeypatch):
    """S21."""
    run, failures = Classifier.run, [1]

    def failing(self: Classifier, pictures: torch.Tensor) -> torch.Tensor:
        if failures:
            failures.pop()
            raise torch.OutOfMemoryError("no memory")
        return run(self, pictures)

    monkeypatch.setattr(Classifier, "run", failing)

    async def work(batches: Batches) -> Any:
        with pytest.raises(ModelError, match="no memory"):
            await batches.predict([("a", picture())], Asked())
        return await batches.predict([("a", picture())], Asked())

    assert during(classifier, work)[0].label


def test_what_nobody_waits_for_is_not_computed(classifier, monkeypatch):
    computed: list[int] = []
    run = Classifier.run
    monkeypatch.setattr(Classifier, "run", lambda self, x: computed.append(len(x)) or run(self, x))

    async def work(batches: Batches) -> Any:
        gone = [asyncio.create_task(batches.predict([("a", picture(i))] * 8, Asked())) for i in range(20)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        await batches.emptied()
        return await batches.predict([("b", picture())], Asked())

    assert during(classifier, work)[0].path == "b"
    assert sum(computed) < 40


def test_what_traces_a_network_waits_for_batches_and_they_for_it(classifier, monkeypatch):
    """A reload traces: for that moment torch.fx replaces how all modules of the process are called."""
    inside: list[str] = []
    together: list[set[str]] = []

    def noted(name: str, work: Callable[[], Any]) -> Any:
        inside.append(name)
        time.sleep(0.02)
        together.append({*inside})
        result = work()
        inside.remove(name)
        return result

    run = Classifier.run
    monkeypatch.setattr(Classifier, "run", lambda self, x: noted("batch", lambda: run(self, x)))

    async def work(batches: Batches) -> Any:
        images = [batches.predict([("a", picture(i))], Asked()) for i in range(12)]
        return await asyncio.gather(*images, *(batches.between(lambda: noted("trace", str)) for _ in range(4)))

    during(classifier, work, Limits(batch=2))
    assert {"trace"} in together
    assert {"batch"} in together
    assert {"batch", "trace"} not in together


def test_a_batch_has_at_most_so_many_images(classifier, monkeypatch):
    computed: list[int] = []
    run = Classifier.run
    monkeypatch.setattr(Classifier, "run", lambda self, x: computed.append(len(x)) or run(self, x))

    async def work(batches: Batches) -> Any:
        return await batches.predict([("a", picture(i)) for i in range(20)], Asked())

    during(classifier, work, Limits(batch=4))
    assert sum(computed) == 20
    assert max(computed) <= 4
