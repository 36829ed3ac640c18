from __future__ import annotations

import pytest

from frostline.tasks.summary import in_points, summary

MEASURED = {"accuracy": 0.95, "interval": [0.9, 0.97], "loss": 0.15, "n": 153}


def test_a_summary_is_one_line_with_interval_and_count():
    assert summary(MEASURED) == "accuracy 0.9500 (95 %: 0.9000 … 0.9700), log-loss 0.1500, n = 153"


@pytest.mark.parametrize(("key", "name"), [("mean_iou", "mean IoU"), ("mean_ap", "mean AP"), ("f1", "F1")])
def test_what_the_task_is_judged_by_comes_first(key, name):
    assert summary({**MEASURED, key: 0.5}).startswith(f"{name} 0.5000, accuracy")
    assert summary({**MEASURED, key: None}) == summary(MEASURED)


def test_figures_of_images_that_chose_the_epoch_say_so():
    assert summary(MEASURED, best_of=12).endswith("n = 153, the best of 12 candidates on these images")
    assert summary(MEASURED, best_of=1) == summary(MEASURED)


def test_a_figure_has_its_interval_where_there_is_one():
    text = summary({**MEASURED, "mean_ap": 0.5, "intervals": {"mean_ap": [0.4, 0.6], "loss": [0.1, 0.2]}})
    assert text.startswith("mean AP 0.5000 (95 %: 0.4000 … 0.6000), accuracy 0.9500 (95 %: 0.9000 … 0.9700), ")
    assert "log-loss 0.1500 (95 %: 0.1000 … 0.2000)" in text


def test_of_unequal_classes_the_line_says_how_well_each_is_found():
    rows = {"ant": {"n": 110}, "bee": {"n": 10}}
    unequal = {"per_class": rows, "balanced_accuracy": 0.75, "macro_f1": 0.775}
    assert summary({**MEASURED, **unequal}).startswith("balanced accuracy 0.7500, macro F1 0.7750, accuracy 0.9500")
    rows["bee"]["n"] = 11
    assert summary({**MEASURED, **unequal}).startswith("accuracy 0.9500")


def test_a_difference_is_in_points_with_its_interval():
    assert in_points(0.513, -0.107, 0.734) == "+51.3 points (95 %: -10.7 … +73.4)"
