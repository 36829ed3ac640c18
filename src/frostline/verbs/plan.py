"""The plan that a fit would run, to read and to edit."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from frostline import terminal
from frostline.backbones import load_backbone
from frostline.data.views import Views
from frostline.fitting.options import Options
from frostline.fitting.setup import planned, prepare
from frostline.plan import Phase, check_plan, plan_as_yaml

if TYPE_CHECKING:
    from torch import nn

    from frostline.backbones import Backbone
    from frostline.data import Data

HEAD = """# Each phase trains the layers above its frostline; everything below is frozen and computed once.
# The frostline sinks from phase to phase. epochs: 0 solves the head instead of training it.
"""
RACE = """# race: true tries two learning rates if the phase sets none. The phase is kept only if a paired test on the
# validation images shows an improvement; else it is undone, and the plan ends.
"""
USE = "# Edit, then: frostline fit DATA --backbone {backbone}{flags} --plan THIS-FILE\n"
BESIDE = ("image_size", "class_weights")  # defaults of plan auto that are not part of a phase


def make_plan(
    backbone: str | nn.Module | Backbone = "efficientnet-lite0", data: Data | None = None, **options: Any
) -> list[Phase]:
    """The phases that `fit(data, backbone=…, **options)` would run.

        phases = frostline.make_plan("torchvision:resnet18", plan="gradual")
        [phase.frostline for phase in phases]  # ["head", "layer4", "layer3"]

    data: as for `fit`. Views and epochs depend on the number of images: without data the views stay open, and plan auto
        gets the epochs for few images.
    options: as for `fit`; the stages need no weights, so the default is none.

    Raises UsageError for a plan that does not fit the backbone.
    """
    return plan_and_flags(backbone, data, **options)[0]


def plan_and_flags(
    backbone: str | nn.Module | Backbone, data: Data | None = None, **options: Any
) -> tuple[list[Phase], dict[str, Any]]:
    """The phases of `make_plan`, and the defaults of plan auto beside them: options of `fit` by name."""
    chosen = Options(data if data is not None else "", backbone=backbone, **{"weights": "none", **options})
    check_plan(chosen.plan)
    if data is None:
        found = load_backbone(chosen.backbone, chosen.weights, image_size=chosen.image_size, seed=chosen.seed)
        recipe = chosen.augment if chosen.augment != "auto" else "light"
        return list(planned(chosen, found.network(2, chosen.seed), None, Views(augment=recipe))), {}
    with tempfile.TemporaryDirectory(prefix="frostline-") as folder, terminal.quiet():
        job = prepare(replace(chosen, out=Path(folder, "run"), cache=False))
    return list(job.plan), {
        name: value for name in BESIDE if isinstance(value := getattr(job.options, name), (str, int))
    }


def as_yaml(phases: list[Phase], backbone: str = "BACKBONE", **flags: Any) -> str:
    """A plan file for a backbone, with all values that each phase uses; flags: options for `fit` beside the plan."""
    items = []
    for phase, values in zip(phases, plan_as_yaml(phases), strict=True):
        if not phase.race:  # a race finds it
            values["lr"] = phase.learning_rate
        unused = {"momentum"} if phase.optimizer != "sgd" else set()
        unused |= set() if phase.race else {"race"}
        if phase.epochs == 0:
            unused = values.keys() - {"frostline", "epochs", "views"}
        items.append({name: value for name, value in values.items() if name not in unused and value is not None})
    shown = "".join(f" --{name.replace('_', '-')} {value}" for name, value in flags.items())
    head = HEAD + RACE * any(phase.race for phase in phases) + USE.format(backbone=backbone, flags=shown)
    return head + yaml.safe_dump({"phases": items}, sort_keys=False, allow_unicode=True)
