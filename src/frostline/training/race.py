"""How a phase may train: few settings, each tried for some hundred steps, because nothing shorter tells which is best.

In a short training whatever changes least looks best: heats of 12 to 80 steps chose the gentlest settings on every data
set, also where these came out one to two points behind after 300 (docs/recipe.md). A whole training is short enough
here: it starts from stored activations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from frostline.plan import BatchNorm, Phase

# Statistics of the batch bear, and need, larger steps than frozen ones do.
SETTINGS: dict[BatchNorm, tuple[float, ...]] = {"updated": (3e-3,), "frozen": (6e-4,)}
WITHOUT_PRETRAINED = (3e-3, 1e-3)
WITHOUT_BATCHNORM = (3e-4, 1e-4)


@dataclass(frozen=True)
class Heat:
    """What came of some settings: the least of the validation losses that decide; inf where the first epoch diverged.

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

    >>> [(p.lr, p.batchnorm) for p in candidates(Phase("stem", lr=1e-3), has_batchnorm=True, pretrained=True)]
    [(0.001, 'updated'), (0.001, 'frozen')]
    """
    if not has_batchnorm:
        rates: dict[BatchNorm, tuple[float, ...]] = {"frozen": WITHOUT_BATCHNORM}
    else:  # statistics of random weights say nothing
        rates = SETTINGS if pretrained else {"updated": WITHOUT_PRETRAINED}
    modes = [phase.batchnorm] if phase.batchnorm else list(rates)
    return [
        replace(phase, lr=lr, batchnorm=mode)
        for mode in modes
        for lr in ([phase.lr] if phase.lr else rates.get(mode, SETTINGS[mode]))
    ]
