"""The state of a fit: the one thing that changes while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from frostline.data.images import ImageSet
from frostline.store.activations import Activations
from frostline.tasks import Outputs
from frostline.training.optimizers import OptimizerState

Epoch = dict[str, Any]  # one line of history.csv


@dataclass(frozen=True, eq=False)
class Measured:
    """The validation activations of the last phase and the network's outputs for them."""

    valid: Activations
    outputs: Outputs


@dataclass(frozen=True, eq=False)
class Progress:
    """A fit after some of its phases.

    images: without unreadable ones. unreadable: (split, name, reason) of each.
    epochs: the history. phases: the results of the finished phases.
    decisions: for each phase after the first, whether it was kept.
    ended: why no further phase of the plan is worth a try; "" if one may be.
    optimizer: the optimizer's state of each trained parameter, by the parameter's name.
    last: the measurements of the last phase; they are not written but measured again when missing.

    `saved` writes it after each phase. The weights are then in the checkpoint of that phase. No random state is needed
    between phases: the seed of the fit, the phase and the epoch seed every draw.
    """

    images: ImageSet
    unreadable: tuple[tuple[str, str, str], ...] = ()
    epochs: tuple[Epoch, ...] = ()
    phases: tuple[dict[str, Any], ...] = ()
    decisions: tuple[dict[str, Any], ...] = ()
    ended: str = ""
    optimizer: OptimizerState = field(default_factory=dict)
    last: Measured | None = None


def candidates(progress: Progress) -> int:
    """The number of candidates among which the validation images chose the best: solved heads and trained epochs.

    A phase with `race` counts its settings instead, because only the last epoch of each is compared.
    """
    raced = {made["phase"]: len(made["tried"]) for made in progress.decisions if made["tried"]}
    solved = {number for number, phase in enumerate(progress.phases, 1) if phase["epochs"] == 0}
    others = [epoch for epoch in progress.epochs if epoch["phase"] not in raced]
    return sum(raced.values()) + sum(bool(epoch["epoch"] > 0 or epoch["phase"] in solved) for epoch in others)


def undone(progress: Progress) -> set[int]:
    """The numbers (from 0) of the phases that were undone."""
    return {made["phase"] - 1 for made in progress.decisions if not made["kept"]}


def measures_others(progress: Progress) -> bool:
    """Whether the validation figures are of images that the predicting network has not seen."""
    return progress.images.validation == "crossed" or progress.images.held_out


def standing(progress: Progress) -> int:
    """The number (from 0) of the last phase that was kept: the network is the one after it."""
    return max(set(range(len(progress.phases))) - undone(progress))


def without(progress: Progress, unreadable: tuple[tuple[str, str, str], ...]) -> Progress:
    """The same without some unreadable images: (split, name, reason) of each."""
    if not unreadable:
        return progress
    parts = dict(_readable(progress.images, unreadable))
    images = progress.images.with_splits(parts)
    return replace(progress, images=images, unreadable=(*progress.unreadable, *unreadable))


def _readable(images: ImageSet, unreadable: tuple[tuple[str, str, str], ...]) -> Iterator[tuple[str, Any]]:
    for split, part in images.splits.items():
        of = "train" if split not in images.distinct else split
        names = {name for where, name, _ in unreadable if where == of}
        if names:
            yield split, part.without({i for i, name in enumerate(part.names) if name in names})
