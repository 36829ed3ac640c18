"""How far probabilities can be believed: the temperature that logits are divided by, and the calibration error.

A network that is right in 90 % of the cases where it says 99 % is too sure. One number, fitted on validation images,
mends most of that and changes no label (Guo et al. 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.tasks import Outputs, Task
from frostline.tasks.clustered import variance, widening

LOWEST, HIGHEST = 0.05, 20.0  # a temperature
BINS = 15  # as Guo et al. count
DRAWS = 1_000
FOLDS = 5
FEWEST = 20  # images: of less than four in a fold, and sixteen to fit on, chance decides
MARGIN = 0.5  # standard errors: one network in ten that needs no temperature gets one by chance; without it one in five
STEPS = 100  # of Newton's method, which takes about six; halving the bounds takes forty
NUMBERS = 4_000_000  # at a time in float64, so that 50,000 images of 1,000 classes take no gigabytes


@dataclass(frozen=True)
class Calibration:
    """What a temperature is worth on n images.

    temperature: what logits are divided by, fitted on all of them; 1.0 where nothing is won for sure by another.
    ece_before, ece_after: the expected calibration error, 0 … 1. loss_before, loss_after: the mean log-loss in nats.
        Those after are cross-fitted: an image's logits are divided by a temperature that other images decided.
    """

    temperature: float
    n: int
    ece_before: float
    ece_after: float
    loss_before: float
    loss_after: float

    def as_json(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "n": self.n,
            "ece": [self.ece_before, self.ece_after],
            "loss": [self.loss_before, self.loss_after],
        }


def calibrate(outputs: Outputs, task: Task, group: np.ndarray | None = None) -> Calibration | None:
    """The temperature for a network's outputs on images that it was not trained on, and what it is worth.

    It is not to do harm: the temperature is 1.0 unless the cross-fitted log-loss is lower than the one before by more
    than half the standard error of their difference, and for less than 20 images. None of a segmentation, whose logits
    are not kept. group: as in `Task`; a fold holds whole groups.

    >>> from frostline.tasks import task_of
    >>> classification, labels = task_of("classification"), torch.tensor([0] * 90 + [1] * 10)
    >>> calibrate(classification.outputs(torch.tensor([[6.0, 0.0]] * 100), labels), classification).loss_after < 0.4
    True
    """
    if outputs.pixels is not None:
        return None
    n, loss = len(outputs), float(outputs.losses.mean()) if len(outputs) else 0.0
    error = expected_calibration_error(outputs.logits, outputs.targets)
    if n >= FEWEST:
        crossed = task.outputs(_cross_fitted(outputs.logits, outputs.targets, group), outputs.targets)
        temperature, won = fit_temperature(outputs.logits, outputs.targets), outputs.losses - crossed.losses
        if temperature != 1 and float(won.mean()) > MARGIN * _standard_error(won, group):
            error_after = expected_calibration_error(crossed.logits, crossed.targets)
            return Calibration(temperature, n, error, error_after, loss, float(crossed.losses.mean()))
    return Calibration(1.0, n, error, error, loss, loss)


def at_temperature(outputs: Outputs, temperature: float, task: Task) -> Outputs:
    """The outputs of a network whose logits are divided by a temperature above 0; a segmentation's stay as they are."""
    if temperature == 1 or outputs.pixels is not None:
        return outputs
    return task.outputs(outputs.logits / temperature, outputs.targets)


def believed(outputs: Outputs, task: Task) -> Outputs:
    """The outputs at the temperature that fits them best, which is how a classifier gives them in the end."""
    if outputs.pixels is not None:
        return outputs
    return at_temperature(outputs, fit_temperature(outputs.logits, outputs.targets), task)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature, 0.05 … 20, by which the mean log-loss of logits / temperature is lowest.

    logits: (N, classes). targets: class numbers (N,), whose probabilities are a softmax, or labels (N, classes) of 0
        and 1, whose probabilities are sigmoids.

    One more image counts, of which only the frequencies of the classes are known, as in Platt's scaling (1999):
    images that are all predicted right say nothing of how often it errs, and would make the network sure of
    everything. The loss is never higher than without a temperature: 1.0 where this image alone asks for another one,
    of one image or none, and of logits that are not finite.

    >>> fit_temperature(torch.tensor([[6.0, 0.0]] * 100), torch.tensor([0] * 90 + [1] * 10)) > 2
    True
    """
    if len(logits) < 2 or not bool(logits.isfinite().all()):
        return 1.0
    target = _pull(logits, targets)
    inverse, low, high = 1.0, 1 / HIGHEST, 1 / LOWEST
    for _ in range(STEPS):
        slope, curvature = _slopes(logits, inverse, several=targets.ndim == 2)
        slope -= target
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        newton = inverse - slope / curvature if curvature > 0 else high
        best = newton if low < newton < high else (low * high) ** 0.5
        if slope == 0 or abs(best - inverse) < 1e-9 * inverse:
            break
        inverse = best
    better = _log_loss(logits * inverse, targets) < _log_loss(logits, targets)
    return min(max(1 / inverse, LOWEST), HIGHEST) if better else 1.0


def _pull(logits: Tensor, targets: Tensor) -> float:
    """The mean logit of what is true, the one more image shared out among all; of several labels their sum."""
    n, count = logits.shape
    if targets.ndim == 2:
        rates = (targets.double().sum(0) + 0.5) / (n + 1)
        own = sum(float((z.double() * t).sum()) for z, t in _parts(logits, targets))
    else:
        rates = (torch.bincount(targets, minlength=count).double() + 1 / count) / (n + 1)
        own = float(logits.gather(1, targets[:, None]).double().sum())
    shared = float(logits.mean(0, dtype=torch.float64) @ rates)
    return (own + shared) / (n + 1)


def _slopes(logits: Tensor, inverse: float, *, several: bool) -> tuple[float, float]:
    """The mean logit that probabilities expect, and its derivative, where logits are multiplied by `inverse`."""
    slope = curvature = 0.0
    for (part,) in _parts(logits):
        z = part.double()
        p = (z * inverse).sigmoid() if several else (z * inverse).softmax(1)
        expected = (p * z).sum(1)
        spread = p * (1 - p) * z**2 if several else p * (z - expected[:, None]) ** 2
        slope += float(expected.sum())
        curvature += float(spread.sum())
    return slope / len(logits), curvature / len(logits)


def _log_loss(logits: Tensor, targets: Tensor) -> float:
    """The mean log-loss in nats; of several labels it is the mean over the labels, too."""
    several = targets.ndim == 2
    loss = functional.binary_cross_entropy_with_logits if several else functional.cross_entropy
    parts = [loss(z.double(), t.double() if several else t, reduction="sum") for z, t in _parts(logits, targets)]
    return float(torch.stack(parts).sum()) / (targets.numel() if several else len(targets))


def _parts(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows at a time, of all of them the same."""
    rows = max(1, NUMBERS // max(1, logits.shape[1]))
    return zip(*(each.split(rows) for each in (logits, *others)), strict=True)


def _cross_fitted(logits: Tensor, targets: Tensor, group: np.ndarray | None) -> Tensor:
    """The logits, those of each fold divided by the temperature of the other folds' images."""
    member = torch.arange(len(logits)) if group is None else torch.from_numpy(np.unique(group, return_inverse=True)[1])
    shuffled = torch.randperm(int(member.max()) + 1, generator=torch.Generator().manual_seed(0))
    divided = logits.clone()
    for fold in range(FOLDS):
        own = torch.isin(member, shuffled[fold::FOLDS])
        divided[own] /= fit_temperature(logits[~own], targets[~own])
    return divided


def _standard_error(values: Tensor, group: np.ndarray | None) -> float:
    """Of the mean of values (N,)."""
    if group is None:
        return float(values.std()) / math.sqrt(len(values))
    return math.sqrt(variance((values - values.mean()).double().numpy(), group)[0])


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """How far probabilities are from what happens, 0 … 1: the mean distance over bins of equal width.

    Of one label per image: in each bin the mean probability of the predicted classes and the share of them that are
    right (Guo et al. 2017). Of several labels: that of every label, predicted or not, and the share of images with it.
    logits, targets: as in `fit_temperature`. Without images it is 0.

    >>> expected_calibration_error(torch.tensor([[0.0, 0.0]] * 4), torch.tensor([0, 0, 1, 1]))
    0.0
    """
    sums, _, _, n = _binned(logits, targets, bins)
    return float(sums.abs().sum() / n) if n else 0.0


def calibration_error(logits: Tensor, targets: Tensor, group: np.ndarray | None = None) -> dict[str, Any]:
    """The expected calibration error, and how sure it is: `ece`, `ece_interval` (95 %) and `ece_by_chance`.

    A classifier whose probabilities are just right shows an error, too, because every bin holds few images:
    `ece_by_chance` is what it stays below in 95 of 100 cases (consistency resampling, Bröcker & Smith 2007). For the
    interval each bin varies as its images do, and what that adds to the error is taken off (the basic bootstrap); it
    begins at 0 where chance would show as much. Both
    are of 1,000 draws with a fixed seed. group: as in `Task`; each bin varies as its groups do then, and what chance
    would show is as many times wider.
    """
    sums, squares, variances, n = _binned(logits, targets, BINS, group)
    wider = 1.0 if group is None else widening(group)
    if not n or not math.isfinite(wider):
        return {"ece": float(sums.abs().sum() / max(1, n)), "ece_interval": [0.0, 1.0], "ece_by_chance": 1.0}
    squares, variances = squares * wider**2, variances * wider**2
    own = float(sums.abs().sum() / n)
    noise = torch.randn(DRAWS, BINS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    varied = (sums + noise * squares.sqrt()).abs().sum(1) / n
    chance = min(1.0, float((noise * variances.sqrt()).abs().sum(1).quantile(0.95) / n))
    low, high = (2 * own - float(varied.quantile(share)) for share in (0.975, 0.025))
    # What is no more than chance may be no error at all; and the error itself is inside.
    interval = [0.0 if own <= chance else min(own, max(0.0, low)), max(own, min(1.0, high))]
    return {"ece": own, "ece_interval": interval, "ece_by_chance": chance}


def _binned(
    logits: Tensor, targets: Tensor, bins: int, group: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Of each bin the sums of probabilities minus what happened, of its squares, of their expectation; and how many.

    group: where images belong together; the squares are those of what the gaps of a group come to then, and what is
    expected grows as they do.
    """
    if not len(logits):
        return torch.zeros(bins), torch.zeros(bins), torch.zeros(bins), 0
    if targets.ndim == 2:
        sure, right = logits.double().sigmoid().flatten(), targets.flatten().double()
    else:
        highest = [z.double().softmax(1).max(1) for (z,) in _parts(logits)]
        sure, predicted = (torch.cat(column) for column in zip(*highest, strict=True))
        right = (predicted == targets).double()
    number = (sure * bins).ceil().long().clamp(1, bins) - 1  # a bin holds its upper edge
    gaps = sure - right
    columns = torch.stack([gaps, gaps.square(), sure * (1 - sure)])
    sums, squares, variances = torch.zeros(3, bins, dtype=torch.float64).index_add_(1, number, columns)
    if group is None and targets.ndim == 1:
        return sums, squares, variances, len(sure)
    unit = torch.arange(len(logits)) if group is None else torch.from_numpy(np.unique(group, return_inverse=True)[1])
    cells = unit.repeat_interleave(len(sure) // len(logits)) * bins + number
    together = torch.zeros((int(unit.max()) + 1) * bins, dtype=torch.float64).index_add_(0, cells, gaps)
    of_units = together.view(-1, bins).square().sum(0)
    return sums, of_units, variances * (of_units / squares.clamp(min=1e-12)).clamp(min=1), len(sure)
