from __future__ import annotations

from typing import Any

import pytest

from frostline.report.rivals import facts, headline, only_one_right, ranked, recalls, verdict


def run(name: str, accuracy: float, paired: tuple[float, ...] | None = None, **changes: Any) -> dict[str, Any]:
    to_best = dict(zip(("difference", "low", "high", "p_value"), paired, strict=True)) if paired else None
    return {"name": name, "accuracy": accuracy, "to_best": to_best, "dropped": None, "seconds": 30.0, **changes}


BEST = run("best", 0.9, recommended=True, reason="best (licence mit), the most accurate of 2: 0.9000 on 50 images")
METRICS = {
    "valid": {"accuracy": 0.9, "interval": [0.8, 0.95], "n": 50},
    "validation": "held out",
    "chosen_of": 2,
}


def test_the_most_accurate_is_first_and_who_dropped_out_is_last():
    second, weak = run("second", 0.8, (-0.1, -0.2, 0.0, 0.1)), run("weak", 0.85, (-0.05, -0.1, 0.0, 0.1))
    level = run("level", 0.9, (0.0, -0.1, 0.1, 1.0))
    results = [second, {**weak, "dropped": {"round": 1, "images": 9}}, {"name": "bad", "error": "no"}, level, BEST]
    assert [own["name"] for own in ranked(results)] == ["best", "level", "second", "weak"]


@pytest.mark.parametrize(
    ("paired", "level", "words"),
    [
        ((-0.1, -0.15, -0.05, 0.001), "fine", "10.0 points ahead of b (95 %: +5.0 … +15.0, p = 0.001): that is more"),
        ((-0.02, -0.07, 0.03, 0.5), "warn", "2.0 points ahead of b (95 %: -3.0 … +7.0, p = 0.5): that may be chance"),
        ((-0.06, -0.13, -0.001, 0.07), "warn", "that is borderline"),
        ((0.0, -0.04, 0.04, 1.0), "warn", "Level with b (95 %: -4.0 … +4.0, p = 1): that may be chance"),
    ],
)
def test_it_is_said_whether_the_difference_is_more_than_chance(paired, level, words):
    said = verdict([BEST, run("b", 0.8, paired)])
    assert said["level"] == level
    assert words in said["text"]
    assert said["advice"] == f"Recommended: {BEST['reason']}."


def test_one_run_is_held_against_nothing_and_none_is_no_verdict():
    assert verdict([BEST])["text"] == "No other run to compare with."
    assert verdict([])["level"] == "warn"
    assert headline([], None)["text"] == "Nothing was fitted"


def test_the_headline_names_the_winner_and_how_much_the_choice_flatters_it():
    said = headline([BEST, run("b", 0.8, (-0.1, -0.15, -0.05, 0.001))], METRICS)
    assert said["text"] == "best won: 90.0 % accurate"
    assert said["note"].startswith("the best of 2 on these images")
    assert headline([BEST, run("b", 0.9, (0.0, -0.1, 0.1, 1.0))], METRICS)["text"] == "best: 90.0 % accurate"


def test_all_are_counted():
    weak = run("weak", 0.5, (-0.4, -0.5, -0.3, 0.0), dropped={"round": 1, "images": 9})
    ranking = [BEST, weak]
    found = dict(facts([*ranking, {"name": "bad", "error": "no"}], ranking))
    assert found["compared"] == "1 fitted, 1 dropped out, 1 failed"
    assert found["runner-up"] == "weak: 50.0 %"
    assert found["recommended"] == "best"
    assert found["time of all runs"] == "1 min"


def test_classes_that_differ_most_come_first():
    def classes(ant, bee, none):
        values = {"ant": ant, "bee": bee, "none": none}
        return {name: {"n": 4, "recall": value} for name, value in values.items()}

    rows = recalls([classes(0.9, 0.5, None), classes(0.8, 1.0, None)])
    assert [row["name"] for row in rows] == ["bee", "ant", "none"]
    assert rows[0]["values"] == [0.5, 1.0]


@pytest.mark.parametrize("label", ["label", "labels"])
def test_images_that_one_alone_has_right_are_found_the_surest_mistake_first(label):
    def records(*said):
        return [{"path": f"{i}", label: "a", "predicted": p, "probability": q} for i, (p, q) in enumerate(said)]

    first = records(("a", "0.9"), ("b", "0.6"), ("a", "0.9"), ("b", "0.5"))
    second = records(("a", "0.9"), ("a", "0.9"), ("b", "0.8"), ("c", "0.5"))
    found = only_one_right(first, second)
    assert [(image["name"], image["right"], image["said"]) for image in found] == [
        ("2", 0, ["a", "b"]),
        ("1", 1, ["b", "a"]),
    ]
