"""Whether a disk can hold what a fit writes: asked before hours of training, not found out after them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from frostline import terminal
from frostline.errors import MachineError
from frostline.network.network import Network
from frostline.plan import Phase

MOMENTS = 2  # numbers that an optimizer keeps for each weight
COPIES = 2  # of the progress: the new file is complete before it takes the place of the old one


def refuse_full_disk(folder: Path, network: Network, plan: Sequence[Phase]) -> None:
    """Raises MachineError if the disk of a run folder, which may not exist yet, has no room for a fit's weights."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    disk, needed = shutil.disk_usage(place), weights_bytes(network, plan)
    if needed > disk.free and disk.total:  # /proc is no disk: creating the run says so
        raise MachineError(
            f"the disk of {folder} has {terminal.human_bytes(disk.free)} left, and this fit writes about "
            f"{terminal.human_bytes(needed)} of weights; free some, or give --out on another disk"
        )


def weights_bytes(network: Network, plan: Sequence[Phase]) -> int:
    """Bytes of the weights that a fit needs on disk: a classifier, checkpoints and the optimizer's state.

    Without the state of a training that is running: if it has no room, the fit goes on without it.
    """
    phases = [_bytes(network.cut(phase.frostline, phase.freeze)[1].state_dict().values()) for phase in plan]
    return _bytes(network.model.state_dict().values()) + sum(phases) + COPIES * MOMENTS * max(phases)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
