"""What a phase was worth: its best against what was there before, on the same validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from frostline.fitting.job import Objective
from frostline.tasks import Outputs
from frostline.tasks.calibration import believed
from frostline.tasks.paired import Paired, paired_difference
from frostline.training.race import Heat

SURE = 0.05  # a phase that is worth nothing is kept so often at most


@dataclass(frozen=True)
class Decision:
    """Whether what a phase made was kept, and the evidence.

    phase: its number, from 1. frostline: where it lay. how: "solved" or "trained"; lr, batchnorm: with which settings.
    accuracy: the paired difference of the phase's best to what was there before it; of a segmentation that of the
        shares of pixels that are right. loss: the log-loss before and of the phase's best, in nats.
    p_value: how likely a log-loss as much lower is if the phase is worth nothing, times the number of epochs that it
        was the best of (Bonferroni), at most 1; None where no test decided.
    tried: the short trainings that chose how the phase trains, where there was a race.
    """

    phase: int
    frostline: str
    how: str
    kept: bool
    accuracy: Paired
    loss: tuple[float, float]
    p_value: float | None = None
    lr: float | None = None
    batchnorm: str | None = None
    tried: Sequence[Heat] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `fit --json` prints them."""
        return asdict(self)


def image_losses(objective: Objective, outputs: Outputs) -> Tensor:
    """Of each image the loss that decides, in nats; (N,) of float64.

    The log-loss as the classifier would give it in the end, at the temperature that fits best, and each image weighed
    by its class where classes are; of somebody's own loss and of a segmentation what these are.
    """
    if outputs.pixels is not None:
        return outputs.losses.double()
    if objective.own_loss:
        pairs = zip(outputs.logits.split(1), outputs.targets.split(1), strict=True)
        return torch.stack([objective.monitor(logits, targets).detach().cpu() for logits, targets in pairs]).double()
    losses = believed(outputs, objective.task).losses.double()
    weights = objective.class_weights
    if weights is None or outputs.targets.ndim > 1:
        return losses
    each = weights[outputs.targets].double()
    return losses * each / each.mean()


def chance_of_nothing(before: Tensor, after: Tensor, looks: int = 1) -> float:
    """How likely losses (N,) as much lower as these are on the same images if nothing was won: 0 … 1.

    Student's one-sided test for paired samples, times `looks`: of how many epochs these images chose the best.

    >>> chance_of_nothing(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.5, 1.4, 2.6, 3.3])) < 0.01
    True
    >>> chance_of_nothing(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
    1.0
    """
    from scipy.stats import t as student  # takes a while to import, and only a deeper phase needs it

    won = (before - after).double()
    if len(won) < 2 or not bool(won.isfinite().all()) or float(won.mean()) <= 0:
        return 1.0
    error = float(won.std()) / math.sqrt(len(won))
    return min(1.0, looks * float(student.sf(float(won.mean()) / max(error, 1e-12), len(won) - 1)))


def decision(
    objective: Objective,
    before: Outputs,
    after: Outputs,
    *,
    phase: int,
    frostline: str,
    how: str,
    won: bool,
    looks: int = 0,
    lr: float | None = None,
    batchnorm: str | None = None,
    tried: Sequence[Heat] = (),
) -> Decision:
    """The decision with its evidence, from the outputs for the same images in the same order.

    won: whether the loss that is monitored is lower than before. looks: where the phase has to prove itself, of how
        many epochs these images chose the best; 0 where winning is enough.
    """
    difference = paired_difference(objective.task.scores(after).numpy(), objective.task.scores(before).numpy())
    losses = float(before.losses.mean()), float(after.losses.mean())
    facts: dict[str, Any] = {"lr": lr, "batchnorm": batchnorm, "tried": tuple(tried)}
    if not looks:
        return Decision(phase, frostline, how, won, difference, losses, **facts)
    first, second = image_losses(objective, before), image_losses(objective, after)
    p_value, losses = chance_of_nothing(first, second, looks), (float(first.mean()), float(second.mean()))
    kept = won and p_value <= SURE and difference.high > 0
    return Decision(phase, frostline, how, kept, difference, losses, p_value, **facts)


def nothing_to_prove(objective: Objective, outputs: Outputs) -> bool:
    """Whether so few images are wrong that no improvement could be told from chance by them (a sign test).

    >>> 0.5**4 > SURE >= 0.5**5  # four mistakes, all mended, prove nothing; five do
    True
    """
    wrong = float((1 - objective.task.scores(outputs)).sum())
    return bool(0.5**wrong > SURE)
