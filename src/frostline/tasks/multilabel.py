"""Several labels per image, or none: binary cross-entropy per class; a label is predicted from probability 0.5 on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.tasks import Outputs, Task, losses
from frostline.tasks.calibration import calibration_error
from frostline.tasks.classwise import figures
from frostline.tasks.clustered import accuracy_for, counted_groups, mean_loss, members, shares_for, widening
from frostline.tasks.intervals import ratio

DRAWS = 200  # bootstrap samples for an interval
SEPARATOR = "|"
THRESHOLD = 0.5


def outputs(logits: Tensor, targets: Tensor) -> Outputs:
    """logits (B, classes) against labels (B, classes) of 0 and 1."""
    each = functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    return Outputs(logits, targets, each.mean(1))


def measure(outputs: Outputs) -> dict[str, float]:
    """Accuracy (the share of images with all labels right), mean binary cross-entropy, mean average precision."""
    precisions = [p for p in _average_precisions(outputs) if p is not None]
    return {
        "accuracy": accuracy(outputs.logits, outputs.targets),
        "loss": float(outputs.losses.mean()),
        "mean_ap": float(np.mean(precisions)) if precisions else 0.0,
    }


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """The share of images with all labels right."""
    return int(_all_right(logits, targets).sum()) / max(1, len(targets))


def scores(outputs: Outputs) -> Tensor:
    """1 for each image with all labels right, else 0."""
    return _all_right(outputs.logits, outputs.targets).double()


def _all_right(logits: Tensor, targets: Tensor) -> Tensor:
    return (_predicted(logits) == (targets > 0)).all(1)


def metrics(outputs: Outputs, classes: tuple[str, ...], group: np.ndarray | None = None) -> dict[str, Any]:
    """`measure`, the interval of the accuracy, F1 over all labels (micro), and metrics per class.

    group: as in `Task`.
    """
    predicted, true = _predicted(outputs.logits).numpy(), (outputs.targets > 0).numpy()
    both, predictions, labels = (predicted & true).sum(0), predicted.sum(0), true.sum(0)
    precisions, right, losses = _average_precisions(outputs), scores(outputs).numpy(), outputs.losses.double().numpy()
    classwise = {
        name: {
            **figures(both[i], labels[i], predictions[i]),
            "ap": precisions[i],
            **shares_for(predicted[:, i] & true[:, i], true[:, i], predicted[:, i], group),
        }
        for i, name in enumerate(classes)
    }
    return {
        **measure(outputs),
        "f1": _f1(outputs),
        **calibration_error(outputs.logits, outputs.targets, group),
        "n": len(outputs),
        **counted_groups(group),
        "interval": accuracy_for(right, group)["interval"],
        "intervals": {
            "mean_ap": _resampled(outputs, lambda some: measure(some)["mean_ap"], group),
            "f1": _resampled(outputs, _f1, group),
            "loss": mean_loss(losses, group),
        },
        "per_class": classwise,
    }


def _f1(outputs: Outputs) -> float | None:
    """F1 over all labels of all images (micro); None without any true or predicted label."""
    predicted, true = _predicted(outputs.logits), outputs.targets > 0
    return ratio(2 * int((predicted & true).sum()), int(predicted.sum()) + int(true.sum()))


def _resampled(
    outputs: Outputs, measure: Callable[[Outputs], float | None], group: np.ndarray | None
) -> list[float] | None:
    """The 95 % interval of a figure by resampling the images, or whole groups.

    Percentiles of the bootstrap, with a fixed seed. None for a single one.
    """
    units = [torch.from_numpy(own) for own in members(np.arange(len(outputs)) if group is None else group)]
    n, found, generator = len(units), [], torch.Generator().manual_seed(0)
    if n < 2:
        return None
    for _ in range(DRAWS):
        chosen = torch.cat([units[i] for i in torch.randint(n, (n,), generator=generator).tolist()])
        value = measure(Outputs(outputs.logits[chosen], outputs.targets[chosen], outputs.losses[chosen]))
        found.append(math.nan if value is None else value)
    own = measure(outputs)
    if own is None or np.isnan(found).all():
        return [0.0, 1.0]
    low, high = np.nanquantile(found, [0.025, 0.975])
    wider = widening(np.arange(n) if group is None else group)  # few groups vary more than resampling shows
    return [max(0.0, own - wider * max(0.0, own - float(low))), min(1.0, own + wider * max(0.0, float(high) - own))]


def _average_precisions(outputs: Outputs) -> list[float | None]:
    """Per class the mean of the precisions at each of its images, ranked by logit; None without images.

    Images with equal logits share their last rank, so their order does not matter. It equals scikit-learn's
    `average_precision_score`, but for all classes at once, because it runs after every epoch.
    """
    scores, order = (-outputs.logits.T).contiguous().sort()
    hits = (outputs.targets > 0).T.gather(1, order).double()
    last = torch.searchsorted(scores, scores, right=True).clamp(min=1)
    precision = hits.cumsum(1).gather(1, last - 1) / last
    return [ratio(float(a), float(b)) for a, b in zip((precision * hits).sum(1), hits.sum(1), strict=True)]


def probabilities(logits: Tensor) -> Tensor:
    return logits.sigmoid()


def _predicted(logits: Tensor) -> Tensor:
    return probabilities(logits) >= THRESHOLD


def label(probabilities: Tensor, classes: tuple[str, ...]) -> tuple[str, float]:
    """All labels with probability ≥ 0.5, "a|b", and the lowest of their probabilities; "" without any."""
    chosen = [i for i, p in enumerate(probabilities.tolist()) if p >= THRESHOLD]
    if not chosen:
        return "", float(1 - probabilities.max())
    return SEPARATOR.join(classes[i] for i in chosen), float(probabilities[chosen].min())


def predictions(
    names: Sequence[str], split: str, outputs: Outputs, classes: tuple[str, ...]
) -> list[tuple[object, ...]]:
    """For each image its labels, the predicted ones, and the lowest of their probabilities."""
    records: list[tuple[object, ...]] = []
    for name, logits, target in zip(names, outputs.logits, outputs.targets, strict=True):
        predicted, p = label(probabilities(logits), classes)
        true = SEPARATOR.join(classes[i] for i in target.nonzero().flatten().tolist())
        records.append((name, split, true, predicted, f"{p:.6f}"))
    return records


TASK = Task(
    name="multilabel",
    losses={"bce": losses.bce, "focal": losses.binary_focal},
    columns=("path", "split", "labels", "predicted", "probability"),
    outputs=outputs,
    accuracy=accuracy,
    scores=scores,
    measure=measure,
    scored_by={
        "accuracy": lambda outputs: accuracy(outputs.logits, outputs.targets),
        "mean_ap": lambda outputs: measure(outputs)["mean_ap"],
        "f1": lambda outputs: _f1(outputs) or 0.0,
    },
    metrics=metrics,
    probabilities=probabilities,
    label=label,
    predictions=predictions,
)
