"""How a phase may train: few settings, each tried for some hundred steps, because nothing shorter tells which is best.

In a short training whatever changes least looks best: heats of 12 to 80 steps chose the gentlest settings on every data
set, also where these came out one to two points behind after 300 (docs/recipe.md). A whole training is short enough
here: it starts from stored activations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import plan
from frostline.plan import BatchNorm, Phase

# Statistics of the batch bear, and need, larger steps than frozen ones do.
LEARNING_RATES: dict[BatchNorm, tuple[float, ...]] = {"frozen": (1.5e-3, 3e-4), "updated": (3e-3, 1e-3)}
WITHOUT_BATCHNORM = (3e-4, 1e-4)


@dataclass(frozen=True)
class Heat:
    """What came of some settings. loss: the validation loss that decides, at the end; inf where they diverged.

    epochs: how many there were. images: on how many of the training images. losses, accuracies: of each epoch what
    decides and the accuracy, on the validation images.
    """

    lr: float
    batchnorm: BatchNorm
    epochs: int
    images: int
    loss: float
    losses: tuple[float, ...] = ()
    accuracies: tuple[float, ...] = ()


def candidates(phase: Phase, *, has_batchnorm: bool, pretrained: bool) -> list[Phase]:
    """The settings to race for a phase, the gentlest last: what it names itself stays.

    Statistics of BatchNorm stay those of the pretrained weights; those of random weights say nothing.

    >>> [(p.lr, p.batchnorm) for p in candidates(Phase("stem"), has_batchnorm=True, pretrained=True)]
    [(0.0015, 'frozen'), (0.0003, 'frozen')]
    """
    mode = phase.batchnorm or ("frozen" if pretrained or not has_batchnorm else "updated")
    rates = LEARNING_RATES[mode] if has_batchnorm else WITHOUT_BATCHNORM
    times = plan.LEARNING_RATES[phase.optimizer] / plan.LEARNING_RATES["adamw"]  # sgd takes ten times as much
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
