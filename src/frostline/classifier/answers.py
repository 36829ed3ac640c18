"""Stream predictions as text: a table, CSV, JSON, or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from frostline.classifier.classifier import Prediction
from frostline.terminal import printable
from frostline.values import csv_lines, finite


@dataclass(frozen=True)
class Columns:
    """The columns of a table besides the label.

    top: number of classes, the most probable first. classes: all of them, if each also gets its probability.
    coverage, why, threshold: whether to show sets, reasons and doubts.
    """

    top: int = 1
    classes: tuple[str, ...] = ()
    coverage: bool = False
    why: bool = False
    threshold: bool = False


def as_text(
    predictions: Iterable[Prediction],
    layout: str,
    columns: Columns,
    *,
    width: int = 0,
    shown: Callable[[str], str] = str,
) -> Iterator[str]:
    """The text, piece by piece, without waiting for the last image.

    width: of the longest name, as far as names are known, for a table. shown: how to write names in CSV.
    """
    if layout == "csv":
        return csv_lines(_csv(predictions, columns, shown))
    if layout == "jsonl":
        return (json.dumps(_said(each, columns), allow_nan=False) + "\n" for each in predictions)
    return _json(predictions, columns) if layout == "json" else _table(predictions, columns, width)


def _said(prediction: Prediction, columns: Columns) -> dict[str, Any]:
    said = prediction.as_json()
    if columns.classes and prediction.probabilities is not None:
        said["probabilities"] = dict(zip(columns.classes, prediction.probabilities.tolist(), strict=True))
    valid: dict[str, Any] = finite(said)
    return valid


def _json(predictions: Iterable[Prediction], columns: Columns) -> Iterator[str]:
    """A list, indented like `json.dumps`."""
    before = "[\n"
    for each in predictions:
        text = json.dumps(_said(each, columns), indent=2, allow_nan=False)
        yield before + "\n".join(f"  {line}" for line in text.split("\n"))
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _csv(
    predictions: Iterable[Prediction], columns: Columns, shown: Callable[[str], str]
) -> Iterator[Sequence[object]]:
    ranks = [name for rank in range(2, columns.top + 1) for name in (f"label_{rank}", f"probability_{rank}")]
    header = ["path", "label", "probability", "error", *ranks, *(f"p_{name}" for name in columns.classes)]
    yield [
        *header,
        *(["set", "none"] if columns.coverage else []),
        *(["why"] if columns.why else []),
        *(["uncertain"] if columns.threshold else []),
    ]
    for each in predictions:
        record = [
            shown(each.path),
            shown(each.label),
            "" if each.error else f"{each.probability:.6f}",
            shown(each.error),
        ]
        others = [cell for name, p in each.top[1 : columns.top] for cell in (shown(name), f"{p:.6f}")]
        record += others + [""] * (len(ranks) - len(others))
        if columns.classes:
            known = [] if each.probabilities is None else [f"{float(p):.6f}" for p in each.probabilities]
            record += known or [""] * len(columns.classes)
        if columns.coverage:
            record += ["", ""] if each.set is None else [shown("|".join(each.set)), str(each.none).lower()]
        if columns.why:
            record.append(shown("|".join(path for path, _, _ in each.why)))
        if columns.threshold:
            record.append("" if each.uncertain is None else str(each.uncertain).lower())
        yield record


def _table(predictions: Iterable[Prediction], columns: Columns, width: int) -> Iterator[str]:
    for each in predictions:
        width = max(width, len(printable(each.path)))
        label = f"error: {printable(each.error)}" if each.error else f"{each.probability:.4f}  {printable(each.label)}"
        label += "".join(f", {p:.4f} {printable(name)}" for name, p in each.top[1 : columns.top])
        if each.uncertain:
            label = f"uncertain: {label}"
        if each.none:
            label = f"maybe none of the classes (far from the training images), else {label}"
        if each.set is not None:
            label += f"  {{{printable(', '.join(each.set))}}}"
        text = f"{printable(each.path):<{width}}  {label}\n"
        for path, name, cosine in each.why:
            text += f"{'':<{width}}  like {printable(path)} ({printable(name)}, cosine {cosine:.2f})\n"
        yield text
