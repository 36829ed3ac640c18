"""The options of a fit as plain values, which config.yaml holds and `--config` reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.backbones import Backbone
from frostline.data.images import ImageSet
from frostline.errors import UsageError, unknown
from frostline.plan import Phase, phase_from, plan_as_yaml
from frostline.values import read_yaml


def resolved(options: Any, images: ImageSet, backbone: Backbone, plan: Sequence[Phase]) -> dict[str, Any]:
    """The options of a fit as plain values, with names resolved; functions and data are represented by their names."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    config = {name: plain(value) for name, value in values.items() if name not in ("data", "backbone", "plan")}
    if not isinstance(values["backbone"], str):  # an object: its own values, not the defaults
        config |= {"weights": backbone.weights, "image_size": backbone.preprocessing.size}
    data = images.origin or images.name
    return {"data": data, "backbone": backbone.name, **config, "plan": {"phases": plan_as_yaml(plan)}}


def plain(value: Any) -> Any:
    """An option as YAML holds it; an object by its name."""
    if isinstance(value, Mapping):
        return {str(name): float(number) for name, number in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return getattr(value, "__name__", None) or str(value)


def read_config(file: Path, known: Sequence[str]) -> dict[str, Any]:
    """The options of a config.yaml, its plan as phases; raises UsageError for names that are not `known`.

    The options themselves check the values.
    """
    config = read_yaml(file)
    if not isinstance(config, dict):
        raise UsageError(f"{file} is not a configuration; it must be a mapping of options")
    for name in config:
        if name not in known:
            raise UsageError(f"{file}: {unknown('option', str(name), known)}")
    if isinstance(config.get("plan"), dict):
        phases = config["plan"].get("phases")
        if not isinstance(phases, list) or not phases:
            raise UsageError(f"{file}: the plan has no list of phases; `frostline plan BACKBONE` prints one")
        config["plan"] = [phase_from(item, f"{file}, phase {i}") for i, item in enumerate(phases, 1)]
    return config
