"""The deployable thing inside a run: weights, head, class names, preprocessing, golden examples.

    classifier = load_classifier("runs/pets")
    for prediction in classifier.predict(["cat.jpg"]):
        print(prediction.label, prediction.probability)

Every way of asking goes through `logits` here, in fp32, so that one image has one answer.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from frostline import terminal
from frostline.activations import Activations
from frostline.backbones import Backbone, load_backbone
from frostline.data.decoding import Item, Picture, UnreadableImageError, as_uint8, open_image
from frostline.data.images import Images, ImageSet, spread
from frostline.data.views import PLAIN
from frostline.dense import dense_network
from frostline.engines.eager import normalised
from frostline.errors import WeightsError
from frostline.machine import Machine, machine, place
from frostline.network import Network, new_head, pooled_head
from frostline.pipeline import decoded
from frostline.preprocessing import Preprocessing, preprocessing_from
from frostline.run import Run, load_run, write_json, write_text
from frostline.store import write_atomically
from frostline.tasks import task_of

FORMAT = 2
GOLDEN = 8
TOP = 5


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one image; `error` in place of a label for one that cannot be read.

    label, probability: the class; of several labels an image all of them, "a|b", and how probable the least sure is; of
        pixels the class of most of them, and the mean probability.
    mask: class numbers (H, W) of uint8, as large as the image, where the classifier answers for every pixel.
    """

    path: str
    label: str = ""
    probability: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    mask: np.ndarray | None = field(default=None, compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        if self.error:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "label": self.label, "probability": self.probability, "top": list(self.top)}


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network that turns images into probabilities of named classes.

    model: (B, 3, size, size) normalised -> logits (B, classes), of a segmentation (B, classes, size, size); in
        evaluation mode and fp32.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    on: Machine
    task: str = "classification"

    def logits(self, images: Images, label: str = "images") -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
        """In batches: which images, their logits (B, classes, …) on the CPU, and why others could not be read."""
        wanted = {i: [0] for i in range(len(images))}
        with terminal.progress(label, len(images), "images") as advance:
            for places, pictures, failed in decoded(images, wanted, PLAIN, self.preprocessing, self.on.workers):
                rows = [i for i, _ in places]
                yield rows, self.run(torch.from_numpy(pictures)), failed
                advance(len(rows) + len(failed))

    @torch.inference_mode()
    def run(self, pictures: Tensor) -> Tensor:
        """Logits (B, classes, …) of prepared pictures (B, size, size, 3) of uint8."""
        if not len(pictures):
            return torch.empty(0, len(self.classes))
        inputs = normalised(pictures.to(self.on.device).permute(0, 3, 1, 2), self.preprocessing)
        result: Tensor = self.model(inputs).float().cpu()
        return result

    def predict(self, pictures: Sequence[Picture | str]) -> Iterator[Prediction]:
        """One prediction an image, in order; a file that cannot be read gets an error, the others their answer."""
        paths = [_picture(given) for given in pictures]
        names = [str(p) if isinstance(p, Path) else f"image {i}" for i, p in enumerate(paths)]
        yield from self.predict_images(Images(paths, np.zeros(len(paths), np.int64), names))

    def predict_images(self, images: Images) -> Iterator[Prediction]:
        """The same for images of a data set, under their names."""
        for rows, logits, failed in self.logits(images):
            answers = {row: Prediction(images.names[row], error=reason) for row, reason in failed.items()}
            for row, own in zip(rows, logits, strict=True):
                answers[row] = self._prediction(images.names[row], images.pictures[row], own)
            yield from (answers[row] for row in sorted(answers))

    def _prediction(self, name: str, picture: Picture, logits: Tensor) -> Prediction:
        task = task_of(self.task)
        probabilities = task.probabilities(logits[None])[0]
        label, p = task.label(probabilities, self.classes)
        mask = None
        if logits.ndim == 3:
            width, height = open_image(picture).size
            mask = mask_at(logits, height, width)
            probabilities = (
                torch.bincount(torch.from_numpy(mask).flatten().long(), minlength=len(self.classes)) / mask.size
            )
        values, order = probabilities.topk(min(TOP, len(self.classes)))
        top = tuple((self.classes[i], float(p)) for p, i in zip(values, order.tolist(), strict=True))
        return Prediction(name, label, p, top, mask=mask)


def _picture(given: Picture | str) -> Picture:
    """A file, or an array of pixels in any form that `fit` takes; what is neither is told as unreadable later."""
    if isinstance(given, str):
        return Path(given)
    if isinstance(given, (Path, Item)):
        return given
    with contextlib.suppress(UnreadableImageError):
        return as_uint8(given)
    return np.asarray(given)


def mask_at(logits: Tensor, height: int, width: int) -> np.ndarray:
    """The class numbers (height, width) of uint8 that a map of logits (classes, h, w) says of an image of that size.

    One class after the other: all of them at the size of a photograph would take gigabytes.
    """
    highest = torch.full((height, width), -torch.inf)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    for number, own in enumerate(logits):
        here = functional.interpolate(own[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
        mask[here > highest] = number
        highest = torch.maximum(highest, here)
    return mask.numpy()


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


def save_golden(run: Run, valid: Activations, probabilities: Tensor, how: Preprocessing, precision: str) -> None:
    """A few validation images with the probabilities that training saw: what a loaded classifier must reproduce.

    They come from the stored activations, so the tolerance is that of the store's precision.
    """
    chosen = spread(len(valid.images), GOLDEN)
    images = valid.images.take(chosen)
    wanted = {i: [0] for i in range(len(images))}
    pictures = np.concatenate([p for _, p, _ in decoded(images, wanted, PLAIN, how, 1)])
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


def load_classifier(run: str | Path | Run, model: nn.Module | None = None, on: Machine | None = None) -> Classifier:
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
    how = preprocessing_from(about["preprocessing"])
    if model is None and ":" not in about["backbone"]:
        raise WeightsError(f"{path} was made from your own {about['backbone']}; give it: load_classifier(run, model=…)")
    network = (
        copy.deepcopy(model)
        if model is not None
        else load_backbone(about["backbone"], "none", image_size=how.size).model
    )
    try:
        network = _with_heads(network, about, how)
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, KeyError) as error:
        raise WeightsError(f"the weights in {path} do not fit {about['backbone']}: {error}") from error
    on = on or machine(precision="fp32")
    place(network.eval(), on.device)
    return Classifier(network, tuple(about["classes"]), how, on, about["task"])


def _with_heads(model: nn.Module, about: dict[str, Any], how: Preprocessing) -> nn.Module:
    """The network with heads of the right shape."""
    count = len(about["classes"])
    if about["task"] == "segmentation":
        return dense_network(model, how, count).model
    for name, pooled in about["heads"].items():
        head = pooled_head(tuple(pooled), count) if pooled else new_head(model.get_submodule(name), count)
        model.set_submodule(name, head)
    return model


def predict(
    run: str | Path | Run, images: Sequence[Picture | str], *, device: str = "auto", model: nn.Module | None = None
) -> list[Prediction]:
    """What a run's classifier says of some images: one prediction each, in order.

    images: files, or arrays (H, W) or (H, W, 3) of uint8. model: as in `load_classifier`.
    """
    return list(load_classifier(run, model, machine(device, "fp32")).predict(images))
