"""What a backbone offers before anything is trained: its stages, and what a frostline at each would cost."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from frostline.backbones import Backbone, load_backbone
from frostline.data import Data, read_data
from frostline.data.views import Views, suited
from frostline.errors import UsageError
from frostline.files import default_folder, parse_bytes
from frostline.machine import find_machine
from frostline.network.counting import macs_by_position, parameters_by_position
from frostline.network.network import Network
from frostline.plan import Plan, resolve_plan
from frostline.store.costs import Candidate
from frostline.store.placement import decide
from frostline.store.shards import Cache

STORED_BYTES = 2  # a number in bf16


def inspect(
    backbone: str | nn.Module | Backbone,
    *,
    weights: str | Path = "none",
    image_size: int | None = None,
    frostline: str = "head",
    data: Data | None = None,
    plan: Plan = "gradual",
    cache_dir: str | Path | None = None,
    cache_budget: str = "20GB",
) -> dict[str, Any]:
    """The stages of a backbone from the image to its own head, and what a phase with that frostline trains of them.

    frostline: a stage or a module path; what lies below is frozen and computed once.

    Of each stage: name, output_shape of one image, parameters, trained_parameters, `frozen` (nothing in it trains),
    `macs` (multiply-accumulates of one image in the forward pass: convolutions, matrix products and attention; None
    where they cannot be counted), and what the frostline would cost right below the stage: `trains` (parameters from
    there to the head) and `stored_bytes` (an image; decoded pixels below the first stage). Of a stage that the
    frostline lies inside, these two are counted from the frostline.

    In all: total_parameters, trained_parameters, frozen_parameters, total_macs, trained_macs (what every epoch
    computes; the rest is computed once), stored_bytes.

    data: labelled images, as for `fit`. With them, what storing is worth is measured here: `storing` has for each phase
        of `plan` the frostline, `stored_at` (a stage or module, "pixels", or None) and all `ways` that were weighed,
        each with `at`, row_bytes, bytes, seconds `once` and `again` (all epochs of two fits), and whether it `fits` the
        store's budget; and the costs: seconds to `decode` a view and to compute all that is frozen (`forward`), bytes a
        second of `write` and `read`. `docs/architecture.md` has the formula.
    plan, cache_dir, cache_budget: as for `fit`; used with `data` only.

    Raises UsageError where there is no such frostline.
    """
    chosen = load_backbone(backbone, weights, image_size=image_size)
    network = Network(chosen.model, chosen.preprocessing)
    frostline = network.resolve(frostline)
    depth = network.depth(frostline)
    parameters, macs = parameters_by_position(network), macs_by_position(network)
    trained = sum(parameters[depth + 1 :])
    decision = _weighed(chosen, data, plan, cache_dir, cache_budget) if data is not None else {}
    return {
        "backbone": chosen.name,
        "weights": chosen.weights,
        "image_size": chosen.preprocessing.size,
        "cuts": len(network.trace.cuts) if network.trace else 2,
        "untraceable": network.untraceable,
        "frostline": frostline,
        "total_parameters": sum(parameters),
        "trained_parameters": trained,
        "frozen_parameters": sum(parameters) - trained,
        "total_macs": None if macs is None else sum(macs),
        "trained_macs": None if macs is None else sum(macs[depth + 1 :]),
        "stored_bytes": _stored_bytes(network, frostline),
        "stages": _stages(network, frostline, parameters, macs),
        **decision,
    }


def _weighed(
    backbone: Backbone, data: Data, plan: Plan, cache_dir: str | Path | None, cache_budget: str
) -> dict[str, Any]:
    """What it is worth to store for each phase of a plan."""
    images, machine = read_data(data), find_machine()
    network = backbone.network(len(images.classes), 0, images.task)
    if network.trace is None:
        raise UsageError(f"{backbone.name} cannot be cut but at its head ({network.untraceable}): nothing to weigh")
    cache = Cache(Path(cache_dir or default_folder()), parse_bytes(cache_budget))
    views = Views(augment=images.augment or suited(images.train.pictures))
    found = []
    for phase in resolve_plan(plan, network.stages, len(images.train)):
        decision = decide(network, phase, images, replace(views, count=phase.views or 1), machine=machine, cache=cache)
        top = max(decision.costs.forward, default=0)
        found.append(
            {
                "frostline": phase.frostline,
                "stored_at": _place(network, decision.option),
                "reason": decision.reason(network),
                "decode": decision.costs.decode,
                "forward": decision.costs.forward[top],
                "write": decision.costs.write,
                "read": decision.costs.read,
                "ways": [{"at": _place(network, way), **_numbers(way)} for way in decision.options],
            }
        )
    return {"images": {name: len(part) for name, part in images.splits.items()}, "storing": found}


def _place(network: Network, way: Candidate) -> str | None:
    return None if way.cut is None else "pixels" if way.cut.position == 0 else network.name_of(way.cut)


def _numbers(way: Candidate) -> dict[str, Any]:
    return {
        "row_bytes": way.row_bytes,
        "bytes": way.bytes,
        "once": way.once,
        "again": way.again,
        "seconds": way.seconds,
        "fits": way.fits,
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
        return 3 * network.preprocessing.size**2
    shape = network.find(frostline).shape if network.trace else _output_shapes(network)[0]
    return STORED_BYTES * math.prod(shape)
