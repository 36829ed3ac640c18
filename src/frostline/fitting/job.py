"""What a fit starts from: values that are decided once and stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from frostline.backbones import Backbone
from frostline.data.images import ImageSet
from frostline.data.views import Views
from frostline.fitting.options import Options
from frostline.machine import Machine
from frostline.network.network import Network
from frostline.plan import Phase
from frostline.runs.run import Run
from frostline.store.placement import Placement
from frostline.tasks import Loss, Outputs, Task
from frostline.trackers import Logbook


@dataclass(frozen=True, eq=False)
class Objective:
    """What is learned, and by what it is measured.

    loss: what is trained. monitor: by what the best epoch is found: the same loss, but for smoothed labels.
    score: what decides in its place, and its name, where somebody said so: 0 … 1, the more the better.
    smoothed: what a phase trains that has to prove itself: the loss, with smoothed labels where nobody said how much.
    own_loss: whether the loss is somebody's own function. device: where a loss takes its arguments.
    class_weights: how much each class counts, (classes,) on the CPU.
    unsolvable: why a head cannot be solved but must be trained; "" where it can.
    """

    task: Task
    loss: Loss
    monitor: Loss
    smoothed: Loss
    own_loss: bool
    device: torch.device
    class_weights: Tensor | None
    unsolvable: str
    score: tuple[str, Callable[[Outputs], float]] | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that a fit starts from. Nothing of it changes but the weights inside `network`.

    plan: the phases, their frostlines and views decided. placement: where the activations of each phase are kept.
    started: when the fit began, on `time.perf_counter`. first_lines: what was told before the run had a log.
    left_out: the phases that limits leave no room for.
    tried: of backbone auto what came of each that was tried, as metrics.json has it.
    logbook: of the experiment trackers that hear of each epoch.
    """

    options: Options
    images: ImageSet
    backbone: Backbone
    network: Network
    plan: tuple[Phase, ...]
    objective: Objective
    views: Views
    machine: Machine
    placement: Placement
    run: Run
    started: float
    first_lines: tuple[str, ...] = ()
    left_out: str = ""
    tried: tuple[Mapping[str, Any], ...] = ()
    logbook: Logbook = field(default_factory=Logbook)

    @property
    def backbones_tried(self) -> int:
        """Among how many backbones the validation images have chosen this one."""
        return max(1, sum("error" not in each for each in self.tried))


def back_to_start(job: Job) -> None:
    """The weights that the fit began with; what lies above a phase's frostline is in its checkpoint."""
    own, start = job.network.model.state_dict(), job.backbone.model.state_dict()
    frozen = {name: value for name, value in start.items() if name in own and own[name].shape == value.shape}
    job.network.model.load_state_dict(frozen, strict=False)
