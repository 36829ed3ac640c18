"""A network with named stages that can be cut in two at any frostline.

    lower, upper = network.cut("layer4")

`lower` is frozen and still: no gradients, evaluation mode whatever anybody calls, without a graph. `upper` trains.
Both share their modules with `network.model` under the original names, so training `upper` trains the network and its
state dict is that of the bare architecture. In evaluation `upper(lower(x)) == network.model(x)`.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from frostline import tracing
from frostline.errors import UsageError, unknown
from frostline.preprocessing import Preprocessing
from frostline.stages import Stage, find_stages
from frostline.tracing import Cut, NotTraceableError, Trace, attribute

Forward = Callable[["Part", Tensor], Tensor]


class Part(nn.Module):
    """One side of a cut: the modules of a network that lie there, and what it computes in each mode."""

    code: str = ""  # what is computed, as text
    graph: fx.Graph | None = None  # of a traced part, in evaluation
    output_shape: tuple[int, ...] = ()  # of one image
    is_image: bool = False  # below the first stage: the part computes nothing
    frostline: str = ""  # the name that the cut was made with

    def __init__(
        self, model: nn.Module, targets: Iterable[str], forwards: dict[bool, Forward], preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        for target in targets:
            _adopt(self, model, target)
        self.forwards = forwards
        self.frozen = False
        self.preprocessing = preprocessing

    def forward(self, x: Tensor) -> Tensor:
        if not self.frozen:
            return self.forwards[self.training](self, x)
        with torch.no_grad():
            return self.forwards[False](self, x)

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


def thaw(model: nn.Module) -> None:
    """Undo the freezing of every part of a model."""
    for module in model.modules():
        module.__dict__.pop("train", None)


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


def _graph_part(model: nn.Module, graphs: dict[bool, fx.Graph], preprocessing: Preprocessing) -> Part:
    targets = {
        str(node.target): None
        for graph in graphs.values()
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    forwards: dict[bool, Forward] = {}
    part = Part(model, targets, forwards, preprocessing)
    for training, graph in graphs.items():
        forwards[training] = type(fx.GraphModule(part, graph)).forward
    part.graph, part.code = graphs[False], str(graphs[False])
    return part


class Network:
    """A model with a head, its cuts and stages, and the preprocessing its weights want.

    model: maps images (B, 3, size, size) to logits (B, classes); its parameters keep their names for ever.
    stages: named pieces from `stem` to `head`; each starts at a cut.
    heads: paths of the final layer(s) that make the logits.
    pooled: path of a `pooled_head`, and the shape it takes, where one was put in place of several layers.
    untraceable: why the network has to be taken as a whole, with two cuts only; else "".
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        self.model = model
        self.preprocessing = preprocessing
        self.untraceable = ""
        self.pooled: dict[str, tuple[int, ...]] = {}
        self.trace: Trace | None = None
        try:
            self.trace = tracing.trace(model, preprocessing.size)
        except NotTraceableError as error:
            self.untraceable = str(error)
        except Exception as error:
            size = preprocessing.size
            raise UsageError(f"the network does not take images of {size} × {size} pixels: {error}") from error
        self.heads = _final_layers(model, self.trace) if self.trace else (_last_linear(model),)
        self.stages = find_stages(model, self.trace, self.heads) if self.trace else _two_stages(model, self.heads[0])

    def stage_names(self) -> list[str]:
        return [stage.name for stage in self.stages]

    def stage_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of every stage, from the image to the head."""
        if self.trace is None:
            top = list(self.model.get_submodule(self.heads[0]).parameters())
            return {"stem": [p for p in self.model.parameters() if not any(p is q for q in top)], "head": top}
        spans = tracing.parameter_spans(self.model, self.trace.evaluation)
        starts = [stage.start.position if stage.start else 0 for stage in self.stages]
        result: dict[str, list[nn.Parameter]] = {stage.name: [] for stage in self.stages}
        for parameter, (first, _) in spans.items():
            result[self.stages[bisect.bisect_left(starts, first) - 1].name].append(parameter)
        return result

    def cut(self, frostline: str) -> tuple[Part, Part]:
        """The network below and above the frostline, which lies right below the stage or module named.

        Everything below is frozen, everything above trains (`requires_grad` is set accordingly).

        frostline: a stage ("layer4", "head"; `network.stages` lists them) or any module path right below which exactly
            one tensor crosses ("layer4.1").
        Raises UsageError, with the nearest names, where there is no such place.
        """
        lower, upper = self._split(frostline)
        thaw(self.model)
        self.model.requires_grad_(False)
        upper.requires_grad_(True)
        lower.frostline = frostline
        return lower.freeze(), upper

    def through(self, frostlines: Sequence[str]) -> Part:
        """The frozen part that gives the activations at several frostlines at once, as a tuple in their order."""
        assert self.trace is not None  # noqa: S101
        named = {key: node for node, key in tracing.keys(self.trace.evaluation).items()}
        graph = tracing.below(self.trace.evaluation, [named[self.find(name).key] for name in frostlines])
        return _graph_part(self.model, {False: graph}, self.preprocessing).freeze()

    def _split(self, frostline: str) -> tuple[Part, Part]:
        if self.trace is None:
            head = self.heads[0] if self.depth(frostline) else ""
            return _split_whole(self.model, head, self.preprocessing)
        cut = self.find(frostline)
        graphs = {False: self.trace.evaluation, True: self.trace.training}
        nodes = {
            training: next(node for node, key in tracing.keys(graph).items() if key == cut.key)
            for training, graph in graphs.items()
        }
        lower = tracing.below(graphs[False], [nodes[False]])
        uppers = {training: tracing.above(graph, nodes[training]) for training, graph in graphs.items()}
        below = _graph_part(self.model, {False: lower}, self.preprocessing)
        below.output_shape, below.is_image = cut.shape, cut.position == 0
        return below, _graph_part(self.model, uppers, self.preprocessing)

    def depth(self, frostline: str) -> int:
        """How far from the image a frostline lies, to compare two of them; raises UsageError for one that is none."""
        if self.trace is not None:
            return self.find(frostline).position
        if frostline not in self.stage_names():
            raise unknown("stage", frostline, self.stage_names())
        return self.stage_names().index(frostline)

    def find(self, frostline: str) -> Cut:
        """The cut right below the stage or module of that name; raises UsageError where there is none."""
        assert self.trace is not None  # noqa: S101
        for stage in self.stages:
            if stage.name == frostline and stage.start is not None:
                return stage.start
        nodes = list(self.trace.evaluation.nodes)
        inside = [i for i, n in enumerate(nodes) if (tracing.path(n) + ".").startswith(frostline + ".")]
        if not inside or not frostline:
            modules = {tracing.path(node) for node in nodes} - {""}
            raise unknown("stage", frostline, [*self.stage_names(), *sorted(modules)])
        cut = max((c for c in self.trace.cuts if c.position < inside[0]), key=lambda c: c.position)
        spans = tracing.parameter_spans(self.model, self.trace.evaluation)
        if any(cut.position < last and first < inside[0] for first, last in spans.values()):
            below: str = next(tracing.path(n) for n in nodes[cut.position + 1 :] if tracing.path(n))
            nearest = below.rsplit(".", 1)[0] or below
            raise UsageError(
                f"the network cannot be cut right below {frostline!r}: more than one tensor crosses there; "
                f"the nearest place under it is {nearest!r} (stages: {', '.join(self.stage_names())})"
            )
        return cut

    def replace_head(self, classes: int, untrained: frozenset[str] = frozenset()) -> Network:
        """The same network with a new final layer for `classes` classes.

        untrained: names of parameters that no pretrained weights were found for. Where they are the whole upper end of
            the network (VGG16 without its classifier), they are replaced along with the head by pooling and one linear
            layer: random layers are worth nothing frozen.
        """
        tail = self._untrained_tail(untrained - self._head_parameters()) if self.trace else ""
        if not tail:
            for path in self.heads:
                self.model.set_submodule(path, new_head(self.model.get_submodule(path), classes))
            if self.trace is None:
                self.stages = _two_stages(self.model, self.heads[0])
            else:
                self.trace = replace(self.trace, output_shape=(classes,))
                self.stages = find_stages(self.model, self.trace, self.heads)
            return self
        shape = self._map_below(self.find(tail))
        self.model.set_submodule(tail, pooled_head(shape, classes))
        replaced = Network(self.model, self.preprocessing)
        replaced.pooled = {tail: shape}
        return replaced

    def _map_below(self, cut: Cut) -> tuple[int, ...]:
        """The shape of what a head gets at a cut; of the feature map where the cut only flattens one."""
        assert self.trace is not None  # noqa: S101
        before = self.trace.cuts[self.trace.cuts.index(cut) - 1]
        flattens = len(cut.shape) == 1 and len(before.shape) == 3 and math.prod(before.shape) == cut.shape[0]
        return before.shape if flattens else cut.shape

    def _head_parameters(self) -> set[str]:
        return {
            f"{path}.{name}" for path in self.heads for name, _ in self.model.get_submodule(path).named_parameters()
        }

    def _untrained_tail(self, untrained: frozenset[str]) -> str:
        """The module that holds exactly the untrained upper end of the network and its head, or ""."""
        assert self.trace is not None  # noqa: S101
        if not untrained:
            return ""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        spans = tracing.parameter_spans(self.model, self.trace.evaluation)
        start = min(first for parameter, (first, _) in spans.items() if names[parameter] in untrained)
        tail = {names[parameter] for parameter, (first, _) in spans.items() if first >= start}
        if tail != untrained | self._head_parameters():
            return ""
        owner = _common_path(tail)
        inside = {f"{owner}.{name}" for name, _ in self.model.get_submodule(owner).named_parameters()}
        return owner if owner and inside == tail and len(self.find(owner).shape) in (1, 3) else ""


def _common_path(names: Iterable[str]) -> str:
    parts = [name.split(".")[:-1] for name in names]
    shared = functools.reduce(lambda a, b: [x for x, y in zip(a, b, strict=False) if x == y], parts)
    return ".".join(shared)


def pooled_head(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A linear layer on the maximum over the positions of a (flattened) map (C, H, W), or on a vector (D,).

    The maximum says whether a feature is anywhere in the image, which a small data set learns from more easily.
    """
    if len(shape) == 1:
        return nn.Linear(shape[0], classes)
    return nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, shape), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(shape[0], classes)
    )


def new_head(old: nn.Module, classes: int) -> nn.Module:
    """A freshly initialised layer with the old one's input and `classes` outputs."""
    like = next(old.parameters())
    if isinstance(old, nn.Linear):
        new: nn.Module = nn.Linear(old.in_features, classes)
    elif isinstance(old, nn.Conv2d) and old.groups == 1:
        stride, padding = tuple(old.stride), old.padding if isinstance(old.padding, str) else tuple(old.padding)
        new = nn.Conv2d(old.in_channels, classes, tuple(old.kernel_size), stride, padding)  # type: ignore[arg-type]
    else:
        raise UsageError(
            f"the network's last layer is a {type(old).__name__}; a head can be put in place of a Linear or Conv2d only"
        )
    return new.to(like.device, like.dtype)


def _final_layers(model: nn.Module, trace: Trace) -> tuple[str, ...]:
    """The layers with parameters from which the output is reached without passing another one."""
    found: dict[str, None] = {}
    output = next(node for node in trace.evaluation.nodes if node.op == "output")
    queue, seen = list(output.all_input_nodes), set()
    while queue:
        node = queue.pop(0)
        if node in seen:
            continue
        seen.add(node)
        target = str(node.target)
        if node.op == "call_module" and any(True for _ in model.get_submodule(target).parameters()):
            found[target] = None
        elif node.op == "get_attr":
            raise UsageError(f"no final layer to replace: the network's output depends directly on {target!r}")
        else:
            queue.extend(node.all_input_nodes)
    if not found:
        raise UsageError("no final layer to replace: the network's output comes from no layer with parameters")
    return tuple(found)


def _last_linear(model: nn.Module) -> str:
    linears: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise UsageError("the network cannot be traced and has no Linear layer that could be its head")
    return linears[-1]


def _two_stages(model: nn.Module, head: str) -> tuple[Stage, ...]:
    top = sum(p.numel() for p in model.get_submodule(head).parameters())
    whole = sum(p.numel() for p in model.parameters())
    return Stage("stem", None, whole - top, (), ()), Stage("head", None, top, (), ())


def _split_whole(model: nn.Module, head: str, preprocessing: Preprocessing) -> tuple[Part, Part]:
    """The two cuts of a network that cannot be traced: at the image (`head` = "") or right below its head."""

    def everything(part: Part, x: Tensor) -> Tensor:
        for module in model.modules():
            if any(True for _ in module.children()):  # containers are no part of the part; their flags follow it
                module.training = part.training
        result: Tensor = model(x)
        return result

    def body(_: Part, x: Tensor) -> Tensor:
        caught: list[Tensor] = []
        hook = model.get_submodule(head).register_forward_pre_hook(lambda _module, args: caught.append(args[0]))
        try:
            model(x)
        finally:
            hook.remove()
        return caught[0]

    def top(_: Part, x: Tensor) -> Tensor:
        result: Tensor = model.get_submodule(head)(x)
        return result

    def identity(_: Part, x: Tensor) -> Tensor:
        return x

    leaves = [n for n, m in model.named_modules() if n and not [*m.children()] and n != head]
    direct = [n for n, _ in model.named_parameters() if n.rpartition(".")[0] not in {*leaves, head}]
    if head:
        lower = Part(model, [*leaves, *direct], {False: body}, preprocessing)
        upper = Part(model, [head], {False: top, True: top}, preprocessing)
    else:
        lower = Part(model, [], {False: identity}, preprocessing)
        upper = Part(model, [*leaves, *direct], {False: everything, True: everything}, preprocessing)
    lower.is_image = not head
    like = next(model.parameters())
    image = torch.zeros(1, 3, preprocessing.size, preprocessing.size, device=like.device, dtype=like.dtype)
    with torch.no_grad():
        lower.output_shape = tuple(lower.eval()(image).shape[1:])
    return lower, upper
