"""Predictions of a run's classifier, and their accuracy on labelled images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from frostline import terminal
from frostline.classifier.artifact import load
from frostline.classifier.classifier import Classifier, Pictures, Prediction, images_of
from frostline.classifier.reference import explained, read_reference
from frostline.data import image_files, is_listing, read_for_evaluation, read_listing, read_unlabelled
from frostline.data.images import Images, join
from frostline.errors import DataError, UsageError
from frostline.machine import find_machine
from frostline.runs.run import Run, load_run
from frostline.tasks.intervals import wilson

Labels = tuple[str, ...]
Predict = Callable[[Images], Iterator[Prediction]]


def predict(
    run: str | Path | Run,
    images: Pictures,
    *,
    coverage: float | None = None,
    why: int = 0,
    threshold: float | None = None,
    device: str = "auto",
    model: nn.Module | None = None,
) -> list[Prediction]:
    """Predict with a run's classifier: one prediction per image, in order.

    images: as in `Classifier.predictions`: one or several files, folders, bytes, PIL images, arrays and tensors of
        pixels; or a DataFrame with a column of paths.
    coverage: how often (0 … 1) each prediction's `set` of classes should hold the true one; `none` then tells whether
        the image belongs to none of the classes. why: number of nearest training images in each prediction.
    threshold: the probability (0 … 1) below which a prediction is marked as `uncertain`. model: as in `load`.

    Raises UsageError for a coverage that needs more held-out images than the run has.

    >>> predict("runs/pets", "cat.jpg")[0].label  # doctest: +SKIP
    'cat'
    """
    classifier = load(run, model, find_machine(device, "fp32"))
    return list(predicting(classifier, run, coverage, why, threshold)(images_of(images)))


def predicting(
    classifier: Classifier,
    run: str | Path | Run,
    coverage: float | None = None,
    why: int = 0,
    threshold: float | None = None,
) -> Predict:
    """A function from images to their predictions, with sets, nearest training images and doubts on demand.

    It can be called for one part of the images after the other.
    """
    if why < 0:
        raise UsageError(f"why is {why}; it is a number of training images: give 1 or more")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is {threshold:g}; it is a probability, 0 … 1")
    reference = None
    if coverage is not None or why:
        reference = read_reference((run if isinstance(run, Run) else load_run(run)).path)

    def predicted(images: Images) -> Iterator[Prediction]:
        if reference is None:
            found = classifier.predict_images(images)
        else:
            found = explained(classifier, reference, images, coverage, why)
        return found if threshold is None else (doubted(each, threshold) for each in found)

    return predicted


def doubted(prediction: Prediction, threshold: float) -> Prediction:
    """The prediction, and whether its probability is below the threshold."""
    return prediction if prediction.error else replace(prediction, uncertain=prediction.probability < threshold)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Images to predict, and their true labels as text if all are known; else None."""

    images: Images
    labels: Labels | None = None


def read_inputs(inputs: Sequence[str | Path], classifier: Classifier, *, download: bool = False) -> Inputs:
    """The images of files, folders, manifests and known data sets, under the names of their files.

    Labels are known if every input is a folder of class folders, a manifest or a known data set, with classes that
    the classifier knows. A mask does not count as a label.
    Raises UsageError without images, DataError for a manifest that cannot be used.
    """
    found = read_any_inputs(inputs, classifier, download=download)
    if found is None:
        read_unlabelled(inputs)  # raises, with a hint about other files
    assert found is not None  # noqa: S101
    return found


def read_any_inputs(inputs: Sequence[str | Path], classifier: Classifier, *, download: bool = False) -> Inputs | None:
    """As `read_inputs`, but None without images."""
    parts = [_manifest(Path(i), classifier) if _is_manifest(i) else _others(i, classifier, download) for i in inputs]
    parts = [part for part in parts if len(part.images)]
    if not parts:
        return None
    labels = [part.labels for part in parts if part.labels is not None]
    known = tuple(label for some in labels for label in some) if len(labels) == len(parts) else None
    return Inputs(join([part.images for part in parts]), known)


@dataclass
class Tally:
    """Counts of predictions, so that none has to be kept.

    images, failed: number of images so far, and of unreadable ones. right: number of right labels. labelled: the images
        with labels, or None as soon as some have none.
    """

    images: int = 0
    failed: int = 0
    right: int = 0
    labelled: list[Images] | None = field(default_factory=list)

    def counted(self, parts: Iterable[Inputs], predict: Predict) -> Iterator[Prediction]:
        """The predictions for all parts of the images, each counted when it is taken."""
        for part in parts:
            if part.labels is None:
                self.labelled = None
            elif self.labelled is not None:
                self.labelled.append(part.images)
            labels = itertools.repeat("") if part.labels is None else part.labels
            for prediction, label in zip(predict(part.images), labels, strict=False):
                self.images += 1
                self.failed += bool(prediction.error)
                self.right += not prediction.error and prediction.label == label
                yield prediction

    @property
    def measured(self) -> dict[str, Any] | None:
        """Accuracy (0 … 1) with its 95 % interval and n, over the readable images, if all labels are known."""
        n = self.images - self.failed
        if self.labelled is None:
            return None
        return {"accuracy": self.right / n if n else None, "interval": list(wilson(self.right, n)), "n": n}


def _is_manifest(path: str | Path) -> bool:
    return is_listing(path) and Path(path).is_file()


def _manifest(path: Path, classifier: Classifier) -> Inputs:
    """All images that a manifest lists. Labels are known if each has one, of a class that the classifier knows."""
    with terminal.quiet():
        files, labelled = read_listing(path, classifier.classes, classifier.task)
    images = Images(files, np.zeros(len(files), np.int64), [str(file) for file in files])
    if labelled is None:
        return Inputs(images)
    label_of = dict(zip(map(str, labelled.pictures), labelled.labels(classifier.classes), strict=True))
    labels = [label_of[name] for name in images.names if name in label_of]
    known = len(labels) == len(images) and classifier.task != "segmentation"
    return Inputs(images, tuple(labels) if known else None)


def _others(path: str | Path, classifier: Classifier, download: bool) -> Inputs:
    if Path(path).is_dir() and not any(True for _ in image_files(Path(path))):
        return Inputs(Images([], np.zeros(0, np.int64), []))
    images = read_unlabelled([path], download=download)
    return Inputs(_unlabelled(images, images.names), _labels(path, images, classifier, download))


def _labels(path: str | Path, images: Images, classifier: Classifier, download: bool) -> Labels | None:
    """The true labels of the images of a folder of class folders or a known data set; None for anything else."""
    if classifier.task == "segmentation" or Path(path).is_file():
        return None
    split = "all" if Path(path).exists() else ""  # for a known data set the evaluated split
    try:
        labelled, _ = read_for_evaluation(path, classifier.classes, split, classifier.task, download=download)
    except DataError:  # other classes, or no classes
        return None
    label_of = dict(zip(_keys(labelled), labelled.labels(classifier.classes), strict=True))
    labels = [label_of.get(key) for key in _keys(images)]
    return tuple(label for label in labels if label is not None) if None not in labels else None


def _keys(images: Images) -> list[str]:
    """What identifies an image across readings: its file, else its name."""
    pairs = zip(images.pictures, images.names, strict=True)
    return [str(picture) if isinstance(picture, Path) else name for picture, name in pairs]


def _unlabelled(images: Images, names: Sequence[str]) -> Images:
    return Images(images.pictures, np.zeros(len(images), np.int64), names)
