"""Charts of a page, as coordinates: the page draws them in its own colours, light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.tasks.intervals import wilson

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 44, 38
MOST_LETTERS = 18  # of a phase name
NAMED = {"kept": "○ kept"}
KINDS = {"recommended": "test", "fitted": "valid", "dropped out": "train"}  # the colour of each kind of compared run

Points = Sequence[tuple[float, float]]
Chart = dict[str, Any]


@dataclass(frozen=True)
class Stretch:
    """A phase on the epoch axis: start and end, the name of its frostline, and whether it was undone."""

    start: float
    end: float
    name: str
    undone: bool = False


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Points]],
    phases: Sequence[Stretch],
    kept: Points = (),
    tests: Points = (),
) -> Chart:
    """Values over epochs: one line per series and phase, and a vertical rule with a name where each phase begins.

    series: name ("train", "valid") → one list of points per phase. phases: start, end and name of each; one that was
    undone is drawn pale on grey. kept: points that get a ring. tests: single points.
    """
    points = [point for stretches in series.values() for stretch in stretches for point in stretch] + list(tests)
    last = int(max(1.0, *(x for x, _ in points)))
    bottom, top, ticks = _ticks([y for _, y in points])
    x_of = _between(0, last, LEFT + 10, WIDTH - RIGHT - 10)
    y_of = _between(bottom, top, HEIGHT - BOTTOM, TOP)
    lines, dots = [], []
    for name, stretches in series.items():
        for stretch, phase in zip(stretches, phases, strict=True):
            pale = " pale" * phase.undone
            lines.append({"name": name + pale, "path": " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in stretch)})
            dots += [_dot(name + pale, x_of(x), y_of(y), f"{name}, epoch {x:g}: {y:.4f}") for x, y in stretch]
    dots += [_dot("kept", x_of(x), y_of(y), f"kept: epoch {x:g}, {y:.4f}", 6) for x, y in kept]
    dots += [_dot("test", x_of(x), y_of(y), f"test: {y:.4f}", 4.5) for x, y in tests]
    step = max(1, round(_step(last / 8)))
    names = [*series, *(["kept"] if kept else []), *(["test"] if tests else [])]
    return {
        "title": title,
        "bands": [{"x": x_of(each.start), "end": x_of(each.end)} for each in phases if each.undone],
        "ticks": [{"y": y_of(value), "label": label} for value, label in ticks],
        "marks": [{"x": x_of(epoch), "label": str(epoch)} for epoch in range(0, last + 1, step)],
        "axis": "epoch",
        "rules": [_rule(x_of(start), ", ".join(names), seen=start > 0) for start, names in _together(phases).items()],
        "lines": lines,
        "whiskers": [],
        "dots": dots,
        "names": [
            {"name": name, "label": NAMED.get(name, name), "x": WIDTH - RIGHT - 54 * place}
            for place, name in enumerate(names)
        ],
    }


def learning_chart(curve: Mapping[str, Any]) -> Chart:
    """Accuracy by the number of training images (logarithmic axis), and the forecast for twice as many.

    curve: `learning_curve` of metrics.json.
    """
    points, then = curve["points"], curve["doubled"]
    ends = [bound for point in points for bound in point["interval"]] + [then["low"], then["high"]]
    bottom, top, ticks = _ticks(ends)
    scale = _between(math.log2(points[0]["images"]), math.log2(then["images"]), LEFT + 14, WIDTH - RIGHT - 18)
    y_of = _between(bottom, top, HEIGHT - BOTTOM, TOP)
    places = [(scale(math.log2(point["images"])), y_of(point["accuracy"])) for point in points]
    end = scale(math.log2(then["images"])), y_of(then["expected"])
    whiskers = [
        {"x": x, "top": y_of(point["interval"][1]), "bottom": y_of(point["interval"][0])}
        for (x, _), point in zip(places, points, strict=True)
    ]
    dots = [
        _dot(
            "valid",
            *place,
            f"{point['images']:,} images: {point['accuracy']:.4f} "
            f"(95 %: {point['interval'][0]:.4f} … {point['interval'][1]:.4f})",
            3.2,
        )
        for place, point in zip(places, points, strict=True)
    ]
    forecast = (
        f"forecast for {then['images']:,} images: {then['expected']:.4f} "
        f"({100 * then['band']:.0f} %: {then['low']:.4f} … {then['high']:.4f})"
    )
    return {
        "title": "accuracy of the solved head",
        "ticks": [{"y": y_of(value), "label": label} for value, label in ticks],
        "marks": [
            {"x": x, "label": f"{images:,}"}
            for (x, _), images in zip([*places, end], [*(p["images"] for p in points), then["images"]], strict=True)
        ],
        "axis": "training images",
        "rules": [],
        "lines": [
            {"name": "valid", "path": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)},
            {"name": "even", "path": " ".join(f"{x:.1f},{y:.1f}" for x, y in (places[-1], end))},
        ],
        "whiskers": [*whiskers, {"x": end[0], "top": y_of(then["high"]), "bottom": y_of(then["low"])}],
        "dots": [*dots, _dot("test", *end, forecast, 4.5)],
        "names": [{"name": "test", "label": "forecast", "x": WIDTH - RIGHT}],
    }


def reliability(sure: np.ndarray, right: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Accuracy per bin of predicted probability, with 95 % intervals (Wilson).

    sure: probabilities of the predicted labels, (N,). right: whether each prediction is correct, (N,) of bool.
    """
    number, result = np.minimum((sure * bins).astype(int), bins - 1), []
    for one in np.unique(number):
        inside = number == one
        n, hits = int(inside.sum()), int(right[inside].sum())
        low, high = wilson(hits, n)
        result.append({"said": float(sure[inside].mean()), "right": hits / n, "n": n, "low": low, "high": high})
    return result


def reliability_chart(bins: Sequence[Mapping[str, float]]) -> Chart:
    """The reliability diagram of the bins from `reliability`."""
    x_of, y_of = _between(0, 1, LEFT + 10, WIDTH - RIGHT - 10), _between(0, 1, HEIGHT - BOTTOM, TOP)
    dots, whiskers = [], []
    for each in bins:
        said, right, n, low, high = (each[key] for key in ("said", "right", "n", "low", "high"))
        text = f"predicted {said:.2f}, correct {right:.2f} of {n} (95 %: {low:.2f} … {high:.2f})"
        dots.append(_dot("valid", x_of(said), y_of(right), text, 2.5 + 2 * math.log10(n + 1)))
        whiskers.append({"x": x_of(said), "top": y_of(high), "bottom": y_of(low)})
    quarters = [(value, f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "title": "share of correct predictions",
        "ticks": [{"y": y_of(value), "label": label} for value, label in quarters],
        "marks": [{"x": x_of(value), "label": label} for value, label in quarters],
        "axis": "predicted probability",
        "rules": [],
        "lines": [{"name": "even", "path": f"{x_of(0):.1f},{y_of(0):.1f} {x_of(1):.1f},{y_of(1):.1f}"}],
        "whiskers": whiskers,
        "dots": dots,
        "names": [],
    }


def cost_chart(runs: Sequence[Mapping[str, Any]]) -> Chart:
    """Accuracy with its interval against seconds on a logarithmic axis; every run is labelled with its number.

    runs: each has `number`, `name`, `accuracy`, `interval`, `seconds` and `kind`, a key of KINDS.
    """
    bottom, top, ticks = _ticks([bound for run in runs for bound in run["interval"]])
    marks = _powers([run["seconds"] for run in runs])
    scale = _between(math.log(marks[0]), math.log(marks[-1]), LEFT + 14, WIDTH - RIGHT - 18)
    y_of = _between(bottom, top, HEIGHT - BOTTOM, TOP)
    dots, whiskers = [], []
    for run in reversed(runs):  # the best is drawn last, on top
        (low, high), colour, x = run["interval"], KINDS[run["kind"]], scale(math.log(max(run["seconds"], marks[0])))
        text = f"{run['name']}: {run['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}), {run['seconds']:.1f} s"
        dots.append(_dot(colour, x, y_of(run["accuracy"]), text, 4.5))
        whiskers.append({"name": colour, "x": x, "top": y_of(high), "bottom": y_of(low)})
    names, x = [], WIDTH - RIGHT
    for kind in [kind for kind in KINDS if any(run["kind"] == kind for run in runs)]:
        names.append({"name": KINDS[kind], "label": kind, "x": x})
        x -= 18 + 9 * len(kind)
    return {
        "title": "accuracy",
        "ticks": [{"y": y_of(value), "label": label} for value, label in ticks],
        "marks": [{"x": scale(math.log(value)), "label": f"{value:g}"} for value in marks],
        "axis": "seconds",
        "rules": [],
        "lines": [],
        "whiskers": whiskers,
        "dots": _numbered(dots, [str(run["number"]) for run in reversed(runs)]),
        "names": names,
    }


def _numbered(dots: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The dots, each with its text on the side that is furthest from other texts and dots."""
    taken, result = [(dot["x"], dot["y"]) for dot in dots], []
    for dot, text in zip(dots, texts, strict=True):
        sides = [(dot["x"] + x, dot["y"] + y) for x, y in ((12, -8), (-12, -8), (12, 10), (-12, 10))]
        x, y = max(sides, key=lambda side: min(math.dist(side, other) for other in taken))
        taken.append((x, y))
        result.append({**dot, "label": {"x": x, "y": y + 4, "text": text}})
    return result


def _powers(values: Sequence[float]) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that enclose the values; at least two."""
    least, most = max(min(values), 1e-3), max(*values, 1e-3)
    grid = [factor * 10.0**power for power in range(-3, 9) for factor in (1, 2, 5)]
    first = max(i for i, value in enumerate(grid) if value <= least)
    last = next((i for i, value in enumerate(grid) if value >= most and i > first), len(grid) - 1)
    return grid[first : last + 1]


def _dot(name: str, x: float, y: float, text: str, radius: float = 2.6) -> dict[str, Any]:
    return {"name": name, "x": x, "y": y, "text": text, "radius": radius}


def _together(phases: Sequence[Stretch]) -> dict[float, list[str]]:
    """Phase names by the epoch at which they begin. A solved phase has no epochs, so several can share one."""
    names: dict[float, list[str]] = {}
    for phase in phases:
        names.setdefault(phase.start, []).append(phase.name + " ✗" * phase.undone)
    return names


def _rule(x: float, name: str, *, seen: bool) -> dict[str, Any]:
    """The rule where a phase begins. Its name is on the right of it, or on the left near the right edge."""
    short = name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"
    return {"x": x, "name": short, "seen": seen, "left": x > WIDTH - 140}


def _between(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear map from `low` … `high` to pixels `start` … `end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(values: Sequence[float]) -> tuple[float, float, list[tuple[float, str]]]:
    """The ends of an axis, and about five round ticks on it."""
    low, high = min(values), max(values)
    step = _step(max(high - low, 1e-3) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return first * step, last * step, [(i * step, f"{i * step:.{digits}f}") for i in range(first, last + 1)]


def _step(least: float) -> float:
    """The smallest round number (1, 2 or 5 times a power of ten) that is at least `least`."""
    power = float(10 ** math.floor(math.log10(least)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)
