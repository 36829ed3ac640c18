"""A network with named stages that can be cut in two at any frostline.

    lower, upper = network.cut("layer4")

`lower` is frozen: no gradients, no autograd graph, and evaluation mode even after `train()`. `upper` trains.
Both share their modules with `network.model` under the original names, so training `upper` trains the network and its
state dict is that of the bare architecture. In evaluation `upper(lower(x)) == network.model(x)`.
"""

from __future__ import annotations

import bisect
import fnmatch
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from frostline.errors import UsageError, unknown
from frostline.network import tracing
from frostline.network.heads import final_layers, new_head, pooled_head
from frostline.network.part import Part, unfreeze
from frostline.network.part import freeze as freeze_part
from frostline.network.plain import uncompiled
from frostline.network.stages import find_stages
from frostline.network.tracing import Cut, DoesNotRunError, Leaf, NotTraceableError, Trace
from frostline.network.untraced import output_layer, split_whole, two_stages
from frostline.notebook import fragment
from frostline.preprocessing import Preprocessing
from frostline.terminal import human_count


@dataclass(frozen=True)
class Origin:
    """The backbone that a network started from: the fields of its `Backbone`."""

    name: str
    weights: str = "given"
    licence: str = "unknown"
    sha256: str | None = None


class Network:
    """A model with a head, its cuts and stages, and the preprocessing of its weights.

    model: maps images (B, C, size, size) to logits (B, classes); the names of its parameters never change. Of a
        compiled model it is the module inside.
    preprocessing: has the size of the images, and one mean per channel C.
    leaves: module classes and functions that are one step each, because their Python cannot be traced.
    stages: named pieces from `stem` to `head`; each starts at a cut.
    heads: paths of the final layer(s) that compute the logits. known: trace and heads, if they are known already.
    origin: the backbone it started from.
    pooled: path of a `pooled_head`, and its input shape, if one replaced several layers.
    untraceable: why the network cannot be traced and has only two cuts; else "".

    Raises UsageError for a model that does not run on such images or has no final layer to replace.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        known: tuple[Trace, tuple[str, ...]] | None = None,
        *,
        leaves: Sequence[Leaf] = (),
    ) -> None:
        model = uncompiled(model)  # which has the names of the weights, and can be traced
        self.model = model
        self.origin = Origin(type(model).__name__)
        self.preprocessing = preprocessing
        self.leaves = tuple(leaves)
        self.untraceable = ""
        self.pooled: dict[str, tuple[int, ...]] = {}
        self.trace: Trace | None = None
        if known:
            self.trace, self.heads = known
        else:
            self._follow()
            self.heads = self._find_heads()
        self.stages = find_stages(model, self.trace, self.heads) if self.trace else two_stages(model, self.heads[0])

    def _follow(self) -> None:
        size, channels = self.preprocessing.size, self.preprocessing.channels
        try:
            self.trace = tracing.trace(self.model, (channels, size, size), self.leaves)
        except NotTraceableError as error:
            self.untraceable = str(error)
        except DoesNotRunError as error:
            of = "" if channels == 3 else f" and {channels} channel{'s' * (channels > 1)}"
            raise UsageError(f"the network does not take images of {size} × {size} pixels{of}: {error}") from error

    def _find_heads(self) -> tuple[str, ...]:
        if self.trace is None:
            return (output_layer(self.model, self.preprocessing),)
        return final_layers(self.model, self.trace)

    def __repr__(self) -> str:
        return f"Network({self.origin.name}: {' → '.join(self.stage_names())})"

    def _repr_html_(self) -> str:
        """The stages, with the parameters and the output shape per image of each, for a notebook."""
        rows = [[stage.name, human_count(stage.parameters), " × ".join(map(str, stage.shape))] for stage in self.stages]
        weights = f"{self.origin.name} · weights {self.origin.weights}"
        return fragment(weights, table=[["stage", "parameters", "output per image"], *rows])

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

    def cut(self, frostline: str, freeze: str | Sequence[str] = ()) -> tuple[Part, Part]:
        """The network below and above the frostline, which lies directly below the named stage or module.

        Everything below is frozen, everything above trains (`requires_grad` is set accordingly).

        frostline: a stage ("layer4", "head"; `network.stages` lists them), a module path with exactly one tensor
            directly below it ("layer4.1"), or a glob, of which the lowest match counts ("layer[34]*").
        freeze: modules and parameters above the frostline that stay frozen, by name or glob ("layer4.0*").
        Raises UsageError, with the nearest names, if the frostline or a frozen module does not exist, and if the head
        would not train.
        """
        patterns = [freeze] if isinstance(freeze, str) else freeze
        lower, upper = self._split(frostline)
        unfreeze(self.model)
        self.model.requires_grad_(False)
        upper.requires_grad_(True)
        freeze_part(lower)
        unfreeze(upper)
        upper.freeze_modules(patterns)
        new = [p for name in self.heads for p in self.model.get_submodule(name).parameters() if p.ndim > 1]
        if patterns and not all(p.requires_grad for p in new):
            raise UsageError(
                f"freeze = {', '.join(patterns)} freezes the new head too: it would never learn its classes"
            )
        return lower, upper

    def resolve(self, frostline: str) -> str:
        """The stage or module of a name or glob; if several match, the lowest with a possible cut below it.

        Raises UsageError if nothing matches.
        """
        if not any(c in frostline for c in "*?["):
            return frostline
        nodes = self.trace.evaluation.nodes if self.trace else ()
        modules = dict.fromkeys(outer for node in nodes for outer in _outer_paths(tracing.path(node)))
        lowest, refused = fnmatch.filter(self.stage_names(), frostline)[:1], None
        for name in fnmatch.filter(modules, frostline):
            try:
                self.find(name)
            except UsageError as error:
                refused = refused or error
                continue
            lowest.append(name)
            break
        if lowest:
            return min(lowest, key=self.depth)
        raise refused or unknown("stage", frostline, [*self.stage_names(), *modules], self.stage_names())

    def below(self, *cuts: Cut) -> Part:
        """The part from the image to a cut, or to several cuts with a tuple of activations; changes nothing.

        It computes without gradients and in evaluation mode, whatever the mode of the network.
        """
        assert self.trace is not None  # noqa: S101
        evaluation = self.trace.evaluation
        graph = tracing.below(evaluation, [tracing.node_at(evaluation, cut) for cut in cuts])
        only = cuts[0] if len(cuts) == 1 else None
        name = self.name_of(only) if only else ""
        return Part(self.model, self.preprocessing, graphs={False: graph}, frozen=True, cut=only, frostline=name)

    def between(self, low: Cut, high: Cut) -> Part:
        """The part from one cut to a higher one, frozen like a part of `below`; changes nothing."""
        assert self.trace is not None  # noqa: S101
        evaluation = self.trace.evaluation
        graph = tracing.between(evaluation, tracing.node_at(evaluation, low), tracing.node_at(evaluation, high))
        return Part(self.model, self.preprocessing, graphs={False: graph}, frozen=True)

    def above(self, cut: Cut) -> Part:
        """The part from a cut to the logits; does not change what trains."""
        assert self.trace is not None  # noqa: S101
        graphs = {False: self.trace.evaluation, True: self.trace.training}
        above = {training: tracing.above(graph, tracing.node_at(graph, cut)) for training, graph in graphs.items()}
        return Part(self.model, self.preprocessing, graphs=above)

    def name_of(self, cut: Cut) -> str:
        """The stage or module directly above a cut, as `cut` takes it."""
        assert self.trace is not None  # noqa: S101
        for stage in self.stages:
            if stage.start is not None and stage.start.position == cut.position:
                return stage.name
        above = list(self.trace.evaluation.nodes)[cut.position + 1 :]
        return next(filter(None, map(tracing.path, above)), cut.node)

    def _split(self, frostline: str) -> tuple[Part, Part]:
        name = self.resolve(frostline)
        if self.trace is None:
            head = self.heads[0] if self.depth(name) else ""
            return split_whole(self.model, head, self.preprocessing, frostline)
        cut = self.find(name)
        graph = tracing.below(self.trace.evaluation, [tracing.node_at(self.trace.evaluation, cut)])
        lower = Part(self.model, self.preprocessing, graphs={False: graph}, frozen=True, cut=cut, frostline=frostline)
        return lower, self.above(cut)

    def depth(self, frostline: str) -> int:
        """The distance of a frostline from the image, to compare two; raises UsageError for an unknown frostline."""
        if self.trace is not None:
            return self.find(frostline).position
        if frostline not in self.stage_names():
            raise unknown("stage", frostline, self.stage_names())
        return self.stage_names().index(frostline)

    def find(self, frostline: str) -> Cut:
        """The cut directly below the stage or module of that name; raises UsageError if no cut is possible there."""
        assert self.trace is not None  # noqa: S101
        for stage in self.stages:
            if stage.name == frostline and stage.start is not None:
                return stage.start
        nodes = list(self.trace.evaluation.nodes)
        inside = tracing.positions_of(self.trace.evaluation, frostline)
        if not inside or not frostline:
            modules = {tracing.path(node) for node in nodes} - {""}
            raise unknown("stage", frostline, [*self.stage_names(), *sorted(modules)], self.stage_names())
        cut = tracing.last_cut_before(self.trace.cuts, inside[0])
        if not tracing.is_right_below(cut, inside[0], tracing.parameter_spans(self.model, self.trace.evaluation)):
            below: str = next(tracing.path(n) for n in nodes[cut.position + 1 :] if tracing.path(n))
            nearest = below.rsplit(".", 1)[0] or below
            raise UsageError(
                f"the network cannot be cut right below {frostline!r}: more than one tensor crosses there; "
                f"the nearest possible frostline below it is {nearest!r} (stages: {', '.join(self.stage_names())})"
            )
        return cut

    def replace_head(self, classes: int, untrained: frozenset[str] = frozenset()) -> Network:
        """The same network with a new final layer for `classes` classes.

        untrained: names of parameters without pretrained weights. If they form the whole upper end of the network
            (VGG16 without its classifier), pooling and one linear layer replace them and the head, because frozen
            random layers are useless.
        """
        tail = self._untrained_tail(untrained - self._head_parameters()) if self.trace else ""
        if not tail:
            for path in self.heads:
                self.model.set_submodule(path, new_head(self.model.get_submodule(path), classes))
            if self.trace is None:
                self.stages = two_stages(self.model, self.heads[0])
            else:
                self.trace = replace(self.trace, output_shape=(classes,))
                self.stages = find_stages(self.model, self.trace, self.heads)
            return self
        shape = self._map_below(self.find(tail))
        self.model.set_submodule(tail, pooled_head(shape, classes))
        replaced = Network(self.model, self.preprocessing, leaves=self.leaves)
        replaced.pooled, replaced.origin = {tail: shape}, self.origin
        return replaced

    def _map_below(self, cut: Cut) -> tuple[int, ...]:
        """The input shape of a head at a cut; if the cut only flattens a feature map, the shape of the map."""
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


def _outer_paths(path: str) -> Iterable[str]:
    """The path of a module and of all modules around it, the outermost first."""
    return itertools.accumulate(path.split("."), "{}.{}".format) if path else ()


def _common_path(names: Iterable[str]) -> str:
    parts = [name.split(".")[:-1] for name in names]
    shared = functools.reduce(lambda a, b: [x for x, y in zip(a, b, strict=False) if x == y], parts)
    return ".".join(shared)
