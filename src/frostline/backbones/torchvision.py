"""Classification models of torchvision, with the preprocessing of their weights enum."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from typing import Any

import torchvision.models as models
from torch import nn

from frostline.backbones.fetching import refuse_unless_cached, torch_file
from frostline.backbones.provenance import NOT_STATED, Provenance, tensors_sha256
from frostline.errors import UsageError, WeightsError
from frostline.files import sha256_of
from frostline.preprocessing import Preprocessing

# changes that torchvision makes when it loads weights; made here without them, for weights of a run or a file
AS_PRETRAINED = {
    "googlenet": {"aux_logits": False, "transform_input": True},
    "inception_v3": {"transform_input": True},
}


@functools.cache
def names() -> tuple[str, ...]:
    return tuple(models.list_models(module=models))


def on_this_machine() -> tuple[str, ...]:
    """The names whose default weights torch.hub has downloaded before."""
    urls = {name: models.get_model_weights(name).DEFAULT.url for name in names()}
    return tuple(name for name, url in urls.items() if torch_file(url).is_file())


def build(name: str, weights: str) -> tuple[nn.Module, Preprocessing, Provenance]:
    """The model, its preprocessing and the provenance of its weights.

    weights: "pretrained" for the enum's default, "none", or a member of the enum ("IMAGENET1K_V1").
    Few of torchvision's weights state a licence, as a URL; the library's licence does not cover them.
    """
    enum = models.get_model_weights(name)
    chosen: Any = None
    if weights == "pretrained":
        chosen = enum.DEFAULT
    elif weights != "none":
        if weights not in enum.__members__:
            raise UsageError(f"torchvision:{name} has no weights {weights!r}; it has {', '.join(enum.__members__)}")
        chosen = enum[weights]
    if chosen is not None:
        refuse_unless_cached(chosen.url)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):  # torch announces downloads on the former
        warnings.simplefilter("ignore")  # GoogLeNet and Inception announce a slower future initialisation
        if chosen is not None:
            _refuse_code(chosen)
        model = models.get_model(name, weights=chosen, **(AS_PRETRAINED.get(name, {}) if chosen is None else {}))
    transforms = (chosen or next(iter(enum))).transforms()
    return model, _preprocessing(transforms), _provenance(chosen, model) if chosen else Provenance()


def _refuse_code(weights: Any) -> None:
    """Fetch and read a file of weights as tensors only: torchvision itself would run code that is in it."""
    try:
        weights.get_state_dict(check_hash=True, weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise WeightsError(
            f"{torch_file(weights.url)} is corrupt, or holds code, which was not run; remove it and try again"
        ) from error


def _provenance(weights: Any, model: nn.Module) -> Provenance:
    file, licence = torch_file(weights.url), weights.meta.get("license") or NOT_STATED
    return Provenance(str(weights), licence, sha256_of(file) if file.is_file() else tensors_sha256(model))


def _preprocessing(transforms: Any) -> Preprocessing:
    return Preprocessing(
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
