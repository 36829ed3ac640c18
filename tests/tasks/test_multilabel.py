from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

from frostline.tasks import Outputs, multilabel
from frostline.tasks.classwise import row_of
from frostline.tasks.multilabel import TASK, label, measure, metrics, outputs, predictions, probabilities

CLASSES = ("sky", "sea", "sand", "snow")


@pytest.fixture(autouse=True, scope="module")
def few_draws() -> Iterator[None]:
    """Intervals of 20 draws: what is tested here are the figures, again and again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multilabel, "DRAWS", 20)
        yield


seeds = st.integers(0, 1000)


def some(seed: int = 0, count: int = 60) -> Outputs:
    chance = np.random.default_rng(seed)
    targets = (chance.random((count, 4)) > 0.7).astype(np.float32)
    targets[0], targets[1] = 1, 0
    logits = chance.normal(size=(count, 4)).round(1) + targets  # rounded: some are equal
    return outputs(torch.from_numpy(logits).float(), torch.from_numpy(targets))


@given(seeds)
def test_the_figures_are_scikit_learns(seed):
    ours, true = measure(some(seed)), some(seed).targets.numpy().astype(int)
    p = some(seed).logits.double().sigmoid().numpy()
    predicted = (p >= 0.5).astype(int)
    assert ours["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert ours["loss"] == pytest.approx(np.mean([log_loss(true[:, i], p[:, i]) for i in range(4)]), rel=1e-4)
    assert ours["mean_ap"] == pytest.approx(average_precision_score(true, some(seed).logits.numpy(), average="macro"))


@given(seeds)
def test_the_figures_of_every_class_are_scikit_learns(seed):
    given = some(seed)
    ours, true = metrics(given, CLASSES), given.targets.numpy().astype(int)
    predicted = (given.logits.numpy() >= 0).astype(int)
    assert ours["f1"] == pytest.approx(f1_score(true, predicted, average="micro"))
    assert ours["n"] == 60
    precision, recall, f1, count = precision_recall_fscore_support(true, predicted, zero_division=0.0)
    for i, name in enumerate(CLASSES):
        row = ours["per_class"][name]
        ap = average_precision_score(true[:, i], given.logits[:, i].numpy())
        assert [row["precision"], row["recall"], row["f1"], row["n"], row["ap"]] == pytest.approx(
            [precision[i], recall[i], f1[i], count[i], ap]
        )


@given(seeds)
def test_the_order_of_the_images_decides_nothing(seed):
    given, order = some(seed), torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    shuffled = Outputs(given.logits[order], given.targets[order], given.losses[order])
    expected = metrics(given, CLASSES)["per_class"]
    for name, row in metrics(shuffled, CLASSES)["per_class"].items():
        assert row_of(row) == pytest.approx(row_of(expected[name]))


def test_equal_logits_rank_nothing():
    targets = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    assert measure(outputs(torch.zeros(4, 1), targets))["mean_ap"] == 0.25
    assert measure(outputs(torch.zeros(4, 1), targets.flip(0)))["mean_ap"] == 0.25


def test_the_loss_is_that_of_each_image():
    given = some()
    for i in (0, 1, 59):
        alone = outputs(given.logits[i : i + 1], given.targets[i : i + 1])
        assert given.losses[i].item() == pytest.approx(measure(alone)["loss"])


def test_an_image_is_right_when_all_its_labels_are():
    logits = torch.tensor([[1.0, -1, 1, -1], [1, -1, -1, -1], [-1, -1, -1, -1]])
    targets = torch.tensor([[1.0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    found = metrics(outputs(logits, targets), CLASSES)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["interval"][0] < 2 / 3 < found["interval"][1]


def test_a_class_without_images_has_no_average_precision_and_the_mean_is_of_the_others():
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    found = metrics(outputs(torch.tensor([[-1.0, -1.0], [1.0, -1.0]]), targets), ("a", "b"))
    assert row_of(found["per_class"]["b"]) == dict.fromkeys(("recall", "precision", "f1", "ap"))
    assert found["mean_ap"] == found["per_class"]["a"]["ap"] == 0.5


def test_without_any_label_the_figures_are_still_numbers():
    found = metrics(outputs(torch.full((3, 4), -1.0), torch.zeros(3, 4)), CLASSES)
    assert (found["accuracy"], found["mean_ap"], found["f1"]) == (1.0, 0.0, None)
    assert json.loads(json.dumps(found)) == found


def test_logits_that_are_no_numbers_are_no_crash():
    assert np.isnan(measure(outputs(torch.full((3, 4), float("nan")), torch.ones(3, 4)))["loss"])


def test_a_label_is_said_from_one_half_on():
    assert label(torch.tensor([0.9, 0.5, 0.49, 0.6]), CLASSES) == ("sky|sea|snow", 0.5)
    assert label(torch.tensor([0.1, 0.2, 0.4, 0.3]), CLASSES) == ("", pytest.approx(0.6))


@given(st.lists(st.sampled_from([-1.0, -1e-9, -1e-7, 0.0, 1e-9, 1.0]), min_size=4, max_size=4))
def test_what_is_predicted_is_what_is_measured(logits):
    """Also where a logit lies at zero, or so near to it that its probability is one half."""
    one = torch.tensor([logits])
    predicted, _ = label(probabilities(one)[0], CLASSES)
    targets = torch.tensor([[float(name in predicted.split("|")) for name in CLASSES]])
    assert measure(outputs(one, targets))["accuracy"] == 1.0


def test_each_class_has_a_probability_of_its_own():
    p = probabilities(torch.tensor([[0.0, 2.0, 2.0]]))
    torch.testing.assert_close(p, torch.tensor([[0.5, 0.880797, 0.880797]]))


def test_predictions_are_one_row_an_image():
    given = outputs(torch.tensor([[2.0, 0.5, -1, -1], [-2, -2, -2, -2]]), torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0]]))
    rows = predictions(["one.png", "two.png"], "valid", given, CLASSES)
    assert rows == [
        ("one.png", "valid", "sky|snow", "sky|sea", "0.622459"),
        ("two.png", "valid", "", "", "0.880797"),
    ]
    assert all(len(row) == len(TASK.columns) for row in rows)


def test_the_intervals_hold_their_figures_and_are_the_same_each_time():
    found, again = metrics(some(), CLASSES), metrics(some(), CLASSES)
    for name in ("mean_ap", "f1", "loss"):
        low, high = found["intervals"][name]
        assert low < found[name] < high
    assert found == again
    assert found["ece_interval"][0] <= found["ece"] <= found["ece_interval"][1]


def test_a_figure_that_no_image_defines_is_anywhere():
    """F1 without a true or a predicted label."""
    nothing = Outputs(torch.full((3, 4), -5.0), torch.zeros(3, 4), torch.zeros(3))
    found = metrics(nothing, CLASSES)
    assert (found["f1"], found["intervals"]["f1"]) == (None, [0.0, 1.0])


def test_a_wider_interval_is_wider_on_both_sides(monkeypatch):
    given, own = some(count=40), metrics(some(count=40), CLASSES)["f1"]
    ends = []
    for factor in (1.0, 1.5):
        monkeypatch.setattr(multilabel, "widening", lambda _, factor=factor: factor)
        low, high = metrics(given, CLASSES, np.arange(40) % 5)["intervals"]["f1"]
        ends.append((own - low, high - own))
    assert min(ends[0]) > 0
    assert ends[1] == pytest.approx([1.5 * end for end in ends[0]])
