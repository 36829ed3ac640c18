"""The pictures that a run leaves in plots/: curves, confusion, training views, the worst mistakes, masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from frostline.report.canvas import save
from frostline.report.confusion import confusion
from frostline.report.curves import curves
from frostline.report.facts import judged, title_of
from frostline.report.sheets import mistakes_sheet, overlay_sheet, views_sheet
from frostline.report.shots import Shots
from frostline.runs.run import Run
from frostline.tasks import Outputs, classification
from frostline.tasks.counts import counts_of

MISTAKES = 18
BOTH = ("png", "svg")


def draw_curves(run: Run) -> None:
    """Draw the loss and the metric over the epochs of all phases; nothing if no phase was trained."""
    metrics, history = run.metrics, run.history
    if not any(epoch["epoch"] for epoch in history):
        return
    kept = [phase["kept_epoch"] for phase in metrics["phases"]]
    tests = [phase.get("test") for phase in metrics["phases"]]
    figure = curves(history, kept, tests, measure=judged(metrics["task"]), title=title_of(run))
    save(figure, _folder(run), "curves", BOTH)


def draw_confusion(run: Run, name: str, called: str, outputs: Outputs, classes: Sequence[str]) -> None:
    """Draw the confusion matrix as `plots/<name>`; not for multi-label runs. called: the name of the split."""
    if outputs.pixels is not None:
        counts = counts_of(outputs.pixels.confusion.numpy())
        figure = confusion(counts, classes, f"{called.capitalize()} pixel accuracy", len(outputs))
    elif outputs.targets.ndim == 1:
        counts = classification.confusion(outputs, len(classes))
        figure = confusion(counts, classes, f"{called.capitalize()} accuracy")
    else:
        return
    save(figure, _folder(run), name, BOTH)


def draw_shots(run: Run, shots: Shots, called: str, n: int, classes: Sequence[str]) -> None:
    """Draw the training views and the worst mistakes. called, n: name ("validation") and size of the measured split."""
    folder = _folder(run)
    if shots.views:
        names, views = zip(*shots.views, strict=True)
        save(views_sheet(np.stack(views), names), folder, "views")
    if shots.wrong:
        wrong = shots.wrong["valid"]
        save(mistakes_sheet(wrong.shots[:MISTAKES], wrong.count, f"{n:,} {called} images"), folder, "mistakes")
    if shots.masks:
        usual, worst = shots.usual, shots.masks["valid"]
        evenly = f"{len(usual)} of {n:,} {called} images, evenly spread"
        save(overlay_sheet(usual, classes, evenly, shots.colours), folder, "overlays")
        lowest = f"{len(worst)} of {n:,} {called} images, the lowest mean IoU first"
        save(overlay_sheet(worst, classes, lowest, shots.colours), folder, "mistakes")


def _folder(run: Run) -> Path:
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    return folder
