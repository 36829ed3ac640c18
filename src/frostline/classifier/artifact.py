"""The classifier as files in `model/` of a run: written, verified and read.

model.safetensors   a plain state dict under the architecture's own names
model.json          how to build the network, also without Frostline, and the digests of the other files
golden.safetensors  a few synthetic pictures and their calibrated logits at the time of writing; without logits if these
                    change between calls
MODEL_CARD.md       for people
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from frostline import terminal
from frostline.backbones import load_backbone
from frostline.classifier.classifier import Classifier
from frostline.classifier.description import Description, read_description
from frostline.classifier.elsewhere import building
from frostline.classifier.many import WhenMany
from frostline.classifier.reference import FILE as REFERENCE
from frostline.data.images import Images
from frostline.errors import FrostlineError, WeightsError, reason
from frostline.files import CLASSIFIER, sha256_of, write_tensors
from frostline.machine import Machine, find_machine, to_device
from frostline.network.heads import new_head, pooled_head
from frostline.network.network import Network
from frostline.network.plain import plain_copy
from frostline.network.segmentation import dense_network
from frostline.preprocessing import Preprocessing
from frostline.remote import local_folder
from frostline.runs.run import Run, load_run, read_json, write_json

DESCRIPTION = f"model/{CLASSIFIER}"  # in a run
FILES = ("model.safetensors", "golden.safetensors")  # that it lists
GOLDEN = 4  # pictures
SHAPE = (96, 128)  # of a golden picture: not square and not the network's size, so that preprocessing is checked too
STRIDE = 16  # for segmentation every 16th logit of the map is kept
TOLERANCE = 2e-3  # relative to the spread of the logits: processors differ by 4e-6, two swapped deviations by 1.5e-2


def save_classifier(
    run: Run,
    network: Network,
    classes: tuple[str, ...],
    machine: Machine,
    task: str = "classification",
    temperature: float = 1.0,
    colours: tuple[int, ...] = (),
) -> None:
    """Write `model/` of a run: plain weights under the architecture's own names, and everything needed to use them.

    network: the final network, on the machine's device. The other arguments are as in `Classifier`.
    """
    folder = run.model
    folder.mkdir(exist_ok=True)
    write_tensors(folder / "model.safetensors", network.model.state_dict())
    classifier = Classifier(network.model.eval(), classes, network.preprocessing, machine, task, temperature)
    pictures = golden_pictures(len(network.preprocessing.mean))
    logits = _golden_logits(classifier, pictures)
    golden = {"pictures": pictures, "names": _names(classifier), "logits": logits}
    if not _difference(_golden_logits(classifier, pictures), logits) <= TOLERANCE:
        terminal.say("the outputs of the network change between calls in evaluation: no golden logits are written")
        del golden["logits"]
    write_tensors(folder / "golden.safetensors", golden)
    description = Description(
        task,
        network.origin.name,
        network.origin.weights,
        dict(network.pooled) or dict.fromkeys(network.heads),
        classes,
        network.preprocessing,
        {name: sha256_of(folder / name) for name in FILES},
        temperature,
        network.origin.licence,
        network.origin.sha256,
        building(network.origin.name, network, len(classes), task),
        colours,
    )
    write_json(run, DESCRIPTION, description.as_json())


def record_results(run: Run) -> None:
    """Add to model.json the figures of metrics.json, and where the classifier came from, when all of that is known.

    Of a split the single numbers and the interval; of the data only counts and a digest, because names are private.
    """
    described, metrics, split = read_json(run, DESCRIPTION), run.metrics, run.split
    described["metrics"] = {
        name: {
            key: value for key, value in metrics[name].items() if key == "interval" or isinstance(value, (int, float))
        }
        for name in ("valid", "test")
        if metrics[name]
    }
    described["provenance"] = {
        "packages": read_json(run, "environment.json")["packages"],
        "seed": run.config.get("seed"),
        "images": Counter(record["split"] for record in split),
        "split_sha256": sha256_of(run.path / "split.csv"),
        "reference_sha256": sha256_of(run.path / REFERENCE) if (run.path / REFERENCE).is_file() else None,
    }
    write_json(run, DESCRIPTION, described)


def golden_pictures(channels: int = 3) -> Tensor:
    """Repeatable synthetic pictures (4, 96, 128, channels) of uint8: soft colours with edges in them."""
    chance = torch.Generator().manual_seed(0)
    soft = torch.rand(GOLDEN, channels, 5, 7, generator=chance)
    edged = torch.rand(GOLDEN, channels, SHAPE[0] // 4, SHAPE[1] // 4, generator=chance)
    mixed = 0.7 * functional.interpolate(soft, SHAPE, mode="bilinear") + 0.3 * functional.interpolate(edged, SHAPE)
    return (255 * mixed).round().byte().permute(0, 2, 3, 1).contiguous()


def _golden_logits(classifier: Classifier, pictures: Tensor) -> Tensor:
    """Logits (4, classes), or (4, classes, h, w) for segmentation, from the code of all predictions."""
    arrays = [picture.squeeze(-1).numpy() for picture in pictures]
    images = Images(arrays, np.zeros(len(arrays), np.int64), [f"golden picture {i}" for i in range(len(arrays))])
    logits = torch.cat([own for _, own, _ in classifier.logits(images)])
    return logits[..., ::STRIDE, ::STRIDE].contiguous() if logits.ndim == 4 else logits


def _names(classifier: Classifier) -> Tensor:
    """A digest of the task and of the class names in their order, (32,) of uint8."""
    text = json.dumps([classifier.task, *classifier.classes]).encode()
    return torch.frombuffer(bytearray(hashlib.sha256(text).digest()), dtype=torch.uint8)


def _difference(logits: Tensor, golden: Tensor) -> float:
    """The largest difference of logits from the golden ones, relative to the spread of these."""
    if logits.shape != golden.shape:
        return math.inf
    return float((logits - golden).abs().max()) / max(float(golden.std()), 1e-3)


def load(run: str | Path | Run, model: nn.Module | None = None, machine: Machine | None = None) -> Classifier:
    """Load the classifier of a run and verify the digests of its files and its logits for the golden pictures.

    run: a run, or its folder, or a copy of its `model/`.
    model: the network (with any head), if the run used your own `nn.Module`.
    Raises UsageError if there is no run, WeightsError if the classifier is corrupt, has another format, or gives other
    outputs than when it was written.

    >>> load("runs/pets").classes  # doctest: +SKIP
    ('cat', 'dog')
    """
    run = run if isinstance(run, Run) else load_run(run)
    folder = run.model
    description = read_description(folder)
    _refuse_changed(folder, description.files)  # before anything large is made of what it says
    built = build(description, folder, model)
    network = built.model if isinstance(built, Network) else built
    _load_state(network, description, folder)
    machine = machine or find_machine(precision="fp32")
    to_device(network.eval(), machine.device)
    classifier = Classifier(
        network,
        description.classes,
        description.preprocessing,
        machine,
        description.task,
        description.temperature,
        many=_many(run, built, description.preprocessing, machine),
        colours=description.colours,
    )
    _refuse_wrong_outputs(folder, classifier)
    return classifier


def _many(run: Run, model: nn.Module | Network, preprocessing: Preprocessing, machine: Machine) -> WhenMany:
    """The faster path for many images, with the frostline and the store of the fit."""
    metrics, config = dict[str, Any](), dict[str, Any]()
    with contextlib.suppress(WeightsError):  # only model/ of the run may have been copied
        metrics, config = read_json(run, "metrics.json"), run.config
    undone = {made["phase"] for made in metrics.get("decisions", []) if not made["kept"]}
    kept = [phase["frostline"] for number, phase in enumerate(metrics.get("phases", []), 1) if number not in undone]
    store = local_folder(config.get("store")) if config.get("cache", True) else None
    return WhenMany(model, preprocessing, machine, kept[-1] if kept else "", store)


def _refuse_changed(folder: Path, files: Mapping[str, str]) -> None:
    unlisted = [name for name in FILES if name not in files]
    if unlisted:
        raise WeightsError(
            f"the classifier in {folder} is corrupt: model.json has no SHA-256 of {', '.join(unlisted)}, which every "
            "classifier needs; copy it again from an intact run, or fit again"
        )
    for name in files:
        try:
            changed = sha256_of(folder / Path(name).name) != files.get(name)
        except (OSError, ValueError) as error:  # ValueError: of a name that no file can have
            raise WeightsError(f"{folder / name} cannot be read: {reason(error)}; copy it again") from error
        if changed:
            raise WeightsError(
                f"the classifier in {folder} is corrupt: {name} differs from the file that was written (model.json has "
                "its SHA-256); copy it again from an intact run, or fit again"
            )


def _refuse_wrong_outputs(folder: Path, classifier: Classifier) -> None:
    golden = _tensors(folder / "golden.safetensors")
    try:
        difference = 0.0
        if "logits" in golden:
            difference = _difference(_golden_logits(classifier, golden["pictures"]), golden["logits"])
        named = torch.equal(golden["names"], _names(classifier))
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"the golden examples in {folder} cannot be used: {error}; fit again") from error
    if not named:
        raise WeightsError(
            f"the classifier in {folder} is corrupt: the classes in model.json, or their order, have changed since it "
            "was written; copy model.json again, or fit again"
        )
    if not difference <= TOLERANCE:  # NaN is no agreement
        raise WeightsError(
            f"the classifier in {folder} gives other outputs than when it was written: logits of the golden pictures "
            f"differ by up to {100 * difference:.3g} % of their spread, and at most {100 * TOLERANCE:g} % is rounding. "
            "Its preprocessing or temperature in model.json, or the code of its network, has changed; copy the folder "
            "again, or fit again"
        )


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{file} is corrupt: {error}; copy it again, or fit again") from error
    return tensors


def load_network(run: Run, model: nn.Module | None = None) -> tuple[Network, Description]:
    """The network of a run with its stages and its weights, on the CPU; model: as in `load`."""
    folder = run.model
    description = read_description(folder)
    _refuse_changed(folder, description.files)
    built = build(description, folder, model)
    network = built if isinstance(built, Network) else Network(built, description.preprocessing)
    _load_state(network.model, description, folder)
    return network, description


def _load_state(network: nn.Module, description: Description, folder: Path) -> None:
    state = _tensors(folder / "model.safetensors")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise _misfit(description, folder, error) from error


def build(description: Description, folder: Path, model: nn.Module | None = None) -> nn.Module | Network:
    """The network of a description, with heads of the right shape and still random weights.

    A `Network` for segmentation, else the bare module, because finding its stages takes a moment.
    """
    name, preprocessing, classes = description.backbone, description.preprocessing, len(description.classes)
    if model is None and ":" not in name:
        raise WeightsError(f"{folder} was fitted with your own {name}; pass it: frostline.load(run, model=…)")
    try:
        size = preprocessing.size
        model = load_backbone(name, "none", image_size=size).model if model is None else plain_copy(model)
        if description.task == "segmentation":
            return dense_network(model, preprocessing, classes)
        for path, shape in description.heads.items():
            head = pooled_head(shape, classes) if shape else new_head(model.get_submodule(path), classes)
            model.set_submodule(path, head)
    except (FrostlineError, AttributeError, StopIteration, ValueError, RuntimeError) as error:
        raise _misfit(description, folder, error) from error
    return model


def _misfit(description: Description, folder: Path, error: Exception) -> WeightsError:
    own = "" if ":" in description.backbone else "; model= must have the layers of the network that was saved"
    return WeightsError(f"the weights in {folder} do not fit {description.backbone}: {error}{own}")
