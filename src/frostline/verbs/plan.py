"""The plan that a fit would run, to look at and to edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from frostline.backbones import load_backbone
from frostline.data import read_data
from frostline.data.views import Views
from frostline.fitting.options import Options
from frostline.fitting.setup import augmentation, planned
from frostline.plan import Phase, plan_as_yaml

if TYPE_CHECKING:
    from torch import nn

    from frostline.backbones import Backbone
    from frostline.data import Data

HEAD = """# Each phase trains what lies above its frostline; everything below it is frozen and computed once.
# The frostline sinks from phase to phase. epochs: 0 solves the head instead of training it.
# Edit, then: frostline fit DATA --backbone {backbone} --plan THIS-FILE
"""


def make_plan(
    backbone: str | nn.Module | Backbone = "efficientnet-lite0", data: Data | None = None, **options: Any
) -> list[Phase]:
    """The phases that `fit(data, backbone=…, **options)` would run.

        phases = frostline.make_plan("torchvision:resnet18", plan="gradual")
        [phase.frostline for phase in phases]  # ["head", "layer4", "layer3"]

    data: as for `fit`; without it the number of views stays open, and of plan auto that of epochs is for few
        images: they depend on how many there are.
    options: as of `fit`; weights are not needed to see the stages, so there are none unless they are named.

    Raises UsageError for a plan that does not fit the backbone.
    """
    chosen = Options(data if data is not None else "", backbone=backbone, **{"weights": "none", **options})
    loaded = load_backbone(chosen.backbone, chosen.weights, image_size=chosen.image_size, seed=chosen.seed)
    if data is None:
        recipe = chosen.augment if chosen.augment != "auto" else "light"
        return list(planned(chosen, loaded.network(2, chosen.seed), None, Views(augment=recipe)))
    images = read_data(chosen.data, chosen.seed, download=chosen.download)
    network = loaded.network(len(images.classes), chosen.seed, images.task)
    return list(planned(chosen, network, len(images.train), augmentation(chosen, images)))


def as_yaml(phases: list[Phase], backbone: str = "BACKBONE") -> str:
    """A plan file for a backbone, with what each phase uses written out."""
    items = []
    for phase, values in zip(phases, plan_as_yaml(phases), strict=True):
        if not phase.race:  # which measures it
            values["lr"] = phase.learning_rate
        unused = {"momentum"} if phase.optimizer != "sgd" else set()
        unused |= set() if phase.race else {"race"}
        if phase.epochs == 0:
            unused = values.keys() - {"frostline", "epochs", "views"}
        items.append({name: value for name, value in values.items() if name not in unused and value is not None})
    return HEAD.format(backbone=backbone) + yaml.safe_dump({"phases": items}, sort_keys=False, allow_unicode=True)
