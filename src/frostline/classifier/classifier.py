"""The classifier of a run: weights, head, class names, preprocessing.

    classifier = load("runs/pets")
    classifier.predict(["cat.jpg", "dog.jpg"])  # array(['cat', 'dog'])
    for prediction in classifier.predictions("photos/"):
        print(prediction.path, prediction.label, prediction.probability)

All predictions use `logits` here, in fp32, so that an image always gets the same prediction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from frostline import terminal
from frostline.classifier.many import MANY, Answers, Many
from frostline.data.decoding import (
    Item,
    Picture,
    UnreadableImageError,
    as_uint8,
    open_image,
    refuse_address,
    to_rgb,
    upright,
)
from frostline.data.images import Images
from frostline.data.pictures import Marked, decoded
from frostline.data.readers.columns import paths_of
from frostline.data.readers.folder import image_files
from frostline.data.readers.objects import has_columns, pictures_of
from frostline.data.readers.table import is_frame, table_of
from frostline.data.views import PLAIN
from frostline.errors import DataError, MachineError, UsageError, reason
from frostline.files import replacing, write_tensors
from frostline.machine import Machine, exact
from frostline.preprocessing import Preprocessing, normalised
from frostline.tasks import task_of
from frostline.tasks.multilabel import THRESHOLD

TOP = 5
CHANNELS = (1, 3, 4)  # that an image may have
ENDINGS = (".pth", ".pt", ".safetensors")
TAKEN = "give a path, a folder, bytes, a PIL image, an array of pixels, a list of these, or a DataFrame with paths"
AT_ONCE = 8  # images per batch on a CPU; larger activations are returned to the system after every layer
FIRST = 8  # images that are answered before the network is traced, so that the first answers come at once

More = Callable[[Tensor], list[dict[str, Any]]]  # logits (B, classes) -> fields of each prediction
One = str | bytes | Picture | Image.Image | Tensor
Pictures = One | Sequence[One] | Any  # Any: a DataFrame


@dataclass(frozen=True)
class Prediction:
    """The label of one image, or `error` if the image cannot be read.

    label, probability: the class and its probability. For several labels per image all of them, "a|b", and the lowest
        of their probabilities. For segmentation the class of most pixels, and the mean probability.
    top: the most probable classes, at most `Classifier.top`, each with its probability (its share of pixels for
        segmentation).
    probabilities: of every class, (classes,) of float32 (its share of pixels for segmentation).
    mask: class numbers (H, W) of uint8 at the size of the image, for segmentation. mask_file: its file.
    set, none: with a coverage, a set of classes that contains the true one that often, and whether the image may be
        of none of the classes. why: the nearest training images, each with its label and cosine.
    uncertain: with a threshold, whether the probability is below it.
    """

    path: str
    label: str = ""
    probability: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    mask: np.ndarray | None = field(default=None, compare=False, repr=False)
    probabilities: np.ndarray | None = field(default=None, compare=False, repr=False)
    mask_file: str = ""
    set: tuple[str, ...] | None = None
    none: bool | None = None
    why: tuple[tuple[str, str, float], ...] = ()
    uncertain: bool | None = None

    def as_json(self) -> dict[str, Any]:
        if self.error:
            return {"path": self.path, "error": self.error}
        said = {"path": self.path, "label": self.label, "probability": self.probability, "top": list(self.top)}
        if self.uncertain is not None:
            said["uncertain"] = self.uncertain
        if self.set is not None:
            said |= {"set": list(self.set), "none": self.none}
        if self.mask_file:
            said["mask"] = self.mask_file
        if self.why:
            said["why"] = [{"path": path, "label": label, "cosine": cosine} for path, label, cosine in self.why]
        return said


@dataclass(frozen=True, eq=False, repr=False)
class Classifier:
    """A network that turns images into probabilities of named classes.

    model: (B, 3, size, size) normalised -> logits (B, classes), or (B, classes, size, size) for segmentation; in
        evaluation mode and fp32.
    temperature: divisor of the logits, above 0, that calibrates the probabilities (tasks/calibration.py).
    top: number of most probable classes in a prediction.
    many: gives the faster path for many images; None if there is none.
    colours: of the classes in masks, 0xRRGGBB, as the training masks give them; else empty.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    machine: Machine
    task: str = "classification"
    temperature: float = 1.0
    top: int = TOP
    many: Callable[[], Many | None] | None = None
    colours: tuple[int, ...] = ()

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:6]) + (", …" if len(self.classes) > 6 else "")
        return f"Classifier({self.task} of {len(self.classes)} classes: {names}; {self.machine.device.type})"

    def logits(self, images: Images, label: str = "") -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
        """Batches: numbers of images, their logits (B, classes, …) on the CPU, and the reasons of unreadable images.

        label: of the progress bar; "" shows none.
        """
        return self._calibrated(self._answers(images), len(images), label)

    def _calibrated(self, answers: Iterator[Answers], count: int, label: str) -> Iterator[Answers]:
        with terminal.progress(label, count, "images") if label else contextlib.nullcontext(_ignore) as advance:
            for numbers, logits, failed in answers:
                yield numbers, logits / self.temperature, failed
                advance(len(numbers) + len(failed))

    def _answers(self, images: Images) -> Iterator[Answers]:
        """The uncalibrated logits of all images, in order."""
        yield from self._one_by_one(images, 0, FIRST)
        many = self.many() if self.many is not None and len(images) >= MANY else None
        yield from self._one_by_one(images, FIRST, len(images)) if many is None else many.logits(images, FIRST)

    def _one_by_one(self, images: Images, start: int, end: int) -> Iterator[Answers]:
        """The uncalibrated logits of the images from `start` to `end`."""
        marks = np.zeros((len(images), 1), bool)
        marks[start:end] = True
        for places, pictures, failed in decoded(images, Marked(marks), PLAIN, self.preprocessing, self.machine.workers):
            yield [i for i, _ in places], self._logits(torch.from_numpy(pictures)), failed

    def run(self, pictures: Tensor) -> Tensor:
        """Calibrated logits (B, classes, …) of decoded pictures (B, size, size, 3) of uint8."""
        return self._logits(pictures) / self.temperature

    @torch.inference_mode()
    def _logits(self, pictures: Tensor) -> Tensor:
        if not len(pictures):
            return torch.empty(0, len(self.classes))
        device = self.machine.device
        with exact(device):
            parts = [
                self.model(normalised(part.to(device).permute(0, 3, 1, 2), self.preprocessing)).float().cpu()
                for part in pictures.split(AT_ONCE if device.type == "cpu" else len(pictures))
            ]
        return torch.cat(parts)

    @property
    def classes_(self) -> np.ndarray:
        """The class names in the order of the columns of `predict_proba`, as in scikit-learn."""
        return np.array(self.classes)

    def predict(self, pictures: Pictures) -> np.ndarray:
        """The label of each image, like scikit-learn's classifiers.

        Names (N,); (N, classes) of bool for several labels per image; for segmentation an array (N,) of objects, each
        a mask (H, W) of class numbers. pictures: as in `predictions`.
        Raises DataError for an image that cannot be read; `predictions` skips it instead.

        >>> load("runs/pets").predict(["cat.jpg", "dog.jpg"])  # doctest: +SKIP
        array(['cat', 'dog'], dtype='<U3')
        """
        if self.task == "classification":
            return np.asarray(self.classes_[self.predict_proba(pictures).argmax(1)])
        if self.task == "multilabel":
            return np.asarray(self.predict_proba(pictures) >= THRESHOLD)
        found = list(self.predictions(pictures))
        for each in found:
            if each.error:
                raise _unreadable(each.path, each.error)
        masks = np.empty(len(found), object)
        masks[:] = [each.mask for each in found]
        return masks

    def predict_proba(self, pictures: Pictures) -> np.ndarray:
        """The probability of each class for each image, (N, classes) of float32; the columns are `classes_`.

        pictures: as in `predictions`. Raises DataError for an image that cannot be read, UsageError for segmentation.

        >>> load("runs/pets").predict_proba("cat.jpg").shape  # doctest: +SKIP
        (1, 2)
        """
        if self.task == "segmentation":
            raise UsageError("segmentation has a class per pixel: use predict for masks, or predictions for shares")
        images = images_of(pictures)
        result = np.empty((len(images), len(self.classes)), np.float32)
        for numbers, logits, failed in self.logits(images):
            if failed:
                first = min(failed)
                raise _unreadable(images.names[first], failed[first])
            result[numbers] = task_of(self.task).probabilities(logits).numpy()
        return result

    def score(self, pictures: Pictures, labels: Sequence[Any] | np.ndarray) -> float:
        """The accuracy, 0 … 1: the share of images whose label is right.

        labels: the class name of each image; for several labels per image (N, classes) of bool, all of which must be
            right. `frostline.evaluate` also gives the interval, and figures per class.
        Raises like `predict_proba`, and UsageError if the numbers of images and labels differ or a label is no class.

        >>> load("runs/pets").score(["cat.jpg", "dog.jpg"], ["cat", "dog"])  # doctest: +SKIP
        1.0
        """
        if self.task == "segmentation":
            raise UsageError("score does not measure segmentation; use frostline.evaluate")
        predicted, true = self.predict(pictures), np.asarray(labels)
        if len(predicted) != len(true):
            raise UsageError(f"{len(predicted)} images and {len(true)} labels; give one label per image")
        right = predicted == (true.astype(bool) if predicted.ndim == 2 else self._known(true))
        return float(np.mean(right.all(1) if right.ndim == 2 else right))

    def _known(self, labels: np.ndarray) -> np.ndarray:
        """Labels (N,) or (N, 1) as class names, as `fit` takes them: True and 1.0 are the class "1"."""
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if labels.dtype.kind in "bf" and (labels == np.rint(labels)).all():
            labels = labels.astype(np.int64)
        names: np.ndarray = labels.astype(str)
        if unknown := sorted({*names.ravel().tolist()} - {*self.classes}):
            raise UsageError(f"the label {unknown[0]!r} is no class; the classes are {', '.join(self.classes[:10])}")
        return names

    def predictions(self, pictures: Pictures) -> Iterator[Prediction]:
        """One prediction per image, in order; an unreadable file has an error instead of a label.

        pictures: one or several files, folders, files' content as bytes, PIL images, or arrays and tensors of pixels in
            any form that `fit` takes: (H, W), (H, W, 3) or (3, H, W), uint8, floats 0 … 1 or whole numbers 0 … 255, not
            normalised; or a DataFrame with a column of paths, or a Hugging Face Dataset with a column of images.
        """
        yield from self.predict_images(images_of(pictures))

    def predict_images(self, images: Images, more: More | None = None) -> Iterator[Prediction]:
        """Predictions for images of a data set, under their names. more: further fields, from the logits of a batch."""
        for numbers, logits, failed in self.logits(images, "predicting"):
            predictions = {i: Prediction(images.names[i], error=reason) for i, reason in failed.items()}
            said = more(logits) if more and numbers else [{} for _ in numbers]
            for i, own, also in zip(numbers, logits, said, strict=True):
                size = open_image(images.pictures[i]).size if own.ndim == 3 else (0, 0)
                predictions[i] = replace(self.prediction(images.names[i], own, size), **also)
            yield from (predictions[i] for i in sorted(predictions))

    def save(self, file: str | Path) -> Path:
        """Write only the weights, under the architecture's own names, with torch.save (.pth, .pt) or safetensors.

        A bare network loads them: `model.load_state_dict(torch.load("pets.pth", weights_only=True))`. They do not
        include the temperature: divide the logits of the bare network by `temperature` to get the same probabilities.
        Raises UsageError for another extension, MachineError if the file cannot be written.

        >>> load("runs/pets").save("pets.pth")  # doctest: +SKIP
        """
        file = Path(file)
        if file.suffix not in ENDINGS:
            raise UsageError(f"{file} ends in {file.suffix!r}; use {', '.join(ENDINGS)} for weights")
        if file.suffix == ".safetensors":
            write_tensors(file, self.model.state_dict())
            return file
        state = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        try:
            with replacing(file) as stream:
                torch.save(state, stream)
        except (OSError, RuntimeError) as error:
            raise MachineError(f"cannot write {file}: {reason(error)}") from error
        return file

    def prediction(self, name: str, logits: Tensor, size: tuple[int, int] = (0, 0)) -> Prediction:
        """The prediction of one image from its calibrated logits (classes, …).

        size: width and height of the image in pixels, of which only segmentation makes use.
        """
        task = task_of(self.task)
        probabilities = task.probabilities(logits[None])[0]
        label, p = task.label(probabilities, self.classes)
        mask = None
        if logits.ndim == 3:
            mask = mask_at(logits, size[1], size[0])
            probabilities = (
                torch.bincount(torch.from_numpy(mask).flatten().long(), minlength=len(self.classes)) / mask.size
            )
        values, order = probabilities.topk(min(self.top, len(self.classes)))
        top = tuple((self.classes[i], float(p)) for p, i in zip(values, order.tolist(), strict=True))
        return Prediction(name, label, p, top, mask=mask, probabilities=probabilities.numpy())


def images_of(pictures: Pictures) -> Images:
    """Pictures without labels, in any form that `Classifier.predict` takes."""
    some = [picture for each in as_several(pictures) for picture in _pictures(each)]
    names = [str(p) if isinstance(p, Path) else f"image {i}" for i, p in enumerate(some)]
    return Images(some, np.zeros(len(some), np.int64), names)


def as_several(pictures: Pictures) -> Sequence[Any]:
    """A sequence of pictures; a single file, folder, image or array of one image becomes a list of one.

    An array of three dimensions is one image if its last dimension (1, 3, 4) or its first one (1, 3) can be channels,
    else several grey images. Raises UsageError for a numpy array (3, H, W), which may be either, and for what
    is neither a picture nor holds any.
    """
    shape = getattr(pictures, "shape", None)
    if is_frame(pictures):
        return paths_of(table_of(pictures))
    if has_columns(pictures):
        return pictures_of(pictures)
    if isinstance(pictures, (str, bytes, Path, Item, Image.Image)):
        return [pictures]
    if shape is not None and (len(shape) == 2 or (len(shape) == 3 and _is_one(pictures, shape))):
        return [pictures]
    if isinstance(pictures, Mapping) or shape == () or not {"__iter__", "__getitem__"} & {*dir(pictures)}:
        raise UsageError(f"{type(pictures).__name__} is no picture; {TAKEN}")
    return cast(Sequence[Any], pictures)


def _is_one(pictures: Any, shape: Sequence[int]) -> bool:
    if shape[-1] in CHANNELS or shape[0] == 1:
        return True
    if shape[0] == 3 and isinstance(pictures, np.ndarray):
        raise UsageError(
            f"an array {tuple(shape)} can be one image or three grey ones; give [image] for one, list(images) for three"
        )
    return shape[0] == 3  # a tensor of torchvision has its channels first


def _pictures(picture: Any) -> list[Picture]:
    """One picture, or all images in a folder."""
    if isinstance(picture, (str, Path)) and Path(picture).is_dir():
        return list(image_files(Path(picture)))
    return [_picture(picture)]


def _picture(picture: Any) -> Picture:
    """A file, or an array of pixels in any form that `fit` takes; anything else is reported as unreadable later."""
    if isinstance(picture, str):
        refuse_address(picture)
        return Path(picture)
    if isinstance(picture, (Path, bytes, Item)):
        return picture
    if isinstance(picture, Image.Image):
        with contextlib.suppress(UnreadableImageError):
            return np.asarray(to_rgb(upright(picture)))
        return Item([(picture,)], 0, 0)
    if picture is None or isinstance(picture, Mapping):
        raise UsageError(f"{type(picture).__name__} is no picture; {TAKEN}")
    with contextlib.suppress(UnreadableImageError):
        return as_uint8(picture)
    return np.asarray(picture)


def _unreadable(name: str, why: str) -> DataError:
    return DataError(f"{name} cannot be read: {why}; leave it out, or use predictions, which skips it")


def _ignore(_: int) -> None:
    """Progress that is not shown."""


def mask_at(logits: Tensor, height: int, width: int) -> np.ndarray:
    """The class numbers (height, width) of uint8 of an image of that size, from logits (classes, h, w).

    Classes are resized one by one, because all of them at the size of a photograph would take gigabytes.
    """
    highest = torch.full((height, width), -torch.inf)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    for number, own in enumerate(logits):
        here = functional.interpolate(own[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
        mask[here > highest] = number
        highest = torch.maximum(highest, here)
    return mask.numpy()
