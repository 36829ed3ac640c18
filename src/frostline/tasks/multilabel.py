"""Several labels an image, or none: binary cross-entropy, each class for itself; a label is said from 0.5 on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.tasks import Outputs, losses
from frostline.tasks.intervals import ratio, wilson

COLUMNS = ("path", "split", "labels", "predicted", "probability")
LOSSES: dict[str, Callable[..., Tensor]] = {"bce": losses.bce, "focal": losses.binary_focal}
SEPARATOR = "|"
THRESHOLD = 0.5


def answers(logits: Tensor, targets: Tensor) -> Outputs:
    """logits (B, classes) against labels (B, classes) of 0 and 1."""
    each = functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    return Outputs(logits, targets, each.mean(1))


def measure(answers: Outputs) -> dict[str, float]:
    """Accuracy (the share of images with all labels right), mean binary cross-entropy, mean average precision."""
    precisions = [p for p in _average_precisions(answers) if p is not None]
    return {
        "accuracy": accuracy(answers.outputs, answers.targets),
        "loss": float(answers.losses.mean()),
        "mean_ap": float(np.mean(precisions)) if precisions else 0.0,
    }


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """The share of images with all labels right."""
    return float((_predicted(logits) == (targets > 0)).all(1).float().mean())


def metrics(answers: Outputs, classes: tuple[str, ...]) -> dict[str, Any]:
    """`measure`, the interval of the accuracy, F1 over all labels (micro), and every class."""
    predicted, true = _predicted(answers.outputs).numpy(), (answers.targets > 0).numpy()
    both, found, wanted = (predicted & true).sum(0), predicted.sum(0), true.sum(0)
    measured, precisions = measure(answers), _average_precisions(answers)
    per_class = {
        name: {
            "n": int(wanted[i]),
            "recall": ratio(both[i], wanted[i]),
            "precision": ratio(both[i], found[i]),
            "f1": ratio(2 * both[i], found[i] + wanted[i]),
            "ap": precisions[i],
        }
        for i, name in enumerate(classes)
    }
    return {
        **measured,
        "f1": ratio(2 * both.sum(), found.sum() + wanted.sum()),
        "n": len(answers),
        "interval": list(wilson(measured["accuracy"] * len(answers), len(answers))),
        "per_class": per_class,
    }


def _average_precisions(answers: Outputs) -> list[float | None]:
    """Of every class: the mean of the precisions at each of its images, ranked by logit; None without images.

    Images of equal logits share a rank, the last of theirs: their order decides nothing.
    """
    scores, order = (-answers.outputs.T).contiguous().sort()
    hits = (answers.targets > 0).T.gather(1, order).double()
    last = torch.searchsorted(scores, scores, right=True).clamp(min=1)
    precision = hits.cumsum(1).gather(1, last - 1) / last
    return [ratio(float(a), float(b)) for a, b in zip((precision * hits).sum(1), hits.sum(1), strict=True)]


def probabilities(logits: Tensor) -> Tensor:
    return logits.sigmoid()


def _predicted(logits: Tensor) -> Tensor:
    return probabilities(logits) >= THRESHOLD


def label(probabilities: Tensor, classes: tuple[str, ...]) -> tuple[str, float]:
    """All labels from 0.5 on, "a|b", and the probability of the least sure of them; "" where there is none."""
    chosen = [i for i, p in enumerate(probabilities.tolist()) if p >= THRESHOLD]
    if not chosen:
        return "", float(1 - probabilities.max())
    return SEPARATOR.join(classes[i] for i in chosen), float(probabilities[chosen].min())


def predictions(
    names: Sequence[str], split: str, answers: Outputs, classes: tuple[str, ...]
) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name, logits, target in zip(names, answers.outputs, answers.targets, strict=True):
        predicted, p = label(probabilities(logits), classes)
        true = SEPARATOR.join(classes[i] for i in target.nonzero().flatten().tolist())
        rows.append((name, split, true, predicted, f"{p:.6f}"))
    return rows
