"""BatchNorm's running statistics, measured anew on the images at hand (AdaBN: Li et al. 2016, arXiv 1603.04779).

What a network was pretrained on has other statistics than digits, sketches or X-rays. A phase that trains with the
statistics of each batch starts from those of these images, and from a head that is solved upon them: the old head means
nothing there, and would be unlearned at the price of what lies below it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline.data.images import spread
from frostline.machine import Machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.store.activations import Activations, from_lower_cut
from frostline.training.probe import solve_head

ROWS = 2_000  # that statistics and head are made of, at most: it is a start, and the head goes on training
BATCH = 128


def norms_of(part: nn.Module) -> list[_BatchNorm]:
    """The layers of BatchNorm that keep running statistics, but for those that a phase freezes.

    >>> len(norms_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
    1
    """
    still = tuple(f"{name}." for name in getattr(part, "frozen_modules", ()))
    norms = {name: m for name, m in part.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    return [norm for name, norm in norms.items() if not f"{name}.".startswith(still)]


def start_updated(
    network: Network,
    upper: Part,
    frostline: str,
    train: Activations,
    machine: Machine,
    *,
    seed: int = 0,
    class_weights: Tensor | None = None,
    solvable: bool = True,
) -> None:
    """Measure the statistics of `upper` anew on training activations, and solve the head on what it makes of them then.

    network, upper, frostline: of `network.cut(frostline)`. What that freezes stays. solvable: False leaves the head as
        it is, and so does a head that is more than one linear layer. seed, class_weights: as of `solve_head`.
    """
    few = train.some(spread(len(train.images), max(2, ROWS // train.views)))
    measure_statistics(upper, few)
    head = [p for path in network.heads for p in network.model.get_submodule(path).parameters()]
    if not solvable or network.trace is None or not all(parameter.requires_grad for parameter in head):
        return
    low, high = network.find(frostline), network.find(network.stage_names()[-1])
    if low.position < high.position:
        features = from_lower_cut(few, network.between(low, high), machine)
        solve_head(network, network.above(high), features, seed, class_weights)


@torch.no_grad()
def measure_statistics(upper: Part, rows: Activations) -> None:
    """Give every BatchNorm of `upper` the mean over batches of the statistics that these activations have there.

    Those that are frozen keep theirs; so do all where there is a single row, which has no spread.
    """
    norms = norms_of(upper)
    if len(rows) < 2:
        return
    momenta = [norm.momentum for norm in norms]
    device = next(upper.parameters()).device
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))  # a batch of one class has others
    upper.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch then takes the mean of all batches
            norm.train()
        for numbers in shuffled.split(BATCH):
            if len(numbers) > 1:
                upper(rows.fetch(numbers).to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        upper.eval()
