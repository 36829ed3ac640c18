from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from frostline.tasks import Outputs
from frostline.tasks.classification import TASK, confusion, label, measure, metrics, outputs, predictions
from frostline.tasks.classwise import row_of

CLASSES = ("ant", "bee", "fly")


def some(count: int = 90, seed: int = 0) -> Outputs:
    chance = np.random.default_rng(seed)
    logits = torch.from_numpy(chance.normal(size=(count, 3))).float()
    return outputs(logits, torch.from_numpy(chance.integers(0, 3, count)))


def test_accuracy_counts_images_and_loss_is_in_nats():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]))
    measured = measure(outputs(logits, torch.tensor([0, 1, 0])))
    assert measured["accuracy"] == 2 / 3
    assert torch.isclose(torch.tensor(measured["loss"]), -torch.log(torch.tensor([0.5, 0.8, 0.3])).mean())


def test_the_loss_is_that_of_each_image():
    given = some()
    for i in (0, 7, 89):
        alone = outputs(given.logits[i : i + 1], given.targets[i : i + 1])
        assert given.losses[i].item() == pytest.approx(measure(alone)["loss"])


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_scikit_learns(seed):
    given = some(seed=seed)
    ours, guesses = metrics(given, CLASSES), given.logits.argmax(1)
    assert ours["n"] == 90
    assert ours["accuracy"] == pytest.approx(accuracy_score(given.targets, guesses))
    assert ours["loss"] == pytest.approx(log_loss(given.targets, given.logits.double().softmax(1).numpy()), rel=1e-4)
    assert ours["interval"][0] < ours["accuracy"] < ours["interval"][1]
    assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(given.targets, guesses))
    assert ours["macro_f1"] == pytest.approx(f1_score(given.targets, guesses, average="macro"))
    precision, recall, f1, count = precision_recall_fscore_support(given.targets, guesses)
    for i, name in enumerate(CLASSES):
        row = ours["per_class"][name]
        assert [row["precision"], row["recall"], row["f1"], row["n"]] == pytest.approx(
            [precision[i], recall[i], f1[i], count[i]]
        )


def test_the_rows_of_the_confusion_are_what_is_true():
    given = some()
    expected = confusion_matrix(given.targets, given.logits.argmax(1), labels=range(4))
    assert confusion(given, 4).matrix().tolist() == expected.tolist()


def test_a_class_without_images_has_no_recall_and_one_never_said_no_precision():
    rows = metrics(outputs(torch.eye(3)[:2], torch.tensor([0, 1])), CLASSES)["per_class"]
    assert row_of(rows["fly"]) == {"recall": None, "precision": None, "f1": None}
    rows = metrics(outputs(torch.eye(3)[[0, 0]], torch.tensor([0, 1])), CLASSES)["per_class"]
    assert row_of(rows["bee"]) == {"recall": 0.0, "precision": None, "f1": 0.0}


def test_the_label_is_the_most_probable_class():
    assert label(torch.tensor([0.2, 0.7, 0.1]), CLASSES) == ("bee", pytest.approx(0.7))


def test_predictions_are_one_row_an_image():
    given = outputs(torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])), torch.tensor([1, 2]))
    rows = predictions(["one.png", "two.png"], "test", given, CLASSES)
    assert rows == [("one.png", "test", "bee", "ant", "0.500000"), ("two.png", "test", "fly", "fly", "0.700000")]
    assert all(len(row) == len(TASK.columns) for row in rows)


def test_of_many_classes_it_is_told_whether_the_right_one_is_among_five():
    chance = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 21, generator=chance), torch.randint(0, 21, (50,), generator=chance)
    found = metrics(outputs(logits, targets), tuple(map(str, range(21))))
    expected = top_k_accuracy_score(targets, logits, k=5, labels=range(21))
    assert found["top5_accuracy"] == pytest.approx(expected)
    low, high = found["intervals"]["top5_accuracy"]
    assert low < expected < high
    assert "top5_accuracy" not in metrics(outputs(logits[:, :20], targets.clamp(max=19)), tuple(map(str, range(20))))
