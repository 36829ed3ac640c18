from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support

from frostline.errors import DataError
from frostline.evaluation import metrics, refuse_too_many, wilson


@given(st.integers(1, 3000), st.data())
def test_the_interval_holds_the_proportion(n, data):
    correct = data.draw(st.integers(0, n))
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert high - low > 0


def test_the_interval_is_the_textbooks():
    assert wilson(145, 153) == pytest.approx((0.9002, 0.9733), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_metrics_are_scikit_learns():
    chance = np.random.default_rng(0)
    logits, targets = torch.from_numpy(chance.normal(size=(90, 3))).float(), torch.from_numpy(chance.integers(0, 3, 90))
    ours = metrics(logits, targets, ("a", "b", "c"))
    guesses = logits.argmax(1)
    assert ours["accuracy"] == pytest.approx(accuracy_score(targets, guesses))
    assert ours["loss"] == pytest.approx(log_loss(targets, logits.double().softmax(1).numpy()), rel=1e-4)
    precision, recall, f1, count = precision_recall_fscore_support(targets, guesses)
    for i, name in enumerate("abc"):
        row = ours["per_class"][name]
        assert [row["precision"], row["recall"], row["f1"], row["n"]] == pytest.approx(
            [precision[i], recall[i], f1[i], count[i]]
        )


def test_a_class_without_images_has_no_recall():
    row = metrics(torch.eye(3)[:2], torch.tensor([0, 1]), ("a", "b", "c"))["per_class"]["c"]
    assert row == {"n": 0, "recall": None, "precision": None, "f1": None}


def test_one_percent_of_bad_images_is_the_limit():
    refuse_too_many([("x", "empty file")], 100)
    with pytest.raises(DataError, match=r"2 of 100 images cannot be read, more than 1%: x \(empty file\); y"):
        refuse_too_many([("x", "empty file"), ("y", "truncated")], 100)
