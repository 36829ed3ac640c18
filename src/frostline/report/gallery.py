"""The pictures that a run leaves in plots/: curves, confusion, training views, the worst mistakes, masks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from frostline.classifier.classifier import Classifier
from frostline.data.images import Images, spread
from frostline.data.pictures import decoded
from frostline.data.targets import targets_of
from frostline.data.views import PLAIN, Views
from frostline.report.canvas import save
from frostline.report.confusion import confusion
from frostline.report.curves import Test, curves
from frostline.report.sheets import mistakes_sheet, overlay_sheet, views_sheet
from frostline.runs.run import Run
from frostline.tasks import Outputs, classification, task_of
from frostline.tasks.counts import counts_of

VIEWED = 5  # images on the sheet of views
VIEWS = 6
MISTAKES = 16
OVERLAYS = 6


def draw_curves(run: Run, tests: Sequence[Test], undone: Collection[int] = ()) -> None:
    """Loss and accuracy over the epochs of all phases; tests: what was measured on test images after each.

    undone: the numbers (from 0) of the phases that did not pay.
    """
    save(curves(run.history, tests, undone=undone), _folder(run), "curves", ("png", "svg"))


def draw_views(run: Run, classifier: Classifier, train: Images, views: Views) -> None:
    """A few training images and their views, as the network sees them."""
    chosen = train.take(spread(len(train), VIEWED))
    viewed = views_of(chosen, views, classifier)
    save(views_sheet(np.stack(list(viewed.values())), [chosen.names[i] for i in viewed]), _folder(run), "views")


def draw_predictions(run: Run, classifier: Classifier, valid: Images, outputs: Outputs) -> None:
    """What the classifier predicts for validation images, and where it is most wrong."""
    classes, folder = classifier.classes, _folder(run)
    if outputs.pixels is not None:
        save(confusion(counts_of(outputs.pixels.confusion.numpy()), classes), folder, "confusion", ("png", "svg"))
        save(_overlays(classifier, valid, spread(len(valid), OVERLAYS)), folder, "overlays")
        worst_masks = outputs.losses.argsort(descending=True)[:OVERLAYS].numpy()
        save(_overlays(classifier, valid, worst_masks), folder, "mistakes")
        return
    if classifier.task == "classification":
        save(confusion(classification.confusion(outputs, len(classes)), classes), folder, "confusion", ("png", "svg"))
    captions = _captions(classifier, valid, outputs)
    worst = [i for i in outputs.losses.argsort(descending=True).tolist() if i in captions][:MISTAKES]
    shown = pictures_of(valid.take(np.array(worst, np.int64)), PLAIN, [0], classifier)
    size = classifier.preprocessing.size
    pictures = np.stack([shown[key] for key in sorted(shown)]) if shown else np.empty((0, size, size, 3), np.uint8)
    save(mistakes_sheet(pictures, [captions[worst[i]] for i, _ in sorted(shown)]), folder, "mistakes")


def _folder(run: Run) -> Path:
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    return folder


def _captions(classifier: Classifier, valid: Images, outputs: Outputs) -> dict[int, str]:
    """By number, of every image that is predicted wrongly, its true and its predicted label."""
    records = task_of(classifier.task).predictions(valid.names, "valid", outputs, classifier.classes)
    return {
        i: f"{true or 'none'} → {predicted or 'none'} {float(str(p)):.2f}"
        for i, (_, _, true, predicted, p) in enumerate(records)
        if true != predicted
    }


def _overlays(classifier: Classifier, valid: Images, numbers: np.ndarray) -> Figure:
    chosen = valid.take(numbers)
    shown = pictures_of(chosen, PLAIN, [0], classifier)
    readable = sorted(i for i, _ in shown)
    pictures = np.stack([shown[i, 0] for i in readable])
    truth = targets_of(chosen, PLAIN, classifier.preprocessing)(torch.tensor(readable))
    predicted = classifier.run(torch.from_numpy(pictures)).argmax(1)
    masks = torch.where(truth < 0, 255, truth).byte().numpy()
    return overlay_sheet(pictures, masks, predicted.byte().numpy(), classifier.classes)


def views_of(images: Images, views: Views, classifier: Classifier) -> dict[int, np.ndarray]:
    """By the numbers of the images that can be read some views, (V, size, size, 3) of uint8; the first is plain."""
    count = min(views.count, VIEWS)
    shown = pictures_of(images, views, list(range(count)), classifier)
    return {i: np.stack([shown[i, v] for v in range(count)]) for i in sorted({i for i, _ in shown})}


def pictures_of(
    images: Images, views: Views, numbers: list[int], classifier: Classifier
) -> dict[tuple[int, int], np.ndarray]:
    """Views of images as the network sees them, (size, size, 3) of uint8 for each (image, view) that can be read."""
    samples = dict.fromkeys(range(len(images)), numbers)
    batches = decoded(images, samples, views, classifier.preprocessing, classifier.machine.workers)
    return {sample: picture for some, pictures, _ in batches for sample, picture in zip(some, pictures, strict=True)}
