"""One side of a cut of a network, and how it is frozen."""

from __future__ import annotations

import fnmatch
import functools
import linecache
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from frostline.errors import unknown
from frostline.network import fingerprint
from frostline.network.fingerprint import NotCoveredError
from frostline.network.tracing import Cut, attribute, in_mode, keys
from frostline.preprocessing import Preprocessing

Forward = Callable[["Part", Tensor], Tensor]


class Part(nn.Module):
    """One side of a cut: its modules, and what it computes in each mode.

    model: the network, whose modules, parameters and buffers the part shares, under the same names.
    graphs: what a traced part computes in evaluation (False), and in training (True) if it trains.
    forwards, targets: for a part that cannot be traced, functions of the part and its input instead of the graphs, and
        the paths of the modules and parameters it shares.
    frozen: it computes without gradients and in evaluation mode, whatever mode its modules are in. The network itself
        does not change; `freeze` changes it.
    cut, frostline: for a lower part, the cut at its upper end and the name of the cut.
    output_shape: per image. is_image: the part lies below the first stage and computes nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        graphs: Mapping[bool, fx.Graph] | None = None,
        forwards: Mapping[bool, Forward] | None = None,
        targets: Iterable[str] = (),
        frozen: bool = False,
        cut: Cut | None = None,
        frostline: str = "",
        output_shape: tuple[int, ...] = (),
        is_image: bool = False,
    ) -> None:
        super().__init__()
        self.training = not frozen
        self.graphs, self.forwards = dict(graphs or {}), dict(forwards or {})
        for target in [*targets, *_targets(self.graphs)]:
            _adopt(self, model, target)
        self.preprocessing = preprocessing
        self.frozen, self.frozen_modules = frozen, tuple[str, ...]()
        self.cut, self.frostline = cut, frostline
        self.output_shape = cut.shape if cut else output_shape
        self.is_image = cut.position == 0 if cut else is_image

    def forward(self, x: Tensor) -> Tensor:
        if not self.frozen:
            return self._forward_in(self.training)(self, x)
        in_training = [module for module in self.modules() if module.training]  # such as a dropout that both sides use
        try:
            for module in in_training:
                module.training = False
            with torch.no_grad():
                return self._forward_in(False)(self, x)
        finally:
            for module in in_training:
                module.training = True

    def _forward_in(self, training: bool) -> Forward:
        if training not in self.forwards:
            self.forwards[training] = _compiled(self, self.graphs[training])
        return self.forwards[training]

    def compile_graphs(self) -> Part:
        """Compile the graphs to Python now instead of at the first call, which a tracer of the part cannot follow."""
        for training in self.graphs:
            self._forward_in(training)
        return self

    def train(self, mode: bool = True) -> Part:
        """As for any module; a frozen part does not change its modules, which belong to the network."""
        return self if self.frozen else super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is compiled from the graphs, which cannot be pickled and is compiled again."""
        return {**self.__dict__, "forwards": {} if self.graphs else self.forwards}

    def freeze_modules(self, patterns: Iterable[str]) -> None:
        """Freeze some modules and parameters of the part, by path or glob; `unfreeze` undoes it.

        They stay in evaluation mode during training, even if the graphs contain the mode.
        Raises UsageError for a pattern that matches nothing in the part.
        """
        modules, parameters = dict(self.named_modules()), dict(self.named_parameters())
        for pattern in patterns:
            paths = [name for name in fnmatch.filter(modules, pattern) if name]
            single = [parameters[name] for name in fnmatch.filter(parameters, pattern)]
            if not paths and not single:
                raise unknown("module to freeze above the frostline", pattern, [*filter(None, modules), *parameters])
            self.frozen_modules += tuple(paths)
            for path in paths:
                _pin(modules[path].requires_grad_(False).eval())
            for parameter in single:
                parameter.requires_grad_(False)
        if self.graphs and self.frozen_modules:
            set_eval(self.graphs, self.frozen_modules)
            self.forwards.clear()

    def fingerprint(self, *, weights: bool = True) -> str:
        """A digest of everything that determines the outputs: the graph, the layers with their code, and the weights.

        It is the same in every process, on every device, for every version of torch. weights: False leaves out the
        numbers. Raises NotCoveredError if something cannot be covered; then no other part counts as equal.
        """
        if self.is_image:
            return "image"
        if not self.graphs:
            raise NotCoveredError("the network cannot be traced")
        graph = self.graphs[False]
        direct = [attribute(self, str(node.target)) for node in graph.nodes if node.op == "get_attr"]
        tensors = [*self.parameters(), *self.buffers()]
        return fingerprint.digest(graph, dict(self._modules), direct, tensors=tensors, weights=weights)


def freeze(part: Part) -> Part:
    """Keep the modules of a frozen part without gradients and in evaluation mode, even after `train()`.

    This changes the network that they belong to; `unfreeze` undoes it.
    """
    for module in part.children():
        _pin(module.requires_grad_(False).eval())
    return part.requires_grad_(False)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers, as `load_state_dict` takes it."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def unfreeze(model: nn.Module) -> None:
    """Undo `freeze` and `Part.freeze_modules` in all modules of a model: `train()` works again."""
    for module in model.modules():
        module.__dict__.pop("train", None)


def _pin(outer: nn.Module) -> None:
    """Keep a module and all modules inside it in their current mode."""
    for module in outer.modules():
        module.__dict__["train"] = functools.partial(_stay, module)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    """The `train()` of a frozen module, which does nothing."""
    return module


def _compiled(part: Part, graph: fx.Graph) -> Forward:
    """The graph as a Python function. torch keeps the source of each for good, so a process of many fits would grow."""
    forward: Any = type(fx.GraphModule(part, graph)).forward
    source = forward.__code__.co_filename
    linecache.cache.pop(source, None)
    getattr(getattr(fx.graph_module, "_loader", None), "eval_cache", {}).pop(source, None)
    compiled: Forward = forward
    return compiled


def set_eval(graphs: Mapping[bool, fx.Graph], frozen: Collection[str]) -> None:
    """Set frozen modules to evaluation in the training graph, where the mode is written into the graph.

    This applies to functions (`dropout(x, training=True)`) and to torchvision's stochastic depth.
    """
    inside = tuple(f"{name}." for name in frozen)
    in_evaluation = {key: node for node, key in keys(graphs[False]).items()}
    for node, key in keys(graphs[True]).items():
        if key in in_evaluation and f"{key[0]}.".startswith(inside):
            evaluating = in_evaluation[key]
            node.args = tuple(_flag(*pair) for pair in zip(node.args, evaluating.args, strict=True))
            node.kwargs = {name: _flag(value, evaluating.kwargs[name]) for name, value in node.kwargs.items()}


def _flag(value: Any, evaluating: Any) -> Any:
    return evaluating if isinstance(value, bool) else value


def _adopt(part: nn.Module, model: nn.Module, target: str) -> None:
    """Give `part` the module, parameter or buffer that `model` has at `target`, under the same dotted name."""
    *parents, name = target.split(".")
    for parent in parents:
        if parent not in part._modules:
            part.add_module(parent, nn.Module())
        part = part.get_submodule(parent)
    value = attribute(model, target)
    if isinstance(value, nn.Module):
        part.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        part.register_parameter(name, value)
    elif isinstance(value, Tensor):
        part.register_buffer(name, value)
    else:
        setattr(part, name, value)


def twin(part: Part) -> Part:
    """A copy of a traced part with the same modules, in which modules can be exchanged."""
    return Part(part, part.preprocessing, graphs=part.graphs, frozen=part.frozen)


def input_shapes(module: nn.Module, names: Collection[str], x: Tensor) -> dict[str, torch.Size]:
    """The input shapes of some layers when the module evaluates x; layers that are not called are left out."""
    if not names:
        return {}
    shapes: dict[str, torch.Size] = {}
    hooks = []
    for name in names:

        def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            shapes[name] = inputs[0].shape

        hooks.append(module.get_submodule(name).register_forward_pre_hook(note))
    try:
        with torch.no_grad(), in_mode(module, training=False):
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _targets(graphs: Mapping[bool, fx.Graph]) -> list[str]:
    nodes = [node for graph in graphs.values() for node in graph.nodes]
    return list(dict.fromkeys(str(node.target) for node in nodes if node.op in ("call_module", "get_attr")))
