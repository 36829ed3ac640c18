"""Images of a run as its network sees them, with its predictions: decoded once, for plots/ and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from frostline.classifier.classifier import Classifier
from frostline.data.images import Images, spread
from frostline.data.pictures import decoded
from frostline.data.targets import targets_of
from frostline.data.views import PLAIN, Views
from frostline.report.pictures import Masked, Shot
from frostline.tasks import Outputs, task_of

VIEWED = 5  # images whose views are shown
VIEWS = 6
WORST = 24
MASKS = 6


@dataclass(frozen=True, eq=False)
class Mistakes:
    """The number of wrong predictions, and the worst of them: the least probable true label comes first."""

    count: int
    shots: Sequence[Shot]


@dataclass(frozen=True, eq=False)
class Shots:
    """The images of a run that are shown.

    views: name and views of some training images, (V, size, size, 3 or 1) each, the plain view first; empty if
        training used only plain views.
    wrong: split → mistakes. masks: split → worst masks of a segmentation, the lowest mean IoU first.
    usual: masks of images spread over the validation split. colours: of their classes, as in `Classifier`.
    """

    views: Sequence[tuple[str, np.ndarray]] = ()
    wrong: Mapping[str, Mistakes] = field(default_factory=dict)
    masks: Mapping[str, Sequence[Masked]] = field(default_factory=dict)
    usual: Sequence[Masked] = ()
    colours: Sequence[int] = ()


def shots_of(
    classifier: Classifier, train: Images, views: Views, measured: Mapping[str, tuple[Images, Outputs]]
) -> Shots:
    """The images of a run to show. measured: split → images, and the classifier's outputs for them."""
    seen = viewed(train, views, classifier)
    if any(outputs.pixels is not None for _, outputs in measured.values()):
        masks = {split: worst_masks(classifier, *own) for split, own in measured.items()}
        images, outputs = measured["valid"]
        usual = masked(classifier, images, outputs, spread(len(images), MASKS))
        return Shots(seen, masks=masks, usual=usual, colours=classifier.colours)
    return Shots(seen, {split: mistakes(classifier, *own, split) for split, own in measured.items()})


def viewed(images: Images, views: Views, classifier: Classifier) -> list[tuple[str, np.ndarray]]:
    """Name and views of a few images, the plain view first; empty if there are only plain views."""
    chosen, count = images.take(spread(len(images), VIEWED)), min(views.count, VIEWS)
    if count == 1:
        return []
    seen = pictures_of(chosen, views, list(range(count)), classifier)
    readable = sorted({i for i, _ in seen})
    return [(chosen.names[i], np.stack([seen[i, v] for v in range(count)])) for i in readable]


def mistakes(classifier: Classifier, images: Images, outputs: Outputs, split: str) -> Mistakes:
    """The wrong predictions of a split."""
    records = task_of(classifier.task).predictions(images.names, split, outputs, classifier.classes)
    wrong = np.flatnonzero([true != predicted for _, _, true, predicted, _ in records])
    worst = wrong[np.argsort(-outputs.losses.numpy()[wrong], kind="stable")][:WORST]
    return Mistakes(len(wrong), shots(classifier, images, records, worst))


def shots(
    classifier: Classifier, images: Images, records: Sequence[Sequence[object]], numbers: np.ndarray
) -> list[Shot]:
    """The images with the given numbers. records: of all images, as in predictions.csv."""
    seen = pictures_of(images.take(numbers), PLAIN, [0], classifier)
    found = []
    for i, _ in sorted(seen):
        name, _, true, predicted, p = records[int(numbers[i])]
        found.append(Shot(int(numbers[i]), str(name), str(true), str(predicted), float(str(p)), seen[i, 0]))
    return found


def worst_masks(classifier: Classifier, images: Images, outputs: Outputs) -> list[Masked]:
    """The images with the lowest mean IoU, the lowest first."""
    return masked(classifier, images, outputs, _ious(outputs).argsort(kind="stable")[:MASKS])


def masked(classifier: Classifier, images: Images, outputs: Outputs, numbers: np.ndarray) -> list[Masked]:
    """The images with the given numbers, with true and predicted masks, at the network's input size."""
    chosen = images.take(numbers)
    seen = pictures_of(chosen, PLAIN, [0], classifier)
    readable = sorted(i for i, _ in seen)
    if not readable:
        return []
    pictures = np.stack([seen[i, 0] for i in readable])
    truth = targets_of(chosen, PLAIN, classifier.preprocessing)(torch.tensor(readable))
    predicted = classifier.run(torch.from_numpy(pictures)).argmax(1).byte().numpy()
    masks, ious = torch.where(truth < 0, 255, truth).byte().numpy(), _ious(outputs)
    rows = zip(readable, pictures, masks, predicted, strict=True)
    return [Masked(chosen.names[i], float(ious[numbers[i]]), *own) for i, *own in rows]


def _ious(outputs: Outputs) -> np.ndarray:
    assert outputs.pixels is not None  # noqa: S101
    found: np.ndarray = outputs.pixels.mean_iou.numpy()
    return found


def pictures_of(
    images: Images, views: Views, numbers: list[int], classifier: Classifier
) -> dict[tuple[int, int], np.ndarray]:
    """Views of images as the network sees them, (size, size, 3) of uint8 for each (image, view) that can be read."""
    samples = dict.fromkeys(range(len(images)), numbers)
    batches = decoded(images, samples, views, classifier.preprocessing, classifier.machine.workers)
    return {sample: picture for some, pictures, _ in batches for sample, picture in zip(some, pictures, strict=True)}
