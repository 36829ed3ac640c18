"""Trace the graph of a network and find its possible cuts.

A network is traced twice with torch.fx, in evaluation and in training mode, because a graph contains the mode of
dropout and stochastic depth. A cut is a node of the evaluation graph that meets these conditions: its output is the
only live tensor that depends on the image, the batch dimension comes first, nothing above overwrites it in place, no
parameter is used on both sides, and the training graph has it too. All of this is derived from the graph, without a
table of architectures.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from frostline.errors import reason

Key = tuple[str, str, str, int]
Leaf = type[nn.Module] | Callable[..., Any]  # one step of a graph
Spans = dict[nn.Parameter, tuple[int, int]]  # positions of the first and the last use


@dataclass(frozen=True)
class Cut:
    """A point in the graph that exactly one tensor crosses: the output of `node`, the `position`-th node."""

    node: str
    position: int
    key: Key
    shape: tuple[int, ...]  # per image, without the batch dimension

    @property
    def positions(self) -> int:
        """The number of spatial positions in the tensor: H × W of a map in either layout, tokens, else 1."""
        if len(self.shape) != 3:
            return math.prod(self.shape[:-1])
        a, b, c = self.shape
        return a * b if a == b and b != c else b * c


@dataclass(frozen=True)
class Trace:
    """Both graphs of a network and its cuts, ordered from the image to the head."""

    evaluation: fx.Graph
    training: fx.Graph
    cuts: tuple[Cut, ...]
    output_shape: tuple[int, ...]


class NotTraceableError(Exception):
    """The network's Python cannot be traced, or the traced graph does not give the network's outputs."""


class DoesNotRunError(Exception):
    """The network fails on images of the expected shape; the message is the network's own."""


def _leaves() -> tuple[tuple[type[nn.Module], ...], tuple[object, ...]]:
    """timm's layers that are one step each; none if timm is not imported, because then the network has none."""
    if "timm" not in sys.modules:
        return (), ()
    import timm.layers as layers

    modules = {m for m in layers.get_notrace_modules() if isinstance(m, type)}
    return (*modules, layers.DropPath), tuple(layers.get_notrace_functions())  # DropPath: like dropout


class _Tracer(fx.Tracer):
    def __init__(self, leaves: Sequence[Leaf]) -> None:
        modules, functions = _leaves()
        self.leaves = (*modules, *(leaf for leaf in leaves if isinstance(leaf, type)))
        more = (leaf for leaf in leaves if not isinstance(leaf, type))
        super().__init__(autowrap_functions=(*functions, *more))  # type: ignore[arg-type]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        one_layer = not any(True for _ in m.children()) and any(
            kind.__module__.startswith("torch.nn") and kind is not nn.Module for kind in type(m).__mro__
        )
        whole = one_layer or hasattr(m, "parametrizations")  # weight_norm and the like count as one layer
        return whole or isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)


def path(node: fx.Node) -> str:
    """The module in whose `forward` the node was made: "layer4.1", or "" for the network itself."""
    innermost: str = next(reversed(node.meta.get("nn_module_stack") or [""]), "")
    return innermost.partition("@")[0]  # "relu@1" is the second call of one module


def _graph(model: nn.Module, training: bool, leaves: Sequence[Leaf]) -> fx.Graph:
    parameters = list(inspect.signature(type(model).forward).parameters.values())[2:]
    constants = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    with in_mode(model, training=training), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = _Tracer(leaves).trace(model, concrete_args=constants)
    _drop_arguments(graph)
    _keep_first_output(graph)
    return graph


def _drop_arguments(graph: fx.Graph) -> None:
    """Remove what fx leaves of optional arguments of `forward`, which are constants: placeholders and assertions."""
    extra = [node for node in graph.nodes if node.op == "placeholder"][1:]
    without_use = set(extra)
    for node in graph.nodes:
        if any(source in without_use for source in node.all_input_nodes):
            without_use.add(node)
        if node.op == "call_function" and getattr(node.target, "__name__", "") == "_assert_is_none":
            without_use.add(node)
    for node in reversed(list(graph.nodes)):
        if node in without_use:
            graph.erase_node(node)


def _keep_first_output(graph: fx.Graph) -> None:
    """Keep only the first output: auxiliary training heads (GoogLeNet, Inception) are not transferred."""
    output = next(node for node in graph.nodes if node.op == "output")
    value = output.args[0]
    if isinstance(value, fx.Node) and inspect.isclass(value.target) and issubclass(value.target, tuple):
        value = value.args  # a named tuple that is built in the graph
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    if not isinstance(value, fx.Node):
        raise NotTraceableError(f"it returns a {type(value).__name__}, not one tensor of logits")
    output.args = (value,)
    _prune(graph)


def _prune(graph: fx.Graph) -> None:
    """Remove what the output does not need, including shape assertions, but no in-place operation."""

    def needed(node: fx.Node) -> bool:
        in_place = node.op == "call_method" and str(node.target).endswith("_")
        return node.op in ("placeholder", "output") or in_place

    graph.eliminate_dead_code(is_impure_node=needed)


def positions_of(graph: fx.Graph, module: str) -> list[int]:
    """The positions of a module's nodes in the graph. module: a dotted path."""
    return [i for i, node in enumerate(graph.nodes) if (path(node) + ".").startswith(module + ".")]


def node_at(graph: fx.Graph, cut: Cut) -> fx.Node:
    """The node of a cut in the evaluation or the training graph."""
    return next(node for node, key in keys(graph).items() if key == cut.key)


def keys(graph: fx.Graph) -> dict[fx.Node, Key]:
    """A key for every node, equal in the training and the evaluation graph: module, operation and a running number."""
    seen: Counter[tuple[str, str, str]] = Counter()
    named: dict[fx.Node, Key] = {}
    for node in graph.nodes:
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        name = (path(node), node.op, target)
        named[node] = (*name, seen[name])
        seen[name] += 1
    return named


def image_dependent(graph: fx.Graph) -> set[fx.Node]:
    nodes = list(graph.nodes)
    depends = {nodes[0]}
    for node in nodes[1:]:
        if any(source in depends for source in node.all_input_nodes):
            depends.add(node)
    return depends


def _bottlenecks(graph: fx.Graph) -> list[fx.Node]:
    """The nodes whose output is all that is needed above them, apart from what does not depend on the image."""
    nodes = list(graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    depends = image_dependent(graph)
    last_use = {node: max((position[user] for user in node.users), default=-1) for node in nodes}
    bottlenecks: list[fx.Node] = []
    alive: set[fx.Node] = set()
    for i, node in enumerate(nodes[:-1]):
        alive = {other for other in alive if last_use[other] > i}
        if node in depends and last_use[node] > i:
            alive.add(node)
        if alive == {node}:
            bottlenecks.append(node)
    return bottlenecks


def parameter_spans(model: nn.Module, graph: fx.Graph) -> Spans:
    """The positions of the first and the last node that uses each parameter on the image.

    A weight that is read directly (a position embedding) counts where its value is combined with the image.
    """
    depends = image_dependent(graph)
    reads: dict[fx.Node, set[nn.Parameter]] = {}
    spans: Spans = {}
    for i, node in enumerate(graph.nodes):
        own: set[nn.Parameter] = set()
        if node.op == "call_module":
            own.update(model.get_submodule(str(node.target)).parameters())
        elif node.op == "get_attr":
            value = attribute(model, str(node.target))
            own.update([value] if isinstance(value, nn.Parameter) else [])
        for source in node.all_input_nodes:
            own |= reads.get(source, set())
        if node in depends:
            for parameter in own:
                spans[parameter] = (spans.get(parameter, (i, i))[0], i)
        else:
            reads[node] = own
    return spans


def last_cut_before(cuts: Sequence[Cut], position: int) -> Cut:
    return max((cut for cut in cuts if cut.position < position), key=lambda cut: cut.position)


def is_right_below(cut: Cut, position: int, spans: Spans) -> bool:
    """Whether no parameter is used between a cut and a position above it."""
    return not any(cut.position < last and first < position for first, last in spans.values())


def attribute(module: nn.Module, target: str) -> object:
    """The module, parameter or buffer at a dotted path."""
    return functools.reduce(getattr, target.split("."), module)


class _Probe(fx.Interpreter):
    """Runs the graph once on a real input and records the shapes at the candidate cuts that work in practice."""

    def __init__(self, model: nn.Module, graph: fx.Graph, candidates: list[fx.Node], batch: int) -> None:
        super().__init__(model, graph=graph)
        spans = parameter_spans(model, graph).values()
        position = {node: i for i, node in enumerate(graph.nodes)}
        # parameters first used up to each candidate; two candidates with equal numbers have no layer in between
        self.candidates = {n.name: sum(first <= position[n] for first, _ in spans) for n in candidates}
        self.batch = batch
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.open: list[tuple[str, torch.Tensor, torch.Tensor]] = []  # cuts that may still be overwritten

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self.candidates and isinstance(value, torch.Tensor) and value.is_floating_point():
            self._consider(n.name, value)
        return value

    def _nothing_between(self, earlier: str, later: str) -> bool:
        return self.candidates[earlier] == self.candidates[later]

    def _consider(self, name: str, value: torch.Tensor) -> None:
        self.close(value)
        if self.open:
            earlier, live, copy = self.open[-1]
            if self._nothing_between(earlier, name) and live.shape == value.shape and torch.equal(copy, value):
                return  # only identity or dropout in between: with the earlier cut, dropout is in the part that trains
        if value.ndim >= 2 and value.shape[0] == self.batch:
            self.shapes[name] = tuple(value.shape[1:])
            self.open.append((name, value, value.clone()))

    def close(self, value: torch.Tensor | None = None) -> None:
        """Drop the cuts whose value was overwritten in place from above, because a stored copy would differ."""
        still: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        for i, (name, live, copy) in enumerate(self.open):
            if not torch.equal(live, copy):
                del self.shapes[name]
            elif i == len(self.open) - 1 or _share_memory(live, value):
                still.append((name, live, copy))
        self.open = still


def _share_memory(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def trace(model: nn.Module, shape: tuple[int, int, int], leaves: Sequence[Leaf] = ()) -> Trace:
    """Both graphs of `model` and its cuts, for images of `shape`: channels, height and width.

    leaves: module classes and functions that are one step of the graph each.
    Raises DoesNotRunError if it fails on such images, NotTraceableError if it cannot be traced.
    """
    images, expected = run_once(model, shape)
    try:
        evaluation, training = _graph(model, False, leaves), _graph(model, True, leaves)
    except Exception as error:
        raise NotTraceableError(reason(error)) from error
    crossing = list(parameter_spans(model, evaluation).values())
    key_in_training = keys(training)
    in_training = {key_in_training[node] for node in _bottlenecks(training)}
    named = keys(evaluation)
    position = {node: i for i, node in enumerate(evaluation.nodes)}
    candidates = [
        node
        for node in _bottlenecks(evaluation)
        if named[node] in in_training and not any(first <= position[node] < last for first, last in crossing)
    ]
    shapes = _tried(model, evaluation, candidates, images, expected)
    cuts = tuple(Cut(n.name, position[n], named[n], shapes[n.name]) for n in candidates if n.name in shapes)
    return Trace(evaluation, training, cuts, tuple(expected.shape[1:]))


@torch.no_grad()
def _tried(
    model: nn.Module, graph: fx.Graph, candidates: list[fx.Node], images: torch.Tensor, expected: torch.Tensor
) -> dict[str, tuple[int, ...]]:
    """The candidates that a run confirms, with the shape per image at each."""
    with in_mode(model, training=False):
        probe = _Probe(model, graph, candidates, len(images))
        try:
            outputs = probe.run(images)
        except Exception as error:
            raise NotTraceableError(f"its traced graph does not run: {reason(error)}") from error
        probe.close()
    if not torch.allclose(outputs, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise NotTraceableError("the outputs of its traced graph differ from those of the network")
    return probe.shapes


@torch.no_grad()
def run_once(model: nn.Module, shape: tuple[int, int, int], batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and the network's outputs for them in evaluation. Raises like `trace`."""
    like = next(model.parameters())
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
    with in_mode(model, training=False):
        try:
            outputs = model(images.clone())
        except Exception as error:
            raise DoesNotRunError(reason(error)) from error
    if not isinstance(outputs, torch.Tensor) or outputs.ndim not in (2, 4):
        raise NotTraceableError("its output is neither one row of logits per image nor a map")
    return images, outputs


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put the network in training or evaluation mode in this context; afterwards restore every module's mode."""
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = training
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def below(graph: fx.Graph, cuts: Sequence[fx.Node]) -> fx.Graph:
    """The part of the graph from the image to a cut, or to several cuts with a tuple of values."""
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = part.node_copy(node, copies.__getitem__)
        if copies.keys() >= set(cuts):
            break
    part.output(copies[cuts[0]] if len(cuts) == 1 else tuple(copies[cut] for cut in cuts))
    _prune(part)
    return part


def between(graph: fx.Graph, low: fx.Node, high: fx.Node) -> fx.Graph:
    """The part of the graph from one cut to a higher one."""
    nodes = list(graph.nodes)
    part, copies = _copied(low, nodes[nodes.index(low) + 1 : nodes.index(high) + 1])
    part.output(copies[high])
    _prune(part)
    return part


def above(graph: fx.Graph, cut: fx.Node) -> fx.Graph:
    """The part of the graph from the cut to the output, with the nodes it needs that do not depend on the image."""
    nodes = list(graph.nodes)
    part, _ = _copied(cut, nodes[nodes.index(cut) + 1 :])
    _prune(part)
    return part


def _copied(cut: fx.Node, nodes: Sequence[fx.Node]) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A graph that takes the value at a cut and has copies of some nodes above it, and of all nodes that they need."""
    part = fx.Graph()
    copies = {cut: part.placeholder("activations")}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = part.node_copy(node, copy)
        return copies[node]

    for node in nodes:
        copy(node)
    return part, copies
