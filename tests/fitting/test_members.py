"""Who takes part in a training: nobody, unless a cluster has nodes to spare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from frostline import distributed
from frostline.cluster import Cluster, Slots
from frostline.fitting import members as module
from frostline.fitting.members import solving_members, training_members
from frostline.machine import find_machine
from frostline.plan import Phase
from frostline.store.activations import Filled

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
    monkeypatch.setattr(module, "nodes_of_cluster", lambda: 4)
    monkeypatch.setattr(module, "is_outside", lambda: False)
    monkeypatch.setattr(distributed, "join", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(distributed, "leave", lambda: asked.append("left"))
    return asked


def test_nodes_join_for_as_long_as_it_trains(told, caplog):
    with caplog.at_level("INFO"), training_members(MACHINE, Phase("head", epochs=1, batch_size=32), set()):
        assert told == [4, (0, 3, "host:1", 0)]
    assert told[-1] == "left"
    assert "training in 3 processes" in caplog.text


def test_a_fault_of_the_training_lets_them_go(told):
    with pytest.raises(ValueError, match="fault"), training_members(MACHINE, Phase("head", epochs=1), set()):
        raise ValueError("fault")
    assert told[-1] == "left"


ALONE = {
    "small batch": "a batch has 15 images; --batch-size 16 or more is shared, 8 per process",
    "no node is free": "no other node of the cluster is free; ",
    "outside": "over ray:// a cluster computes only the passes over images; ",
    "other device": "it computes on mps, and the nodes do not; --device cpu ",
}


@pytest.mark.parametrize("case", ["no cluster", "in a group", "one node", *ALONE])
def test_where_nobody_joins_a_line_says_why_once(case, told, monkeypatch, caplog):
    machine, phase = MACHINE, Phase("head", epochs=1, batch_size=15 if case == "small batch" else 32)
    if case == "no cluster":
        machine = replace(MACHINE, cluster=None)
    if case == "one node":
        monkeypatch.setattr(module, "nodes_of_cluster", lambda: 1)
    if case == "in a group":
        monkeypatch.setattr(distributed, "current", lambda: object())
    if case == "no node is free":
        monkeypatch.setattr(module, "slots_of", lambda _: Slots(0, 1, 0))
    if case == "outside":
        monkeypatch.setattr(module, "is_outside", lambda: True)
    if case == "other device":
        machine = replace(MACHINE, device=torch.device("mps"))
        monkeypatch.setattr(module, "slots_of", lambda _: Slots(8, 1, 1))
    said: set[str] = set()
    with caplog.at_level("INFO"):
        for _ in range(2):
            with training_members(machine, phase, said):
                pass
    assert "left" not in told
    assert len(caplog.messages) == (case in ALONE)
    assert all(line.startswith(f"training in this process alone: {ALONE[case]}") for line in caplog.messages)


def rows_of(count: int, width: int, kept: str = "stored") -> Any:
    """As if there were so many rows, which nobody reads."""

    class Many:
        filled = Filled(count, 0, 0.0, 0, kept)

        def __len__(self) -> int:
            return count

        def fetch(self, numbers: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(numbers), width)

    return Many()


def test_no_node_joins_for_rows_that_it_could_not_read(told):
    with solving_members(MACHINE, rows_of(10**7, 1280, "recomputed"), set()):
        assert told == []


@pytest.mark.parametrize(
    ("count", "processes"), [(1_000, None), (100_000, None), (600_000, 3), (1_000_000, 5), (100_000_000, 512)]
)
def test_nodes_join_for_a_head_if_each_has_a_gigabyte_of_rows(count, processes, told, caplog):
    with (
        caplog.at_level("INFO"),
        solving_members(replace(MACHINE, device=torch.device("mps")), rows_of(count, 1280), set()),
    ):
        assert told[:1] == ([] if processes is None else [processes])
    assert ("solving the head in 3 processes" in caplog.text) == (processes is not None)
    assert "alone" not in caplog.text
