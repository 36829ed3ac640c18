"""Which of several results to use: accuracy against speed and size, on the same validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from frostline.data.grouping import membership
from frostline.tasks.clustered import difference_of
from frostline.tasks.paired import Paired
from frostline.terminal import human_bytes

FASTER = 1.1  # minimum speed-up: two timings of the same network differ by less

Result = Mapping[str, Any]  # of a backbone or a plan: name, accuracy, n, bytes, images_per_second, licence, to_best


def paired(own: Mapping[str, float], other: Mapping[str, float], groups: Mapping[str, str] | None = None) -> Paired:
    """The difference of two classifiers' scores, by image name, over the images that both have.

    groups: the group of each image, by its name, where images belong together.
    """
    names = [name for name in own if name in other]
    first, second = (np.array([scores[name] for name in names]) for scores in (own, other))
    return difference_of(first, second, membership(names, groups or {}))


def differences(
    accuracies: Sequence[float], scores: Sequence[Mapping[str, float]], groups: Mapping[str, str] | None = None
) -> list[dict[str, float] | None]:
    """The difference of each result to the most accurate one, paired image by image; None for that one itself.

    groups: the group of each image, by its name, where images belong together.
    """
    best = max(range(len(scores)), key=lambda i: accuracies[i], default=0)
    return [None if i == best else asdict(paired(own, scores[best], groups)) for i, own in enumerate(scores)]


def recommended(results: Sequence[Result]) -> Result | None:
    """The recommended result among those that did not drop out or fail; None without any.

    The most accurate one, unless others are faster and smaller and no less accurate beyond chance (the interval of the
    paired difference includes 0): then the fastest of these.

    >>> big = {"name": "big", "bytes": 9, "images_per_second": 50.0, "to_best": None}
    >>> small = {"name": "small", "bytes": 3, "images_per_second": 99.0, "to_best": {"low": -0.02, "high": 0.01}}
    >>> recommended([big, small])["name"]
    'small'
    >>> recommended([big, {**small, "to_best": {"low": -0.02, "high": -0.01}}])["name"]
    'big'
    """
    fitted = [result for result in results if "error" not in result and not result.get("dropped")]
    best = next((result for result in fitted if result["to_best"] is None), None)
    if best is None:
        return None
    cheaper = [
        result
        for result in fitted
        if _equals(result)
        and result["images_per_second"] >= FASTER * best["images_per_second"]
        and result["bytes"] < best["bytes"]
    ]
    return max(cheaper, key=lambda result: float(result["images_per_second"]), default=best)


def _equals(result: Result) -> bool:
    """Whether a result is not the most accurate one, but no worse beyond chance."""
    difference = result["to_best"]
    return difference is not None and bool(difference["low"] <= 0 <= difference["high"])


def why(results: Sequence[Result], taken: Result) -> str:
    """The reason for the recommendation in one sentence, with the licence of the weights."""
    compared = [result for result in results if "error" not in result]
    best = next(result for result in compared if result["to_best"] is None)
    about = f"{taken['name']} (licence {taken['licence']})"
    if len(compared) == 1:
        return f"{about}, the only one"
    if taken is best:
        others = sum(result is not best and not result.get("dropped") and _equals(result) for result in compared)
        apart = f"; {others} others may be as good, but none is faster and smaller" if others > 1 else ""
        apart = "; another one may be as good, but is not faster and smaller" if others == 1 else apart
        return f"{about}, the most accurate of {len(compared)}: {_accuracy(best)}{apart}"
    paired, speeds = taken["to_best"], (taken["images_per_second"], best["images_per_second"])
    points = (
        f"{100 * paired['difference']:+.1f} points (95 %: {100 * paired['low']:+.1f} … {100 * paired['high']:+.1f})"
    )
    return (
        f"{about}, not clearly worse than the most accurate, {best['name']}: {points} on {taken['n']} validation "
        f"images; it is {speeds[0] / speeds[1]:.1f} times as fast, and has {human_bytes(taken['bytes'])} instead of "
        f"{human_bytes(best['bytes'])}"
    )


def _accuracy(result: Result) -> str:
    return f"{result['accuracy']:.4f} on {result['n']} validation images"
