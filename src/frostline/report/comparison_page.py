"""The page of a comparison: one file, made from the results of compare and the runs beside it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from frostline.report import rivals
from frostline.report.charts import cost_chart
from frostline.report.facts import data_of
from frostline.report.frame import rendered
from frostline.report.page import NAME as REPORT
from frostline.report.tables import Table, as_links
from frostline.runs.run import Run, corrupt, read_json, write_text
from frostline.terminal import human_bytes, human_count, printable

NAME = "comparison.html"
RESULTS, COMMAND = "comparison.json", "command.txt"  # the results, and the command that repeats them
CLASSES = 40  # whose recall is shown, at most
IMAGES = 20  # shown at most, of those that only one of the first two runs predicts correctly
COLUMNS = ("#", "run", "accuracy", "to the best", "p", "log-loss", "seconds", "parameters", "size", "images/s")
RESULT = {"name", "run", "accuracy", "interval", "seconds", "loss", "parameters", "bytes", "dropped", "to_best"}
PAIRED = ("difference", "low", "high", "p_value")
COSTS = ("loss", "seconds", "parameters", "bytes", "images_per_second", "licence")
SECTIONS = {
    "runs": "Runs",
    "time": "Accuracy and time",
    "recalls": "Classes",
    "images": "Images",
    "failed": "Failed",
    "repeat": "Repeat",
}

Result = Mapping[str, Any]


def write_comparison(folder: Run, results: Sequence[Result], command: str) -> Path:
    """Write `comparison.html` to the folder of a comparison; returns its path."""
    write_text(folder, NAME, comparison_page(folder, results, command))
    return folder.path / NAME


def remake_comparison(folder: Run) -> Path:
    """Write the page again from the files of the folder, which may have been moved; returns its path."""
    results = read_json(folder, RESULTS, list)
    for own in results:
        if not isinstance(own, dict) or not (own.keys() >= RESULT or own.keys() >= {"name", "error"}):
            raise corrupt(folder.path / RESULTS, "a result lacks figures")
    beside = [own | {"run": str(folder.path / Path(own["run"]).name)} if own.get("run") else own for own in results]
    command = folder.path / COMMAND
    return write_comparison(folder, beside, command.read_text(encoding="utf-8") if command.is_file() else "")


def comparison_page(folder: Run, results: Sequence[Result], command: str) -> str:
    """The page as text.

    results: as compare returns them. command: repeats the comparison; "" if no command line can.
    """
    ranking = rivals.ranked(results)
    runs = [Run(Path(own["run"])) for own in ranking if own["run"]]
    metrics = [run.metrics for run in runs]
    rows = [_row(number, own, folder) for number, own in enumerate(ranking, 1)]
    classes = rivals.recalls([own["valid"]["per_class"] for own in metrics]) if _has_classes(metrics) else []
    images = _images(runs, metrics)
    context: dict[str, Any] = {
        "title": f"{printable(folder.path.name)} · Frostline",
        "run": f"{printable(folder.path.name)}, {len(results)} compared",
        "headline": rivals.headline(ranking, _chosen(metrics, len(ranking))),
        "facts": [*[("data", printable(data_of(run))) for run in runs[:1]], *rivals.facts(results, ranking)],
        "finding": rivals.verdict(ranking),
        "columns": [*COLUMNS, "licence"],
        "runs": rows,
        "time": cost_chart(rows) if rows else None,
        "recalls": classes[:CLASSES],
        "more_classes": max(0, len(classes) - CLASSES),
        "fitted": rows[: len(runs)],
        "images": images[:IMAGES],
        "only": [sum(image["right"] == which for image in images) for which in (0, 1)],
        "measured": metrics[0]["valid"]["n"] if metrics else 0,
        "failed": [(printable(own["name"]), printable(own["error"])) for own in results if "error" in own],
        "command": command,
        "configs": [f"frostline fit --config {shlex.quote(_beside(run.path / 'config.yaml', folder))}" for run in runs],
        "repeat": True,
        "tables": as_links(_tables(ranking, classes, images)),
    }
    context["sections"] = [(id_, name) for id_, name in SECTIONS.items() if context[id_]]
    return rendered("comparison.html", context)


def _has_classes(metrics: Sequence[Mapping[str, Any]]) -> bool:
    return bool(metrics) and metrics[0]["task"] == "classification"


def _chosen(metrics: Sequence[Mapping[str, Any]], measured: int) -> dict[str, Any] | None:
    """The metrics of the first run. Its `chosen_of` counts the candidates of all runs, which the same images judged."""
    if not metrics:
        return None
    return {**metrics[0], "chosen_of": sum(own["chosen_of"] for own in metrics) + measured - len(metrics)}


def _row(number: int, own: Result, folder: Run) -> dict[str, Any]:
    """A run, for the table and the chart."""
    dropped, paired = own["dropped"], own["to_best"]
    kind = "recommended" if own.get("recommended") else "dropped out" if dropped else "fitted"
    low, high = own["interval"]
    report = Path(own["run"]) / REPORT if own["run"] else None
    ends = [f"{100 * paired[end]:+.1f}" for end in ("difference", "low", "high")] if paired else []
    apart = {"value": paired["difference"] if paired else 0, "shown": ends[0] if ends else "–", "ends": ends[1:]}
    cells = [
        (paired["p_value"] if paired else 1, f"{paired['p_value']:.2g}" if paired else "–"),
        _cell(own["loss"], "{:.3f}".format),
        _cell(own["seconds"], "{:.1f}".format),
        _cell(own["parameters"], human_count),
        _cell(own["bytes"], human_bytes),
        _cell(own["images_per_second"], "{:.0f}".format),
    ]
    return {
        **{key: own[key] for key in ("accuracy", "interval", "seconds")},
        "number": number,
        "name": printable(own["name"]),
        "kind": kind,
        "note": f"dropped out in round {dropped['round']}, on {dropped['images']} images" if dropped else "",
        "href": quote(_beside(report, folder)) if report and report.is_file() else "",
        "bar": {"value": own["accuracy"], "low": low, "high": high, "sure": True},
        "apart": apart,
        "cells": cells,
        "licence": printable(str(own["licence"])),
    }


def _cell(value: float | None, shown: Callable[[Any], str]) -> tuple[float, str]:
    """A number to sort by, and its text."""
    return (value, shown(value)) if value is not None and math.isfinite(value) else (-1, "–")


def _beside(file: Path, folder: Run) -> str:
    """The path of a file relative to the folder of the comparison, which holds all runs."""
    return file.relative_to(folder.path).as_posix()


def _images(runs: Sequence[Run], metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Images that only one of the first two runs predicts correctly; none for tasks without right or wrong images."""
    if len(runs) < 2 or metrics[0]["task"] == "segmentation":
        return []
    first, second = ([record for record in run.predictions if record["split"] == "valid"] for run in runs[:2])
    return rivals.only_one_right(first, second)


def _tables(
    ranking: Sequence[Result], classes: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]
) -> dict[str, Table]:
    """The table behind each figure, with all classes and all images."""
    names = [own["name"] for own in ranking if own["run"]]
    runs, times = [], []
    for own in ranking:
        paired = own["to_best"] or {}
        runs.append(
            [own["name"], own["accuracy"], *own["interval"], *(paired.get(key) for key in PAIRED)]
            + [own[key] for key in COSTS]
        )
        times.append([own["name"], own["seconds"], own["accuracy"], *own["interval"]])
    return {
        "runs": (("run", "accuracy", "low", "high", *(f"to_best_{key}" for key in PAIRED), *COSTS), runs),
        "time": (("run", "seconds", "accuracy", "low", "high"), times),
        "recalls": (("class", "n", *names), [[row["name"], row["n"], *row["values"]] for row in classes]),
        "images": (
            ("image", "true", *names[:2], "right"),
            [[image["name"], image["true"], *image["said"], names[image["right"]]] for image in images],
        ),
    }
