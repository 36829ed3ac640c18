from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Stretch,
    cost_chart,
    learning_chart,
    line_chart,
    reliability,
    reliability_chart,
)

values = st.lists(st.floats(0, 1000, allow_subnormal=False), min_size=1, max_size=12)


@given(values, values)
def test_everything_lies_inside_whatever_the_values_are(train, valid):
    series = {name: [list(enumerate(map(float, own)))] for name, own in (("train", train), ("valid", valid))}
    series["valid"].append([])
    series["train"].insert(0, [])
    phases = [Stretch(0, 1, "head"), Stretch(0, 1, "a stage with a very long name", undone=True)]
    chart = line_chart("loss", series, phases, [(0.0, valid[0])], [(0.0, train[0])])
    assert len(chart["dots"]) == len(train) + len(valid) + 2
    assert [name["name"] for name in chart["names"]] == ["train", "valid", "kept", "test"]
    for dot in chart["dots"]:
        assert LEFT <= dot["x"] <= WIDTH - RIGHT
        assert TOP - 0.1 <= dot["y"] <= HEIGHT - BOTTOM + 0.1
    assert 2 <= len(chart["ticks"]) <= 8
    assert len({tick["label"] for tick in chart["ticks"]}) == len(chart["ticks"])
    assert all(len(rule["name"]) <= 18 for rule in chart["rules"])


def test_a_higher_value_is_drawn_higher_and_a_later_epoch_further_right():
    chart = line_chart("accuracy", {"valid": [[(0.0, 0.5), (1.0, 0.9)]]}, [Stretch(0, 1, "head")])
    first, second = chart["dots"]
    assert second["y"] < first["y"]
    assert second["x"] > first["x"]
    assert second["text"] == "valid, epoch 1: 0.9000"


def test_phases_that_begin_together_share_a_name():
    series = {"valid": [[(0.0, 1.0)], [(0.0, 1.0), (1.0, 0.5)]]}
    chart = line_chart("loss", series, [Stretch(0, 0, "head"), Stretch(0, 1, "blocks.5")])
    assert [rule["name"] for rule in chart["rules"]] == ["head, blocks.5"]


def test_only_later_phases_have_a_rule():
    series = {"valid": [[(0.0, 1.0)], [(0.0, 1.0), (9.0, 0.5)]]}
    chart = line_chart("loss", series, [Stretch(0, 9, "head"), Stretch(9, 9, "blocks.5")])
    assert [(rule["seen"], rule["left"]) for rule in chart["rules"]] == [(False, False), (True, True)]


def test_what_was_undone_is_pale_on_a_band_and_what_was_kept_has_a_ring():
    series = {"valid": [[(0.0, 1.0), (2.0, 0.5)], [(2.0, 0.5), (5.0, 0.7)]]}
    phases = [Stretch(0, 2, "head"), Stretch(2, 5, "blocks.5", undone=True)]
    chart = line_chart("loss", series, phases, kept=[(2.0, 0.5)])
    assert [line["name"] for line in chart["lines"]] == ["valid", "valid pale"]
    (band,) = chart["bands"]
    (ring,) = [dot for dot in chart["dots"] if dot["name"] == "kept"]
    assert band["x"] == ring["x"] < band["end"]
    assert ring["text"] == "kept: epoch 2, 0.5000"
    assert [rule["name"] for rule in chart["rules"]] == ["head", "blocks.5 ✗"]


def test_reliability_says_how_often_what_was_said_is_true():
    sure = np.array([0.95] * 100 + [0.55] * 20)
    right = np.array([True] * 90 + [False] * 10 + [True] * 11 + [False] * 9)
    chart = reliability_chart(reliability(sure, right))
    assert [dot["text"].partition(" (")[0] for dot in chart["dots"]] == [
        "predicted 0.55, correct 0.55 of 20",
        "predicted 0.95, correct 0.90 of 100",
    ]
    for dot, whisker in zip(chart["dots"], chart["whiskers"], strict=True):
        assert whisker["top"] < dot["y"] < whisker["bottom"]


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_probabilities_at_the_ends_have_a_place(p):
    assert len(reliability_chart(reliability(np.array([p, p]), np.array([True, False])))["dots"]) == 1


def test_more_images_stand_further_right_and_the_forecast_last():
    points = [
        {"images": n, "accuracy": a, "interval": [a - 0.1, a + 0.05]} for n, a in ((10, 0.7), (20, 0.8), (40, 0.9))
    ]
    doubled = {"images": 80, "expected": 0.92, "low": 0.88, "high": 0.97, "band": 0.8}
    chart = learning_chart({"points": points, "doubled": doubled})
    x = [dot["x"] for dot in chart["dots"]]
    assert x == sorted(x)
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0])  # each doubling is as wide as another
    assert [mark["label"] for mark in chart["marks"]] == ["10", "20", "40", "80"]
    assert chart["dots"][-1]["text"] == "forecast for 80 images: 0.9200 (80 %: 0.8800 … 0.9700)"
    assert all(TOP - 0.1 <= end <= HEIGHT - BOTTOM + 0.1 for w in chart["whiskers"] for end in (w["top"], w["bottom"]))


COSTS = [
    {"number": 1, "name": "a", "accuracy": 0.9, "interval": [0.8, 0.95], "seconds": 40.0, "kind": "fitted"},
    {"number": 2, "name": "b", "accuracy": 0.9, "interval": [0.8, 0.95], "seconds": 40.0, "kind": "recommended"},
    {"number": 3, "name": "c", "accuracy": 0.5, "interval": [0.4, 0.6], "seconds": 3.0, "kind": "dropped out"},
]


def test_who_is_sooner_done_stands_further_left_and_each_has_its_number():
    chart = cost_chart(COSTS)
    third, second, first = chart["dots"]
    assert third["x"] < first["x"] == second["x"]
    assert [dot["label"]["text"] for dot in chart["dots"]] == ["3", "2", "1"]
    labels = [(dot["label"]["x"], dot["label"]["y"]) for dot in (first, second)]
    assert math.dist(*labels) >= 12  # though both runs lie on one point
    assert [mark["label"] for mark in chart["marks"]] == ["2", "5", "10", "20", "50"]
    assert [name["label"] for name in chart["names"]] == ["recommended", "fitted", "dropped out"]
    assert first["text"] == "a: 0.9000 (95 %: 0.8000 … 0.9500), 40.0 s"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6))
def test_whatever_the_seconds_are_each_run_lies_inside(seconds):
    chart = cost_chart([{**COSTS[0], "seconds": value} for value in seconds])
    assert all(LEFT <= dot["x"] <= WIDTH - RIGHT for dot in chart["dots"])
    assert len(chart["marks"]) >= 2
