"""Models of timm, with the preprocessing of their pretrained configuration."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any

import timm
from torch import nn

from frostline.backbones.fetching import hub_offline, refuse_offline, refuse_unless_cached, refuse_unreachable
from frostline.errors import UsageError
from frostline.preprocessing import Preprocessing


@functools.cache
def names() -> tuple[str, ...]:
    return tuple(timm.list_models())


def build(name: str, weights: str) -> tuple[nn.Module, Preprocessing, str]:
    """The model, its preprocessing and where its weights are from; weights: "pretrained" or "none".

    A tag in the name picks among several pretrained weights ("resnet50.a1_in1k").
    """
    if weights not in ("pretrained", "none"):
        raise UsageError(f"no weights {weights!r} for timm:{name}; name a tag instead, as in timm:{name}.a1_in1k")
    model = _pretrained(name) if weights == "pretrained" else timm.create_model(name)
    if model.num_classes == 0:  # a feature extractor: give it a final layer that can be replaced
        model.reset_classifier(2)
    tag = model.pretrained_cfg.get("tag") or "default"
    return model, preprocessing(model), f"{name.partition('.')[0]}.{tag}" if weights == "pretrained" else "none"


def _pretrained(name: str) -> Any:
    """The model with its weights: those of the cache if it has them, else fetched; raises OSError if that cannot be."""
    from huggingface_hub import constants

    config = timm.models.get_pretrained_cfg(name)
    if config is not None and config.url and not config.hf_hub_id:
        refuse_unless_cached(config.url)
        return timm.create_model(name, pretrained=True)
    with hub_offline(), contextlib.suppress(Exception):  # whatever the cache lacks, the second try tells
        return timm.create_model(name, pretrained=True)
    refuse_offline("HF_HUB_OFFLINE")
    refuse_unreachable(constants.ENDPOINT)
    return timm.create_model(name, pretrained=True)


def preprocessing(model: nn.Module) -> Preprocessing:
    """What timm's own evaluation transform for this model does."""
    config = timm.data.resolve_model_data_config(model)
    size = config["input_size"][1]
    return Preprocessing(
        size=size,
        resize=math.floor(size / config["crop_pct"]),
        interpolation=config["interpolation"],
        crop="squash" if config["crop_mode"] == "squash" else "center",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
