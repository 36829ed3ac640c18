"""Calibration of probabilities: the temperature that divides logits, and the calibration error.

A network that predicts 99 % but is right in 90 % of these cases is too sure. One number, fitted on validation images,
corrects most of that and changes no prediction (Guo et al. 2017, arXiv 1706.04599).
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

LOWEST, HIGHEST = 0.05, 20.0  # of a temperature
BINS = 15  # as in Guo et al.
DRAWS = 1_000
FOLDS = 5
FEWEST = 20  # images: with fewer than four per fold, and sixteen to fit on, chance decides
MARGIN = (
    0.5  # standard errors: without it chance gives one network in five a temperature it does not need, now one in ten
)
STEPS = 100  # maximum for Newton's method, which takes about six; halving the bounds takes forty
NUMBERS = 4_000_000  # per block in float64, so that 50,000 images of 1,000 classes do not take gigabytes
MOST_LOGITS = 50_000_000  # that a temperature is fitted on: with 20,000 classes all of them take minutes


@dataclass(frozen=True)
class Calibration:
    """The effect of a temperature on n images.

    temperature: the divisor of logits, fitted on all images; 1.0 if no other one is clearly better.
    ece_before, ece_after: the expected calibration error, 0 … 1. loss_before, loss_after: the mean log-loss in nats.
        Those after are cross-fitted: the temperature of each image was fitted on other images.
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
    """The temperature for a network's outputs on images that it was not trained on, and its effect.

    To do no harm, the temperature stays 1.0 unless the cross-fitted log-loss drops by more than half the standard error
    of the difference; it also stays 1.0 below 20 images. None for a segmentation, whose logits
    are not kept. group: as in `Task`; a fold holds whole groups.

    >>> from frostline.tasks import task_of
    >>> classification, labels = task_of("classification"), torch.tensor([0] * 90 + [1] * 10)
    >>> calibrate(classification.outputs(torch.tensor([[6.0, 0.0]] * 100), labels), classification).loss_after < 0.4
    True
    """
    if outputs.pixels is not None:
        return None
    outputs, group = _some(outputs, group)
    n, loss = len(outputs), float(outputs.losses.mean()) if len(outputs) else 0.0
    error = expected_calibration_error(outputs.logits, outputs.targets)
    if n >= FEWEST:
        crossed = task.outputs(_cross_fitted(outputs.logits, outputs.targets, group), outputs.targets)
        temperature, won = fit_temperature(outputs.logits, outputs.targets), outputs.losses - crossed.losses
        if temperature != 1 and float(won.mean()) > MARGIN * _standard_error(won, group):
            error_after = expected_calibration_error(crossed.logits, crossed.targets)
            return Calibration(temperature, n, error, error_after, loss, float(crossed.losses.mean()))
    return Calibration(1.0, n, error, error, loss, loss)


def _some(outputs: Outputs, group: np.ndarray | None) -> tuple[Outputs, np.ndarray | None]:
    """The outputs and groups of as many images, evenly spread, as one number can be fitted on in seconds."""
    most = max(FEWEST, MOST_LOGITS // max(1, outputs.logits.shape[1]))
    if len(outputs) <= most:
        return outputs, group
    rows = np.linspace(0, len(outputs) - 1, most).astype(np.int64)
    at = torch.from_numpy(rows)
    some = Outputs(outputs.logits[at], outputs.targets[at], outputs.losses[at])
    return some, None if group is None else group[rows]


def at_temperature(outputs: Outputs, temperature: float, task: Task) -> Outputs:
    """The outputs with logits divided by a temperature above 0; those of a segmentation stay unchanged."""
    if temperature == 1 or outputs.pixels is not None:
        return outputs
    return task.outputs(outputs.logits / temperature, outputs.targets)


def believed(outputs: Outputs, task: Task) -> Outputs:
    """The outputs at their best temperature, as the final classifier gives them."""
    if outputs.pixels is not None:
        return outputs
    some, _ = _some(outputs, None)
    return at_temperature(outputs, fit_temperature(some.logits, some.targets), task)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature, 0.05 … 20, with the lowest mean log-loss of logits / temperature.

    logits: (N, classes). targets: class numbers (N,), for softmax probabilities, or labels (N, classes) of 0
        and 1, for sigmoid probabilities.

    One extra image with the class frequencies as its label counts too, as in Platt scaling (1999):
    if all images are predicted right, they do not show the error rate, and would make the network sure of
    everything. The loss is never higher than without a temperature. Returns 1.0 if only the extra image asks for
    another temperature, for fewer than two images, and for logits that are not finite.

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
    """The mean logit of the true class, with the extra image spread over all classes; for several labels their sum."""
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
    """The mean expected logit under the probabilities, and its derivative, for logits multiplied by `inverse`."""
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
    """The mean log-loss in nats; for several labels also averaged over the labels."""
    several = targets.ndim == 2
    loss = functional.binary_cross_entropy_with_logits if several else functional.cross_entropy
    parts = [loss(z.double(), t.double() if several else t, reduction="sum") for z, t in _parts(logits, targets)]
    return float(torch.stack(parts).sum()) / (targets.numel() if several else len(targets))


def _parts(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same blocks of rows from all tensors."""
    rows = max(1, NUMBERS // max(1, logits.shape[1]))
    return zip(*(each.split(rows) for each in (logits, *others)), strict=True)


def _cross_fitted(logits: Tensor, targets: Tensor, group: np.ndarray | None) -> Tensor:
    """The logits, each fold divided by the temperature of the other folds' images."""
    member = torch.arange(len(logits)) if group is None else torch.from_numpy(np.unique(group, return_inverse=True)[1])
    shuffled = torch.randperm(int(member.max()) + 1, generator=torch.Generator().manual_seed(0))
    divided = logits.clone()
    for fold in range(FOLDS):
        own = torch.isin(member, shuffled[fold::FOLDS])
        divided[own] /= fit_temperature(logits[~own], targets[~own])
    return divided


def _standard_error(values: Tensor, group: np.ndarray | None) -> float:
    """The standard error of the mean of values (N,)."""
    if group is None:
        return float(values.std()) / math.sqrt(len(values))
    return math.sqrt(variance((values - values.mean()).double().numpy(), group)[0])


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """The mean distance of probabilities from observed frequencies, 0 … 1, over bins of equal width.

    For one label per image, each bin compares the mean probability of the predicted classes with the share of right
    ones (Guo et al. 2017). For several labels, it compares the probability of each label, predicted or not, with the
    share of images that have it.
    logits, targets: as in `fit_temperature`. Without images it is 0.

    >>> expected_calibration_error(torch.tensor([[0.0, 0.0]] * 4), torch.tensor([0, 0, 1, 1]))
    0.0
    """
    sums, _, _, n = _binned(logits, targets, bins)
    return float(sums.abs().sum() / n) if n else 0.0


def calibration_error(logits: Tensor, targets: Tensor, group: np.ndarray | None = None) -> dict[str, Any]:
    """The expected calibration error and its uncertainty: `ece`, `ece_interval` (95 %) and `ece_by_chance`.

    A perfectly calibrated classifier also shows an error, because each bin holds few images:
    `ece_by_chance` is its bound in 95 of 100 cases (consistency resampling, Bröcker & Smith 2007). The
    interval comes from varying each bin like its images and subtracting the resulting bias (the basic bootstrap); it
    starts at 0 if the error is within chance. Both
    use 1,000 draws with a fixed seed. group: as in `Task`; each bin then varies like its groups, and the bound
    widens accordingly.
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
    # An error within chance may be no error at all; and the interval contains the error itself.
    interval = [0.0 if own <= chance else min(own, max(0.0, low)), max(own, min(1.0, high))]
    return {"ece": own, "ece_interval": interval, "ece_by_chance": chance}


def _binned(
    logits: Tensor, targets: Tensor, bins: int, group: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Per bin the sums of gaps (probability minus outcome), of their squares, of the expected squares; and the count.

    group: if images belong together, the squares are of the summed gaps per group, and the expected squares
    grow with them.
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
