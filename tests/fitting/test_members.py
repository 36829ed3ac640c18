"""Who takes part in a training: nobody, unless a cluster has nodes to spare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from frostline import distributed
from frostline.cluster import Cluster, Slots
from frostline.fitting import members as module
from frostline.fitting.members import members
from frostline.machine import find_machine
from frostline.plan import Phase

MACHINE = replace(find_machine("cpu", "fp32", 1), cluster=Cluster("ray"))


@pytest.fixture
def told(monkeypatch) -> list[Any]:
    """What was asked of the cluster, and of the group."""
    asked: list[Any] = []

    @contextlib.contextmanager
    def at_work(work: object, slots: Slots, most: int) -> Iterator[tuple[int, str] | None]:
        asked.append(most)
        yield (min(most, 3), "host:1") if slots.count else None

    monkeypatch.setattr(module, "at_work", at_work)
    monkeypatch.setattr(module, "slots_of", lambda cluster: Slots(8, 1, int(cluster.device == "cuda")))
    monkeypatch.setattr(distributed, "join", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(distributed, "leave", lambda: asked.append("left"))
    return asked


def test_nodes_join_for_as_long_as_it_trains(told, caplog):
    with caplog.at_level("INFO"), members(MACHINE, Phase("head", epochs=1, batch_size=32)):
        assert told == [4, (0, 3, "host:1", 0)]
    assert told[-1] == "left"
    assert "training in 3 processes" in caplog.text


def test_a_fault_of_the_training_lets_them_go(told):
    with pytest.raises(ValueError, match="fault"), members(MACHINE, Phase("head", epochs=1)):
        raise ValueError("fault")
    assert told[-1] == "left"


@pytest.mark.parametrize("case", ["no cluster", "small batch", "no node", "in a group"])
def test_nobody_joins(case, told, monkeypatch):
    machine, phase = MACHINE, Phase("head", epochs=1, batch_size=15 if case == "small batch" else 32)
    if case == "no cluster":
        machine = replace(MACHINE, cluster=None)
    if case == "no node":
        monkeypatch.setattr(module, "slots_of", lambda _: Slots(0, 1, 0))
    if case == "in a group":
        monkeypatch.setattr(distributed, "current", lambda: object())
    with members(machine, phase):
        pass
    assert "left" not in told
