"""Compare several runs on the same images: which is best, whether by more than chance, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frostline.report.facts import headline_of, percent
from frostline.terminal import human_seconds, printable

Result = Mapping[str, Any]  # one backbone or plan, as compare returns it
Record = Mapping[str, str]  # one image, as in predictions.csv
ALPHA = 0.05  # of the paired test, as its interval has 95 %


def ranked(results: Sequence[Result]) -> list[Result]:
    """The measured runs, the most accurate first, and those that dropped out last."""
    measured = [result for result in results if "error" not in result]
    return sorted(measured, key=lambda own: (bool(own["dropped"]), own["to_best"] is not None, -own["accuracy"]))


def headline(ranking: Sequence[Result], metrics: Mapping[str, Any] | None) -> dict[str, str]:
    """The winner, its accuracy, and any caveat.

    metrics: of the first; its `chosen_of` counts all compared runs. None if no run was fitted.
    """
    if metrics is None:
        return {"text": "Nothing was fitted", "interval": f"{len(ranking)} candidates dropped out"}
    own = headline_of(metrics, "valid")
    won = " won" if len(ranking) > 1 and _ahead(ranking)["difference"] > 0 else ""
    return {**own, "text": f"{printable(ranking[0]['name'])}{won}: {own['text']}"}


def verdict(ranking: Sequence[Result]) -> dict[str, str]:
    """The lead of the first over the runner-up, whether it is more than chance, and which run to use."""
    reason = next((printable(own["reason"]) for own in ranking if own.get("recommended")), "")
    advice = f"Recommended: {reason}." if reason else ""
    if not ranking or ranking[0]["dropped"]:
        return {"level": "warn", "text": "None could be fitted.", "advice": "The failures are listed below."}
    if len(ranking) == 1:
        return {"level": "fine", "text": "No other run to compare with.", "advice": advice}
    ahead, name = _ahead(ranking), printable(ranking[1]["name"])
    by = f"{100 * ahead['difference']:.1f} points ahead of" if ahead["difference"] > 0 else "Level with"
    evidence = f"(95 %: {100 * ahead['low']:+.1f} … {100 * ahead['high']:+.1f}, p = {ahead['p_value']:.2g})"
    sure, words = _more_than_chance(ahead)
    return {"level": "fine" if sure else "warn", "text": f"{by} {name} {evidence}: {words}.", "advice": advice}


def _ahead(ranking: Sequence[Result]) -> dict[str, float]:
    """The difference of the first from the second, with the sign reversed."""
    paired = ranking[1]["to_best"]
    return {
        "difference": -paired["difference"],
        "low": -paired["high"],
        "high": -paired["low"],
        "p_value": paired["p_value"],
    }


def _more_than_chance(ahead: Mapping[str, float]) -> tuple[bool, str]:
    """Whether the lead is more than chance; undecided if interval and test disagree, as they may on few images."""
    interval, test = ahead["low"] > 0, ahead["p_value"] < ALPHA
    if interval and test:
        return True, "that is more than chance"
    if interval or test:
        return False, "that is borderline, more images would tell"
    return False, "that may be chance"


def facts(results: Sequence[Result], ranking: Sequence[Result]) -> list[tuple[str, str]]:
    """The facts about all runs together."""
    dropped, failed = sum(bool(own["dropped"]) for own in ranking), len(results) - len(ranking)
    counts = [f"{len(ranking) - dropped} fitted", f"{dropped} dropped out", f"{failed} failed"]
    found = [("compared", ", ".join(count for count in counts if not count.startswith("0 ")))]
    if len(ranking) > 1:
        found.append(("runner-up", f"{printable(ranking[1]['name'])}: {percent(ranking[1]['accuracy'])}"))
    found += [("recommended", printable(own["name"])) for own in ranking if own.get("recommended")]
    return [*found, ("time of all runs", human_seconds(sum(own["seconds"] for own in ranking)))]


def recalls(per_class: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The recall of every class in each run; the classes with the largest differences come first.

    per_class: of each run, as in metrics.json. A class without images has None.
    """
    rows = []
    for name, own in per_class[0].items():
        values = [classes[name]["recall"] for classes in per_class]
        spread = max(values) - min(values) if None not in values else 0.0
        rows.append({"name": name, "n": own["n"], "values": values, "spread": spread})
    return sorted(rows, key=lambda row: -row["spread"])


def only_one_right(first: Sequence[Record], second: Sequence[Record]) -> list[dict[str, Any]]:
    """The images that only one of two runs predicts correctly, the most confident mistakes first.

    Each has its name, its label, both predictions, and which of the two (0, 1) is right.
    """
    others, found = {record["path"]: record for record in second}, []
    for one in first:
        other = others.get(one["path"], one)
        true = one["labels" if "labels" in one else "label"]
        right = [record["predicted"] == true for record in (one, other)]
        if right[0] != right[1]:
            wrong = other if right[0] else one
            sure = float(wrong.get("probability") or 0)
            found.append(
                {
                    "name": one["path"],
                    "true": true,
                    "said": [one["predicted"], other["predicted"]],
                    "right": right.index(True),
                    "sure": sure,
                }
            )
    return sorted(found, key=lambda image: -image["sure"])
