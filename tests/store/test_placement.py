from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import SIZE, draw_images, small_model
from frostline import distributed
from frostline.cluster import Cluster
from frostline.data.images import ImageSet
from frostline.data.views import Views
from frostline.engines.choice import Engine, plain_engine
from frostline.machine import Machine, find_machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing
from frostline.store import placement as storing
from frostline.store.activations import Activations
from frostline.store.costs import Candidate, Costs
from frostline.store.placement import Decision, Placement, decide
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)
LIGHT = Views(augment="light")
PLAN = [Phase("head", epochs=0, views=1), Phase("block2", epochs=3, views=2), Phase("block1", epochs=2, views=2)]


@pytest.fixture
def images() -> ImageSet:
    return ImageSet("drawn", ("a", "b", "c"), draw_images(12), draw_images(6, seed=1))


@pytest.fixture
def fp32() -> Machine:
    return find_machine("cpu", "fp32", 2)


def kept_at(monkeypatch: pytest.MonkeyPatch, place: str | None) -> None:
    """Every phase that is weighed is to be stored there."""

    def decide(network: Network, phase: Phase, *_: object, cache: Cache, **__: object) -> Decision:
        cut = network.find(place) if place else None
        way = Candidate(cut, 1, 1, 0.0, 0.0)
        return Decision(Costs(0, {}, 1, 1), [way, way, Candidate(None, 0, 0, 0, 0)], way, cache.budget)

    monkeypatch.setattr(storing, "decide", decide)
    monkeypatch.setattr(storing, "LARGE", 0)


def rows(network: Network, stored: Placement, images: ImageSet, number: int, split: str = "train") -> Activations:
    lower, _ = network.cut(stored.phases[number].frostline)
    return stored.activations(number, lower, images.splits[split], split)


def everything(found: Activations) -> torch.Tensor:
    return torch.cat([x for x, _ in found.batches()])


@pytest.mark.parametrize("place", ["frostline", "block1", "stem", None])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_wherever_rows_are_kept_they_are_the_same(place, split, images, fp32, tmp_path, monkeypatch):
    network, views = Network(small_model(), HOW), Views()
    plain = Placement(network, PLAN[1:2], images, views, machine=fp32, cache=None, keep=True)
    right = everything(rows(network, plain, images, 0, split))
    if place != "frostline":
        kept_at(monkeypatch, place)
    stored = Placement(network, PLAN[1:2], images, views, machine=fp32, cache=Cache(tmp_path), keep=True)
    found = rows(network, stored, images, 0, split)
    assert found.filled.kept == {"frostline": "stored", None: "recomputed"}.get(place, "below")
    torch.testing.assert_close(everything(found), right, rtol=1e-4, atol=1e-4)
    again = rows(network, stored, images, 0, split)
    assert again.filled.computed == 0
    assert (again.filled.found > 0) == (place is not None)


def test_rows_computed_from_a_lower_cut_can_be_trained_on(images, fp32, tmp_path, monkeypatch):
    kept_at(monkeypatch, "block1")
    network = Network(small_model(), HOW)
    stored = Placement(network, PLAN[1:2], images, Views(), machine=fp32, cache=Cache(tmp_path))
    lower, upper = network.cut("block2")
    x = stored.activations(0, lower, images.train, "train").fetch(torch.arange(4))
    upper(x).sum().backward()
    assert all(p.grad is not None for p in upper.parameters())


def test_solving_reads_rows_that_are_computed_above_the_store_once(images, fp32, tmp_path, monkeypatch):
    kept_at(monkeypatch, "block1")
    network = Network(small_model(), HOW)
    stored = Placement(network, PLAN[1:2], images, Views(), machine=fp32, cache=Cache(tmp_path))
    found = rows(network, stored, images, 0)
    at_hand = found.in_memory()
    monkeypatch.setattr(Part, "forward", lambda *_: pytest.fail("computed again"))
    torch.testing.assert_close(at_hand.fetch(torch.arange(3)), everything(at_hand)[:3])


def test_one_pass_fills_what_was_chosen_for_all_phases(images, fp32, tmp_path):
    network = Network(small_model(), HOW)
    stored = Placement(network, PLAN, images, Views(), machine=fp32, cache=Cache(tmp_path))
    stored.extract(images, ["train", "valid"])
    assert stored.together == {"train": [12, 24, 24], "valid": [6, 6, 6]}
    for number in range(3):
        assert rows(network, stored, images, number).filled.computed == 0


def test_a_lower_store_serves_every_frostline_above_it_without_the_images(images, fp32, tmp_path, monkeypatch):
    network = Network(small_model(), HOW)
    first = Placement(network, PLAN[2:], images, Views(), machine=fp32, cache=Cache(tmp_path))
    rows(network, first, images, 0)
    plain = Placement(network, PLAN[:2], images, Views(), machine=fp32, cache=None)
    right = [everything(rows(network, plain, images, number)) for number in (0, 1)]
    monkeypatch.setattr("frostline.data.pictures.pixels", lambda *_: pytest.fail("an image was decoded"))
    later = Placement(network, PLAN[:2], images, Views(), machine=fp32, cache=Cache(tmp_path))
    for number in (0, 1):
        found = rows(network, later, images, number)
        assert found.filled.computed == 0
        torch.testing.assert_close(everything(found), right[number], rtol=1e-4, atol=1e-4)


def test_a_lower_store_without_all_views_is_no_help(images, fp32, tmp_path):
    network = Network(small_model(), HOW)
    one = [replace(PLAN[2], views=1)]
    rows(network, Placement(network, one, images, Views(), machine=fp32, cache=Cache(tmp_path)), images, 0)
    later = Placement(network, PLAN[1:2], images, Views(), machine=fp32, cache=Cache(tmp_path))
    assert rows(network, later, images, 0).filled.computed == 24


def test_small_rows_are_stored_without_measuring(images, fp32, tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "decide", lambda *_, **__: pytest.fail("measured"))
    stored = Placement(Network(small_model(), HOW), PLAN[:1], images, Views(), machine=fp32, cache=Cache(tmp_path))
    assert stored.decisions == [None]


@pytest.mark.parametrize("among", ["processes", "nodes"])
@pytest.mark.parametrize("place", ["block2", "stem"])
def test_rows_that_several_share_are_stored_if_there_is_room(among, place, images, fp32, tmp_path, monkeypatch):
    """Whatever an estimate says, and whatever one process decided before: others cannot read what is not stored."""
    kept_at(monkeypatch, None)
    network, plan = Network(small_model(), HOW), [replace(PLAN[1], frostline=place)]
    alone = Placement(network, plan, images, Views(), machine=fp32, cache=Cache(tmp_path))
    assert alone.kept_at == [None]
    if among == "processes":
        monkeypatch.setattr(distributed, "size", lambda: 2)
    machine = replace(fp32, cluster=Cluster("ray")) if among == "nodes" else fp32
    for before in ((), alone.kept_at):
        stored = Placement(network, plan, images, Views(), machine=machine, cache=Cache(tmp_path), kept_at=before)
        assert stored.kept_at == [network.find(place).position]
    small = Placement(network, plan, images, Views(), machine=machine, cache=Cache(tmp_path, 10))
    assert small.kept_at == [None]
    if among == "processes":
        assert rows(network, stored, images, 0).filled.kept == "stored"


def test_what_is_stored_already_is_not_weighed_again(images, fp32, tmp_path, monkeypatch):
    network = Network(small_model(), HOW)
    monkeypatch.setattr(storing, "LARGE", 0)
    first = Placement(network, PLAN[1:2], images, Views(), machine=fp32, cache=Cache(tmp_path))
    assert first.decisions[0] is not None
    monkeypatch.setattr(storing, "chosen", lambda ways: ways[-2])
    rows(network, Placement(network, PLAN[1:2], images, Views(), machine=fp32, cache=Cache(tmp_path)), images, 0)
    monkeypatch.setattr(storing, "decide", lambda *_, **__: pytest.fail("measured"))
    assert Placement(network, PLAN[1:2], images, Views(), machine=fp32, cache=Cache(tmp_path)).decisions == [None]


@pytest.mark.parametrize("budget", [0, 1, 5_000, 40_000, 10**9])
def test_the_budget_holds_whatever_it_is(budget, images, fp32, tmp_path):
    network = Network(small_model(), HOW)
    plain = Placement(network, PLAN, images, Views(), machine=fp32, cache=None)
    right = [everything(rows(network, plain, images, number)) for number in range(3)]
    stored = Placement(network, PLAN, images, Views(), machine=fp32, cache=Cache(tmp_path, budget))
    stored.extract(images, ["train", "valid"])
    for number in range(3):
        torch.testing.assert_close(
            everything(rows(network, stored, images, number)), right[number], rtol=1e-4, atol=1e-4
        )
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.shard")) <= budget * 1.2 + 10_000


@pytest.mark.parametrize("fault", ["read-only", "full"])
def test_a_store_that_takes_nothing_changes_nothing_but_time(fault, images, fp32, tmp_path, monkeypatch, capfd):
    def refuse(*_: object) -> None:
        raise OSError(28 if fault == "full" else 30, "No space left on device" if fault == "full" else "Read-only")

    network = Network(small_model(), HOW)
    plain = Placement(network, PLAN, images, Views(), machine=fp32, cache=None)
    right = everything(rows(network, plain, images, 2))
    monkeypatch.setattr("frostline.store.filling.ShardWriter", refuse)
    stored = Placement(network, PLAN, images, Views(), machine=fp32, cache=Cache(tmp_path / "cache"))
    stored.extract(images, ["train", "valid"])
    torch.testing.assert_close(everything(rows(network, stored, images, 2)), right, rtol=1e-4, atol=1e-4)
    predicted = capfd.readouterr().err.strip().splitlines()
    assert len(predicted) == 1
    assert "cannot store activations" in predicted[0]


@pytest.mark.parametrize(("budget", "words"), [(10**9, "to build, then"), (10, "not caching: ")])
def test_the_reason_has_the_numbers(budget, words, images, fp32, tmp_path):
    network = Network(small_model(), HOW)
    decision = decide(network, PLAN[2], images, Views(2), machine=fp32, cache=Cache(tmp_path, budget))
    if budget == 10:
        assert decision.reason(network).startswith(words)
        assert decision.option.cut is None
    assert decision.options[-1].cut is None
    assert [way.fits for way in decision.options[:-1]] == [way.bytes <= budget for way in decision.options[:-1]]


def test_an_untraceable_network_has_no_choice(images, fp32, tmp_path: Path):
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 1e9:
                return self.head(x.mean((2, 3)) + 1)
            return self.head(x.mean((2, 3)))

    network = Network(Odd(), HOW)
    assert network.trace is None
    stored = Placement(network, [PLAN[0]], images, Views(), machine=fp32, cache=Cache(tmp_path))
    assert stored.decisions == [None]
    stored.extract(images, ["train", "valid"])
    assert len(rows(network, stored, images, 0)) == 12


def test_rows_of_other_images_are_no_reason_not_to_weigh(images, fp32, tmp_path, monkeypatch):
    network = Network(small_model(), HOW)
    monkeypatch.setattr(storing, "LARGE", 0)
    others = ImageSet("others", ("a", "b", "c"), draw_images(8, seed=5), draw_images(4, seed=6))
    monkeypatch.setattr(storing, "chosen", lambda options: options[-2])
    rows(network, Placement(network, PLAN[1:2], others, Views(), machine=fp32, cache=Cache(tmp_path)), others, 0)
    assert list(tmp_path.rglob("*.shard"))
    for budget in (10**9, 0):
        stored = Placement(network, PLAN[1:2], images, Views(), machine=fp32, cache=Cache(tmp_path, budget))
        assert stored.decisions[0] is not None


def test_each_phase_is_held_against_what_is_left_of_the_budget(images, fp32, tmp_path):
    network = Network(small_model(), HOW)
    needed = [(24 + 6) * 4 * 16 * 8 * 8, (24 + 6) * 4 * 8 * 16 * 16]  # at block2 and at block1, in fp32
    stored = Placement(network, PLAN[1:], images, Views(), machine=fp32, cache=Cache(tmp_path, sum(needed) - 1))
    assert [decision.budget if decision else None for decision in stored.decisions][1] == needed[1] - 1
    for number in (0, 1):
        rows(network, stored, images, number)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.shard")) <= sum(needed) + 20_000


def test_what_is_stored_is_asked_once(images, fp32, tmp_path, monkeypatch):
    network, asked = Network(small_model(), HOW), []
    original = storing.take_inventory
    monkeypatch.setattr(
        storing,
        "take_inventory",
        lambda rows, images, *more, **options: (
            asked.append((rows.lower.cut, rows.views.count, len(images))),
            original(rows, images, *more, **options),
        )[1],
    )
    stored = Placement(network, PLAN, images, Views(), machine=fp32, cache=Cache(tmp_path))
    stored.extract(images, ["train", "valid"])
    for number in range(3):
        for split in ("train", "valid"):
            rows(network, stored, images, number, split)
    assert len(asked) == len(set(asked))


def test_more_views_at_the_same_cut_serve_fewer(images, fp32, tmp_path):
    network = Network(small_model(), HOW)
    plan = [Phase("head", epochs=0, views=1), Phase("head", epochs=1, views=3), Phase("block2", epochs=1, views=2)]
    stored = Placement(network, plan, images, LIGHT, machine=fp32, cache=Cache(tmp_path))
    stored.extract(images, ["train", "valid"])
    assert [rows(network, stored, images, number).filled.computed for number in range(3)] == [0, 0, 0]


def test_a_plan_of_several_frostlines_of_which_none_can_be_stored_still_runs(images, fp32, tmp_path):
    model = small_model()
    lock = threading.Lock()  # no digest covers it
    model.conv.register_forward_hook(lambda *_: lock and None)
    stored = Placement(Network(model, HOW), PLAN, images, LIGHT, machine=fp32, cache=Cache(tmp_path, 10**9))
    stored.extract(images, ["train", "valid"])
    assert everything(rows(stored.network, stored, images, 1)).isfinite().all()


def test_an_engine_is_chosen_for_training_and_validation_images_together(images, fp32, tmp_path, monkeypatch):
    asked: list[tuple[int, int]] = []

    def watched(frozen: Part, machine: Machine, _: object, count: int, __: object, later: int) -> Engine:
        asked.append((count, later))
        return plain_engine(frozen, machine)

    monkeypatch.setattr("frostline.store.filling.fastest", watched)
    stored = Placement(Network(small_model(), HOW), PLAN[:1], images, LIGHT, machine=fp32, cache=Cache(tmp_path, 10**9))
    for split in ("train", "valid"):
        rows(stored.network, stored, images, 0, split)
    assert asked == [(12, 6), (6, 0)]


def test_validation_rows_that_a_lower_cut_gives_do_not_count_for_the_engine(images, fp32, tmp_path, monkeypatch):
    network, cache = Network(small_model(), HOW), Cache(tmp_path, 10**9)
    kept_at(monkeypatch, "block2")
    below = Placement(network, PLAN[1:2], images, Views(), machine=fp32, cache=cache)
    rows(network, below, images, 0, "valid")
    above = Placement(network, PLAN[:1], images, Views(), machine=fp32, cache=cache)
    assert above._later(network.find("head"), "train") == 0
    assert above._later(network.find("head"), "valid") == 0
