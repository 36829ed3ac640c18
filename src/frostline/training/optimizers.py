"""Parameter groups, learning rates and optimizers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from frostline.errors import UsageError
from frostline.network.network import Network
from frostline.plan import Phase

OptimizerState = Mapping[str, Mapping[str, Tensor]]  # per parameter, by its name

WARM_UP = 0.1  # of all steps: the learning rate rises linearly


def parameter_groups(
    network: Network, lr: float, lr_decay: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """The trainable parameters, each once, for any torch optimizer.

    lr: of the head; each stage further down gets `lr_decay` times the one above.
    weight_decay: for all parameters except biases and norms (vectors).
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
    """The phase's optimizer, with exactly the trainable parameters; raises UsageError if there are none."""
    groups = parameter_groups(network, phase.learning_rate, phase.lr_decay, phase.weight_decay)
    if not groups:
        raise UsageError(f"nothing trains above {phase.frostline!r}: everything there is frozen; shorten freeze")
    if phase.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=phase.learning_rate, momentum=phase.momentum, fused=True)
    kind = torch.optim.Adam if phase.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=phase.learning_rate, fused=True)  # one pass over a parameter instead of ten


def lr_factor(schedule: str, progress: float) -> float:
    """The factor of the highest learning rate at a point (0 … 1) of a phase."""
    if schedule == "constant":
        return 1.0
    warm = min(1.0, (progress + 0.01) / WARM_UP)
    if schedule == "step":
        return warm * 0.1 ** math.floor(3 * min(progress, 0.999))
    return warm * 0.5 * (1 + math.cos(math.pi * max(0.0, progress - WARM_UP) / (1 - WARM_UP)))


def state_by_name(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> OptimizerState:
    """An optimizer's state per parameter, by the parameter's name; a copy on the CPU."""
    result = {}
    for parameter, slots in optimizer.state.items():
        tensors = {slot: value for slot, value in slots.items() if isinstance(value, Tensor)}
        result[names[parameter]] = {slot: value.detach().cpu().clone() for slot, value in tensors.items()}
    return result


def continue_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], state: OptimizerState) -> None:
    """Load an optimizer's state from one of the same kind; states of another kind are ignored."""
    slots = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            remembered = state.get(names[parameter], {})
            if remembered.keys() == slots:
                optimizer.state[parameter] = {slot: _laid_out_as(parameter, v) for slot, v in remembered.items()}


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A copy of an optimizer's state, on the device and in the memory layout of its parameter.

    Fused optimizers walk both in memory order: another layout would mix up the numbers.
    """
    like = parameter if value.shape == parameter.shape else value.to(parameter.device)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
