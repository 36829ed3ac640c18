"""What was asked for, as plain values that config.yaml can hold and `--config` gives back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from frostline.backbones import Backbone
from frostline.data.images import ImageSet
from frostline.plan import Phase, plan_as_yaml


def resolved(asked: Mapping[str, Any], images: ImageSet, backbone: Backbone, phases: list[Phase]) -> dict[str, Any]:
    """The arguments of a fit as plain values, names resolved; of functions and data, what they are called."""
    plain = {name: _plain(value) for name, value in asked.items() if name not in ("data", "backbone", "plan")}
    data = images.origin or images.name
    if not isinstance(asked["backbone"], str):  # an object: what it is, not what would have been its defaults
        plain |= {"weights": backbone.weights, "image_size": backbone.preprocessing.size}
    return {**plain, "data": data, "backbone": backbone.name, "plan": {"phases": plan_as_yaml(phases)}}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): float(number) for name, number in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return getattr(value, "__name__", None) or str(value)
