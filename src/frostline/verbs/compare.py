"""Several backbones or plans on the same images: a run of each, one table, one picture.

They are compared on validation images, and the test split stays closed: whoever chooses by the test images has none
left. `evaluate` measures the chosen run on them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from frostline import terminal
from frostline.fitting.options import Options
from frostline.verbs.fit import fit

if TYPE_CHECKING:
    from frostline.data import Data, Images, ImageSet
    from frostline.plan import Phase
    from frostline.runs.run import Run

    OnePlan = str | Path | list[Phase]

TIMED = 128  # images by which the speed of a classifier is measured


def compare(
    data: Data,
    *,
    backbone: str | Sequence[str] = "efficientnet-lite0",
    plan: OnePlan | Sequence[OnePlan] = "auto",
    out: str | Path | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Fit every backbone with every plan; each run is kept, beside comparison.json, .png and .svg.

    backbone: names as in `fit`, or NAME@WEIGHTS for weights of its own (torchvision:vgg16@vgg16.safetensors); several,
        or a single one. plan: as in `fit`; several, or a single one.
    out: the folder to make; by default runs/compare-DATA-NUMBER. options: as in `fit`.

    Returns a mapping for each: name, run, accuracy with its interval, loss, n (of validation images), seconds,
    parameters, bytes, images_per_second, history, and `to_best`: its difference, low, high and p_value to the most
    accurate one, image by image (tasks/paired.py), None for that one itself; or name and error where one could not be
    fitted. The test split of the data is not opened.

    >>> compare("photos/", backbone=["efficientnet-lite0", "resnet18"], plan="probe")  # doctest: +SKIP
    """
    from frostline.data import read_data
    from frostline.report.canvas import save
    from frostline.report.comparison import comparison
    from frostline.runs.run import create_run, write_json

    backbones, plans = _several(backbone), _several(plan)
    Options(data, **options)  # an option that `fit` does not take is told before anything is read
    with terminal.quiet(bool(options.get("quiet"))):
        images = read_data(data, options.get("seed", 0), download=options.get("download", False))
        whole = create_run(out, f"compare-{images.name}")
        pairs = [(b, p) for b in backbones for p in plans]
        results = []
        for number, (one, phases) in enumerate(pairs, 1):
            name = _name(one, phases, backbones, len(plans) > 1)
            terminal.say(f"— {number}/{len(pairs)} {name}")
            folder = whole.path / "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{number}-{name}")
            results.append({"name": name, **_fitted(replace(images, test=None), one, phases, folder, options)})
        results = _paired(results)
        write_json(whole, "comparison.json", results)
        fitted = [result for result in results if "error" not in result]
        if fitted:
            save(comparison(fitted), whole.path, "comparison", ("png", "svg"))
        terminal.say(f"comparison: {whole.path}")
        if images.test is not None:
            terminal.say(f"the test split is still closed: frostline evaluate RUN {images.origin or 'DATA'}")
    return results


def _several(values: Any) -> list[Any]:
    """The values one by one; a name, a path and a list of phases are a single one."""
    from frostline.plan import Phase

    is_plan = isinstance(values, Sequence) and bool(values) and all(isinstance(phase, Phase) for phase in values)
    return [values] if isinstance(values, (str, Path)) or is_plan else list(values)


def _name(backbone: str, plan: object, backbones: Sequence[str], several_plans: bool) -> str:
    """What tells a run from the others: the backbone, its weights where it has several, the plan where several."""
    name, _, weights = backbone.partition("@")
    again = sum(other.partition("@")[0] == name for other in set(backbones)) > 1
    parts = [f"{name}@{Path(weights).stem}" if again and weights else name]
    if several_plans and len(set(backbones)) == 1:
        parts = []
    if several_plans:
        parts.append(Path(plan).stem if isinstance(plan, (str, Path)) else "plan")
    return " ".join(parts)


def _fitted(images: ImageSet, backbone: str, plan: Any, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    name, _, weights = backbone.partition("@")
    own = {"weights": weights} if weights else {}
    try:
        run = fit(images, backbone=name, plan=plan, out=folder, **{**options, **own})
        metrics = run.metrics
        measured = {key: value for key, value in metrics["valid"].items() if key != "per_class"}
        return {"run": str(run.path), **measured, "seconds": metrics["seconds"], **_cost(run, images.valid, options)}
    except Exception as error:  # whatever it is, the others are still to be compared
        terminal.say(f"failed: {error}")
        return {"error": str(error) or type(error).__name__}


def _cost(run: Run, valid: Images, options: dict[str, Any]) -> dict[str, Any]:
    """What the classifier costs: parameters, bytes on disk, images per second from file to label."""
    from frostline.classifier.artifact import load_classifier
    from frostline.machine import find_machine

    machine = find_machine(options.get("device", "auto"), "fp32", options.get("workers"))
    classifier = load_classifier(run, machine=machine)
    few = valid.take(np.arange(min(TIMED, len(valid))))
    started = time.perf_counter()
    predicted = sum(len(numbers) for numbers, _, _ in classifier.logits(few, "timing"))
    speed = predicted / (time.perf_counter() - started)
    return {
        "parameters": sum(parameter.numel() for parameter in classifier.model.parameters()),
        "bytes": (run.path / "model" / "model.safetensors").stat().st_size,
        "images_per_second": speed,
        "history": run.history,
    }


def _paired(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results, each with its difference to the most accurate one on the same validation images."""
    from frostline.runs.run import Run
    from frostline.tasks.paired import paired_difference

    fitted = [result for result in results if "error" not in result]
    best = max(fitted, key=lambda result: cast(float, result["accuracy"]), default=None)
    scores = {result["run"]: _scores(Run(Path(result["run"]))) for result in fitted}

    def to_best(result: dict[str, Any]) -> dict[str, float] | None:
        if best is None or result is best:
            return None
        own, highest = scores[result["run"]], scores[best["run"]]
        names = [name for name in own if name in highest]
        return asdict(paired_difference(*(np.array([one[name] for name in names]) for one in (own, highest))))

    return [result if "error" in result else {**result, "to_best": to_best(result)} for result in results]


def _scores(run: Run) -> dict[str, float]:
    """By name of every validation image, 1 where its label is right and 0 where not; of a mask the share of it."""
    records = {record["path"]: record for record in run.predictions if record["split"] == "valid"}
    if any("accuracy" in record for record in records.values()):
        return {name: float(record["accuracy"]) for name, record in records.items()}
    label = "labels" if any("labels" in record for record in records.values()) else "label"
    return {name: float(record["predicted"] == record[label]) for name, record in records.items()}
