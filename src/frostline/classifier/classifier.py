"""The deployable thing inside a run: weights, head, class names, preprocessing, golden examples.

    classifier = load_classifier("runs/pets")
    for prediction in classifier.predict(["cat.jpg"]):
        print(prediction.label, prediction.probability)

Every way of asking goes through `logits` here, in fp32, so that one image has one answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from frostline import terminal
from frostline.data.decoding import Item, Picture, UnreadableImageError, as_uint8, open_image
from frostline.data.images import Images
from frostline.data.pictures import decoded
from frostline.data.views import PLAIN
from frostline.machine import Machine
from frostline.preprocessing import Preprocessing, normalised
from frostline.tasks import task_of

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
    machine: Machine
    task: str = "classification"

    def logits(self, images: Images, label: str = "images") -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
        """In batches: which images, their logits (B, classes, …) on the CPU, and why others could not be read."""
        wanted = {i: [0] for i in range(len(images))}
        with terminal.progress(label, len(images), "images") as advance:
            for places, pictures, failed in decoded(images, wanted, PLAIN, self.preprocessing, self.machine.workers):
                rows = [i for i, _ in places]
                yield rows, self.run(torch.from_numpy(pictures)), failed
                advance(len(rows) + len(failed))

    @torch.inference_mode()
    def run(self, pictures: Tensor) -> Tensor:
        """Logits (B, classes, …) of prepared pictures (B, size, size, 3) of uint8."""
        if not len(pictures):
            return torch.empty(0, len(self.classes))
        inputs = normalised(pictures.to(self.machine.device).permute(0, 3, 1, 2), self.preprocessing)
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
