from __future__ import annotations

import numpy as np
import pytest
import torch

from frostline.tasks import classification, clustered, multilabel, segmentation
from frostline.tasks.clustered import accuracy_for, mean_apart, paired_of_groups, share, variance
from frostline.tasks.paired import paired_difference

NAMES = ("a", "b", "c")


def drawn(chance, groups=40, size=8, together=1.0):
    """Outputs whose images err together: a group is hard or easy. Returns them, their groups and the true figures."""
    group = np.repeat(np.arange(groups), size)
    hard = chance.normal(0, together, groups)[group]
    targets = chance.integers(0, 3, len(group))
    logits = chance.normal(0, 1, (len(group), 3))
    logits[np.arange(len(group)), targets] += 1.2 + 1.5 * hard
    outputs = classification.outputs(torch.from_numpy(logits), torch.from_numpy(targets))
    return outputs, group


def measured(outputs, group):
    return classification.metrics(outputs, NAMES, group)


def test_intervals_hold_what_is_true_of_new_groups():
    """400 evaluations of 40 groups each; the truth is that of very many groups."""
    chance = np.random.default_rng(0)
    truth = classification.metrics(drawn(chance, 20_000)[0], NAMES)
    hits = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "loss", "recall"), 0)
    plain = 0
    for _ in range(400):
        outputs, groups = drawn(chance)
        own, alone = measured(outputs, groups), classification.metrics(outputs, NAMES)
        intervals = {
            "accuracy": own["interval"],
            **own["intervals"],
            "recall": own["per_class"]["a"]["recall_interval"],
        }
        for name in hits:
            true = truth["per_class"]["a"]["recall"] if name == "recall" else truth[name]
            hits[name] += intervals[name][0] <= true <= intervals[name][1]
        plain += alone["interval"][0] <= truth["accuracy"] <= alone["interval"][1]
    for name, count in hits.items():
        assert 0.91 <= count / 400 <= 0.985, (name, count / 400)
    assert plain / 400 < 0.9  # images taken one by one promise too much


def test_images_that_are_alone_are_about_as_sure_as_without_groups():
    outputs, _ = drawn(np.random.default_rng(1), together=0.0)
    own, alone = measured(outputs, np.arange(len(outputs))), classification.metrics(outputs, NAMES)
    assert own["groups"] == len(outputs)
    np.testing.assert_allclose(own["interval"], alone["interval"], atol=0.004)
    for name, interval in own["intervals"].items():
        np.testing.assert_allclose(interval, alone["intervals"][name], atol=0.03)


def test_the_figures_themselves_stay():
    outputs, groups = drawn(np.random.default_rng(2))
    own, alone = measured(outputs, groups), classification.metrics(outputs, NAMES)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss", "n", "ece"):
        assert own[name] == alone[name]
    assert own["groups"] == 40


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_where_all_are_right_or_wrong_a_group_counts_as_one_image(p):
    low, high = share(np.full(30, p), np.repeat([0, 1, 2], 10))
    assert high - low > 0.5


def test_one_group_tells_nothing():
    low, high = share(np.array([1.0, 0.0, 1.0]), np.zeros(3, int))
    assert (low, high) == (0.0, 1.0)


@pytest.mark.parametrize("sizes", [[100, 60, *[15] * 10], [40, 30, *[20] * 4], [200, *[5] * 20]])
def test_groups_of_unequal_size_leave_honest_intervals(sizes):
    chance, held = np.random.default_rng(0), 0
    group = np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(600):
        p = np.clip(0.7 + 0.2 * chance.normal(size=len(sizes)), 0.02, 0.98)[group]
        low, high = share((chance.random(len(group)) < p).astype(float), group)
        held += low <= 0.695 <= high
    assert held / 600 >= 0.9


def test_one_group_has_no_interval_of_the_loss():
    outputs, _ = drawn(np.random.default_rng(2), groups=1)
    own = measured(outputs, np.zeros(len(outputs), int))
    assert own["intervals"]["loss"] is None
    assert own["interval"] == [0.0, 1.0]


def test_two_classifiers_on_groups_are_told_apart_by_groups():
    chance, groups, wrong = np.random.default_rng(0), np.repeat(np.arange(12), 10), [0, 0]
    for _ in range(400):
        better = chance.normal(size=12)[groups] > 0  # one of them has whole groups right that the other has not
        first = np.where(better, 1.0, 0.0)
        found = paired_of_groups(first, 1 - first, groups)
        wrong[0] += not found.low <= 0 <= found.high
        alone = paired_difference(first, 1 - first)
        wrong[1] += not alone.low <= 0 <= alone.high
    assert wrong[0] / 400 <= 0.09
    assert wrong[1] / 400 > 0.3


def test_one_group_tells_two_classifiers_apart_never():
    found = paired_of_groups(np.ones(8), np.zeros(8), np.zeros(8, int))
    assert (found.difference, found.low, found.high, found.p_value) == (1.0, -1.0, 1.0, 1.0)


def labelled(chance, groups=40, size=8):
    """The same of two labels per image."""
    group = np.repeat(np.arange(groups), size)
    hard = chance.normal(0, 1, groups)[group]
    targets = chance.integers(0, 2, (len(group), 2))
    logits = chance.normal(0, 1, (len(group), 2)) + (2 * targets - 1) * (0.8 + hard[:, None])
    return multilabel.outputs(torch.from_numpy(logits), torch.from_numpy(targets)), group


def masked(chance, groups=40, size=4):
    """The same of masks of 8 × 8 pixels."""
    group = np.repeat(np.arange(groups), size)
    hard = chance.normal(0, 1, groups)[group]
    targets = chance.integers(0, 2, (len(group), 8, 8))
    sides = chance.normal(0, 1, (len(group), 8, 8)) + (2 * targets - 1) * (0.8 + hard[:, None, None])
    logits = np.stack([-sides, sides], 1)
    return segmentation.outputs(torch.from_numpy(logits), torch.from_numpy(targets)), group


@pytest.mark.long  # mean AP takes a bootstrap for each of a hundred evaluations
@pytest.mark.parametrize(
    ("task", "draw", "names"),
    [(multilabel, labelled, ("accuracy", "mean_ap", "f1", "loss")), (segmentation, masked, ("accuracy", "mean_iou"))],
)
def test_several_labels_and_masks_have_intervals_for_new_groups_too(task, draw, names):
    chance = np.random.default_rng(0)
    truth = task.metrics(draw(chance, 4_000)[0], ("a", "b"))
    hits, plain = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for _ in range(50):
        outputs, group = draw(chance)
        for counts, found in ((hits, task.metrics(outputs, ("a", "b"), group)), (plain, task.metrics(outputs, "ab"))):
            intervals = {"accuracy": found["interval"], **found["intervals"]}
            for name in names:
                counts[name] += intervals[name][0] <= truth[name] <= intervals[name][1]
    assert found["n"] == len(group)
    for name in names:
        assert hits[name] / 50 >= 0.86, (name, hits)
        assert plain[name] < hits[name], (name, plain)


def test_the_calibration_error_of_groups_that_are_just_right_is_seldom_called_more_than_chance():
    """Whole groups are of the class, or not, so a bin is right by chance as seldom as of few images."""
    chance, alarms, plain = np.random.default_rng(0), 0, 0
    for _ in range(200):
        group = np.repeat(np.arange(30), 10)
        p = chance.uniform(0.55, 0.95, 30)
        right = (chance.random(30) < p)[group]
        logits = torch.from_numpy(np.stack([np.log(p / (1 - p))[group], np.zeros(300)], 1))
        outputs = classification.outputs(logits, torch.from_numpy(np.where(right, 0, 1)))
        found, alone = measured(outputs, group), classification.metrics(outputs, NAMES)
        alarms += found["ece"] > found["ece_by_chance"]
        plain += alone["ece"] > alone["ece_by_chance"]
    assert alarms / 200 <= 0.12
    assert plain / 200 > 0.8


def test_accuracy_and_differences_are_for_new_groups():
    right, group = np.repeat([1.0, 0.0, 1.0, 1.0], 5), np.repeat(np.arange(4), 5)
    alone, together = accuracy_for(right, None), accuracy_for(right, group)
    assert (alone["accuracy"], alone["n"]) == (together["accuracy"], together["n"])
    assert together["interval"][1] - together["interval"][0] > alone["interval"][1] - alone["interval"][0]
    low, high = mean_apart(right, group)
    assert low < 0.75 < high
    assert mean_apart(right, np.zeros(20, int)) is None
    assert accuracy_for(right[:0], group[:0])["accuracy"] is None


@pytest.mark.parametrize(("groups", "size", "wrong"), [(40, 10, 0.03), (20, 20, 0.03), (10, 20, 0.05)])
def test_where_no_group_differs_a_difference_is_not_sure(groups, size, wrong):
    """One of two classifiers is wrong on a whole group now and then; in most draws of few groups on none."""
    chance, group, held = np.random.default_rng(0), np.repeat(np.arange(groups), size), 0
    for _ in range(300):
        second = 1.0 - (chance.random(groups) < wrong)[group]
        found = paired_of_groups(np.ones(len(group)), second, group)
        held += found.low <= wrong <= found.high
    assert held / 300 >= 0.9
    two = paired_of_groups(np.ones(100), np.zeros(100), np.repeat([0, 1], 50))
    assert (two.low < 0, two.p_value) == (True, 0.5)
    right = chance.integers(0, 2, 100).astype(float)  # the same images are right in both
    same = paired_of_groups(right, right, np.repeat(np.arange(10), 10))
    assert (same.difference, same.p_value) == (0, 1)
    assert same.low < -0.1 < 0.1 < same.high


@pytest.mark.parametrize(("groups", "size"), [(3, 10), (5, 10), (10, 10)])
@pytest.mark.long
def test_few_groups_of_masks_leave_wide_intervals(groups, size):
    chance = np.random.default_rng(1)
    truth, held = segmentation.metrics(masked(chance, 4_000)[0], ("a", "b"))["mean_iou"], 0
    for _ in range(150):
        outputs, group = masked(chance, groups, size)
        low, high = segmentation.metrics(outputs, ("a", "b"), group)["intervals"]["mean_iou"]
        held += low <= truth <= high
    assert held / 150 >= 0.87


def test_one_group_of_any_task_tells_nothing():
    chance = np.random.default_rng(0)
    for draw, task in ((labelled, multilabel), (masked, segmentation)):
        outputs, group = draw(chance, groups=1)
        found = task.metrics(outputs, ("a", "b"), group)
        assert found["interval"] == [0.0, 1.0]
        assert all(interval is None for interval in found["intervals"].values())
        assert found.get("ece_interval", [0.0, 1.0]) == [0.0, 1.0]


def test_a_figure_of_less_than_half_an_image_counts_as_that():
    """Else it would be as unsure as if there were no images."""
    low, high = clustered._as_sure(0.0, 0.01, 50, 5)
    assert low == 0
    assert high < 1


def test_the_variance_of_equal_groups_is_that_of_their_means():
    """The textbook's for groups of one size: the sample variance of the means of the groups over their number."""
    values, group = np.random.default_rng(0).normal(size=60) + 2, np.repeat(np.arange(12), 5)
    found, free = variance(values - values.mean(), group)
    assert found == pytest.approx(values.reshape(12, 5).mean(1).var(ddof=1) / 12)
    assert free == pytest.approx(11)
