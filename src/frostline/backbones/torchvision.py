"""Classification models of torchvision, with the preprocessing of their weights enum."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torchvision.models as models
from torch import nn

from frostline.backbones.fetching import refuse_unless_cached
from frostline.errors import UsageError
from frostline.preprocessing import Preprocessing


@functools.cache
def names() -> tuple[str, ...]:
    return tuple(models.list_models(module=models))


def build(name: str, weights: str) -> tuple[nn.Module, Preprocessing, str]:
    """The model, its preprocessing and where its weights are from.

    weights: "pretrained" for the enum's default, "none", or a member of the enum ("IMAGENET1K_V1").
    """
    enum = models.get_model_weights(name)
    chosen: Any = None
    if weights == "pretrained":
        chosen = enum.DEFAULT
    elif weights != "none":
        if weights not in enum.__members__:
            raise UsageError(f"no weights {weights!r} for torchvision:{name}; there are {', '.join(enum.__members__)}")
        chosen = enum[weights]
    if chosen is not None:
        refuse_unless_cached(chosen.url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet and Inception announce a slower future initialisation
        model = models.get_model(name, weights=chosen)
    transforms = (chosen or next(iter(enum))).transforms()
    return model, _preprocessing(transforms), str(chosen or "none")


def _preprocessing(transforms: Any) -> Preprocessing:
    return Preprocessing(
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
