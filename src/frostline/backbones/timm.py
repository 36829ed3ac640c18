"""Models of timm, with the preprocessing of their pretrained configuration."""

from __future__ import annotations

import contextlib
import functools
import math
from pathlib import Path
from typing import Any

import timm
from torch import nn

from frostline.backbones.fetching import (
    hub_offline,
    refuse_offline,
    refuse_unless_cached,
    refuse_unreachable,
    torch_file,
)
from frostline.backbones.provenance import NOT_STATED, Provenance, tensors_sha256
from frostline.errors import UsageError
from frostline.files import sha256_of
from frostline.preprocessing import Preprocessing

# the file that timm tries first if a configuration names one of these
SAFE = {"pytorch_model.bin": "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}


@functools.cache
def names() -> tuple[str, ...]:
    return tuple(timm.list_models())


def on_this_machine() -> tuple[str, ...]:
    """The names, with tags, whose weights have been downloaded before."""
    configs = {name: timm.models.get_pretrained_cfg(name) for name in timm.list_pretrained()}
    return tuple(name for name, config in configs.items() if config is not None and cached_file(config))


def build(name: str, weights: str) -> tuple[nn.Module, Preprocessing, Provenance]:
    """The model, its preprocessing and the provenance of its weights; weights: "pretrained" or "none".

    A tag in the name picks among several pretrained weights ("resnet50.a1_in1k").
    """
    if weights not in ("pretrained", "none"):
        raise UsageError(
            f"timm:{name} has no weights {weights!r}; add a tag to the name instead, as in timm:{name}.a1_in1k"
        )
    model = _pretrained(name) if weights == "pretrained" else timm.create_model(name)
    provenance = _provenance(name, model) if weights == "pretrained" else Provenance()
    if model.num_classes == 0:  # a feature extractor: give it a final layer that can be replaced
        model.reset_classifier(2)
    return model, preprocessing(model), provenance


def _provenance(name: str, model: Any) -> Provenance:
    config = model.pretrained_cfg
    file = cached_file(timm.models.get_pretrained_cfg(name))
    return Provenance(
        f"{name.partition('.')[0]}.{config.get('tag') or 'default'}",
        config.get("license") or NOT_STATED,
        sha256_of(file) if file else tensors_sha256(model),
    )


def cached_file(config: Any) -> Path | None:
    """The cached file of pretrained weights that timm would load, None if there is none."""
    from huggingface_hub import constants, try_to_load_from_cache

    if config is None:
        return None
    if not config.hf_hub_id:
        file = torch_file(config.url) if config.url else None
        return file if file and file.is_file() else None
    repository, _, revision = config.hf_hub_id.partition("@")
    wanted = config.hf_hub_filename or "pytorch_model.bin"
    safe = SAFE.get(wanted, f"{Path(wanted).stem}.safetensors")
    for name in (safe, wanted):
        found = try_to_load_from_cache(repository, name, cache_dir=constants.HF_HUB_CACHE, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def _pretrained(name: str) -> Any:
    """The model with its weights, from the cache or else downloaded; raises OSError if that is impossible."""
    from huggingface_hub import constants

    config = timm.models.get_pretrained_cfg(name)
    if config is not None and config.url and not config.hf_hub_id:
        refuse_unless_cached(config.url)
        return timm.create_model(name, pretrained=True)
    with hub_offline(), contextlib.suppress(Exception):  # the second try reports what the cache lacks
        return timm.create_model(name, pretrained=True)
    refuse_offline("HF_HUB_OFFLINE")
    refuse_unreachable(constants.ENDPOINT)
    return timm.create_model(name, pretrained=True)


def preprocessing(model: nn.Module) -> Preprocessing:
    """The preprocessing of timm's own evaluation transform for this model."""
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
