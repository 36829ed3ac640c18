"""The pictures that a run leaves in plots/: curves, confusion, training views, the worst mistakes, masks."""

from __future__ import annotations

from collections.abc import Sequence
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
from frostline.report.curves import curves
from frostline.report.sheets import mistakes_sheet, overlay_sheet, views_sheet
from frostline.runs.run import Run
from frostline.tasks import Outputs, classification, task_of

VIEWED = 5  # images on the sheet of views
VIEWS = 6
MISTAKES = 16
OVERLAYS = 6


def draw_curves(run: Run, tests: Sequence[float | None]) -> None:
    """Loss and accuracy over the epochs of all phases; tests: the test accuracy after each phase."""
    save(curves(run.history, tests), _folder(run), "curves", ("png", "svg"))


def draw_views(run: Run, classifier: Classifier, train: Images, views: Views) -> None:
    """A few training images and their views, as the network sees them."""
    chosen = train.take(spread(len(train), VIEWED))
    count = min(views.count, VIEWS)
    shown = pictures_of(chosen, views, list(range(count)), classifier)
    titles = [chosen.names[i] for i in sorted({i for i, _ in shown})]
    grid = np.stack([np.stack([shown[i, v] for v in range(count)]) for i in sorted({i for i, _ in shown})])
    save(views_sheet(grid, titles), _folder(run), "views")


def draw_answers(run: Run, classifier: Classifier, valid: Images, answers: Outputs) -> None:
    """What the classifier says of validation images, and where it is most wrong."""
    classes, folder = classifier.classes, _folder(run)
    if classifier.task == "segmentation":
        save(confusion(answers.outputs.sum(0).numpy(), classes), folder, "confusion", ("png", "svg"))
        save(_overlays(classifier, valid, spread(len(valid), OVERLAYS)), folder, "overlays")
        save(
            _overlays(classifier, valid, answers.losses.argsort(descending=True)[:OVERLAYS].numpy()), folder, "mistakes"
        )
        return
    if classifier.task == "classification":
        save(confusion(classification.confusion(answers, len(classes)), classes), folder, "confusion", ("png", "svg"))
    captions = _captions(classifier, valid, answers)
    worst = [i for i in answers.losses.argsort(descending=True).tolist() if i in captions][:MISTAKES]
    shown = pictures_of(valid.take(np.array(worst, np.int64)), PLAIN, [0], classifier)
    size = classifier.preprocessing.size
    pictures = np.stack([shown[key] for key in sorted(shown)]) if shown else np.empty((0, size, size, 3), np.uint8)
    save(mistakes_sheet(pictures, [captions[worst[i]] for i, _ in sorted(shown)]), folder, "mistakes")


def _folder(run: Run) -> Path:
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    return folder


def _captions(classifier: Classifier, valid: Images, answers: Outputs) -> dict[int, str]:
    """Of every image that is answered wrongly what it is and what was said."""
    rows = task_of(classifier.task).predictions(valid.names, "valid", answers, classifier.classes)
    found = [(i, str(true), str(predicted), float(str(p))) for i, (_, _, true, predicted, p) in enumerate(rows)]
    return {
        i: f"{true or 'none'} → {predicted or 'none'} {p:.2f}" for i, true, predicted, p in found if true != predicted
    }


def _overlays(classifier: Classifier, valid: Images, rows: np.ndarray) -> Figure:
    chosen = valid.take(rows)
    shown = pictures_of(chosen, PLAIN, [0], classifier)
    there = sorted(i for i, _ in shown)
    pictures = np.stack([shown[i, 0] for i in there])
    truth = targets_of(chosen, PLAIN, classifier.preprocessing)(torch.tensor(there))
    predicted = classifier.run(torch.from_numpy(pictures)).argmax(1)
    masks = torch.where(truth < 0, 255, truth).byte().numpy()
    return overlay_sheet(pictures, masks, predicted.byte().numpy(), classifier.classes)


def pictures_of(
    images: Images, views: Views, numbers: list[int], classifier: Classifier
) -> dict[tuple[int, int], np.ndarray]:
    """Views of images as the network sees them, (size, size, 3) of uint8 for each (image, view) that can be read."""
    wanted = dict.fromkeys(range(len(images)), numbers)
    batches = decoded(images, wanted, views, classifier.preprocessing, classifier.machine.workers)
    return {place: picture for places, pictures, _ in batches for place, picture in zip(places, pictures, strict=True)}
