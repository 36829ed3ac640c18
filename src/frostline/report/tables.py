"""The data behind the figures of a page, as CSV: a link beside each figure saves it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from frostline.report.facts import judged, phases_of
from frostline.tasks.classwise import row_of
from frostline.values import csv_text

Record = Mapping[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[object]]]  # column names, and rows
PICTURED = ("name", "true", "predicted", "p")
MAPPED = ("name", "x", "y", "true", "predicted")
FOUND = ("kind", "score", "detail")


def tables_of(
    metrics: Record,
    split: str,
    history: Sequence[Record],
    records: Sequence[Mapping[str, str]],
    material: Record,
    checks: Record,
    bins: Sequence[Record],
) -> dict[str, str]:
    """Section → its table as CSV in base64, for a link; sections without rows are left out.

    records: of the measured images, as in predictions.csv. bins: of the reliability diagram.
    """
    columns = list(history[0]) if history else []
    phase = ("trains", "epochs", judged(metrics["task"])[0], "loss", "seconds", "decision")
    tables: dict[str, Table] = {
        "training": (columns, [list(record.values()) for record in history]),
        "plan": (phase, _cells(phases_of(metrics), phase)),
        "confusion": _confused(records),
        "classes": _classes(metrics[split]["per_class"]),
        "mistakes": (PICTURED, _cells(material.get("worst", ()), PICTURED)),
        "unsure": (PICTURED, _cells(material.get("unsure", ()), PICTURED)),
        "calibration": (list(bins[0]) if bins else [], [list(each.values()) for each in bins]),
        "map": (MAPPED, _cells(material.get("map", ()), MAPPED)),
        "learning": _learning(metrics.get("learning_curve")),
        "data": (
            (*FOUND, "splits", "labels", "paths"),
            [
                [*(found[name] for name in FOUND), *(" | ".join(found[n]) for n in ("splits", "labels", "paths"))]
                for found in checks.get("findings", ())
            ],
        ),
    }
    return as_links(tables)


def as_links(tables: Mapping[str, Table]) -> dict[str, str]:
    """Name → table as CSV in base64, for a link; tables without rows are left out."""
    return {
        name: base64.b64encode(csv_text(header, rows).encode("utf-8", "replace")).decode("ascii")
        for name, (header, rows) in tables.items()
        if rows
    }


def _cells(records: Sequence[Record], names: Sequence[str]) -> list[list[object]]:
    return [[record[name] for name in names] for record in records]


def _confused(records: Sequence[Mapping[str, str]]) -> Table:
    """The number of images by true and predicted class; zeros are left out."""
    counts = Counter((record["label"], record["predicted"]) for record in records if "label" in record)
    return ("true", "predicted", "n"), [[*pair, n] for pair, n in sorted(counts.items())]


def _classes(per_class: Mapping[str, Record]) -> Table:
    keys = list(row_of(next(iter(per_class.values()))))
    bounds = [f"{key}_{end}" for key in keys for end in ("low", "high")]
    rows = []
    for name, figures in per_class.items():
        intervals = [end for key in keys for end in figures.get(f"{key}_interval") or ("", "")]
        rows.append([name, figures["n"], *(figures[key] for key in keys), *intervals])
    return ("class", "n", *keys, *bounds), rows


def _learning(curve: Record | None) -> Table:
    if not curve:
        return (), []
    then = curve["doubled"]
    rows = [["measured", point["images"], point["accuracy"], *point["interval"]] for point in curve["points"]]
    rows.append(["forecast", then["images"], then["expected"], then["low"], then["high"]])
    return ("kind", "images", "accuracy", "low", "high"), rows
