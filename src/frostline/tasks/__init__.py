"""Tasks: their losses, and the metrics of their outputs. One module per task."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.errors import UsageError, unknown

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, targets) -> scalar, the mean over the batch

NAMES = ("classification", "multilabel", "segmentation")
OPTION_NAMES = {"weight": "class weights", "smoothing": "label smoothing"}  # the names of a loss's options in messages


@dataclass(frozen=True, eq=False)
class PixelCounts:
    """Pixel counts of a segmentation, because the maps themselves would take gigabytes.

    confusion: (classes, classes) of int64, pixels of all images, true by predicted.
    correct, counted: (N,) of int64, per image the correct pixels, and the pixels with a known class.
    both, either: (N, classes) of int32, per image and class the intersection and the union of true and predicted
        pixels.
    """

    confusion: Tensor
    correct: Tensor
    counted: Tensor
    both: Tensor
    either: Tensor

    def __add__(self, other: PixelCounts) -> PixelCounts:
        """The counts of these images followed by others."""
        return PixelCounts(
            self.confusion + other.confusion,
            torch.cat([self.correct, other.correct]),
            torch.cat([self.counted, other.counted]),
            torch.cat([self.both, other.both]),
            torch.cat([self.either, other.either]),
        )

    @property
    def mean_iou(self) -> Tensor:
        """Per image the mean intersection over union of its true and predicted classes, (N,) of float64."""
        there = self.either > 0
        return (self.both / self.either.clamp(min=1)).double().sum(1) / there.sum(1).clamp(min=1)


@dataclass(frozen=True, eq=False)
class Outputs:
    """A network's outputs for N images, as needed for metrics.

    logits: (N, classes); (N, 0) for a segmentation, which has `pixels` instead.
    targets: class numbers (N,), labels (N, classes) of 0 and 1; (N, 0) for a segmentation.
    losses: (N,), the task's plain loss per image in nats.
    """

    logits: Tensor
    targets: Tensor
    losses: Tensor
    pixels: PixelCounts | None = None

    def __len__(self) -> int:
        return len(self.losses)


def outputs_from(values: Mapping[str, Any]) -> Outputs:
    """The outputs from the mapping of `dataclasses.asdict`."""
    pixels = values["pixels"]
    return Outputs(**{**values, "pixels": None if pixels is None else PixelCounts(**pixels)})


def join(parts: Iterable[Outputs], count: int | None = None) -> Outputs:
    """The outputs of several batches, one after the other. count: of all of them, if it is known.

    With a generator, the counts of a segmentation take no more memory for many batches than for one; with a count as
    well, no logits are there twice, which are gigabytes with thousands of classes.
    """
    if count is not None:
        return _filled(parts, count)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    pixels: PixelCounts | None = None
    for part in parts:
        columns.append((part.logits, part.targets, part.losses))
        pixels = part.pixels if pixels is None or part.pixels is None else pixels + part.pixels
    if not columns:
        return Outputs(torch.empty(0, 0), torch.empty(0, 0), torch.empty(0))
    logits, targets, losses = (torch.cat(column) for column in zip(*columns, strict=True))
    return Outputs(logits, targets, losses, pixels)


def _filled(parts: Iterable[Outputs], count: int) -> Outputs:
    whole: list[Tensor] = []
    done = 0
    for part in parts:
        columns = (part.logits, part.targets, part.losses)
        whole = whole or [column.new_empty(count, *column.shape[1:]) for column in columns]
        for own, column in zip(whole, columns, strict=True):
            own[done : done + len(column)] = column
        done += len(part)
    return Outputs(whole[0], whole[1], whole[2]) if whole else join([])


@dataclass(frozen=True, eq=False)
class Task:
    """A task as functions.

    name: one of NAMES.
    losses: by name, the default first; each (logits, targets, **options) -> scalar.
    columns: of predictions.csv.
    outputs: (logits, targets) of a batch -> its outputs.
    accuracy: (logits, targets) of a batch -> its accuracy, 0 … 1.
    scores: per image 1 if it is right, else 0, or its share of correct pixels; (N,) of float64.
    measure: accuracy, plain loss (nats), and the task's other metrics.
    scored_by: metrics that may pick the best epoch, by name: each 0 … 1, higher is better.
    metrics: (outputs, classes, group) -> all reported figures: `measure`, n, interval and per_class.
        group: the group number of each image, (N,), if images belong together, else None; intervals are for new groups.
    probabilities: per class, from logits of the same shape.
    label: (probabilities of one image, classes) -> its label as text, and the label's probability.
    predictions: (names, split, outputs, classes) -> the records of predictions.csv.
    """

    name: str
    losses: Mapping[str, Callable[..., Tensor]]
    columns: tuple[str, ...]
    outputs: Callable[[Tensor, Tensor], Outputs]
    accuracy: Callable[[Tensor, Tensor], float]
    scores: Callable[[Outputs], Tensor]
    measure: Callable[[Outputs], dict[str, float]]
    scored_by: Mapping[str, Callable[[Outputs], float]]
    metrics: Callable[[Outputs, tuple[str, ...], np.ndarray | None], dict[str, Any]]
    probabilities: Callable[[Tensor], Tensor]
    label: Callable[[Tensor, tuple[str, ...]], tuple[str, float]]
    predictions: Callable[[Sequence[str], str, Outputs, tuple[str, ...]], list[tuple[object, ...]]]


def task_of(name: str) -> Task:
    """A task by name; raises UsageError for a name that is not in NAMES.

    >>> task_of("classification").columns
    ('path', 'split', 'label', 'predicted', 'probability')
    """
    if name not in NAMES:
        raise unknown("task", name, NAMES)
    task: Task = importlib.import_module(f"frostline.tasks.{name}").TASK
    return task


def loss_of(
    task: Task, loss: str | Loss | None = None, *, weight: Tensor | None = None, smoothing: float = 0.0
) -> Loss:
    """The loss to train with.

    loss: a name that the task knows, None for its first, or your own function.
    weight: per class. smoothing: share (0 … 1) of a label that is spread over all classes.

    Raises UsageError for an unknown name, and for weights or smoothing that the loss does not support.
    """
    if not 0 <= smoothing < 1:
        raise UsageError(f"label smoothing is {smoothing}; it must be at least 0, below 1")
    values = {"weight": weight, "smoothing": smoothing or None}
    options = {name: value for name, value in values.items() if value is not None}
    if callable(loss):
        if options:
            raise UsageError(
                f"your own loss takes no options; leave out {' and '.join(OPTION_NAMES[name] for name in options)}"
            )
        return partial(_checked, loss)  # other processes can have it
    if loss is not None and not isinstance(loss, str):
        raise UsageError(f"loss is a {type(loss).__name__}; it must be a name or a function of logits and targets")
    name = loss or next(iter(task.losses))
    if name not in task.losses:
        raise UsageError(
            f"loss {name!r} does not fit these labels; use {', '.join(task.losses)}"
            if any(name in task_of(other).losses for other in NAMES)
            else str(unknown("loss", name, task.losses))
        )
    known = {other: inspect.signature(function).parameters for other, function in task.losses.items()}
    lacking = [OPTION_NAMES[option] for option in options if option not in known[name]]
    if lacking:
        able = [other for other in known if options.keys() <= known[other].keys()]
        raise UsageError(f"the loss {name} takes no {' and no '.join(lacking)}; use {' or '.join(able)}")
    return partial(task.losses[name], **options)


def _checked(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """The value of your own loss, which has to be one number."""
    value = loss(logits, targets)
    if value.ndim:
        raise UsageError(f"the loss gave a tensor of shape {tuple(value.shape)}; give the mean over the batch")
    return value
