"""Intervals for new groups, on images that belong together, as those of one patient do.

Errors within a group are correlated, so its images carry less information than independent ones. The variance of
a mean comes from the sums over groups (Liang & Zeger 1986), of other figures from the jackknife over groups; Wilson's
interval for a share then uses a smaller number of images. A t distribution accounts for few groups.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from frostline.tasks import Outputs
from frostline.tasks.classwise import recalls_and_f1s, shares
from frostline.tasks.intervals import Z, accuracy_of, interval_of, mean_interval, wilson
from frostline.tasks.paired import Paired, paired_difference

NOTHING = 1e-12  # a smaller variance is rounding error


def by_groups(
    measured: dict[str, Any], outputs: Outputs, group: np.ndarray, classes: tuple[str, ...]
) -> dict[str, Any]:
    """The figures for one class per image, with intervals for new groups and the number of `groups`.

    measured: the figures with intervals for single images. group: the group number of each image, (N,).
    """
    targets, predicted = outputs.targets.numpy(), outputs.logits.argmax(1).numpy()
    right, losses = (predicted == targets).astype(np.float64), outputs.losses.double().numpy()
    intervals = {**_macro_intervals(targets, predicted, group, len(classes)), "loss": mean_loss(losses, group)}
    per_class = {}
    for number, name in enumerate(classes):
        own = shares_for(right, targets == number, predicted == number, group)
        per_class[name] = {**measured["per_class"][name], **own}
    if "top5_accuracy" in measured:
        hits = (outputs.logits.topk(5, 1).indices == outputs.targets[:, None]).any(1).double().numpy()
        intervals["top5_accuracy"] = share(hits, group)
    return {
        **measured,
        **counted_groups(group),
        "interval": share(right, group),
        "intervals": {**measured["intervals"], **intervals},
        "per_class": per_class,
    }


def shares_for(
    right: np.ndarray, of_class: np.ndarray, taken_for: np.ndarray, group: np.ndarray | None
) -> dict[str, list[float] | None]:
    """`classwise.shares` from which images (N,) are right, of a class, or predicted as it; group as in `Task`."""
    if group is None:
        return shares(int((right * of_class).sum()), int(of_class.sum()), int(taken_for.sum()))
    whole = {"recall_interval": of_class, "precision_interval": taken_for}
    return {name: share(right[inside], group[inside]) if inside.any() else None for name, inside in whole.items()}


def accuracy_for(scores: np.ndarray, group: np.ndarray | None) -> dict[str, Any]:
    """`accuracy_of` scores (N,), with an interval for new groups if images belong together: group as in `Task`."""
    known = accuracy_of(scores.tolist())
    return known if group is None or not len(scores) else {**known, "interval": share(scores, group)}


def counted_groups(group: np.ndarray | None) -> dict[str, int]:
    """The number of `groups`, if images belong together."""
    return {} if group is None else {"groups": len(np.unique(group))}


def members(group: np.ndarray) -> list[np.ndarray]:
    """The image numbers of each group.

    >>> members(np.array([4, 7, 4]))
    [array([0, 2]), array([1])]
    """
    _, counts = np.unique(group, return_counts=True)
    return np.split(np.argsort(group, kind="stable"), np.cumsum(counts)[:-1])


def share(right: np.ndarray, group: np.ndarray) -> list[float]:
    """The 95 % interval of a share of images (N,) of 0 and 1, in groups (N,).

    If all are right or all are wrong, the correlation within groups is unknown: each group then counts as one image.

    >>> together = share(np.array([1.0, 1, 1, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]))
    >>> together[1] - together[0] > 0.7
    True
    """
    p = float(right.mean())
    return _as_sure(p, _widened(*variance(right - p, group)), len(right), len(np.unique(group)))


def difference_of(first: np.ndarray, second: np.ndarray, group: np.ndarray | None) -> Paired:
    """`paired_difference`, for new groups if images belong together: group as in `Task`."""
    return paired_difference(first, second) if group is None else paired_of_groups(first, second, group)


def paired_of_groups(first: np.ndarray, second: np.ndarray, group: np.ndarray) -> Paired:
    """`paired_difference` of scores (N,) of images in groups (N,), for new groups: Student's test over groups.

    If all groups have the same difference, their variation is unknown: each group then counts as one image, and the
    same share of these is right in one only.
    """
    apart = np.asarray(first, np.float64) - second
    difference, (spread, free) = float(apart.mean()), variance(apart - apart.mean(), group)
    if not math.isfinite(spread):
        return Paired(difference, -1.0, 1.0, 1.0)
    if spread < NOTHING:
        units = len(np.unique(group))
        won = np.arange(units) < round(units * abs(difference))
        scores = (won, np.zeros(units)) if difference >= 0 else (np.zeros(units), won)
        return replace(paired_difference(*scores), difference=difference)
    half = float(stdtrit(free, 0.975)) * math.sqrt(spread)
    p_value = 2 * float(stdtr(free, -abs(difference) / math.sqrt(spread)))
    return Paired(difference, max(-1.0, difference - half), min(1.0, difference + half), p_value)


def mean_loss(losses: np.ndarray, group: np.ndarray | None) -> list[float] | None:
    """The 95 % interval of a mean above 0, for groups on the log scale; None for a single one.

    group: as in `Task`.
    """
    if group is None:
        found = interval_of(losses)
        return [max(0.0, found[0]), found[1]] if found else None  # no loss is below 0
    mean = float(losses.mean())
    error = math.sqrt(_widened(*variance(losses - mean, group)))
    if not math.isfinite(error) or mean <= 0:
        return None
    return [mean * math.exp(-Z * error / mean), mean * math.exp(Z * error / mean)]


def mean_apart(differences: np.ndarray, group: np.ndarray | None) -> list[float] | None:
    """The 95 % interval of a mean of differences (N,), for groups Student's; None for a single one.

    group: as in `Task`.
    """
    if group is None:
        return interval_of(differences)
    mean = float(differences.mean())
    spread, free = variance(differences - mean, group)
    half = float(stdtrit(free, 0.975)) * math.sqrt(spread)
    return [mean - half, mean + half] if math.isfinite(half) else None


def variance(deviations: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """The variance of a mean, from its summed deviations per group, and the degrees of freedom.

    A large group pulls the mean towards itself, so its sum is scaled up by its share; and
    groups of unequal size leave fewer degrees of freedom (Kish 1965). Infinite for a single group.
    """
    _, numbers, sizes = np.unique(group, return_inverse=True, return_counts=True)
    count = len(sizes)
    if count < 2:
        return math.inf, 1.0
    sums = np.bincount(numbers, deviations) / (1 - sizes / sizes.sum())
    return float((sums**2).sum()) * (count - 1) / count / len(deviations) ** 2, _free(sizes)


def _free(sizes: np.ndarray) -> float:
    return max(1.0, float(sizes.sum()) ** 2 / float((sizes.astype(np.float64) ** 2).sum()) - 1)


def _widened(variance: float, free: float) -> float:
    """The variance, scaled up by the ratio of the t to the normal quantile."""
    return variance * float(stdtrit(free, 0.975) / Z) ** 2


def _macro_intervals(
    targets: np.ndarray, predicted: np.ndarray, group: np.ndarray, classes: int
) -> dict[str, list[float]]:
    """The intervals of balanced accuracy and macro F1, from leaving out each group in turn (the jackknife)."""
    right = predicted == targets

    def counts(some: np.ndarray) -> np.ndarray:
        """Per class the numbers of right, true and predicted images among some images: (3, classes)."""
        labels = (targets[some[right[some]]], targets[some], predicted[some])
        return np.stack([np.bincount(each, minlength=classes) for each in labels])

    count = len(np.unique(group))
    whole = counts(np.arange(len(group)))
    values = _macro(whole)
    names = ("balanced_accuracy", "macro_f1")
    if count < 2:
        return {name: [0.0, 1.0] for name in names}
    without = np.array([_macro(whole - counts(some)) for some in members(group)])
    variances = (count - 1) / count * ((without - without.mean(0)) ** 2).sum(0)
    return {
        name: _as_sure(
            float(value), _widened(float(variance), _free(np.unique(group, return_counts=True)[1])), len(group), count
        )
        for name, value, variance in zip(names, values, variances, strict=True)
    }


def _macro(counts: np.ndarray) -> np.ndarray:
    """Balanced accuracy and macro F1 of the classes that have images, (2,)."""
    return np.array([figures.mean() for figures in recalls_and_f1s(*counts)])


def widening(group: np.ndarray) -> float:
    """The factor that corrects the width of an interval from resampling whole groups, for few groups."""
    sizes = np.unique(group, return_counts=True)[1]
    if len(sizes) < 2:
        return math.inf
    return float(stdtrit(_free(sizes), 0.975)) / Z * math.sqrt(len(sizes) / (len(sizes) - 1))


def influence_interval_of_groups(value: float, influence: np.ndarray, group: np.ndarray) -> list[float] | None:
    """The 95 % interval of a figure between 0 and 1 from the influence of each image on it (N,), for new groups.

    It is corrected for skewness, which comes from a few very bad images. If no image has any influence, each group
    counts as one. None for a single group.
    """
    sums = np.array([influence[own].sum() for own in members(group)])
    units = len(sums)
    if units < 2:
        return None
    if np.abs(sums).max() < NOTHING:
        return list(wilson(value * units, units))
    free = _free(np.unique(group, return_counts=True)[1])
    low, high = mean_interval(value + units * sums, float(stdtrit(free, 0.975))) or (0.0, 1.0)
    return [max(0.0, low), min(1.0, high)]


def _as_sure(value: float, variance: float, images: int, groups: int) -> list[float]:
    """Wilson's interval of a share with the given variance, but for no more images than exist.

    If the figure does not vary, the correlation within groups is unknown: each group then counts as one image.
    """
    if variance < NOTHING:
        return list(wilson(value * groups, groups))
    smooth = min(max(value, 0.5 / images), 1 - 0.5 / images)
    as_many = min(float(images), smooth * (1 - smooth) / variance)
    return list(wilson(value * as_many, as_many))
