"""Models of timm, with the preprocessing of their pretrained configuration."""

from __future__ import annotations

import functools
import math
import socket
from urllib.parse import urlsplit

import timm
from torch import nn

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
    if weights == "pretrained":
        _spare_retries()
    model = timm.create_model(name, pretrained=weights == "pretrained")
    if model.num_classes == 0:  # a feature extractor: give it a final layer that can be replaced
        model.reset_classifier(2)
    tag = model.pretrained_cfg.get("tag") or "default"
    return model, preprocessing(model), f"{name.partition('.')[0]}.{tag}" if weights == "pretrained" else "none"


def _spare_retries() -> None:
    """Without a network the hub's client retries for most of a minute before it looks into its own cache."""
    from huggingface_hub import constants

    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True


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
