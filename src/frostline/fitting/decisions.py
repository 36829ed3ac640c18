"""What a phase was worth: its best against what was there before, on the same validation images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from frostline.tasks import Outputs, Task
from frostline.tasks.paired import Paired, paired_difference


@dataclass(frozen=True)
class Decision:
    """Whether what a phase made was kept, and the evidence.

    phase: its number, from 1. frostline: where it lay. how: "solved" or "trained".
    accuracy: the paired difference of the phase's best to what was there before it; of a segmentation that of the
        shares of pixels that are right. loss: the plain loss before and of the phase's best, in nats.

    It is the monitored loss on the validation images that decides, and they choose the best epoch, too: the difference
    is a little too good where a phase has many epochs.
    """

    phase: int
    frostline: str
    how: str
    kept: bool
    accuracy: Paired
    loss: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `fit --json` prints them."""
        return asdict(self)


def decision(
    task: Task, before: Outputs, after: Outputs, *, phase: int, frostline: str, how: str, kept: bool
) -> Decision:
    """The decision with its evidence, from the outputs for the same images in the same order."""
    difference = paired_difference(task.scores(after).numpy(), task.scores(before).numpy())
    losses = float(before.losses.mean()), float(after.losses.mean())
    return Decision(phase, frostline, how, kept, difference, losses)
