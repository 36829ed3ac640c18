"""What to store: measured seconds and bytes, and the resulting choice.

The rows of a phase can be kept at its frostline, at any cut below it (the rest is then computed in every epoch), as
decoded pixels, or not at all. With N views computed once and R read in all epochs together, keeping them at a cut takes

    N (decode + forward to the cut + bytes / write) + 2 R (bytes / read + forward from the cut to the frostline)

and keeping nothing takes 2 R (decode + forward). The 2 assumes one more fit on the same data: few people fit once.
Layers above the frostline cost the same either way.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import fx

from frostline.data.images import Images, spread
from frostline.data.pictures import decoded
from frostline.data.views import Views
from frostline.engines.choice import engine_of, rate
from frostline.machine import Machine
from frostline.network import tracing
from frostline.network.network import Network
from frostline.network.tracing import Cut

FITS = 2  # fits on the same rows
HYSTERESIS = 0.1  # for smaller relative differences the simpler option wins
SAMPLE = 64  # images decoded to time decoding, after some others that warm up threads and files
TIMED = 4  # images that time the layers
DISK_BYTES = 8_000_000


@dataclass(frozen=True)
class Costs:
    """The costs on this machine, with all cores together.

    decode: seconds per view. forward: seconds per view from the image to each cut, by its position. write, read: bytes
    per second; fresh files are read from memory, so a slow disk shows only in `write`. overlaps: an accelerator
    computes while the processor decodes and reads.
    """

    decode: float
    forward: Mapping[int, float]
    write: float
    read: float
    overlaps: bool = False

    def together(self, *seconds: float) -> float:
        return max(seconds) if self.overlaps else sum(seconds)


@dataclass(frozen=True)
class Candidate:
    """One option for the rows of a phase. cut: where they are kept, None for nowhere.

    row_bytes: per row. bytes: of all rows. once: seconds to compute them. again: seconds for all epochs and fits.
    fits: whether they fit the store's budget.
    """

    cut: Cut | None
    row_bytes: int
    bytes: int
    once: float
    again: float
    fits: bool = True

    @property
    def seconds(self) -> float:
        return self.once + self.again


def candidates(
    costs: Costs, row_bytes: Mapping[Cut, int], frostline: Cut, *, computed: int, read: int, budget: int
) -> list[Candidate]:
    """All options for the rows of a phase, from the image up; the last one is to keep nothing.

    row_bytes: of each cut at or below the frostline. computed: views computed once. read: rows that all
    epochs of one fit read together. budget: bytes left in the store. A cut is left out if a higher one needs no more
    bytes.
    """
    options = []
    top = costs.forward[frostline.position]
    least: float = float("inf")
    for cut in sorted(row_bytes, key=lambda cut: -cut.position):
        size = row_bytes[cut]
        if cut.position > frostline.position or size >= least:
            continue
        least = size
        below = costs.forward[cut.position]
        once = computed * (costs.together(costs.decode, below) + size / costs.write)
        again = FITS * read * costs.together(size / costs.read, top - below)
        options.append(Candidate(cut, size, computed * size, once, again, computed * size <= budget))
    nothing = Candidate(None, 0, 0, 0.0, FITS * read * costs.together(costs.decode, top))
    return [*reversed(options), nothing]


def chosen(options: Sequence[Candidate]) -> Candidate:
    """The fastest option that fits: the frostline unless another is clearly faster, no cache unless it pays off."""
    *kept, nothing = options
    fitting = [option for option in kept if option.fits]
    if not fitting:
        return nothing
    best = min(fitting, key=lambda option: option.seconds)
    if fitting[-1] is kept[-1] and kept[-1].seconds <= (1 + HYSTERESIS) * best.seconds:
        best = kept[-1]
    return best if best.seconds <= (1 - HYSTERESIS) * nothing.seconds else nothing


def measured(
    network: Network, frostline: Cut, images: Images, views: Views, machine: Machine, folder: Path | None
) -> Costs:
    """Measure decoding, forward passes and disk on a few images or megabytes: some tenths of a second in total."""
    chosen = images.take(spread(len(images), SAMPLE))
    preprocessing, numbers = network.preprocessing, range(len(chosen))
    list(decoded(chosen, {i: [0] for i in numbers[:: max(1, SAMPLE // 8)]}, views, preprocessing, machine.workers))
    started = time.perf_counter()
    batches = list(decoded(chosen, {i: [0] for i in numbers}, views, preprocessing, machine.workers))
    decode = (time.perf_counter() - started) / max(1, len(chosen))
    pictures = np.concatenate([pictures for _, pictures, _ in batches])
    if not len(pictures):
        pictures = np.zeros((1, preprocessing.size, preprocessing.size, preprocessing.channels), np.uint8)
    shares = _shares(network, frostline, machine)
    lower = network.below(frostline)
    whole = 0.0 if lower.is_image else 1 / rate(engine_of(lower, machine), pictures, machine.workers, rounds=1)
    write, read = _disk(folder)
    forward = {position: share * whole for position, share in shares.items()}
    return Costs(decode, forward, write, read, overlaps=machine.device.type != "cpu")


class _Stopwatch(fx.Interpreter):
    """Runs a graph and records when each node finished."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.done: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.is_cuda:
            torch.cuda.synchronize(value.device)  # otherwise the work is only queued
        self.done[n.name] = time.perf_counter()
        return value


@torch.inference_mode()
def _shares(network: Network, frostline: Cut, machine: Machine) -> dict[int, float]:
    """For each cut up to the frostline, by its position, the share (0 … 1) of the time that is spent by then."""
    assert network.trace is not None  # noqa: S101
    cuts = [cut for cut in network.trace.cuts if cut.position <= frostline.position]
    if frostline.position == 0:
        return {0: 0.0}
    evaluation = network.trace.evaluation
    graph = tracing.below(evaluation, [tracing.node_at(evaluation, frostline)])
    names = {node.name: i for i, node in enumerate(evaluation.nodes)}
    size = network.preprocessing.size
    x = torch.zeros(TIMED, network.preprocessing.channels, size, size, device=machine.device)
    x = x.contiguous(memory_format=torch.channels_last)
    watch = _Stopwatch(fx.GraphModule(network.model, graph))
    with tracing.in_mode(network.model, training=False):
        for _ in range(2):  # the first is a warm-up
            started = time.perf_counter()
            watch.run(x)
    done = sorted((names[name], moment - started) for name, moment in watch.done.items() if name in names)
    total = max(1e-9, max(moment for position, moment in done if position <= frostline.position))
    return {
        c.position: max((t for position, t in done if 0 < position <= c.position), default=0.0) / total for c in cuts
    }


def _disk(folder: Path | None) -> tuple[float, float]:
    """Bytes per second written durably and read back; infinite if nothing can be written, because filling the store
    will report that.
    """
    content = os.urandom(DISK_BYTES)
    try:
        if folder is None:
            return float("inf"), float("inf")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".speed.") as file:
            started = time.perf_counter()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter()
            Path(file.name).read_bytes()
            ended = time.perf_counter()
    except OSError:
        return float("inf"), float("inf")
    return DISK_BYTES / max(1e-6, written - started), DISK_BYTES / max(1e-6, ended - written)
