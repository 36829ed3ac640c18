"""Pretrained networks by name: one module per source.

Each has `names()`, `build(name, weights)` and `on_this_machine()`, the names whose weights need no download.
"""

from __future__ import annotations

import copy
import fnmatch
import importlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline.backbones import bundled
from frostline.backbones.fetching import something_cached
from frostline.backbones.provenance import NOT_STATED, Provenance, tensors_sha256
from frostline.backbones.weights import PICKLED, licence_of, load_weights
from frostline.errors import FrostlineError, MachineError, UsageError, reason, unknown
from frostline.files import sha256_of
from frostline.network.network import Network, Origin
from frostline.network.segmentation import dense_network
from frostline.network.tracing import DoesNotRunError, Leaf, NotTraceableError, run_once
from frostline.preprocessing import Preprocessing

SOURCES = ("bundled", "torchvision", "timm")
DEFAULT = "efficientnet-lite0"
GREY, SPREAD = (0.459,), (0.226,)  # mean and deviation of ImageNet's luma, from those of its RGB


@dataclass(frozen=True)
class Backbone:
    """A network with its original head, and everything about its weights.

    name: "source:name", or the class of your own module.
    weights: their origin; "none" for a random initialisation.
    untrained: parameters for which no weights were found, except the final layers.
    leaves: module classes, and functions, that count as one step of the network.
    licence: of the weights, as stated by their source; "unknown" if it states none, "none" for random weights.
    sha256: in hexadecimal, of the loaded weights file: that of the pip package, in a hub's cache, or your own.
        Without a file (your own module), of the tensors' bytes in the order of the state dict. None for random
        weights, and for a module with tensors that are more than numbers.
    """

    name: str
    model: nn.Module = field(repr=False)
    preprocessing: Preprocessing
    weights: str = "none"
    untrained: frozenset[str] = field(default=frozenset(), repr=False)
    note: str = ""
    leaves: tuple[Leaf, ...] = ()
    licence: str = NOT_STATED
    sha256: str | None = None

    def network(self, classes: int, seed: int = 0, task: str = "classification") -> Network:
        """A copy of the network, with its cuts and stages and a new head for `classes` classes; seed: of the new head.

        task: "classification" and "multilabel" give logits (B, classes), "segmentation" (B, classes, size, size).
        """
        network = self._with_head(classes, seed, task)
        network.origin = Origin(self.name, self.weights, self.licence, self.sha256)
        return network

    def _with_head(self, classes: int, seed: int, task: str) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
            if task == "segmentation":
                return dense_network(copy.deepcopy(self.model), self.preprocessing, classes, self.leaves)
            network = Network(copy.deepcopy(self.model), self.preprocessing, leaves=self.leaves)
            if network.trace is not None and len(network.trace.output_shape) != 1:
                raise UsageError(
                    f"{self.name} gives an output of shape {network.trace.output_shape} per image, not one row of "
                    "logits; use a classification network"
                )
            return network.replace_head(classes, self.untrained)


def load_backbone(
    name: str | nn.Module | Backbone = DEFAULT,
    weights: str | Path = "pretrained",
    *,
    preprocessing: Preprocessing | None = None,
    image_size: int | None = None,
    seed: int = 0,
    leaves: Sequence[Leaf] = (),
) -> Backbone:
    """A backbone by name ("torchvision:resnet18", "timm:vit_tiny_patch16_224", "efficientnet-lite0") or your own.

    name: "source:name", or a bare name if only one source has it; or an `nn.Module`: (B, C, H, W) -> (B, classes),
        where C is 3 (RGB) or 1 (grey).
    weights: "pretrained", "none", a file (.safetensors; .pth read with weights only), or a name that the source knows.
    preprocessing: for your own module; by default ImageNet's mean and deviation, of RGB or grey, at 224 pixels.
    image_size: another input size in pixels; the cropped share stays the same.
    seed: for random initialisation.
    leaves: classes of blocks, and functions, of your own module whose Python cannot be traced (`if x.sum() > 0`);
        each is then one step, and the network can be cut above or below it.

    Raises UsageError for an unknown name, WeightsError for unusable weights, MachineError if they are unavailable.
    """
    if isinstance(name, Backbone):
        backbone = name
    elif isinstance(name, nn.Module):
        how, digest = preprocessing or Preprocessing(), tensors_sha256(name)
        backbone = Backbone(type(name).__name__, name, how, "given", leaves=tuple(leaves), sha256=digest)
    elif isinstance(name, str):
        backbone = _by_name(name, str(weights), seed)
    else:
        raise UsageError(f"backbone is a {type(name).__name__}; it must be a name, an nn.Module or a Backbone")
    if image_size is None or image_size == backbone.preprocessing.size:
        return _in_its_channels(backbone) if isinstance(name, nn.Module) else backbone
    if not 16 <= image_size <= 4096:
        raise UsageError(f"image_size is {image_size} pixels; it must be 16 … 4096")
    backbone = _resized(backbone, image_size)
    return _in_its_channels(backbone) if isinstance(name, nn.Module) else backbone


def shrunk(backbone: Backbone, size: int) -> Backbone:
    """The backbone for images of `size` pixels, if that is smaller than its own size and it accepts any size.

    Transformers keep their size, because their position embedding fits only one.
    """
    preprocessing = backbone.preprocessing
    takes_any = not callable(getattr(backbone.model, "set_input_size", None))
    if size >= preprocessing.size or not takes_any or not _takes(backbone.model, (len(preprocessing.mean), size, size)):
        return backbone
    return _resized(backbone, size)


def _in_its_channels(backbone: Backbone) -> Backbone:
    """Your own module with mean and deviation for its number of channels, which is found by trying.

    Raises UsageError for a module that accepts neither RGB nor grey images.
    """
    preprocessing, model = backbone.preprocessing, backbone.model
    if (preprocessing.mean, preprocessing.std) != (Preprocessing.mean, Preprocessing.std):
        return backbone  # set by its owner
    first = [layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)][:1]
    sizes = (preprocessing.size, preprocessing.size)
    channels = next((n for n in (3, 1, *first) if _takes(model, (n, *sizes))), 3)
    if channels not in (1, 3):
        raise UsageError(f"the network needs images of {channels} channels; use one for 3 (RGB) or 1 (grey)")
    return backbone if channels == 3 else replace(backbone, preprocessing=replace(preprocessing, mean=GREY, std=SPREAD))


def _takes(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a network runs on images of shape (channels, height, width)."""
    try:
        run_once(model, shape)
    except DoesNotRunError:
        return False
    except NotTraceableError:  # it runs, even if its output has the wrong form
        pass
    return True


def _resized(backbone: Backbone, size: int) -> Backbone:
    if callable(getattr(backbone.model, "set_input_size", None)):
        backbone = replace(backbone, model=copy.deepcopy(backbone.model))  # the owner's stays unchanged
    resize = getattr(backbone.model, "set_input_size", None)
    if callable(resize):  # timm's transformers resample their position embedding
        try:
            resize((size, size))
        except Exception as error:
            raise UsageError(f"{backbone.name} does not accept images of {size} pixels: {error}") from error
    return replace(backbone, preprocessing=backbone.preprocessing.at_size(size))


def resolve(name: str) -> tuple[str, str]:
    """The source and the name in it; raises UsageError for an unknown or ambiguous name."""
    source, colon, rest = name.partition(":")
    if colon:
        if source not in SOURCES:
            raise unknown("source of backbones", source, SOURCES)
        if rest.partition(".")[0] not in _source(source).names():
            raise unknown("backbone", name, [f"{source}:{n}" for n in _source(source).names()])
        return source, rest
    if name == "auto":
        raise UsageError(
            "only fit and compare accept backbone auto, which tries the backbones on this machine; name a backbone here"
        )
    if name in bundled.names():  # first, because the other sources take seconds to import
        return "bundled", name
    if (near := name.replace("_", "-")) in bundled.names():
        raise UsageError(
            f"{name!r} is timm's, with other weights than {near}, which come with pip; use timm:{name} or {near}"
        )
    having = [s for s in SOURCES if name.partition(".")[0] in _source(s).names()]
    if len(having) > 1:
        spellings = " or ".join(f"{s}:{name}" for s in having)
        raise UsageError(f"{name!r} is in several sources, with different weights; use {spellings}")
    if not having:
        raise unknown("backbone", name, [f"{s}:{n}" for s in SOURCES for n in _source(s).names()])
    return having[0], name


def list_backbones(pattern: str = "*") -> list[str]:
    """The names of all backbones that match a shell pattern; a plain word matches anywhere in the name."""
    pattern = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    return [full for s in SOURCES for n in _source(s).names() if fnmatch.fnmatch(full := f"{s}:{n}", pattern)]


def on_this_machine() -> list[str]:
    """The names of all backbones whose pretrained weights can be loaded without a download."""
    sources = SOURCES if something_cached() else SOURCES[:1]  # the others take seconds to import
    return [f"{source}:{name}" for source in sources for name in _source(source).on_this_machine()]


def _source(source: str) -> Any:
    return importlib.import_module(f"frostline.backbones.{source}")


def _by_name(name: str, weights: str, seed: int) -> Backbone:
    source, short = resolve(name)
    full = f"{source}:{short}"
    is_path = not {"/", os.sep}.isdisjoint(weights)
    is_file = is_path or weights.endswith((".safetensors", *PICKLED)) or Path(weights).exists()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the accelerators too
        model, preprocessing, provenance = _build(source, short, "none" if is_file else weights)
    model.eval()
    if not is_file:
        return _with(provenance, Backbone(full, model, preprocessing))
    heads = Network(model, preprocessing).heads
    file = Path(weights)
    match = load_weights(model, file, heads)
    own = dict(model.named_parameters())
    untrained = frozenset(n for n in match.missing if n in own)
    provenance = Provenance(f"file:{file.name}", licence_of(file), sha256_of(file))
    return _with(provenance, Backbone(full, model, preprocessing, untrained=untrained, note=str(match)))


def _with(provenance: Provenance, backbone: Backbone) -> Backbone:
    return replace(backbone, **asdict(provenance))


def _build(source: str, name: str, weights: str) -> tuple[nn.Module, Preprocessing, Provenance]:
    built: tuple[nn.Module, Preprocessing, Provenance]
    try:
        built = _source(source).build(name, weights)
    except FrostlineError:
        raise
    except Exception as error:
        if weights == "none":
            raise
        raise MachineError(
            f"the pretrained weights of {source}:{name} are not on this machine and could not be downloaded "
            f"({reason(error)}); "
            f"give --weights FILE, --weights none, or use the backbone {DEFAULT}, whose weights come with pip"
        ) from error
    return built
