from __future__ import annotations

from typing import Any

import pytest

from frostline.report.facts import (
    called,
    data_of,
    environment_of,
    facts_of,
    finding_of,
    flattery,
    headline_of,
    judged,
    phases_of,
    split_of,
    title_of,
    trained,
)
from frostline.runs.run import Run, write_config, write_json


def metrics(**changes: Any) -> dict[str, Any]:
    row = {"n": 50, "recall": 0.9, "recall_interval": [0.8, 0.95], "precision": 0.9, "f1": 0.9}
    own = {
        "accuracy": 0.9,
        "interval": [0.85, 0.94],
        "loss": 0.3,
        "n": 300,
        "per_class": {"ant": row, "bee": dict(row)},
    }
    phase = {"frostline": "head", "epochs": 0, "seconds": 1.0, "valid": {"accuracy": 0.85, "loss": 0.4}}
    deeper = {"frostline": "layer4", "epochs": 9, "seconds": 9.0, "valid": {"accuracy": 0.9, "loss": 0.3}}
    made = {
        "phase": 2,
        "kept": True,
        "accuracy": {"difference": 0.05, "low": 0.01, "high": 0.09, "p_value": 0.01},
        "loss": [0.4, 0.3],
        "p_value": 0.002,
        "by": "calibrated log-loss",
        "lr": 0.0015,
        "tried": [{}, {}],
    }
    backbone = {"name": "timm:x", "weights": "file", "licence": "MIT", "sha256": None}
    base = {
        "task": "classification",
        "classes": ["ant", "bee"],
        "valid": own,
        "test": None,
        "validation": "given",
        "phases": [phase, deeper],
        "decisions": [made],
        "seconds": 12.0,
        "chosen_of": 2,
        "backbone": backbone,
        "forecast": None,
        "ended": None,
    }
    return {**base, **changes}


def test_the_figure_that_counts_is_that_of_the_test_images():
    both = metrics(test={**metrics()["valid"], "accuracy": 0.8, "interval": [0.7, 0.9], "n": 77})
    assert (split_of(metrics()), split_of(both)) == ("valid", "test")
    assert headline_of(both, "test") == {
        "text": "80.0 % accurate",
        "interval": "95 %: 70.0 % … 90.0 %, on 77 test images",
        "note": "",
    }


def test_a_chosen_figure_says_among_how_many_and_by_how_much_that_flatters():
    note = headline_of(metrics(), "valid")["note"]
    assert note == "the best of 2 on these images, so up to about 1.0 points too good"
    assert headline_of(metrics(chosen_of=1), "valid")["note"] == ""
    assert flattery({"accuracy": 0.9, "n": 300}, 1) == 0
    assert flattery({"accuracy": 0.9, "n": 300}, 20) > flattery({"accuracy": 0.9, "n": 300}, 2)


@pytest.mark.parametrize(
    ("validation", "word"), [("crossed", "without it"), ("training images", "new images may differ")]
)
def test_validation_that_is_none_says_so(validation, word):
    assert word in headline_of(metrics(validation=validation), "valid")["note"]


def test_the_figure_is_held_against_the_largest_class_and_the_head_alone():
    records = [{"label": name} for name in ["ant"] * 3 + ["bee"]]
    facts = dict(facts_of(metrics(), "valid", records))
    assert facts["always the largest class"] == "75.0 %"
    assert facts["the solved head alone"] == "85.0 %"
    assert facts["trained"] == "layer4 … head"
    undone = metrics(decisions=[{**metrics()["decisions"][0], "kept": False}])
    assert trained(undone) == "head, solved"


def test_a_leak_is_the_first_thing_to_know():
    leaky = metrics(without_leaks={"accuracy": 0.7, "n": 200, "interval": [0.6, 0.8]})
    headline = headline_of(leaky, "valid")
    assert headline["text"] == "70.0 % accurate"  # what is known of new images comes first
    assert "on 200 validation images without a copy in another split; " in headline["interval"]
    found = finding_of(leaky, "valid", {"counts": {"label-error": 5}})
    assert found["level"] == "warn"
    assert found["text"] == "100 of 300 validation images are also in another split."
    assert "70.0 %" in found["advice"]


def test_a_leak_of_a_few_in_a_thousand_is_not():
    leaky = metrics(without_leaks={"accuracy": 0.9, "n": 298, "interval": [0.85, 0.94]})
    assert "another split" not in finding_of(leaky, "valid", {"counts": {}})["text"]


def test_a_class_that_fails_is_named():
    weak = metrics()
    weak["valid"]["per_class"]["bee"].update(recall=0.5, recall_interval=[0.36, 0.64])
    assert finding_of(weak, "valid", {})["text"] == "Only 50.0 % of the 50 images of bee are found."


def test_without_anything_wrong_it_says_so():
    assert finding_of(metrics(), "valid", {"counts": {"label-error": 0}})["level"] == "fine"
    small = metrics()
    small["valid"]["n"] = 40
    assert "It is based on 40 images" in finding_of(small, "valid", {})["advice"]
    assert finding_of(metrics(), "valid", {"counts": {"label-error": 3}})["text"] == "3 labels are likely wrong."
    assert "Nothing was held out" in finding_of(metrics(validation="training images"), "valid", {})["text"]


def test_every_phase_says_what_came_of_it():
    first, second = phases_of(metrics())
    assert (first["trains"], first["decision"]) == ("head", "")
    assert second["trains"] == "layer4 … head"
    assert second["decision"].startswith(
        "kept: accuracy +5.0 points (95 %: +1.0 … +9.0), calibrated log-loss 0.4000 → 0.3000"
    )


def test_the_origin_of_the_weights_is_told():
    rows = dict(environment_of(metrics(), {"packages": {"torch": "2.10"}, "python": "3.11", "platform": "Linux"}))
    assert rows["weights"] == "file, licence MIT"
    assert rows["SHA-256 of the weights"] == "unknown"
    assert rows["packages"] == "torch 2.10"


@pytest.mark.parametrize(
    ("task", "figures", "headline", "fact"),
    [
        ("multilabel", {"mean_ap": 0.977, "f1": 0.9}, "mean AP 97.7 %", "images with all labels right"),
        ("segmentation", {"mean_iou": 0.66}, "mean IoU 66.0 %", "correct pixels"),
    ],
)
def test_the_headline_is_what_the_task_is_judged_by(task, figures, headline, fact):
    key = next(iter(figures))
    own = {**metrics()["valid"], **figures, "intervals": {key: [0.6, 0.99]}}
    told = metrics(task=task, valid=own)
    assert headline_of(told, "valid")["text"] == headline
    assert headline_of(told, "valid")["interval"].startswith("95 %: 60.0 % … 99.0 %, on ")
    assert dict(facts_of(told, "valid", []))[fact].startswith(f"{100 * own['accuracy']:.1f} %")


@pytest.mark.parametrize(
    ("validation", "split", "name"),
    [
        ("given", "valid", "validation"),
        ("split", "valid", "validation"),
        ("crossed", "valid", "cross-fitted"),
        ("training images", "valid", "training"),
        ("crossed", "test", "test"),
        ("training images", "test", "test"),
    ],
)
def test_a_split_is_called_what_it_is(validation: str, split: str, name: str) -> None:
    assert called(validation, split) == name


def test_a_title_says_data_backbone_and_on_how_many(tmp_path) -> None:
    run = Run(tmp_path)
    own = {"backbone": {"name": "timm:x"}, "validation": "given", "valid": {"n": 1200}, "test": None}
    write_json(run, "metrics.json", own)
    assert title_of(run) == "images · timm:x · validation, n = 1,200"  # whatever became of its configuration
    write_config(run, {"data": "some/where/ants $"})
    write_json(run, "metrics.json", own | {"test": {"n": 7}})
    assert title_of(run) == "ants $ · timm:x · validation, n = 1,200 · test, n = 7"
    write_config(run, {"data": "mnist:/data"})
    assert data_of(run) == "mnist"


def test_every_task_is_judged_by_something() -> None:
    assert judged("classification") == ("accuracy", "accuracy")
    assert judged("multilabel") == ("mean_ap", "mean AP")
    assert judged("segmentation") == ("mean_iou", "mean IoU")
