"""The page of a run: one file that loads nothing else, made from the run folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.checks.findings import KINDS
from frostline.report.charts import Chart, Stretch, learning_chart, line_chart, reliability, reliability_chart
from frostline.report.colours import palette
from frostline.report.curves import Phase, by_phase, number, places
from frostline.report.facts import (
    called,
    environment_of,
    facts_of,
    finding_of,
    headline_of,
    judged,
    phases_of,
    split_of,
)
from frostline.report.frame import rendered
from frostline.report.sentences import SENTENCES
from frostline.report.tables import tables_of
from frostline.runs.run import Run, read_json, write_text
from frostline.tasks.classwise import row_of
from frostline.tasks.counts import counted
from frostline.terminal import printable

NAME = "report.html"
MATRIX = 30  # with at most this many classes, the whole matrix is shown
PAIRS = 15
GAINING = 8  # classes listed with their gain from more images
SHOWN = 20  # findings shown per kind
LISTED = 24  # classes in a legend
OTHER = "#8c8c8c"


def write_page(run: Run) -> Path:
    """Write `report.html` to a run, from the files of the run; returns its path."""
    write_text(run, NAME, page_of(run))
    return run.path / NAME


def page_of(run: Run) -> str:
    """The page as text."""
    metrics = run.metrics
    split = split_of(metrics)
    records = [record for record in run.predictions if record["split"] == split]
    material, checks = read_json(run, "report.json"), read_json(run, "checks.json")
    points, bins = _map(material, metrics["classes"]), _bins(records)
    context = {
        "title": f"{printable(run.path.name)} · Frostline",
        "run": printable(run.path.name),
        "headline": headline_of(metrics, split),
        "facts": facts_of(metrics, split, records),
        "finding": finding_of(metrics, split, checks),
        "curves": _curves(run, metrics),
        "harder": _harder(run, metrics),
        "measure": judged(metrics["task"]),
        "phases": phases_of(metrics),
        "confusion": _confusion(metrics, records),
        "classes": _classes(metrics[split]["per_class"]),
        "galleries": _galleries(material),
        "reliability": reliability_chart(bins) if bins else None,
        "learning": _learning(metrics.get("learning_curve")),
        "map": points,
        "points": [{key: printable(point[key] or "") for key in ("name", "label", "picture")} for point in points],
        "legend": _legend(metrics["classes"], several=metrics["task"] == "multilabel"),
        "findings": _findings(checks, material.get("found", {})),
        "masks": material.get("masks", ()),
        "views": material.get("views", ()),
        "command": f"frostline fit --config {shlex.quote(printable(metrics['run'] + '/config.yaml'))}",
        "environment": environment_of(metrics, read_json(run, "environment.json")),
        "tables": tables_of(metrics, split, run.history, records, material, checks, bins),
    }
    context["sections"] = _sections(context)
    return rendered("page.html", context)


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = [("curves", "training", "Training"), ("phases", "plan", "What was tried")]
    names += [("confusion", "confusion", "Confusion"), ("classes", "classes", "Classes")]
    found = [(id_, name) for key, id_, name in names if context[key]]
    found += [(id_, name) for id_, name, *_ in context["galleries"]] + [("masks", "The worst masks")] * bool(
        context["masks"]
    )
    later = [("reliability", "calibration", "Calibration"), ("map", "map", "Map"), ("environment", "data", "Data")]
    later.insert(1, ("learning", "learning", "More images"))
    later += [("views", "views", "Views"), ("environment", "run", "Repeat")]
    return found + [(id_, name) for key, id_, name in later if context[key]]


def _curves(run: Run, metrics: Mapping[str, Any]) -> list[Chart]:
    """The loss and the metric over the epochs; none if nothing was trained."""
    phases = by_phase(run.history)
    if not phases or not phases[-1].end:
        return []
    kept = [phase["kept_epoch"] for phase in metrics["phases"]]
    stretches = [
        Stretch(phase.start, phase.end, phase.frostline, epoch is None)
        for phase, epoch in zip(phases, kept, strict=True)
    ]
    column, name = judged(metrics["task"])
    charts = []
    for own, title, key in ((column, name, column), ("loss", "loss", "monitored_loss")):
        found = {split: _values(phases, f"{split}_{own}") for split in ("train", "valid")}
        known = {split: values for split, values in found.items() if any(values)}
        tests = [
            (float(phase.start + epoch), float(result["test"][key]))
            for phase, epoch, result in zip(phases, kept, metrics["phases"], strict=True)
            if epoch is not None and result.get("test") and result["test"].get(key) is not None
        ]
        rings = list(zip(*places(phases, kept, f"valid_{own}"), strict=True))
        charts.append(line_chart(title, known, stretches, rings, tests))
    return charts


def _values(phases: Sequence[Phase], column: str) -> list[list[tuple[float, float]]]:
    """The finite points of a column, per phase."""
    points = [
        [(float(phase.start + int(epoch["epoch"])), number(epoch.get(column))) for epoch in phase.epochs]
        for phase in phases
    ]
    return [[point for point in stretch if np.isfinite(point[1])] for stretch in points]


def _harder(run: Run, metrics: Mapping[str, Any]) -> str:
    """Why the training loss cannot be compared with the validation loss; "" if it can."""
    config = run.config
    phases = [phase for phase, made in zip(config["plan"]["phases"], metrics["phases"], strict=False) if made["epochs"]]
    usual = metrics["task"] == "classification" and config.get("loss") in (None, "cross-entropy")
    smoothed = bool(config.get("label_smoothing"))
    if config.get("label_smoothing") is None and usual:
        smoothed = any(phase.get("race") for phase in phases)
    mixed = any(phase.get("mixup") for phase in phases)
    what = " and ".join(["smoothed labels"] * smoothed + ["mixed images (mixup)"] * mixed)
    return what and f"The training loss uses {what}, so it is above the validation loss; that is no problem."


def _confusion(metrics: Mapping[str, Any], records: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """The confusion matrix with similar classes side by side; if there are many classes, only the frequent mistakes."""
    if metrics["task"] != "classification" or not records:
        return None
    classes = list(metrics["classes"])
    index = {name: i for i, name in enumerate(classes)}
    true, predicted = ([index[record[column]] for record in records] for column in ("label", "predicted"))
    counts = counted(true, predicted, len(classes))
    pairs = [{"n": n, "true": classes[i], "predicted": classes[j]} for n, i, j in counts.most_confused(PAIRS)]
    which = called(metrics["validation"], records[0]["split"]).capitalize()
    title = f"{which} accuracy {counts.right.sum() / counts.total:.3f} (n = {counts.total:,})"
    if len(classes) > MATRIX:
        return {"title": title, "matrix": None, "pairs": pairs}
    matrix = counts.matrix()
    order, of = clustered(matrix), np.maximum(matrix.sum(1), 1)
    rows = [
        (
            classes[i],
            [
                {
                    "n": int(matrix[i, j]),
                    "share": matrix[i, j] / of[i],
                    "right": i == j,
                    "name": classes[j],
                    "of": matrix[i].sum(),
                }
                for j in order
            ],
        )
        for i in order
    ]
    return {
        "title": title,
        "matrix": rows,
        "names": [classes[i] for i in order],
        "pairs": pairs if len(classes) > 3 else [],
    }


def clustered(matrix: np.ndarray) -> list[int]:
    """The classes in an order that puts confused classes next to each other.

    This is the leaf order of average-linkage clustering by how often two classes are confused. The order is unchanged
    if there are fewer than four classes or no confusion.

    >>> clustered(np.array([[9, 0, 5, 0], [0, 9, 0, 5], [5, 0, 9, 0], [0, 5, 0, 9]]))
    [0, 2, 1, 3]
    """
    confused = (matrix + matrix.T) * ~np.eye(len(matrix), dtype=bool)
    if len(matrix) < 4 or not confused.any():
        return list(range(len(matrix)))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = 1 - confused / confused.max()
    np.fill_diagonal(distance, 0)
    order: list[int] = leaves_list(linkage(squareform(distance, checks=False), "average")).tolist()
    return order


def _classes(per_class: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of every class, as bars with intervals."""
    keys = list(row_of(next(iter(per_class.values()))))
    rows = []
    for name, figures in per_class.items():
        cells = []
        for key in keys:
            value = figures[key]
            low, high = figures.get(f"{key}_interval") or (value, value)
            cells.append({"value": value, "low": low, "high": high, "sure": f"{key}_interval" in figures})
        rows.append({"name": name, "n": figures["n"], "cells": cells})
    return {"columns": ["class", "n", *keys], "rows": rows}


def _galleries(material: Mapping[str, Any]) -> list[tuple[str, str, list[dict[str, Any]], str]]:
    count, worst = material.get("mistakes", 0), material.get("worst", ())
    of = f": {len(worst)} of {count:,}" if count > len(worst) else ""
    some = [("mistakes", f"The worst mistakes{of}", "worst"), ("unsure", "Right, but least sure", "unsure")]
    some.append(("harmful", "Training images that harm most", "harmful"))
    return [(id_, name, material[key], SENTENCES[id_]) for id_, name, key in some if material.get(key)]


def _bins(records: Sequence[Mapping[str, str]]) -> list[dict[str, float]]:
    """The bins of the reliability diagram; none if the predictions have no probabilities."""
    if not records or "probability" not in records[0]:
        return []
    label = "labels" if "labels" in records[0] else "label"
    sure = np.array([number(record["probability"]) for record in records])
    return reliability(sure, np.array([record[label] == record["predicted"] for record in records]))


def _learning(curve: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The learning curve, and the classes that gain most from twice the images."""
    if not curve:
        return None
    classes = [
        {"name": name, "now": own["recall"], **own, "gain": own["expected"] - own["recall"]}
        for name, own in curve["per_class"].items()
    ]
    gaining = sorted(classes, key=lambda own: -own["gain"])[:GAINING]
    return {"chart": learning_chart(curve), "classes": gaining, "band": curve["doubled"]["band"]}


def _map(material: Mapping[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The points of the map, each with its position, colour and label."""
    colours, points = dict(zip(classes, _colours(len(classes)), strict=True)), []
    for point in material.get("map", ()):
        wrong = point["true"] != point["predicted"]
        points.append(
            {
                "cx": f"{3 + 94 * point['x']:.2f}",
                "cy": f"{3 + 94 * point['y']:.2f}",
                "colour": colours.get(point["true"], OTHER),
                "wrong": wrong,
                "name": point["name"],
                "label": f"{point['true']} → {point['predicted']}" if wrong else point["true"],
                "picture": point["picture"],
            }
        )
    return points


def _legend(classes: Sequence[str], *, several: bool) -> list[tuple[str, str]]:
    other = [("several classes, or none", OTHER)] if several else []
    listed = list(zip(classes, _colours(len(classes)), strict=True))[:LISTED]
    return [*listed, *other, *([(f"and {len(classes) - LISTED} more", "transparent")] if len(classes) > LISTED else [])]


def _colours(count: int) -> list[str]:
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in palette(count).tolist()]


def _findings(checks: Mapping[str, Any], pictures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The findings about the data, by kind, with the pictures of the first ones."""
    found = checks.get("findings", [])
    kinds = []
    for kind, names in KINDS.items():
        own = [finding for finding in found if finding["kind"] == kind]
        if own:
            rows = [{"paths": ", ".join(f["paths"][:4]), "detail": f["detail"]} for f in own[:SHOWN]]
            text, more = f"{len(own)} {names[len(own) > 1]}", max(0, len(own) - SHOWN)
            kinds.append({"text": text, "rows": rows, "more": more, "pictures": pictures.get(kind, ())})
    return kinds
