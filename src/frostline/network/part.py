"""One side of a cut, and what it means to be frozen."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from frostline.errors import unknown
from frostline.network.tracing import Cut, attribute, keys
from frostline.preprocessing import Preprocessing

Forward = Callable[["Part", Tensor], Tensor]


class Part(nn.Module):
    """One side of a cut: the modules of a network that lie there, and what it computes in each mode."""

    code: str = ""  # what is computed, as text
    output_shape: tuple[int, ...] = ()  # of one image
    is_image: bool = False  # below the first stage: the part computes nothing
    frostline: str = ""  # the name that the cut was made with
    cut: Cut | None = None  # the place itself
    held: tuple[str, ...] = ()  # modules that `hold` froze

    def __init__(
        self, model: nn.Module, targets: Iterable[str], forwards: dict[bool, Forward], preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        for target in targets:
            _adopt(self, model, target)
        self.forwards = forwards
        self.graphs: dict[bool, fx.Graph] = {}  # of a traced part: in evaluation (False), and in training if it trains
        self.frozen = False
        self.preprocessing = preprocessing

    def forward(self, x: Tensor) -> Tensor:
        if not self.frozen:
            return self.forwards[self.training](self, x)
        awake = [module for module in self.modules() if module.training]  # a dropout that both sides use
        try:
            for module in awake:
                module.training = False
            with torch.no_grad():
                return self.forwards[False](self, x)
        finally:
            for module in awake:
                module.training = True

    def train(self, mode: bool = True) -> Part:
        return super().train(mode and not self.frozen)

    def freeze(self) -> Part:
        """No gradients and evaluation mode from now on, whoever calls `train()` on the network; undone by `thaw`."""
        self.frozen = True
        self.requires_grad_(False).eval()
        for module in self.modules():
            if module is not self:
                module.__dict__["train"] = functools.partial(_stay, module)
        return self

    def freeze_modules(self, patterns: Iterable[str]) -> None:
        """Freeze some of the part's modules and parameters, named by path or glob; undone by `thaw`.

        Raises UsageError for a pattern that matches nothing here.
        """
        modules, parameters = dict(self.named_modules()), dict(self.named_parameters())
        for pattern in patterns:
            found = [modules[name] for name in fnmatch.filter(modules, pattern) if name]
            single = [parameters[name] for name in fnmatch.filter(parameters, pattern)]
            if not found and not single:
                raise unknown("module to freeze above the frostline", pattern, [*filter(None, modules), *parameters])
            self.held += tuple(name for name in fnmatch.filter(modules, pattern) if name)
            for module in found:
                module.requires_grad_(False).eval()
                for inner in module.modules():
                    inner.__dict__["train"] = functools.partial(_stay, inner)
            for parameter in single:
                parameter.requires_grad_(False)

    def fingerprint(self) -> str:
        """A digest of all that the part computes with: its graph, its layers' settings, parameters and buffers."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr(self).encode())
        digest.update(self.code.encode())
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    """What `train()` of a frozen module does: nothing."""
    return module


def unfreeze(model: nn.Module) -> None:
    """Undo the freezing of every part of a model."""
    for module in model.modules():
        module.__dict__.pop("train", None)


def set_eval(part: Part, evaluation: fx.Graph, training: fx.Graph) -> None:
    """Let what the part holds do in training as in evaluation also where the mode is written into the graphs.

    That is so of functions (`dropout(x, training=True)`) and of torchvision's stochastic depth.
    """
    held = tuple(f"{name}." for name, module in part.named_modules() if name and "train" in module.__dict__)
    asleep = {key: node for node, key in keys(evaluation).items()}
    for node, key in keys(training).items():
        if key in asleep and f"{key[0]}.".startswith(held):
            calm = asleep[key]
            node.args = tuple(_flag(*pair) for pair in zip(node.args, calm.args, strict=True))
            node.kwargs = {name: _flag(value, calm.kwargs[name]) for name, value in node.kwargs.items()}
    part.graphs[True] = training
    part.forwards[True] = type(fx.GraphModule(part, training)).forward


def _flag(value: Any, calm: Any) -> Any:
    return calm if isinstance(value, bool) else value


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


def graph_part(model: nn.Module, graphs: dict[bool, fx.Graph], preprocessing: Preprocessing) -> Part:
    part = Part(model, _targets(graphs), {}, preprocessing)
    for training, graph in graphs.items():
        part.forwards[training] = type(fx.GraphModule(part, graph)).forward
    part.graphs, part.code = graphs, str(graphs[False])
    return part


def twin(part: Part) -> Part:
    """A traced part that computes the same with the same modules, and in which some of them can be exchanged."""
    other = Part(part, _targets(part.graphs), part.forwards, part.preprocessing)
    other.graphs, other.code = part.graphs, part.code
    return other


def input_shapes(module: nn.Module, names: Collection[str], x: Tensor) -> dict[str, torch.Size]:
    """What some of a module's layers are given when it evaluates x; those that are not called are left out."""
    if not names:
        return {}
    shapes: dict[str, torch.Size] = {}
    hooks, modes = [], [(layer, layer.training) for layer in module.modules()]
    module.eval()
    for name in names:

        def note(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
            shapes[name] = given[0].shape

        hooks.append(module.get_submodule(name).register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, mode in modes:
            layer.training = mode
    return shapes


def _targets(graphs: dict[bool, fx.Graph]) -> list[str]:
    nodes = [node for graph in graphs.values() for node in graph.nodes]
    return list(dict.fromkeys(str(node.target) for node in nodes if node.op in ("call_module", "get_attr")))
