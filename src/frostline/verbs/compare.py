"""Several backbones or plans on the same images: a run of each, one table, one picture.

They are compared on validation images: whoever chooses by the test images has none left.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frostline import terminal
from frostline.verbs.fit import fit

if TYPE_CHECKING:
    from frostline.data import Data, Images, ImageSet
    from frostline.plan import Phase
    from frostline.runs.run import Run

TIMED = 128  # images by which the speed of a classifier is measured


def compare(
    data: Data,
    *,
    backbone: Sequence[str] = ("efficientnet-lite0",),
    plan: Sequence[str | Path | list[Phase]] = ("gradual",),
    out: str | Path | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Fit every backbone with every plan; each run is kept, beside comparison.json, .png and .svg.

    backbone: names as in `fit`, or NAME@WEIGHTS for weights of its own (torchvision:vgg16@vgg16.safetensors).
    plan: as in `fit`. out: the folder to make; by default runs/compare-DATA-NUMBER. options: as in `fit`.

    Returns a row for each: name, run, accuracy with its interval, loss, n (of validation images), seconds, parameters,
    bytes, images_per_second, history; or name and error where one could not be fitted.
    """
    from frostline.data import read_data
    from frostline.report.canvas import save
    from frostline.report.comparison import comparison
    from frostline.runs.run import create_run, write_json

    inspect.signature(fit).bind(data, **options)  # an option that `fit` does not have is a TypeError, as there
    with terminal.quiet(bool(options.get("quiet"))):
        images = read_data(data, options.get("seed", 0), download=options.get("download", False))
        whole = create_run(out, f"compare-{images.name}")
        pairs = [(b, p) for b in backbone for p in plan]
        rows = []
        for number, (one, phases) in enumerate(pairs, 1):
            name = _name(one, phases, backbone, len(plan) > 1)
            terminal.say(f"— {number}/{len(pairs)} {name}")
            folder = whole.path / "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{number}-{name}")
            rows.append({"name": name, **_fitted(images, one, phases, folder, options)})
        write_json(whole, "comparison.json", rows)
        there = [row for row in rows if "error" not in row]
        if there:
            save(comparison(there), whole.path, "comparison", ("png", "svg"))
        terminal.say(f"comparison: {whole.path}")
    return rows


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
        measured = run.metrics["valid"]
        kept = {key: value for key, value in measured.items() if key != "per_class"}
        return {"run": str(run.path), **kept, "seconds": run.metrics["seconds"], **_cost(run, images.valid, options)}
    except Exception as error:  # whatever it is, the others are still to be compared
        terminal.say(f"failed: {error}")
        return {"error": str(error) or type(error).__name__}


def _cost(run: Run, valid: Images, options: dict[str, Any]) -> dict[str, Any]:
    """What the classifier costs: parameters, bytes on disk, images a second from file to answer."""
    from frostline.classifier.artifact import load_classifier
    from frostline.machine import find_machine

    classifier = load_classifier(
        run, machine=find_machine(options.get("device", "auto"), "fp32", options.get("workers"))
    )
    few = valid.take(np.arange(min(TIMED, len(valid))))
    started = time.perf_counter()
    answered = sum(len(rows) for rows, _, _ in classifier.logits(few, "timing"))
    speed = answered / (time.perf_counter() - started)
    return {
        "parameters": sum(parameter.numel() for parameter in classifier.model.parameters()),
        "bytes": (run.path / "model" / "model.safetensors").stat().st_size,
        "images_per_second": speed,
        "history": run.history,
    }
