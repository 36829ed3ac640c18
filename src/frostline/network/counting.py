"""The parameters and multiply-accumulates of a network by position.

A position is the index of a node in the evaluation graph. A network that cannot be traced has three positions: the
image, everything below the head, and the head. A stage or part covers the positions after its start, up to its end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from frostline.network import tracing
from frostline.network.network import Network

FLOPS = 2  # per multiply-accumulate: torch counts the multiplication and the addition


def parameters_by_position(network: Network) -> list[int]:
    """The number of parameters that are first used at each position."""
    if network.trace is None:
        return [0, *(stage.parameters for stage in network.stages)]
    counts = [0] * len(network.trace.evaluation.nodes)
    for parameter, (first, _) in tracing.parameter_spans(network.model, network.trace.evaluation).items():
        counts[first] += parameter.numel()
    return counts


def macs_by_position(network: Network) -> list[int] | None:
    """The multiply-accumulates (MACs) per image at each position, measured on a run with a black image.

    They include the convolutions, matrix products and attention that torch's FlopCounterMode counts, but no
    element-wise work (activations, normalisation, pooling). None if torch cannot count them.
    """
    like, size = next(network.model.parameters()), network.preprocessing.size
    image = torch.zeros(1, network.preprocessing.channels, size, size, device=like.device, dtype=like.dtype)
    try:
        with (
            torch.no_grad(),
            tracing.in_mode(network.model, training=False),
            countable(),
            FlopCounterMode(display=False) as counter,
        ):
            if network.trace is None:
                return _around_head(network.model, network.heads[0], image, counter)
            run = _Run(network.model, network.trace.evaluation, counter)
            run.run(image)
            return run.macs
    except Exception:  # a summary without MACs is better than none
        return None


def work_shares(network: Network) -> dict[str, float]:
    """For each stage, the share (0 … 1) of the network's MACs in that stage and above.

    The share is of the parameters if torch cannot count MACs.
    """
    work = macs_by_position(network) or parameters_by_position(network)
    starts = [s.start.position if s.start else i for i, s in enumerate(network.stages)]
    total = max(1, sum(work[starts[0] + 1 :]))
    return {s.name: sum(work[start + 1 :]) / total for s, start in zip(network.stages, starts, strict=True)}


class _Run(fx.Interpreter):
    def __init__(self, model: nn.Module, graph: fx.Graph, counter: FlopCounterMode) -> None:
        super().__init__(model, graph=graph)
        self.counter = counter
        self.macs: list[int] = []

    def run_node(self, n: fx.Node) -> object:
        before = self.counter.get_total_flops()
        value: object = super().run_node(n)
        self.macs.append((self.counter.get_total_flops() - before) // FLOPS)
        return value


def _around_head(model: nn.Module, head: str, image: torch.Tensor, counter: FlopCounterMode) -> list[int]:
    below: list[int] = []
    hook = model.get_submodule(head).register_forward_pre_hook(lambda *_: below.append(counter.get_total_flops()))
    try:
        model(image)
    finally:
        hook.remove()
    return [0, below[-1] // FLOPS, (counter.get_total_flops() - below[-1]) // FLOPS]


@contextlib.contextmanager
def countable() -> Iterator[None]:
    """Compute attention as matrix products inside: some versions of torch do not count its fused kernels."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
