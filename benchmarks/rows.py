"""From single runs to what a table or a picture shows: a row for everybody, a panel for the same work."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import work
from work import AGAIN, SOLVED, TRAINED, TRAINING, Unit

Run = dict[str, Any]
NAMES = {
    "tutorial": "PyTorch tutorial loop",
    "fastai": "fastai",
    "lightning": "Lightning",
    "huggingface": "Hugging Face Trainer",
    "sklearn": "timm + scikit-learn",
}
FROSTLINE_NAMES = {  # by what trains
    (SOLVED, "head"): "Frostline, head solved",
    (TRAINED, "head"): "Frostline, head trained",
    (AGAIN, "head"): "Frostline, second fit",
    (TRAINED, "stage"): "Frostline",
    (AGAIN, "stage"): "Frostline, second fit",
}


TOO_FEW = "runs differ by more than epochs take; measure more epochs"


@dataclass(frozen=True)
class Row:
    """Everybody's figures for one piece of work.

    seconds: median, low, high of `count` whole processes; failures: runs that failed besides. measured: the epochs from
    which they were reckoned, empty where all were run; the accuracy is then that of the last of these. factor: time as
    a multiple of Frostline's.
    """

    label: str
    ours: bool
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    count: int = 0
    peak_bytes: int = 0
    accuracy: float = 0.0
    measured: tuple[int, ...] = ()
    store_bytes: int | None = None
    factor: float | None = None
    failed: str = ""
    failures: int = 0

    @property
    def known(self) -> bool:
        return self.count > 0


@dataclass(frozen=True)
class Panel:
    """The same work, or (scale) work that grows from row to row."""

    name: str
    title: str
    rows: tuple[Row, ...]
    scale: bool = False


def panels(runs: Sequence[Run]) -> list[Panel]:
    """All work that was measured, in the order in which it is defined."""
    found: dict[tuple[str, int], Panel] = {}
    for unit in work.UNITS:
        own = [run for run in runs if run["work"] == unit.name]
        for epochs in unit.epochs if own else ():
            rows = unit_rows(unit, epochs, own)
            panel = found.get((unit.panel, epochs))
            title = f"{unit.title}, {epochs} epochs" if epochs else unit.title
            above = panel.rows if panel else ()
            found[unit.panel, epochs] = Panel(unit.panel, title, (*above, *rows), scale=unit.panel != unit.name)
    return list(found.values())


def unit_rows(unit: Unit, epochs: int, runs: Sequence[Run]) -> list[Row]:
    rows = {}
    for who in unit.who:
        own = [run for run in runs if run["who"] == who]
        if own:
            rows[who] = make_row(label(unit, who), who, epochs, own)
    base = next((rows[who] for who in (TRAINED, SOLVED) if who in rows and rows[who].known), None)
    if base is None:
        return list(rows.values())
    return [
        Row(**vars(row) | {"factor": row.seconds[0] / base.seconds[0]}) if row.known else row for row in rows.values()
    ]


def label(unit: Unit, who: str) -> str:
    name = NAMES.get(who) or FROSTLINE_NAMES[who, "head" if unit.train == "head" else "stage"]
    if unit.panel == unit.name:
        return name
    return f"{name.partition(',')[0]}, {int(unit.name.partition('-')[2]):,}"


def make_row(name: str, who: str, epochs: int, runs: Sequence[Run]) -> Row:
    good = [run for run in runs if "failed" not in run]
    target = epochs if who in TRAINING or who == TRAINED or any(run["epochs"] for run in good) else 0
    whole = [run for run in good if run["epochs"] == target]
    measured: tuple[int, ...] = ()
    times, last = [run["seconds"] for run in whole], whole
    if not whole and who in TRAINING:
        try:
            measured, times = extrapolated(good, target)
        except ValueError as error:
            return Row(name, False, failed=str(error))
        last = [run for run in good if measured and run["epochs"] == measured[-1]]
    ours = who not in NAMES
    if not times:
        why = next((run["failed"] for run in reversed(runs) if "failed" in run), "too few runs")
        return Row(name, ours, failed=why)
    stores = [run["store_bytes"] for run in last if "store_bytes" in run]
    return Row(
        name,
        ours,
        seconds=(statistics.median(times), min(times), max(times)),
        count=len(times),
        peak_bytes=max(run["peak_bytes"] for run in last),
        accuracy=statistics.median(run["accuracy"] for run in last),
        measured=measured,
        store_bytes=max(stores) if stores else None,
        failures=len(runs) - len(good),
    )


def extrapolated(runs: Sequence[Run], epochs: int) -> tuple[tuple[int, ...], list[float]]:
    """Seconds that all epochs would take, one number a repetition, from two runs of few epochs.

    All epochs cost the same, so t(E) = t(a) + (E - a) · (t(b) - t(a)) / (b - a). Raises ValueError if more epochs took
    less time in any repetition: to leave out just that one would make the peer slower than it is.
    """
    counts = sorted({run["epochs"] for run in runs})
    if len(counts) < 2:
        return (), []
    few, more = counts[0], counts[-1]
    seconds = {(run["epochs"], run["repeat"]): run["seconds"] for run in runs}
    pairs = [
        (t, (seconds[more, repeat] - t) / (more - few))
        for (count, repeat), t in seconds.items()
        if count == few and (more, repeat) in seconds
    ]
    if any(epoch <= 0 for _, epoch in pairs):
        raise ValueError(TOO_FEW)
    return ((few, more), [t + (epochs - few) * epoch for t, epoch in pairs]) if pairs else ((), [])
