"""Coarse stages (`stem`, `layer1` … `layer4`, `pool`, `head`), derived from any traced network.

The units of a network are its modules in the order in which they run. A container that holds most of the network is
opened (`features`, `blocks`, `encoder.layers`). Any block then starts a stage; a single layer does so only at a new
resolution. A module without weights of its own belongs to the stage before it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from frostline.network import tracing
from frostline.network.tracing import Cut, Trace

WRAPPER_SHARE = 0.8  # a container with this share of the layers is opened
PYRAMID_SHARE = 0.4  # the same for a container that also changes the resolution twice


@dataclass(frozen=True)
class Stage:
    """A named piece of a network between two cuts.

    start: the cut below it (None in a network that cannot be traced).
    parameters: the number of its parameters. input_shape, shape: per image, below and above it.
    """

    name: str
    start: Cut | None
    parameters: int
    input_shape: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Unit:
    path: str
    first: int  # position of its first node
    matrices: int  # parameters with at least two dimensions
    is_layer: bool  # a single call with one weight


def find_stages(model: nn.Module, trace: Trace, heads: tuple[str, ...]) -> tuple[Stage, ...]:
    """The stages of a traced network, from the image to the head."""
    nodes = list(trace.evaluation.nodes)
    head_at = min(i for i, node in enumerate(nodes) if tracing.path(node) in heads)
    spans = tracing.parameter_spans(model, trace.evaluation)
    body = [(first, last) for first, last in spans.values() if last < head_at]

    def cut_below(position: int) -> Cut | None:
        cut = tracing.last_cut_before(trace.cuts, position)
        return cut if tracing.is_right_below(cut, position, spans) else None

    starts: list[tuple[str, Cut]] = [("stem", trace.cuts[0])]
    weights_before = False
    last_positions = 0
    for unit, positions_after in _units(model, trace, head_at):
        cut = cut_below(unit.first)
        begins = unit.matrices > 0 and weights_before and cut is not None and cut.position > starts[-1][1].position
        if begins and cut is not None and not (unit.is_layer and cut.positions == last_positions):
            starts.append((unit.path, cut))
        if unit.matrices:
            weights_before, last_positions = True, positions_after
    head_cut = cut_below(head_at) or trace.cuts[0]
    last_weight = max((last for _, last in body), default=0)
    pool = next((c for c in trace.cuts if c.position >= last_weight), head_cut)
    if starts[-1][1].position < pool.position < head_cut.position and math.prod(pool.shape) != math.prod(
        head_cut.shape
    ):
        starts.append(("pool", pool))
    if head_cut.position > starts[-1][1].position:
        starts.append(("head", head_cut))
    else:
        starts[-1] = ("head", starts[-1][1])
    return tuple(_measure(starts, spans, trace))


def _measure(starts: list[tuple[str, Cut]], spans: tracing.Spans, trace: Trace) -> Iterator[Stage]:
    ends = [cut.position for _, cut in starts[1:]] + [len(trace.evaluation.nodes)]
    shapes = [cut.shape for _, cut in starts[1:]] + [trace.output_shape]
    for (name, cut), end, shape in zip(starts, ends, shapes, strict=True):
        size = sum(p.numel() for p, (first, _) in spans.items() if cut.position < first <= end)
        yield Stage(name, cut, size, cut.shape, shape)


def _units(model: nn.Module, trace: Trace, head_at: int) -> Iterator[tuple[_Unit, int]]:
    """Every unit below the head in running order, and the number of positions in its output."""
    nodes = list(trace.evaluation.nodes)[:head_at]
    spans = tracing.parameter_spans(model, trace.evaluation)
    weights = [name for name, p in model.named_parameters() if p.ndim > 1 and p in spans and spans[p][1] < head_at]
    opened = set(_opened(weights, trace, nodes))
    seen: dict[str, int] = {}
    for i, node in enumerate(nodes):
        name = _unit_of(tracing.path(node), opened)
        if name and name not in seen:
            seen[name] = i
    for name, first in seen.items():
        inside = [i for i in tracing.positions_of(trace.evaluation, name) if i < head_at]
        after = [c for c in trace.cuts if c.position >= inside[-1]]
        matrices = [w for w in weights if w.startswith(name + ".")]
        is_layer = len(matrices) == 1 and len({tracing.path(nodes[i]) for i in inside}) == 1
        yield _Unit(name, first, len(matrices), is_layer), after[0].positions if after else 0


def _unit_of(path: str, opened: set[str]) -> str:
    prefix = ""
    for part in path.split("."):
        prefix = f"{prefix}.{part}" if prefix else part
        if prefix not in opened:
            return prefix
    return ""


def _opened(weights: list[str], trace: Trace, nodes: list[fx.Node]) -> Iterator[str]:
    """The containers to look into, the network itself first."""
    paths = [tracing.path(node) for node in nodes]
    queue = [""]
    while queue:
        outer = queue.pop()
        yield outer
        depth = outer.count(".") + 1 if outer else 0
        children = {
            ".".join(p.split(".")[: depth + 1]) for p in paths if p and (not outer or p.startswith(outer + "."))
        }
        for child in children:
            inside = [i for i in tracing.positions_of(trace.evaluation, child) if i < len(paths)]
            if all(paths[i] == child for i in inside):
                continue  # a layer, not a container
            cuts = [c for c in trace.cuts if inside[0] <= c.position <= inside[-1]]
            scales = [c.positions for c in [*[c for c in trace.cuts if c.position < inside[0]][-1:], *cuts]]
            changes = sum(a != b for a, b in itertools.pairwise(scales))
            share = sum(name.startswith(child + ".") for name in weights) / max(1, len(weights))
            if cuts and (share >= WRAPPER_SHARE or (changes >= 2 and share >= PYRAMID_SHARE)):
                queue.append(child)
