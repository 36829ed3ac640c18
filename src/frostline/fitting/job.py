"""What a fit starts from: values that are decided once and never change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from frostline.fitting.forecast import Forecast
    from frostline.fitting.saved import Saved


@dataclass(frozen=True, eq=False)
class Objective:
    """The task, its losses and its metric.

    loss: the training loss. monitor: the loss that picks the best epoch: the same without label smoothing.
    score: name and function of the metric that decides instead, if the options name one: 0 … 1, higher is better.
    smoothed: the training loss of a phase with `race`: `loss`, with smoothed labels by default.
    own_loss: whether the loss is your own function. device: where a loss takes its arguments.
    class_weights: (classes,) on the CPU.
    unsolvable: why a head cannot be solved but must be trained; "" if it can.
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
    """Everything that a fit starts from. Only the weights inside `network` change.

    plan: the phases, with frostlines and views resolved. placement: where the activations of each phase are kept.
    started: when the fit began, on `time.perf_counter`. first_lines: lines printed before the run had a log.
    left_out: why phases of the plan are left out; "" if none is. forecast: what the fit was expected to cost.
    tried: for backbone auto the result of each backbone, as in metrics.json.
    logbook: the experiment trackers that get each epoch.
    objects: the options that are objects, of which a run holds only the names.
    resumes: whether it goes on with an interrupted fit. saved: what that wrote, None if it had not come so far.
    said: lines about its training that are not said twice.
    stop_here: where it ends, because it is to train no further. config_digest, images_digest: fitting/identity.py.
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
    forecast: Forecast | None = None
    objects: Sequence[str] = ()
    resumes: bool = False
    saved: Saved | None = None
    stop_here: str = ""
    said: set[str] = field(default_factory=set)
    config_digest: str = ""
    images_digest: str = ""

    @property
    def identity(self) -> str:
        """What the files of this fit bear."""
        return self.config_digest + self.images_digest

    @property
    def backbones_tried(self) -> int:
        """The number of backbones among which the validation images chose this one."""
        return max(1, sum("error" not in each for each in self.tried))


def back_to_start(job: Job) -> None:
    """Restore the weights that the fit began with; a phase's checkpoint holds what lies above its frostline."""
    own, start = job.network.model.state_dict(), job.backbone.model.state_dict()
    frozen = {name: value for name, value in start.items() if name in own and own[name].shape == value.shape}
    job.network.model.load_state_dict(frozen, strict=False)
