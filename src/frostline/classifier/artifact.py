"""The classifier as files: what is written, verified and read."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from frostline import terminal
from frostline.backbones import Backbone, load_backbone
from frostline.classifier.classifier import Classifier
from frostline.data.images import ImageSet, spread
from frostline.data.pictures import decoded
from frostline.data.views import PLAIN
from frostline.errors import WeightsError
from frostline.files import write_atomically
from frostline.machine import Machine, find_machine, to_device
from frostline.network.heads import new_head, pooled_head
from frostline.network.network import Network
from frostline.network.segmentation import dense_network
from frostline.preprocessing import Preprocessing, preprocessing_from
from frostline.runs.run import Run, load_run, write_json, write_text
from frostline.store.activations import Activations

FORMAT = 2
GOLDEN = 8


def save_classifier(run: Run, backbone: Backbone, network: Network, images: ImageSet) -> None:
    """Write `model/` of a run: plain weights under the architecture's own names, and all that is needed to use them."""
    folder = run.path / "model"
    folder.mkdir(exist_ok=True)
    heads: dict[str, object] = dict(network.pooled) or dict.fromkeys(network.heads)
    state = {name: value.detach().cpu().contiguous() for name, value in network.model.state_dict().items()}
    write_atomically(folder / "model.safetensors", save(state))
    write_text(run, "model/MODEL_CARD.md", _card(run, backbone, images))
    write_json(
        run,
        "model/model.json",
        {
            "format": FORMAT,
            "task": images.task,
            "backbone": backbone.name,
            "weights": backbone.weights,
            "heads": heads,
            "classes": list(images.classes),
            "preprocessing": asdict(network.preprocessing),
        },
    )


def save_golden(
    run: Run, valid: Activations, probabilities: Tensor, preprocessing: Preprocessing, precision: str
) -> None:
    """A few validation images with the probabilities that training saw: what a loaded classifier must reproduce.

    They come from the stored activations, so the tolerance is that of the store's precision.
    """
    chosen = spread(len(valid.images), GOLDEN)
    images = valid.images.take(chosen)
    wanted = {i: [0] for i in range(len(images))}
    pictures = np.concatenate([p for _, p, _ in decoded(images, wanted, PLAIN, preprocessing, 1)])
    content = {"pixels": torch.from_numpy(pictures), "probabilities": probabilities[torch.from_numpy(chosen)]}
    tolerance = 0.1 if precision == "bf16" else 0.001
    (run.path / "model").mkdir(exist_ok=True)
    write_atomically(run.path / "model" / "golden.safetensors", save(content, {"tolerance": str(tolerance)}))


def _card(run: Run, backbone: Backbone, images: ImageSet) -> str:
    def plain(text: str) -> str:
        return "".join("\\" + c if c in r"\`*_{}[]<>#|" else c for c in terminal.printable(text))

    shown = "\n".join(f"- {plain(name)}" for name in images.classes[:200])
    what = {"classification": "An image classifier", "multilabel": "A classifier that gives an image several labels"}
    return (
        f"# {plain(run.path.name)}\n\n{what.get(images.task, 'A classifier of pixels')} trained with Frostline.\n\n"
        f"- backbone: {plain(backbone.name)} (weights: {plain(backbone.weights)})\n"
        f"- input: RGB, {backbone.preprocessing.size} × {backbone.preprocessing.size} pixels\n"
        f"- results: see `metrics.json` of the run\n\n## Classes\n\n{shown}\n"
        "\n## Limits\n\nIt answers for any image with one of these classes, also for images of none of them.\n"
    )


def load_classifier(
    run: str | Path | Run, model: nn.Module | None = None, machine: Machine | None = None
) -> Classifier:
    """The classifier of a run.

    model: the network (with any head) where the run was made with an `nn.Module` of your own.
    Raises UsageError without a run there, WeightsError where the classifier is corrupt or of a newer format.
    """
    path = (run if isinstance(run, Run) else load_run(run)).path / "model"
    try:
        about = json.loads((path / "model.json").read_text(encoding="utf-8"))
        state = load_file(path / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"the classifier in {path} is corrupt: {error}") from error
    needed = ("task", "backbone", "heads", "classes", "preprocessing")
    if not isinstance(about, dict) or (about.get("format") == FORMAT and not all(name in about for name in needed)):
        raise WeightsError(f"the classifier in {path} is corrupt: model.json lacks one of {', '.join(needed)}")
    if about.get("format") != FORMAT:
        raise WeightsError(f"{path} has format {about.get('format')}; this version of Frostline reads format {FORMAT}")
    preprocessing = preprocessing_from(about["preprocessing"])
    if model is None and ":" not in about["backbone"]:
        raise WeightsError(f"{path} was made from your own {about['backbone']}; give it: load_classifier(run, model=…)")
    network = (
        copy.deepcopy(model)
        if model is not None
        else load_backbone(about["backbone"], "none", image_size=preprocessing.size).model
    )
    try:
        network = _with_heads(network, about, preprocessing)
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, KeyError) as error:
        raise WeightsError(f"the weights in {path} do not fit {about['backbone']}: {error}") from error
    machine = machine or find_machine(precision="fp32")
    to_device(network.eval(), machine.device)
    return Classifier(network, tuple(about["classes"]), preprocessing, machine, about["task"])


def _with_heads(model: nn.Module, about: dict[str, Any], preprocessing: Preprocessing) -> nn.Module:
    """The network with heads of the right shape."""
    count = len(about["classes"])
    if about["task"] == "segmentation":
        return dense_network(model, preprocessing, count).model
    for name, pooled in about["heads"].items():
        head = pooled_head(tuple(pooled), count) if pooled else new_head(model.get_submodule(name), count)
        model.set_submodule(name, head)
    return model
