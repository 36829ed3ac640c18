"""The facts of a page in words: the figure, its baselines, the most important finding, what to do next."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import yaml

from frostline.data.readers.named import NAMED
from frostline.runs.run import Run
from frostline.tasks.summary import between, in_points
from frostline.terminal import human_bytes, human_seconds, printable

Metrics = Mapping[str, Any]
# The metric of a task, its name, and the meaning of its accuracy:
JUDGED = {
    "multilabel": ("mean_ap", "mean AP", "images with all labels right"),
    "segmentation": ("mean_iou", "mean IoU", "correct pixels"),
}
CALLED = {"valid": "validation", "test": "test", "train": "training"}
LEAKS = 0.01  # share of the measured images; fewer leaks hardly change the figure
WORTH_IT = 0.005  # gain in accuracy from twice the images that makes it the first advice
FEW = 200  # with fewer measured images, the interval is the first thing to improve


def data_of(run: Run) -> str:
    """The name of the data set: its own (mnist:ROOT), else the last part of its path."""
    try:
        config = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
        name = str(config["data"]).partition(":")[0]
        return name if name in NAMED else Path(str(config["data"])).name or "images"
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return "images"


def title_of(run: Run) -> str:
    """The title of a picture: data set, backbone, and the number of measured images."""
    metrics = run.metrics
    counts = [
        f"{called(metrics['validation'], split)}, n = {metrics[split]['n']:,}"
        for split in ("valid", "test")
        if metrics[split]
    ]
    return " · ".join([printable(data_of(run)), metrics["backbone"]["name"], *counts])


def called(validation: str, split: str) -> str:
    """The name of the figures of a split: "validation", "cross-fitted", "test". validation: as in metrics.json."""
    return {"crossed": "cross-fitted", "training images": "training"}.get(
        validation * (split == "valid"), CALLED[split]
    )


def judged(task: str) -> tuple[str, str]:
    """The metric of a task, as in metrics.json, and its name.

    >>> judged("segmentation")
    ('mean_iou', 'mean IoU')
    """
    return JUDGED.get(task, ("accuracy", "accuracy", ""))[:2]


def split_of(metrics: Metrics) -> str:
    """The split whose figures count: test, else validation."""
    return "test" if metrics["test"] else "valid"


def trusted(metrics: Metrics, split: str) -> Metrics:
    """The fair figures for new images: accuracy, interval and n without images that are also in another split."""
    clean: Metrics | None = metrics.get("without_leaks")
    return clean if clean and clean["n"] else metrics[split]


def headline_of(metrics: Metrics, split: str) -> dict[str, str]:
    """The accuracy, its interval, and any caveat."""
    own = metrics[split]
    note = ""
    if split == "valid" and metrics["validation"] == "crossed":
        note = "each image predicted by a head that was solved without it"
    elif split == "valid" and metrics["validation"] == "training images":
        note = "on the training images: new images may differ"
    elif split == "valid" and metrics["chosen_of"] > 1:
        points = 100 * flattery(own, metrics["chosen_of"])
        how_much = "slightly" if metrics.get("task") in JUDGED else f"up to about {points:.1f} points"
        note = f"the best of {metrics['chosen_of']} on these images, so {how_much} too good"
    groups = f" in {own['groups']:,} groups" if "groups" in own else ""
    what = "images" if metrics["validation"] == "crossed" and split == "valid" else f"{CALLED[split]} images"
    if metrics.get("task") in JUDGED:  # the share of images with all labels right is too strict
        key, name, _ = JUDGED[metrics["task"]]
        interval = (own.get("intervals") or {}).get(key) or [0.0, 1.0]
        value = percent(own[key]) if own.get(key) is not None else "unknown"
        return _headline(f"{name} {value}", interval, f"{own['n']:,} {what}{groups}", note)
    clean = trusted(metrics, split)
    if clean is not own:
        copy = "without a copy or group member" if "groups" in own else "without a copy"
        which = f"{clean['n']:,} {CALLED[split]} images {copy} in another split"
        what = f"{which}; {percent(own['accuracy'])} on all {own['n']:,}"
        return _headline(f"{percent(clean['accuracy'])} accurate", clean["interval"], what, note)
    text = f"{percent(own['accuracy'])} accurate"
    return _headline(text, own["interval"], f"{own['n']:,} {what}{groups}", note)


def _headline(text: str, interval: Sequence[float], what: str, note: str) -> dict[str, str]:
    low, high = interval
    return {
        "text": text,
        "interval": f"95 %: {percent(low)} … {percent(high)}, on {what}",
        "note": note,
    }


def flattery(measured: Metrics, candidates: int) -> float:
    """The most by which the accuracy of the best candidate is too high on the images that chose it.

    This is the expected maximum of that many independent normal errors (Blom 1958). It is less if the candidates make
    the same errors.

    >>> round(flattery({"accuracy": 0.9, "n": 100}, 2), 3)
    0.018
    """
    error = math.sqrt(max(measured["accuracy"] * (1 - measured["accuracy"]), 0) / max(1, measured["n"]))
    return error * max(0.0, NormalDist().inv_cdf((candidates - 0.375) / (candidates + 0.25)))


def facts_of(metrics: Metrics, split: str, records: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """The baselines of the accuracy, other figures, and the costs."""
    facts = []
    whole = f", of all {metrics[split]['n']:,}" if trusted(metrics, split) is not metrics[split] else ""
    labels = Counter(record["label"] for record in records if "label" in record)
    if labels:
        facts.append((f"always the largest class{whole}", percent(max(labels.values()) / labels.total())))
    first = metrics["phases"][0]
    before = first[split] if first.get(split) else first["valid"]
    if first["epochs"] == 0 and trained(metrics) != f"{first['frostline']}, solved":
        facts.append((f"the solved head alone{whole}", percent(before["accuracy"])))
    facts.append(("trained", trained(metrics)))
    own = metrics[split]
    intervals = own.get("intervals") or {}
    if metrics["task"] in JUDGED:
        facts.append((JUDGED[metrics["task"]][2], f"{percent(own['accuracy'])}{between(own['interval'], percent)}"))
    for key, name in (("balanced_accuracy", "balanced accuracy"), ("macro_f1", "macro F1"), ("f1", "F1 of all labels")):
        if own.get(key) is not None:
            facts.append((f"{name}{whole}", f"{percent(own[key])}{between(intervals.get(key), percent)}"))
    facts.append((f"log-loss{whole}", f"{own['loss']:.4f} nats{between(intervals.get('loss'), '{:.3f}'.format)}"))
    if "ece" in own:
        facts.append(
            (f"calibration error{whole}", f"{own['ece']:.3f} (chance alone: up to {own['ece_by_chance']:.3f})")
        )
    facts.append(("classes", f"{len(metrics['classes']):,}"))
    return [*facts, ("time", human_seconds(metrics["seconds"]))]


def trained(metrics: Metrics) -> str:
    """The part of the network that was trained."""
    if not metrics["phases"]:
        return "in a custom training loop"
    undone = {made["phase"] for made in metrics["decisions"] if not made["kept"]}
    kept = [phase for number, phase in enumerate(metrics["phases"], 1) if number not in undone]
    deepest = kept[-1] if kept else metrics["phases"][0]
    if deepest["epochs"] == 0:
        return f"{deepest['frostline']}, solved"
    return _trains(deepest["frostline"])


def _trains(frostline: str) -> str:
    return frostline if frostline == "head" else f"{frostline} … head"


def finding_of(metrics: Metrics, split: str, checks: Mapping[str, Any]) -> dict[str, str]:
    """The one thing to know first, and what to do about it."""
    counts = checks.get("counts", {})
    own = metrics[split]
    clean = metrics.get("without_leaks")
    leaks = own["n"] - clean["n"] if clean else 0
    if clean and leaks >= LEAKS * own["n"]:
        left = percent(clean["accuracy"]) if clean["n"] else "unknown"
        return _warning(
            f"{leaks} of {own['n']} {CALLED[split]} images are also in another split{_or_group(own)}.",
            f"Without them the accuracy is {left} (n = {clean['n']}). "
            "frostline check DATA --fix good.csv writes a manifest without them: fit that instead.",
        )
    if metrics["validation"] == "training images":
        return _warning("Nothing was held out.", "Give at least two images per class, so that some can be held out.")
    if counts.get("unreadable"):
        return _warning(
            f"{counts['unreadable']} files could not be read.", "They were skipped; the data section lists them."
        )
    weak = _weakest(own)
    if weak:
        name, recall, n = weak
        return _warning(
            f"Only {percent(recall)} of the {n} images of {name} are found.",
            "Look at its mistakes. More images of it, or a clearer distinction from similar classes, would help most.",
        )
    if counts.get("label-error"):
        return _warning(
            f"{counts['label-error']} labels are likely wrong.",
            "Look at them in the data section before anything else.",
        )
    if gain := _gain(metrics.get("learning_curve")):
        return {"level": "fine", "text": "More images help.", "advice": gain}
    if own["n"] < FEW:
        return {
            "level": "fine",
            "text": "Nothing speaks against this figure.",
            "advice": f"It is based on {own['n']} images; more images to measure on would make it surer.",
        }
    return {"level": "fine", "text": "Nothing speaks against this figure.", "advice": "It can be used."}


def _or_group(own: Metrics) -> str:
    return ", or members of their group are" if "groups" in own else ""


def _gain(curve: Metrics | None) -> str:
    """The gain from twice the training images; "" if it may not be worth it."""
    if not curve:
        return ""
    now, then = curve["points"][-1]["accuracy"], curve["doubled"]
    if then["low"] < now + WORTH_IT:
        return ""
    return (
        f"With twice as many, the solved head would go from {percent(now)} to about {percent(then['expected'])} "
        f"({100 * then['band']:.0f} %: {percent(then['low'])} … {percent(then['high'])})."
    )


def _warning(text: str, advice: str) -> dict[str, str]:
    return {"level": "warn", "text": text, "advice": advice}


def _weakest(own: Metrics) -> tuple[str, float, int] | None:
    """The class whose recall is surely below the accuracy; None without one."""
    rows = [
        (name, row["recall"], row["n"])
        for name, row in own["per_class"].items()
        if row.get("recall_interval") and row["recall_interval"][1] < own["interval"][0]
    ]
    return min(rows, key=lambda row: row[1], default=None)


def phases_of(metrics: Metrics) -> list[dict[str, Any]]:
    """Every phase with its metric and whether it was kept."""
    measure, _ = judged(metrics.get("task", "classification"))
    decided = {made["phase"]: made for made in metrics["decisions"]}
    rows = []
    for number, phase in enumerate(metrics["phases"], 1):
        made = decided.get(number)
        rows.append(
            {
                "trains": _trains(phase["frostline"]),
                "epochs": phase["epochs"],
                measure: phase["valid"][measure],
                "loss": phase["valid"]["loss"],
                "seconds": phase["seconds"],
                "undone": bool(made and not made["kept"]),
                "decision": _decision(made) if made else "",
            }
        )
    return rows


def _decision(made: Mapping[str, Any]) -> str:
    points = f"accuracy {in_points(*(made['accuracy'][key] for key in ('difference', 'low', 'high')))}"
    chance = f", p = {made['p_value']:.2g}" if made["p_value"] is not None else ""
    verdict = "kept" if made["kept"] else "undone"
    rate = f", learning rate {made['lr']:g} of {len(made['tried'])} tried" if made["kept"] and made["tried"] else ""
    return f"{verdict}: {points}, {made['by']} {made['loss'][0]:.4f} → {made['loss'][1]:.4f}{chance}{rate}"


def environment_of(metrics: Metrics, environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The source of the weights, the machine, and the forecasts."""
    backbone = metrics["backbone"]
    rows = [
        ("backbone", backbone["name"]),
        ("weights", f"{backbone['weights']}, licence {backbone['licence']}"),
        ("SHA-256 of the weights", backbone["sha256"] or "unknown"),
    ]
    if forecast := metrics.get("forecast"):
        for name, shown in (("seconds", human_seconds), ("bytes", human_bytes), ("memory", human_bytes)):
            what = {"seconds": "time", "bytes": "cached", "memory": "memory"}[name]
            rows.append((what, f"{shown(forecast[name]['actual'])} (forecast {shown(forecast[name]['expected'])})"))
    if metrics.get("ended"):
        rows.append(("why no deeper phase was tried", metrics["ended"]))
    packages = environment.get("packages", {})
    rows.append(("machine", f"{environment.get('platform', 'unknown')}, Python {environment.get('python', '?')}"))
    rows.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    return rows


def percent(share: float) -> str:
    """A share as text: 95.4 %."""
    return f"{100 * share:.1f} %"
