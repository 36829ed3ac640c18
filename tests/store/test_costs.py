from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import SIZE, draw_images, small_model
from frostline.data.views import PLAIN
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.network.tracing import Cut
from frostline.preprocessing import Preprocessing
from frostline.store import costs as module
from frostline.store.costs import Candidate, Costs, candidates, chosen, measured

seconds = st.floats(1e-6, 1.0)


def cut(position: int) -> Cut:
    return Cut(f"node{position}", position, ("", "", "", position), (8,))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Costs, dict[Cut, int], Cut, dict[str, int]]:
    steps = draw(st.lists(seconds, min_size=1, max_size=6))
    forward = {0: 0.0} | {i + 1: sum(steps[: i + 1]) for i in range(len(steps))}
    sizes = {cut(position): draw(st.integers(1, 10**7)) for position in forward}
    costs = Costs(draw(seconds), forward, draw(st.floats(1e5, 1e10)), draw(st.floats(1e5, 1e10)), draw(st.booleans()))
    work = {name: draw(st.integers(1, 10**5)) for name in ("computed", "read")} | {
        "budget": draw(st.integers(0, 10**12))
    }
    return costs, sizes, cut(len(steps)), work


@given(problems())
def test_what_is_chosen_fits_and_is_never_clearly_worse_than_anything_else(problem):
    costs, sizes, top, work = problem
    ways = candidates(costs, sizes, top, **work)
    way = chosen(ways)
    assert way.fits
    assert way.bytes <= work["budget"]
    best = min(w.seconds for w in ways if w.fits)
    assert way.seconds <= best / 0.9 + 1e-9 or way.seconds <= 1.1 * best / 0.9
    if way.cut is not None:
        assert way.seconds <= 0.9 * ways[-1].seconds + 1e-9


@given(problems())
def test_what_a_higher_cut_beats_in_bytes_is_not_weighed(problem):
    costs, sizes, top, work = problem
    *kept, nothing = candidates(costs, sizes, top, **work)
    assert nothing.cut is None
    assert kept[-1].cut == top
    assert [w.cut.position for w in kept] == sorted(w.cut.position for w in kept)
    assert [w.row_bytes for w in kept] == sorted(w.row_bytes for w in kept)


COSTS = Costs(decode=0.002, forward={0: 0.0, 1: 0.005, 2: 0.010}, write=1e9, read=1e9)
BYTES = {cut(0): 150_000, cut(1): 20_000, cut(2): 40_000}
WORK = {"computed": 1_000, "read": 10_000}


def choice(costs: Costs = COSTS, sizes: dict[Cut, int] = BYTES, budget: int = 10**9, **work: int) -> Candidate:
    return chosen(candidates(costs, sizes, cut(2), **{**WORK, **work}, budget=budget))


def test_the_frostline_is_the_usual_place():
    assert choice().cut == cut(2)


def test_a_small_budget_takes_a_smaller_cut_further_down():
    assert choice(budget=30_000_000).cut == cut(1)


def test_no_budget_stores_nothing():
    assert choice(budget=10_000_000).cut is None


def test_a_slow_disk_stores_nothing():
    slow = Costs(0.002, COSTS.forward, write=1e5, read=1e5)
    assert choice(slow).cut is None


def test_the_speeds_of_a_disk_are_bytes_per_second_of_each_part(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=iter([0.0, 2.0, 2.5]).__next__))
    assert module._disk(tmp_path / "new" / "store") == (4e6, 16e6)


def test_output_larger_than_the_pixels_that_spares_little_is_kept_as_pixels():
    costs = Costs(decode=0.010, forward={0: 0.0, 1: 0.0001, 2: 0.0002}, write=2e8, read=2e8)
    assert choice(costs, {cut(0): 150_000, cut(1): 800_000, cut(2): 400_000}).cut == cut(0)


def test_rows_that_are_read_no_more_often_than_made_need_no_store_but_for_the_next_fit():
    slow = Costs(0.002, COSTS.forward, write=2e6, read=1e9)
    assert choice(slow, computed=1_000, read=1_000).cut is None
    assert choice(slow, computed=1_000, read=10_000).cut is not None


def test_an_accelerator_hides_what_the_processor_does():
    work = {"computed": 1_000, "read": 10_000, "budget": 10**9}
    alone = candidates(COSTS, BYTES, cut(2), **work)[-1]
    beside = candidates(Costs(0.002, COSTS.forward, 1e9, 1e9, overlaps=True), BYTES, cut(2), **work)[-1]
    assert beside.seconds == pytest.approx(2 * 10_000 * 0.010)
    assert alone.seconds == pytest.approx(2 * 10_000 * 0.012)


@pytest.mark.parametrize("frostline", ["stem", "block2", "head"])
def test_measuring_sees_every_cut_and_more_time_further_up(frostline, tmp_path):
    network = Network(small_model(), Preprocessing(size=SIZE, resize=36))
    top = network.find(frostline)
    costs = measured(network, top, draw_images(5), PLAIN, find_machine("cpu", "fp32", 2), tmp_path)
    assert network.trace is not None
    assert set(costs.forward) == {c.position for c in network.trace.cuts if c.position <= top.position}
    ordered = [costs.forward[position] for position in sorted(costs.forward)]
    assert ordered == sorted(ordered)
    assert ordered[0] == 0
    assert costs.decode > 0
    assert 0 < costs.write < float("inf")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path):
    (tmp_path / "file").touch()
    network = Network(small_model(), Preprocessing(size=SIZE, resize=36))
    costs = measured(
        network, network.find("head"), draw_images(3), PLAIN, find_machine("cpu", "fp32", 2), tmp_path / "file"
    )
    assert costs.write == float("inf")
