"""Whether a phase is kept: the network after it against the network before it, on the same validation images."""

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

SURE = 0.16  # one standard error: 0.05 missed what 50 images per class won on the other 3,000 in two of three draws
PROVABLE = 0.05  # no phase is tried if correcting every mistake could not reach this p-value
FEWEST = 20  # validation images: fewer losses are too small a sample


@dataclass(frozen=True)
class Decision:
    """Whether a phase was kept, and the evidence.

    phase: its number, from 1. frostline: its frostline. how: "solved" or "trained"; lr, batchnorm: its settings.
    accuracy: the paired difference between after and before; for a segmentation of the shares of correct pixels.
        loss: before and after. by: the name of this loss.
    p_value: the probability of such a drop in loss if the phase were worthless, times the number of settings tried
        (Bonferroni), at most 1; None where no test decided.
    tried: the results of all settings tried, for a phase with `race`.
    metric, score: the metric that decides instead of the loss, before and after; "" without one.
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
    metric: str = ""
    score: tuple[float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `fit --json` prints them."""
        return asdict(self)


def image_losses(objective: Objective, outputs: Outputs) -> Tensor:
    """The loss per image that decides, lower is better; (N,) of float64.

    By default the log-loss in nats as the final classifier would give it: at the best temperature, and weighted by
    class where class weights are set (for several labels, by the weights of the present ones). For your own loss its
    value per image, if the mean of these equals its value for all images; else the log-loss. For a segmentation 1 -
    mean intersection over union.
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
    """The name of what `image_losses` gives for these outputs."""
    if outputs.pixels is not None:
        return "1 - mean IoU"
    own = objective.own_loss and _own_losses(objective, outputs) is not None
    return "your own loss" if own else "calibrated log-loss"


def _own_losses(objective: Objective, outputs: Outputs) -> Tensor | None:
    """Your own loss per image; None if it is not a mean over images."""
    logits, targets = outputs.logits.to(objective.device), outputs.targets.to(objective.device)
    pairs = zip(logits.split(1), targets.split(1), strict=True)
    alone = torch.stack([objective.monitor(*pair).detach().cpu() for pair in pairs]).double()
    together = float(objective.monitor(logits, targets))
    return alone if math.isclose(float(alone.mean()), together, rel_tol=1e-3, abs_tol=1e-6) else None


def chance_of_nothing(before: Tensor, after: Tensor, looks: int = 1, group: np.ndarray | None = None) -> float:
    """The probability, 0 … 1, of such a drop in losses (N,) on the same images if nothing improved.

    Student's one-sided paired t-test, times `looks`: the number of settings among which these images chose the best. It
    is approximate for very unequal losses: with 100 images and one look up to 8 % of p-values are below 0.05, fewer
    with more of either. Below 20 images it returns 1. group: the group number of each image where images belong
    together; the test then compares groups.

    >>> before = torch.linspace(0.1, 3, 40)
    >>> chance_of_nothing(before, 0.8 * before) < 0.01
    True
    >>> chance_of_nothing(before, before)
    1.0
    """
    from scipy.stats import t as student  # slow to import, and only a deeper phase needs it

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
    group: np.ndarray | None = None,
) -> Decision:
    """The decision about phase `number` (from 1). before, after: outputs for the same images in the same order.

    won: whether the deciding loss improved.
    tried: all settings, for a phase with `race`; these images have chosen among them. Without any, `won` alone decides.
    group: the group number of each image, (N,), where images belong together.
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
        metric,
        (score(before), score(after)) if score else None,
    )


def nothing_to_prove(objective: Objective, outputs: Outputs) -> bool:
    """Whether too few images are wrong to tell any improvement from chance (a sign test).

    >>> 0.5**4 > PROVABLE >= 0.5**5  # correcting four mistakes proves nothing; correcting five does
    True
    """
    if outputs.pixels is not None:  # its scores are shares of pixels
        return False
    wrong = float((1 - objective.task.scores(outputs)).sum())
    return bool(0.5**wrong > PROVABLE)
