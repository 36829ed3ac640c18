"""What a page says in words: the figure, what it is held against, the most important finding, what to do next."""

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
# What a task is judged by, its name, and what its accuracy is the share of:
JUDGED = {
    "multilabel": ("mean_ap", "mean AP", "images with all labels right"),
    "segmentation": ("mean_iou", "mean IoU", "pixels that are right"),
}
CALLED = {"valid": "validation", "test": "test", "train": "training"}
LEAKS = 0.01  # of the measured images: fewer hardly move the figure
WORTH_IT = 0.005  # of accuracy, what twice the images bring at least to be the first thing to say
FEW = 200  # images: of fewer, the interval is the first thing to mend


def data_of(run: Run) -> str:
    """What the data set is called: by its own name (mnist:ROOT), else the last part of where it was."""
    try:
        config = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
        name = str(config["data"]).partition(":")[0]
        return name if name in NAMED else Path(str(config["data"])).name or "images"
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return "images"


def title_of(run: Run) -> str:
    """What a picture of the run is of: data set, backbone, and on how many images it was measured."""
    metrics = run.metrics
    counts = [
        f"{called(metrics['validation'], split)}, n = {metrics[split]['n']:,}"
        for split in ("valid", "test")
        if metrics[split]
    ]
    return " · ".join([printable(data_of(run)), metrics["backbone"]["name"], *counts])


def called(validation: str, split: str) -> str:
    """What the figures of a split are of: "validation", "cross-fitted", "test". validation: as in metrics.json."""
    return {"crossed": "cross-fitted", "training images": "training"}.get(
        validation * (split == "valid"), CALLED[split]
    )


def judged(task: str) -> tuple[str, str]:
    """What a task is judged by, as in metrics.json, and its name.

    >>> judged("segmentation")
    ('mean_iou', 'mean IoU')
    """
    return JUDGED.get(task, ("accuracy", "accuracy", ""))[:2]


def split_of(metrics: Metrics) -> str:
    """The split whose figures count: test, where there is one."""
    return "test" if metrics["test"] else "valid"


def trusted(metrics: Metrics, split: str) -> Metrics:
    """What is known of new images: accuracy, interval and n without those that are in another split, too."""
    clean: Metrics | None = metrics.get("without_leaks")
    return clean if clean and clean["n"] else metrics[split]


def headline_of(metrics: Metrics, split: str) -> dict[str, str]:
    """The accuracy, its interval, and what makes it worth less than it seems."""
    own = metrics[split]
    note = ""
    if split == "valid" and metrics["validation"] == "crossed":
        note = "each image by a head that was solved without it"
    elif split == "valid" and metrics["validation"] == "training images":
        note = "of the training images: this says nothing of new ones"
    elif split == "valid" and metrics["chosen_of"] > 1:
        points = 100 * flattery(own, metrics["chosen_of"])
        how_much = "a little" if metrics.get("task") in JUDGED else f"up to about {points:.1f} points"
        note = f"the best of {metrics['chosen_of']} on these images, so {how_much} too good"
    groups = f" in {own['groups']:,} groups" if "groups" in own else ""
    what = "images" if metrics["validation"] == "crossed" and split == "valid" else f"{CALLED[split]} images"
    if metrics.get("task") in JUDGED:  # that all labels of an image are right is more than anybody asks for
        key, name, _ = JUDGED[metrics["task"]]
        interval = (own.get("intervals") or {}).get(key) or [0.0, 1.0]
        value = percent(own[key]) if own.get(key) is not None else "unknown"
        return _headline(f"{name} {value}", interval, f"{own['n']:,} {what}{groups}", note)
    clean = trusted(metrics, split)
    if clean is not own:
        copy = "no copy, nor any other of their group," if "groups" in own else "no copy"
        which = f"{clean['n']:,} {CALLED[split]} images of which {copy} is in another split"
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
    """By how much the accuracy of the best of some candidates is too high on the images that chose it, at most.

    The expected maximum of so many independent normal errors (Blom 1958); candidates that err together are flattered
    less.

    >>> round(flattery({"accuracy": 0.9, "n": 100}, 2), 3)
    0.018
    """
    error = math.sqrt(max(measured["accuracy"] * (1 - measured["accuracy"]), 0) / max(1, measured["n"]))
    return error * max(0.0, NormalDist().inv_cdf((candidates - 0.375) / (candidates + 0.25)))


def facts_of(metrics: Metrics, split: str, records: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """What the accuracy is held against, and what it took."""
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
    """What of the network is not as it was."""
    if not metrics["phases"]:
        return "in a training loop of its maker's own"
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
            f"{leaks} of {own['n']} {CALLED[split]} images are in another split, too{_or_group(own)}.",
            f"Without them the accuracy is {left} (n = {clean['n']}): "
            "frostline check DATA --fix good.csv writes a manifest without them, to fit instead.",
        )
    if metrics["validation"] == "training images":
        return _warning("Nothing was held out.", "Give two images of every class at least, so that some can be.")
    if counts.get("unreadable"):
        return _warning(
            f"{counts['unreadable']} files could not be read.", "They are left out; the data section names them."
        )
    weak = _weakest(own)
    if weak:
        name, recall, n = weak
        return _warning(
            f"{name} is found in only {percent(recall)} of its {n} images.",
            "Look at its mistakes; more images of it, or a clearer line to what it is taken for, would help most.",
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
            "advice": f"It rests on {own['n']} images: more of them to measure on would make it surer.",
        }
    return {"level": "fine", "text": "Nothing speaks against this figure.", "advice": "It can be used."}


def _or_group(own: Metrics) -> str:
    return ", or others of their group are" if "groups" in own else ""


def _gain(curve: Metrics | None) -> str:
    """What twice the training images would bring; "" where that is not sure to be worth it."""
    if not curve:
        return ""
    now, then = curve["points"][-1]["accuracy"], curve["doubled"]
    if then["low"] < now + WORTH_IT:
        return ""
    return (
        f"With twice as many the solved head would come from {percent(now)} to about {percent(then['expected'])} "
        f"({100 * then['band']:.0f} %: {percent(then['low'])} … {percent(then['high'])})."
    )


def _warning(text: str, advice: str) -> dict[str, str]:
    return {"level": "warn", "text": text, "advice": advice}


def _weakest(own: Metrics) -> tuple[str, float, int] | None:
    """The class that is surely found less often than images are right; None where there is none."""
    rows = [
        (name, row["recall"], row["n"])
        for name, row in own["per_class"].items()
        if row.get("recall_interval") and row["recall_interval"][1] < own["interval"][0]
    ]
    return min(rows, key=lambda row: row[1], default=None)


def phases_of(metrics: Metrics) -> list[dict[str, Any]]:
    """Every phase with what it came to, by what its task is judged by, and whether that was kept."""
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
    """Where the weights came from, on what it ran, and what was forecast."""
    backbone = metrics["backbone"]
    rows = [
        ("backbone", backbone["name"]),
        ("weights", f"{backbone['weights']}, licence {backbone['licence']}"),
        ("SHA-256 of the weights", backbone["sha256"] or "unknown"),
    ]
    if forecast := metrics.get("forecast"):
        for name, shown in (("seconds", human_seconds), ("bytes", human_bytes), ("memory", human_bytes)):
            what = {"seconds": "time", "bytes": "stored", "memory": "memory"}[name]
            rows.append((what, f"{shown(forecast[name]['actual'])} (forecast {shown(forecast[name]['expected'])})"))
    if metrics.get("ended"):
        rows.append(("why nothing deeper was tried", metrics["ended"]))
    packages = environment.get("packages", {})
    rows.append(("machine", f"{environment.get('platform', 'unknown')}, Python {environment.get('python', '?')}"))
    rows.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    return rows


def percent(share: float) -> str:
    """A share as people read it: 95.4 %."""
    return f"{100 * share:.1f} %"
