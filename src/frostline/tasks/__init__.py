"""What a network is trained to do: its losses, and how its outputs are measured. One module a task."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from frostline.errors import UsageError, unknown

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, targets) -> scalar, the mean over the batch

NAMES = ("classification", "multilabel", "segmentation")
OPTION_NAMES = {"weight": "class weights", "smoothing": "label smoothing"}  # what people call the options of a loss


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network said of N images, as far as measuring needs it.

    outputs: logits (N, classes); of segmentation the counts (N, classes, classes) of true and predicted pixels.
    targets: class numbers (N,), labels (N, classes) of 0 and 1; nothing (N, 0) for segmentation, the counts hold them.
    losses: (N,), the task's plain loss of each image in nats.
    """

    outputs: Tensor
    targets: Tensor
    losses: Tensor

    def __len__(self) -> int:
        return len(self.losses)


def join(parts: list[Outputs]) -> Outputs:
    """The answers of several batches, one after the other."""
    columns = [torch.cat([getattr(part, name) for part in parts]) for name in ("outputs", "targets", "losses")]
    return Outputs(*columns)


class Task(Protocol):
    """What the module of a task offers."""

    @property
    def LOSSES(self) -> Mapping[str, Callable[..., Tensor]]:  # noqa: N802
        """By name, the default first."""

    @property
    def COLUMNS(self) -> tuple[str, ...]:  # noqa: N802
        """Of predictions.csv."""

    def answers(self, logits: Tensor, targets: Tensor) -> Outputs:
        """What is kept of one batch."""

    def accuracy(self, logits: Tensor, targets: Tensor) -> float:
        """The share (0 … 1) of a batch that is right."""

    def measure(self, answers: Outputs) -> dict[str, float]:
        """Accuracy (0 … 1) and plain loss (nats), and what else the task is judged by."""

    def metrics(self, answers: Outputs, classes: tuple[str, ...]) -> dict[str, Any]:
        """All that is reported: `measure`, n, interval and per_class."""

    def label(self, probabilities: Tensor, classes: tuple[str, ...]) -> tuple[str, float]:
        """What is said of one image, and how probable that is."""

    def predictions(
        self, names: Sequence[str], split: str, answers: Outputs, classes: tuple[str, ...]
    ) -> list[tuple[object, ...]]:
        """The rows of predictions.csv."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each class, from logits of the same shape."""


def task_of(name: str) -> Task:
    """A task by name."""
    return cast(Task, importlib.import_module(f"frostline.tasks.{name}"))


def loss_of(
    task: Task, asked: str | Loss | None = None, *, weight: Tensor | None = None, smoothing: float = 0.0
) -> Loss:
    """The loss to train with.

    asked: a name that the task knows, None for its first, or your own function.
    weight: of each class. smoothing: share (0 … 1) of a label that is spread over all classes.

    Raises UsageError for an unknown name, and for weights or smoothing that the loss does not know.
    """
    if not 0 <= smoothing < 1:
        raise UsageError(f"label smoothing is {smoothing}; between 0 and 1 is possible")
    given = {"weight": weight, "smoothing": smoothing or None}
    options = {name: value for name, value in given.items() if value is not None}
    if callable(asked):
        if options:
            raise UsageError(
                f"your own loss is used as it is; leave out {' and '.join(OPTION_NAMES[name] for name in options)}"
            )
        return _checked(asked)
    name = asked or next(iter(task.LOSSES))
    if name not in task.LOSSES:
        raise unknown("loss", name, task.LOSSES)
    known = {other: inspect.signature(function).parameters for other, function in task.LOSSES.items()}
    lacking = [OPTION_NAMES[option] for option in options if option not in known[name]]
    if lacking:
        able = [other for other in known if options.keys() <= known[other].keys()]
        raise UsageError(f"the loss {name} takes no {' and no '.join(lacking)}; use {' or '.join(able)}")
    return partial(task.LOSSES[name], **options)


def _checked(loss: Loss) -> Loss:
    """Somebody's own loss, which has to give one number."""

    def checked(logits: Tensor, targets: Tensor) -> Tensor:
        value = loss(logits, targets)
        if value.ndim:
            raise UsageError(f"the loss gave a tensor of shape {tuple(value.shape)}; the mean over the batch is wanted")
        return value

    return checked
