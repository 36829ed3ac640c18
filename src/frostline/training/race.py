"""The settings that a phase tries: few, each for some hundred steps, because shorter runs do not show the best.

In a short training the smallest change looks best: heats of 12 to 80 steps chose the gentlest settings on every data
set, even where these were one to two points behind after 300 (docs/recipe.md). A whole training is short enough
here: it starts from stored activations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import plan
from frostline.plan import BatchNorm, Phase

# Batch statistics allow, and need, larger steps than frozen ones.
LEARNING_RATES: dict[BatchNorm, tuple[float, ...]] = {"frozen": (1.5e-3, 3e-4), "updated": (3e-3, 1e-3)}
WITHOUT_BATCHNORM = (3e-4, 1e-4)


@dataclass(frozen=True)
class Heat:
    """The result of some settings. loss: the deciding validation loss at the end; inf if they diverged.

    epochs: number of epochs. images: number of training images used. losses, accuracies: per epoch, the deciding loss
    and the accuracy on the validation images.
    """

    lr: float
    batchnorm: BatchNorm
    epochs: int
    images: int
    loss: float
    losses: tuple[float, ...] = ()
    accuracies: tuple[float, ...] = ()


def candidates(phase: Phase, *, has_batchnorm: bool, pretrained: bool) -> list[Phase]:
    """The settings to race for a phase, gentlest last; values that the phase names stay.

    BatchNorm keeps the statistics of pretrained weights; those of random weights are meaningless.

    >>> [(p.lr, p.batchnorm) for p in candidates(Phase("stem"), has_batchnorm=True, pretrained=True)]
    [(0.0015, 'frozen'), (0.0003, 'frozen')]
    """
    mode = phase.batchnorm or ("frozen" if pretrained or not has_batchnorm else "updated")
    rates = LEARNING_RATES[mode] if has_batchnorm else WITHOUT_BATCHNORM
    times = plan.LEARNING_RATES[phase.optimizer] / plan.LEARNING_RATES["adamw"]  # SGD needs ten times as much
    return [
        replace(phase, lr=lr, batchnorm=mode) for lr in ([phase.lr] if phase.lr else [times * each for each in rates])
    ]


def has_batchnorm(part: nn.Module) -> bool:
    """Whether a part has layers of BatchNorm that train and keep running statistics.

    >>> has_batchnorm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    True
    """
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    return any(parameter.requires_grad for norm in norms for parameter in norm.parameters())
