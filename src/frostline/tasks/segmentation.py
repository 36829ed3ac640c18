"""A class per pixel: cross-entropy or Dice, mean intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.tasks import Outputs, PixelCounts, Task, losses
from frostline.tasks.classwise import per_class
from frostline.tasks.clustered import counted_groups, influence_interval_of_groups, mean_loss
from frostline.tasks.counts import counts_of


def outputs(logits: Tensor, targets: Tensor) -> Outputs:
    """logits (B, classes, H, W) against class numbers (B, H, W); -100 is ignored."""
    count = logits.shape[1]
    each = functional.cross_entropy(logits, targets, reduction="none").flatten(1).sum(1)
    known = (targets >= 0).flatten(1)
    cells = (targets * count + logits.argmax(1)).flatten(1)
    counts = [torch.bincount(own[valid], minlength=count * count) for own, valid in zip(cells, known, strict=True)]
    confusions = torch.stack(counts).view(-1, count, count)
    right = confusions.diagonal(dim1=1, dim2=2)
    either = confusions.sum(1) + confusions.sum(2) - right
    pixels = PixelCounts(confusions.sum(0), right.sum(1), known.sum(1), right.int(), either.int())
    nothing = torch.empty(len(targets), 0)
    return Outputs(nothing, nothing, each / known.sum(1).clamp(min=1), pixels)


def measure(outputs: Outputs) -> dict[str, float]:
    """Share of correct pixels, mean cross-entropy per image in nats, mean IoU over the classes present."""
    pixels = _pixels(outputs)
    return {
        "accuracy": int(pixels.correct.sum()) / max(1, int(pixels.counted.sum())),
        "loss": float(outputs.losses.mean()),
        "mean_iou": float(_mean_iou(pixels.confusion)),
    }


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """The share of correct pixels among those with a known class."""
    known = targets >= 0
    return float(((logits.argmax(1) == targets) & known).sum() / known.sum().clamp(min=1))


def scores(outputs: Outputs) -> Tensor:
    """Per image the share of correct pixels among those with a known class."""
    pixels = _pixels(outputs)
    return pixels.correct.double() / pixels.counted.clamp(min=1)


def metrics(outputs: Outputs, classes: tuple[str, ...], group: np.ndarray | None = None) -> dict[str, Any]:
    """`measure`, and metrics per class; the intervals reflect the variation between images.

    group: as in `Task`; the intervals then reflect the variation between groups.
    """
    pixels = _pixels(outputs)
    classwise = per_class(counts_of(pixels.confusion.numpy()), classes, intervals=False)
    for name, iou in zip(classes, _iou(pixels.confusion).tolist(), strict=True):
        classwise[name]["iou"] = iou if iou >= 0 else None
    losses = outputs.losses.double().numpy()
    intervals = {
        "mean_iou": _ratio_interval(pixels.both, pixels.either, group),
        "loss": mean_loss(losses, group),
    }
    return {
        **measure(outputs),
        "n": len(outputs),
        **counted_groups(group),
        "interval": _ratio_interval(pixels.correct[:, None], pixels.counted[:, None], group) or [0.0, 1.0],
        "intervals": intervals,
        "per_class": classwise,
    }


def _ratio_interval(parts: Tensor, wholes: Tensor, group: np.ndarray | None = None) -> list[float] | None:
    """The 95 % interval of the mean, over classes, of sum(parts) / sum(wholes), as it varies from image to image.

    parts, wholes: (N, classes). By the influence of each image, or of each whole group, on it (the delta method).
    """
    part, whole = parts.double().sum(0), wholes.double().sum(0)
    there = whole > 0
    if len(parts) < 2 or not there.any():
        return None
    ratios = part[there] / whole[there]
    influence = ((parts[:, there] - ratios * wholes[:, there]) / whole[there]).mean(1)
    alone = np.arange(len(parts))
    return influence_interval_of_groups(float(ratios.mean()), influence.numpy(), alone if group is None else group)


def probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def label(probabilities: Tensor, classes: tuple[str, ...]) -> tuple[str, float]:
    """The most common class in (classes, H, W), and the mean probability of the predicted classes over the pixels."""
    most, predicted = probabilities.max(0)
    common = int(torch.bincount(predicted.flatten(), minlength=len(classes)).argmax())
    return classes[common], float(most.mean())


def predictions(
    names: Sequence[str],
    split: str,
    outputs: Outputs,
    classes: tuple[str, ...],  # noqa: ARG001
) -> list[tuple[object, ...]]:
    """Per image the share of correct pixels; `predict` writes the masks themselves."""
    columns = (scores(outputs).tolist(), _pixels(outputs).mean_iou.tolist(), outputs.losses.tolist())
    return [(name, split, *(f"{value:.6f}" for value in own)) for name, *own in zip(names, *columns, strict=True)]


def _pixels(outputs: Outputs) -> PixelCounts:
    assert outputs.pixels is not None  # noqa: S101
    return outputs.pixels


def _iou(confusion: Tensor) -> Tensor:
    """Intersection over union (…, classes) from counts (…, classes, classes); -1 for an empty union."""
    counts = confusion.double()
    right = counts.diagonal(dim1=-2, dim2=-1)
    union = counts.sum(-1) + counts.sum(-2) - right
    return torch.where(union > 0, right / union.clamp(min=1), -1.0)


def _mean_iou(confusion: Tensor) -> Tensor:
    """The mean (…) over the true and predicted classes; 0 without any."""
    iou = _iou(confusion)
    return iou.clamp(min=0).sum(-1) / (iou >= 0).sum(-1).clamp(min=1)


TASK = Task(
    name="segmentation",
    losses={
        "cross-entropy+dice": losses.cross_entropy_dice,
        "cross-entropy": losses.cross_entropy,
        "dice": losses.dice,
        "focal": losses.focal,
    },
    columns=("path", "split", "accuracy", "mean_iou", "loss"),
    outputs=outputs,
    accuracy=accuracy,
    scores=scores,
    measure=measure,
    scored_by={
        "accuracy": lambda outputs: measure(outputs)["accuracy"],
        "mean_iou": lambda outputs: measure(outputs)["mean_iou"],
    },
    metrics=metrics,
    probabilities=probabilities,
    label=label,
    predictions=predictions,
)
