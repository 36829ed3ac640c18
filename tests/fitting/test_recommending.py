"""Which result is recommended: laws over all tables."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.fitting.recommending import FASTER, differences, paired, recommended, why

OTHERS = st.fixed_dictionaries(
    {
        "difference": st.floats(-0.5, 0),
        "half": st.floats(0, 0.5),
        "images_per_second": st.floats(1, 1000),
        "bytes": st.integers(1, 10**9),
        "dropped": st.sampled_from([None, {"round": 1, "images": 500}]),
        "failed": st.booleans(),
    }
)
EQUAL = {"difference": -0.01, "half": 0.05, "dropped": None, "failed": False}


def table(others):
    rows = [{"name": "best", "images_per_second": 100.0, "bytes": 10**8, "to_best": None, "dropped": None}]
    for number, other in enumerate(others):
        low, high = other["difference"] - other["half"], other["difference"] + other["half"]
        row = {**other, "name": f"{number}", "to_best": {"difference": other["difference"], "low": low, "high": high}}
        rows.append({"name": f"{number}", "error": "no"} if other["failed"] else row)
    return [row if "error" in row else {**row, "licence": "mit", "accuracy": 0.9, "n": 50} for row in rows]


@given(st.lists(OTHERS, max_size=8))
def test_whatever_is_taken_is_the_best_or_an_equal_that_costs_less(others):
    rows = table(others)
    taken = recommended(rows)
    assert "error" not in taken
    assert not taken["dropped"]
    if taken is not rows[0]:
        assert taken["to_best"]["low"] <= 0 <= taken["to_best"]["high"]
        assert taken["images_per_second"] >= FASTER * rows[0]["images_per_second"]
        assert taken["bytes"] < rows[0]["bytes"]
    reason = why(rows, taken)
    assert reason.startswith(f"{taken['name']} (licence mit)")
    assert "\n" not in reason


@given(st.lists(OTHERS, min_size=1, max_size=8), st.randoms())
def test_the_order_of_the_table_changes_nothing(others, chance):
    rows = table(others)
    mixed = chance.sample(rows, len(rows))
    assert recommended(mixed)["images_per_second"] == recommended(rows)["images_per_second"]


def test_where_nothing_was_fitted_nothing_is_recommended():
    assert recommended([]) is None
    assert recommended([{"name": "a", "error": "no"}]) is None


def test_the_only_one_is_said_to_be_the_only_one():
    (row,) = table([])
    assert why([row, {"name": "b", "error": "no"}], row) == "best (licence mit), the only one"


def test_equals_that_cost_no_less_are_mentioned():
    other = {**EQUAL, "images_per_second": 10.0, "bytes": 1}
    rows = table([other, {**other, "dropped": {"round": 1, "images": 500}}])
    assert why(rows, recommended(rows)) == (
        "best (licence mit), the most accurate of 3: 0.9000 on 50 validation images; another one may be "
        "as good, but is not faster and smaller"
    )


def test_what_an_equal_costs_less_is_said():
    rows = table([{**EQUAL, "images_per_second": 250.0, "bytes": 10**7}])
    assert why(rows, recommended(rows)) == (
        "0 (licence mit), not clearly worse than the most accurate, best: -1.0 points (95 %: -6.0 … +4.0) on 50 "
        "validation images; it is 2.5 times as fast, and has 10 MB instead of 100 MB"
    )


@settings(deadline=None)  # the first one imports scipy
@given(st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=5))
def test_every_one_but_the_best_differs_from_it(scores):
    named = [{f"{i}": float(right) for i, right in enumerate(each)} for each in scores]
    accuracies = [sum(each) / 12 for each in scores]
    apart = differences(accuracies, named)
    best = apart.index(None)
    assert accuracies[best] == max(accuracies)
    for number, difference in enumerate(apart):
        if number != best:
            assert abs(difference["difference"] - (accuracies[number] - accuracies[best])) < 1e-9
            assert difference["low"] <= difference["high"]


def test_images_that_only_one_has_do_not_count():
    assert paired({"a": 1.0, "b": 0.0}, {"b": 0.0, "a": 1.0, "c": 1.0}).difference == 0
