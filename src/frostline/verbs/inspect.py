"""A backbone before training: its stages, and the cost of a frostline at each."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from frostline.backbones import Backbone, load_backbone
from frostline.classifier.artifact import load_network
from frostline.data import Data, read_data
from frostline.data.views import Views, suited
from frostline.errors import UsageError
from frostline.files import CLASSIFIER
from frostline.machine import find_machine, to_device
from frostline.network import tracing
from frostline.network.counting import macs_by_position, parameters_by_position
from frostline.network.layers import layers_of
from frostline.network.network import Network
from frostline.plan import Plan, resolve_plan
from frostline.runs.run import Run, load_run
from frostline.store.costs import Candidate
from frostline.store.placement import decide
from frostline.store.shards import cache_at
from frostline.values import parse_bytes

STORED_BYTES = 2  # of a number in bf16
FLOAT_BYTES = 4


def inspect(
    backbone: str | Path | nn.Module | Backbone | Run,
    *,
    weights: str | Path = "none",
    image_size: int | None = None,
    frostline: str | None = None,
    layers: bool = False,
    data: Data | None = None,
    plan: Plan = "auto",
    store: str | Path | None = None,
    cache_budget: str = "20GB",
    model: nn.Module | None = None,
) -> dict[str, Any]:
    """The stages of a network from the image to its head, and what a phase with this frostline trains.

    backbone: a name, your own `nn.Module`, or a run (its folder, or a copy of its `model/`), for the fitted network
        with its head.
    frostline: a stage or a module path; everything below is frozen and computed once. By default the head, or the
        frostline of a run's last phase.
    layers: also return `layers`, each with name, kind (its class), output_shape per image, parameters,
        trained_parameters, parameter_bytes, output_bytes (in fp32), macs.
    model: the network, with any head, for a run of your own `nn.Module`.

    Each stage has name, output_shape per image, parameters, parameter_bytes, trained_parameters, `frozen` (nothing
    in it trains), `macs` (multiply-accumulates per image in the forward pass: convolutions, matrix products and
    attention; None if they cannot be counted), and the cost of a frostline right below it: `trains`
    (parameters from there to the head) and `stored_bytes` (per image; decoded pixels below the first stage). If the
    frostline lies inside a stage, these two are counted from the frostline.

    Totals: total_parameters, trained_parameters, frozen_parameters, parameter_bytes, total_macs, trained_macs (computed
    in every epoch; the rest is computed once), stored_bytes.

    data: labelled images, as for `fit`. With them it measures whether caching pays off: `storing` has for each phase
        of `plan` the frostline, `stored_at` (a stage or module, "pixels", or None) and all `options` for it, each with
        `at`, row_bytes, bytes, seconds `once` and `again` (all epochs of two fits), and whether it `fits` the budget;
        and the costs: seconds to `decode` a view and to compute the frozen part (`forward`), bytes per second of
        `write` and `read`. `docs/architecture.md` has the formula.
    plan, store, cache_budget: as for `fit`; used only with `data`.

    Raises UsageError for an unknown frostline.

    >>> inspect("efficientnet-lite0", frostline="blocks.6")["trained_parameters"]
    2298600
    """
    network, about, lowest = _opened(backbone, weights, image_size, model)
    frostline = network.resolve(frostline or lowest)
    about |= _summary(network, frostline)
    if layers:
        about["layers"] = _layers(network, network.depth(frostline))
    if data is not None:
        if "run" in about:
            raise UsageError("data measures caching before a fit, not for a run; give the name of a backbone instead")
        chosen = load_backbone(cast(str, backbone), weights, image_size=image_size)
        about |= _weighed(chosen, data, plan, store, cache_budget)
    return about


def _summary(network: Network, frostline: str) -> dict[str, Any]:
    """The stages and their totals."""
    parameters, macs = parameters_by_position(network), macs_by_position(network)
    above = network.depth(frostline) + 1
    return {
        "image_size": network.preprocessing.size,
        "cuts": len(network.trace.cuts) if network.trace else 2,
        "untraceable": network.untraceable,
        "frostline": frostline,
        "total_parameters": sum(parameters),
        "trained_parameters": sum(parameters[above:]),
        "frozen_parameters": sum(parameters[:above]),
        "parameter_bytes": _number_bytes(network) * sum(parameters),
        "total_macs": None if macs is None else sum(macs),
        "trained_macs": None if macs is None else sum(macs[above:]),
        "stored_bytes": _stored_bytes(network, frostline),
        "stages": _stages(network, frostline, parameters, macs),
    }


def _number_bytes(network: Network) -> int:
    return next(network.model.parameters()).element_size()


def _opened(
    backbone: str | Path | nn.Module | Backbone | Run,
    weights: str | Path,
    image_size: int | None,
    model: nn.Module | None,
) -> tuple[Network, dict[str, Any], str]:
    """A network, its name and weights, and its default frostline."""
    if isinstance(backbone, (str, Path)) and (Run(Path(backbone)).model / CLASSIFIER).is_file():
        backbone = load_run(backbone)
    if isinstance(backbone, Run):
        network, description = load_network(backbone, model)
        about = {"backbone": description.backbone, "weights": description.weights, "run": str(backbone.path)}
        return network, about, _lowest(backbone)
    chosen = load_backbone(str(backbone) if isinstance(backbone, Path) else backbone, weights, image_size=image_size)
    own = copy.deepcopy(chosen.model)  # a copy: its trainable parameters are set below
    return Network(own, chosen.preprocessing), {"backbone": chosen.name, "weights": chosen.weights}, "head"


def _lowest(run: Run) -> str:
    """The frostline of the last phase; the head if only the classifier was copied."""
    if run.model == run.path:
        return "head"
    phases = run.config.get("plan", {}).get("phases") or [{}]
    lowest: str = phases[-1].get("frostline", "head")
    return lowest


def _layers(network: Network, depth: int) -> list[dict[str, Any]]:
    """Every layer, and how much of it lies above the frostline."""
    if network.trace is not None:
        spans = tracing.parameter_spans(network.model, network.trace.evaluation)
        trained = {parameter for parameter, (first, _) in spans.items() if first > depth}
    else:
        trained = set(network.model.parameters() if not depth else network.stage_parameters()["head"])
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "output_shape": list(layer.output_shape),
            "parameters": sum(p.numel() for p in layer.parameters),
            "trained_parameters": sum(p.numel() for p in layer.parameters if p in trained),
            "parameter_bytes": sum(p.nbytes for p in layer.parameters),
            "output_bytes": FLOAT_BYTES * math.prod(layer.output_shape),
            "macs": layer.macs,
        }
        for layer in layers_of(network)
    ]


def _weighed(backbone: Backbone, data: Data, plan: Plan, store: str | Path | None, cache_budget: str) -> dict[str, Any]:
    """The caching options for each phase of a plan."""
    images, machine = read_data(data), find_machine()
    network = backbone.network(len(images.classes), 0, images.task)
    if network.trace is None:
        raise UsageError(
            f"{backbone.name} can only be cut at its head ({network.untraceable}), so there are no caching options"
        )
    to_device(network.model, machine.device)
    cache = cache_at(store, parse_bytes(cache_budget))
    views = Views(augment=images.augment or suited(images.train.pictures))
    decisions = []
    for phase in resolve_plan(plan, network, len(images.train)):
        decision = decide(network, phase, images, replace(views, count=phase.views or 1), machine=machine, cache=cache)
        top = max(decision.costs.forward, default=0)
        decisions.append(
            {
                "frostline": phase.frostline,
                "stored_at": _location(network, decision.option),
                "reason": decision.reason(network),
                "decode": decision.costs.decode,
                "forward": decision.costs.forward[top],
                "write": decision.costs.write,
                "read": decision.costs.read,
                "options": [{"at": _location(network, option), **_numbers(option)} for option in decision.options],
            }
        )
    return {"images": {name: len(part) for name, part in images.splits.items()}, "storing": decisions}


def _location(network: Network, option: Candidate) -> str | None:
    return None if option.cut is None else "pixels" if option.cut.position == 0 else network.name_of(option.cut)


def _numbers(option: Candidate) -> dict[str, Any]:
    return {
        "row_bytes": option.row_bytes,
        "bytes": option.bytes,
        "once": option.once,
        "again": option.again,
        "seconds": option.seconds,
        "fits": option.fits,
    }


def _stages(network: Network, frostline: str, parameters: list[int], macs: list[int] | None) -> list[dict[str, Any]]:
    depth, names = network.depth(frostline), network.stage_names()
    edges = [0, *(network.depth(name) for name in names[1:]), len(parameters) - 1]
    stages = []
    for name, shape, (start, end) in zip(names, _output_shapes(network), itertools.pairwise(edges), strict=True):
        inside = start < depth < end
        trained = sum(parameters[max(start, depth) + 1 : end + 1])
        stages.append(
            {
                "name": name,
                "output_shape": list(shape),
                "parameters": sum(parameters[start + 1 : end + 1]),
                "parameter_bytes": _number_bytes(network) * sum(parameters[start + 1 : end + 1]),
                "trained_parameters": trained,
                "frozen": start < depth and not trained,
                "macs": None if macs is None else sum(macs[start + 1 : end + 1]),
                "trains": sum(parameters[(depth if inside else start) + 1 :]),
                "stored_bytes": _stored_bytes(network, frostline if inside else name),
            }
        )
    return stages


def _output_shapes(network: Network) -> list[tuple[int, ...]]:
    if network.trace is not None:
        return [stage.shape for stage in network.stages]
    head = network.model.get_submodule(network.heads[0])
    assert isinstance(head, nn.Linear)  # noqa: S101
    return [(head.in_features,), (head.out_features,)]


def _stored_bytes(network: Network, frostline: str) -> int:
    if network.depth(frostline) == 0:
        return network.preprocessing.channels * network.preprocessing.size**2
    shape = network.find(frostline).shape if network.trace else _output_shapes(network)[0]
    return STORED_BYTES * math.prod(shape)
