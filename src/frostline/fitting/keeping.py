"""What is kept of a training while it runs, so that a fit can go on at the same step.

A phase trains once, or once per setting that races. Each of these trainings has a file of its own, named after its
settings, until the phase is over. A fit that goes on begins the phase anew, and finds each of its trainings where it
was: the decisions in between follow from their results, so they are made again and not stored.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from frostline import terminal
from frostline.errors import MachineError, WeightsError, reason
from frostline.fitting.job import Job
from frostline.fitting.saved import read_checked, refuse_other_fit, write_checked
from frostline.plan import Phase
from frostline.training.training import Epoch, Training

WITHIN = 300.0  # seconds between two writes within an epoch
SHARE = 0.05  # of the time at most, for writing after epochs


@dataclass(eq=False)
class Keeper:
    """Writes the state of one training: after its epochs, every five minutes within them, and when asked.

    After an epoch it waits if writing would take more than a twentieth of the time. file: of this training. fit: the
    identity of its fit. seconds: that the last write took. fails: whether it failed, which is said once.
    """

    file: Path
    phase: int
    fit: str = ""
    written: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    fails: bool = False

    def is_due(self, *, after_epoch: bool) -> bool:
        least = self.seconds / SHARE if after_epoch else max(WITHIN, self.seconds / SHARE)
        return time.perf_counter() - self.written >= least

    def keep(self, training: Training, epochs: Sequence[Epoch]) -> None:
        """Write the training as it is. If that fails, as on a full disk, it is said once and the fit goes on."""
        started, tensors = time.perf_counter(), dict[str, Tensor]()
        tree = _without_tensors(training.state_dict(), tensors)
        about = {"fit": self.fit, "phase": self.phase, "epochs": [asdict(epoch) for epoch in epochs], "training": tree}
        try:
            write_checked(self.file, tensors, about)
        except (OSError, MachineError) as error:
            if not self.fails:
                terminal.say(f"the state of this training cannot be saved: {reason(error)}")
            self.fails = True  # it is tried again, and not said again
        self.written = time.perf_counter()
        self.seconds = self.written - started


def keeper_of(job: Job, number: int, phase: Phase, images: int) -> Keeper:
    """The keeper of one training of phase `number` (from 1), with its settings and number of images."""
    settings = json.dumps([asdict(phase), images], sort_keys=True)
    digest = hashlib.blake2b(settings.encode(), digest_size=4).hexdigest()
    return Keeper(job.run.path / "checkpoints" / f"training-{number}-{digest}.safetensors", number, job.identity)


def kept(keeper: Keeper) -> tuple[dict[str, Any], list[Epoch]] | None:
    """The state of a training and its epochs so far; None if nothing was written, or if the file is damaged."""
    if not keeper.file.exists():
        return None
    try:
        tensors, about = read_checked(keeper.file)
        refuse_other_fit(keeper.file, about, keeper.fit)
    except WeightsError as error:
        terminal.say(f"{error}; this training begins anew")
        return None
    return _with_tensors(about["training"], tensors), [Epoch(**epoch) for epoch in about["epochs"]]


def _without_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON holds it; each tensor goes to `tensors`, and its name there takes its place."""
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, Mapping):
        return {"items": [[name, _without_tensors(item, tensors)] for name, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(item, tensors) for item in value]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {name: _with_tensors(item, tensors) for name, item in value["items"]}
    return [_with_tensors(item, tensors) for item in value] if isinstance(value, list) else value
