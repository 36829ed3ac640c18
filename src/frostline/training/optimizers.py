"""What trains, in which groups, at which learning rate; and the optimizer's state as a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from frostline.errors import UsageError
from frostline.network.network import Network
from frostline.plan import Phase

WARM_UP = 0.1  # of all steps: the learning rate rises linearly


def parameter_groups(
    network: Network, lr: float, lr_decay: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """What trains now, each parameter once, for any torch optimizer.

        optimizer = torch.optim.AdamW(parameter_groups(network, lr=1e-3, lr_decay=0.5))

    lr: of the head; each stage further down gets `lr_decay` times the one above.
    weight_decay: of all but biases and norms (vectors).
    """
    groups = []
    rate = lr
    for name, parameters in reversed(network.stage_parameters().items()):
        trained = [p for p in parameters if p.requires_grad]
        for decays, members in (
            (True, [p for p in trained if p.ndim > 1]),
            (False, [p for p in trained if p.ndim <= 1]),
        ):
            if members:
                groups.append({"params": members, "lr": rate, "weight_decay": weight_decay * decays, "stage": name})
        rate *= lr_decay if parameters else 1.0
    return groups


def optimizer_of(network: Network, phase: Phase) -> torch.optim.Optimizer:
    """The phase's optimizer, holding exactly what trains; raises UsageError where nothing does."""
    groups = parameter_groups(network, phase.learning_rate, phase.lr_decay, phase.weight_decay)
    if not groups:
        raise UsageError(f"nothing trains above {phase.frostline!r}: everything there is frozen")
    if phase.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=phase.learning_rate, momentum=phase.momentum, fused=True)
    kind = torch.optim.Adam if phase.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=phase.learning_rate, fused=True)  # one pass over a parameter instead of ten


def optimizer_state(network: Network, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of the optimizer's state: `{"optimizer": "adamw", "state": {parameter: {"exp_avg": Tensor, …}}}`.

    Parameters go by their names in the network, so that another process, and an optimizer that holds more of them, can
    take the state over. Learning rates are no part of it: the schedule decides them in every step.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.model.named_parameters()}
    state = {names[parameter]: _copied(values) for parameter, values in optimizer.state.items()}
    return {"optimizer": _kind(optimizer), "state": state}


def load_optimizer_state(network: Network, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimizer the state that `optimizer_state` returned, of all the parameters that it holds.

    What it holds beyond those starts anew, and so does everything where the state is of another kind of optimizer.
    """
    names = {parameter: name for name, parameter in network.model.named_parameters()}
    by_name = state["state"] if state["optimizer"] == _kind(optimizer) else {}
    held = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    numbered = {number: _copied(by_name[name]) for number, name in enumerate(held) if name in by_name}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": numbered})  # torch counts parameters by group


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__.lower()


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in values.items()}


def lr_factor(schedule: str, progress: float) -> float:
    """The share of the highest learning rate at a point (0 … 1) of a phase."""
    if schedule == "constant":
        return 1.0
    warm = min(1.0, (progress + 0.01) / WARM_UP)
    if schedule == "step":
        return warm * 0.1 ** math.floor(3 * min(progress, 0.999))
    return warm * 0.5 * (1 + math.cos(math.pi * max(0.0, progress - WARM_UP) / (1 - WARM_UP)))
