"""What a phase was worth: what it made against what was there before, on the same validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.fitting.job import Objective
from frostline.plan import Phase
from frostline.tasks import Outputs
from frostline.tasks.calibration import believed
from frostline.tasks.clustered import difference_of, variance
from frostline.tasks.paired import Paired
from frostline.training.race import Heat

SURE = (
    0.16  # one standard error: what 50 images a class won on the other 3,000 was missed by 0.05 in two of three draws
)
PROVABLE = 0.05  # less than what so few mistakes could show is not worth a try
FEWEST = 20  # validation images: the losses of fewer are no sample of anything


@dataclass(frozen=True)
class Decision:
    """Whether what a phase made was kept, and the evidence.

    phase: its number, from 1. frostline: where it lay. how: "solved" or "trained"; lr, batchnorm: with which settings.
    accuracy: the paired difference of it to what was there before; of a segmentation that of the shares of pixels that
        are right. loss: before, and of it. by: what this loss is.
    p_value: how likely a loss as much lower is if the phase is worth nothing, times the number of settings that it is
        the best of (Bonferroni), at most 1; None where no test decided.
    tried: what came of all settings that the phase was tried with, where it had to prove itself.
    epoch: which one it is that was compared; None of a solved head.
    metric, score: the figure that was asked to decide in place of the loss, before and of it; "" where none was.
    """

    phase: int
    frostline: str
    how: str
    kept: bool
    accuracy: Paired
    loss: tuple[float, float]
    p_value: float | None = None
    by: str = "log-loss"
    lr: float | None = None
    batchnorm: str | None = None
    tried: Sequence[Heat] = ()
    epoch: int | None = None
    metric: str = ""
    score: tuple[float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `fit --json` prints them."""
        return asdict(self)


def image_losses(objective: Objective, outputs: Outputs) -> Tensor:
    """Of each image what decides, the less the better; (N,) of float64.

    The log-loss in nats, as the classifier would give it in the end: at the temperature that fits best, each image
    weighed by its class (of several labels, each present one by its weight) where classes are weighed. Of somebody's
    own loss that of each image alone, if the mean of these is what it gives of all; else the log-loss. Of a
    segmentation 1 - the mean intersection over union.
    """
    if outputs.pixels is not None:
        return 1 - outputs.pixels.mean_iou.double()
    if objective.own_loss and (alone := _own_losses(objective, outputs)) is not None:
        return alone
    at_best, weights = believed(outputs, objective.task), objective.class_weights
    if weights is None:
        return at_best.losses.double()
    if outputs.targets.ndim > 1:
        logits, targets, positive = at_best.logits.double(), outputs.targets.double(), weights.double()
        entropy = functional.binary_cross_entropy_with_logits
        return entropy(logits, targets, pos_weight=positive, reduction="none").mean(1)
    each = weights[outputs.targets].double()
    return at_best.losses.double() * each / each.mean()


def loss_name(objective: Objective, outputs: Outputs) -> str:
    """What `image_losses` are of these outputs."""
    if outputs.pixels is not None:
        return "1 - mean IoU"
    own = objective.own_loss and _own_losses(objective, outputs) is not None
    return "your own loss" if own else "calibrated log-loss"


def _own_losses(objective: Objective, outputs: Outputs) -> Tensor | None:
    """Somebody's own loss of each image alone; None where it means something else of several."""
    logits, targets = outputs.logits.to(objective.device), outputs.targets.to(objective.device)
    pairs = zip(logits.split(1), targets.split(1), strict=True)
    alone = torch.stack([objective.monitor(*pair).detach().cpu() for pair in pairs]).double()
    together = float(objective.monitor(logits, targets))
    return alone if math.isclose(float(alone.mean()), together, rel_tol=1e-3, abs_tol=1e-6) else None


def chance_of_nothing(before: Tensor, after: Tensor, looks: int = 1, group: np.ndarray | None = None) -> float:
    """How likely losses (N,) as much lower as these are on the same images if nothing was won: 0 … 1.

    Student's one-sided test for paired samples, times `looks`: of how many settings these images chose the best. It is
    approximate where losses are very unequal: of 100 images with one look up to 8 % are below 0.05, less with more of
    either. Of less than 20 images nothing can be told: 1. group: the number of that of each image where images belong
    together: the test is of groups then.

    >>> before = torch.linspace(0.1, 3, 40)
    >>> chance_of_nothing(before, 0.8 * before) < 0.01
    True
    >>> chance_of_nothing(before, before)
    1.0
    """
    from scipy.stats import t as student  # takes a while to import, and only a deeper phase needs it

    won = (before - after).double()
    if len(won) < FEWEST or not bool(won.isfinite().all()) or float(won.mean()) <= 0:
        return 1.0
    error, free = float(won.std()) / math.sqrt(len(won)), len(won) - 1.0
    if group is not None:
        spread, free = variance((won - won.mean()).numpy(), group)
        error = math.sqrt(spread)
    return min(1.0, looks * float(student.sf(float(won.mean()) / max(error, 1e-12), free)))


def decision(
    objective: Objective,
    before: Outputs,
    after: Outputs,
    *,
    number: int,
    phase: Phase,
    won: bool,
    tried: Sequence[Heat] = (),
    epoch: int | None = None,
    group: np.ndarray | None = None,
) -> Decision:
    """The decision about phase `number` (from 1), with its evidence: the outputs for the same images in the same order.

    won: whether what decides is better than before. epoch: which one `after` is of.
    tried: all settings, where the phase has to prove itself; these images have chosen among them. Without any, winning
        is enough.
    group: the number of that of each image, (N,), where images belong together.
    """
    how = "trained" if phase.epochs else "solved"
    lr, batchnorm = (phase.learning_rate, phase.batchnorm) if phase.epochs else (None, None)
    difference = difference_of(objective.task.scores(after).numpy(), objective.task.scores(before).numpy(), group)
    losses = float(before.losses.mean()), float(after.losses.mean())
    kept, p_value, by, looks = won, None, "log-loss", len(tried)
    if looks:
        first, second = image_losses(objective, before), image_losses(objective, after)
        p_value, losses = chance_of_nothing(first, second, looks, group), (float(first.mean()), float(second.mean()))
        kept = won and p_value <= SURE and difference.high > 0
        by = loss_name(objective, before)
    metric, score = objective.score or ("", None)
    return Decision(
        number,
        phase.frostline,
        how,
        kept,
        difference,
        losses,
        p_value,
        by,
        lr,
        batchnorm,
        tuple(tried),
        epoch if phase.epochs else None,
        metric,
        (score(before), score(after)) if score else None,
    )


def nothing_to_prove(objective: Objective, outputs: Outputs) -> bool:
    """Whether so few images are wrong that no improvement could be told from chance by them (a sign test).

    >>> 0.5**4 > PROVABLE >= 0.5**5  # four mistakes, all mended, prove nothing; five do
    True
    """
    if outputs.pixels is not None:  # its scores are shares of pixels
        return False
    wrong = float((1 - objective.task.scores(outputs)).sum())
    return bool(0.5**wrong > PROVABLE)
