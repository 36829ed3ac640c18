"""Sums over many rows that several processes take together are those of one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frostline import distributed
from frostline.data.targets import TableTargets
from frostline.store.reading import STAYS, HeldRows
from frostline.training import summing
from frostline.training.pickling import pickled
from frostline.training.probe import solve
from frostline.training.scale import Blocks, scale_of, total_of
from frostline.training.summing import Share
from processes import group_of_two
from regressions import held

CLASSES = 3


def labelled(count: int = 400):
    """The same with several labels per image."""
    made = held(count=count)
    marks = np.random.default_rng(2).random((count, CLASSES)) < 0.4
    images = made.images.__class__(made.images.pictures, marks, made.images.names)
    return replace(made, images=images, targets=TableTargets(torch.from_numpy(marks).float(), 1))


@pytest.fixture
def many(monkeypatch):
    """A few rows count as many, and each process reads forty of them at a turn."""
    monkeypatch.setattr(summing, "MANY", 100)
    monkeypatch.setattr(summing, "TURN", 40 * 4 * 20)
    monkeypatch.setattr(summing, "WORK", 12 * 20 * 20_000)


@pytest.fixture(scope="module")
def group():
    with group_of_two() as both:
        yield both


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    """The kinds of the messages to the others."""
    kinds: list[int] = []
    monkeypatch.setattr(summing, "send", lambda *args, **kw: (kinds.append(args[1]), distributed.send(*args, **kw))[1])
    return kinds


def in_one_process(monkeypatch, *arguments):
    with monkeypatch.context() as patch:
        patch.setattr(summing, "current", lambda: None)
        return solve(*arguments)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5])], ids=["plain", "weighted"])
def test_a_head_of_two_processes_is_that_of_one(views, weight, group, sent, monkeypatch):
    rows = held(views)
    together = solve(rows, CLASSES, 0, weight)
    assert sent.count(distributed.SUM) > 3
    assert (sent[0], sent[-1]) == (distributed.SUMMING, distributed.SUMMED)
    alone = in_one_process(monkeypatch, rows, CLASSES, 0, weight)
    assert together.c == alone.c
    torch.testing.assert_close(together.weight, alone.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.bias, alone.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("many")
def test_several_labels_per_image_are_summed_too(group, sent, monkeypatch):
    rows = labelled()
    together, alone = solve(rows, CLASSES), in_one_process(monkeypatch, rows, CLASSES)
    assert distributed.SUM in sent
    torch.testing.assert_close(together.weight, alone.weight, rtol=1e-4, atol=1e-5)


def test_few_rows_are_summed_here(group, sent):
    solve(held(), CLASSES)
    assert sent == []


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("why", ["recomputed", "own"])
def test_rows_that_cannot_be_sent_are_summed_here_and_a_line_says_so(why, group, sent, monkeypatch, caplog):
    rows = held()

    class Recomputed:
        def __call__(self, numbers: Tensor) -> Tensor:
            return rows.fetch(numbers)

        def __reduce__(self):
            raise TypeError(STAYS)

    fetch = Recomputed() if why == "recomputed" else lambda numbers: rows.fetch(numbers)
    with caplog.at_level("INFO"):
        head = solve(replace(rows, fetch=fetch), CLASSES)
    assert sent == []
    said = [line for line in caplog.messages if line.startswith("solving the head in one process: its rows ")]
    assert len(said) == 1
    assert ("--cache-budget" in said[0]) == (why == "recomputed")
    torch.testing.assert_close(head.weight, in_one_process(monkeypatch, rows, CLASSES).weight)


class OwnError(Exception):
    pass


def failing_on(rank: int):
    """Rows that cannot be read by one process, once."""
    rows = held()
    return replace(rows, fetch=Failing(rows.fetch, rank))


class Failing:
    def __init__(self, base, rank: int) -> None:
        self.base, self.rank, self.calls = base, rank, 0

    def __call__(self, numbers: Tensor) -> Tensor:
        self.calls += 1
        if distributed.current().rank == self.rank and self.calls > 20:
            raise OwnError("no such row")
        return self.base(numbers)


@pytest.mark.usefixtures("many")
def test_after_an_error_of_its_own_all_processes_are_in_step(group, monkeypatch):
    with pytest.raises(OwnError):
        solve(failing_on(0), CLASSES)
    rows = held()
    together, alone = solve(rows, CLASSES), in_one_process(monkeypatch, rows, CLASSES)
    torch.testing.assert_close(together.weight, alone.weight, rtol=1e-4, atol=1e-5)


def counted(blocks: Blocks) -> Tensor:
    return torch.tensor([sum(float(x.sum()) for x, _ in blocks())], dtype=torch.float64)


@settings(deadline=None)
@given(size=st.integers(1, 9), count=st.integers(0, 100), turn=st.integers(1, 30))
def test_the_parts_of_all_processes_are_the_rows_each_once(size, count, turn):
    numbers = torch.arange(100.0)[:, None]
    share = Share(HeldRows(numbers), TableTargets(torch.zeros(100, dtype=torch.int64), 1), count, 1, turn)
    parts, turns = [], set()
    with pytest.MonkeyPatch.context() as patch:
        asked: list[Tensor] = []
        patch.setattr(summing, "_added", lambda x, _: (asked.append(x), x)[1])
        for rank in range(size):
            asked.clear()
            parts.append(share.sum(SimpleNamespace(rank=rank, size=size), counted))
            turns.add(len(asked))
    assert float(sum(parts)) == sum(range(count))
    assert len(turns) == 1  # or they would wait for each other


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(("classes", "turn"), [(3, 40), (20_000, 12)])
def test_a_turn_of_many_classes_has_few_rows(classes, turn, group, monkeypatch):
    """Or nobody would hear from a process for minutes."""
    sent = []
    monkeypatch.setattr(summing, "pickled", lambda share: (sent.append(share), pickled(share))[1])
    with summing.summing(held(), 20, classes):
        monkeypatch.setattr(summing, "pickled", pickled)
    assert sent[0].turn == turn


def test_of_no_rows_the_sums_are_zero():
    scale = scale_of(lambda: iter([(torch.ones(2, 3), torch.zeros(2))]), total_of(lambda: iter([])))
    assert scale.deviation.shape == (3,)
