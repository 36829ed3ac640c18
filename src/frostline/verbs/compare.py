"""Several backbones or plans on the same images: a run of each, one table, one page, one picture.

The comparison uses validation images, and the test split stays closed: choosing by test images would use them up.
`evaluate` measures the chosen run on them. Without names all backbones on this machine are tried first.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline import terminal
from frostline.fitting.options import AUTO, Options
from frostline.plan import Phase
from frostline.settings import as_flags
from frostline.verbs.fit import fit

TRAINED = ("loss", "label_smoothing", "balanced", "mixup")  # with these options a head is trained, not solved
OF_PHASES = {field.name for field in fields(Phase)} - {"views"}

if TYPE_CHECKING:
    from frostline.data import Data, Images, ImageSet
    from frostline.runs.run import Run

    OnePlan = str | Path | list[Phase]


def compare(
    data: Data,
    *,
    backbone: str | Sequence[str] = AUTO,
    plan: OnePlan | Sequence[OnePlan] | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Fit every backbone with every plan; keep all runs, next to comparison.json, .html, .png and .svg.

    backbone: one name or several, as in `fit`, or NAME@WEIGHTS with a weights file
        (torchvision:vgg16@vgg16.safetensors). By default auto: each backbone whose pretrained weights are on this
        machine gets a solved head, first on some of the images (fitting/choosing.py). A backbone that is clearly behind
        gets no run.
    plan: one or several, as in `fit`. By default auto, or probe with backbone auto.
    out: folder to create; by default runs/compare-DATA-NUMBER. options: as in `fit`.

    Returns a mapping per run: name, run, accuracy with its interval, loss, n (validation images), seconds,
    parameters, bytes, images_per_second, history, kept (the kept epoch per phase, None for an undone phase),
    licence and sha256 of the initial weights, and `to_best`: difference, low, high and p_value against the most
    accurate one, image by image (tasks/paired.py), None for that one itself; or name and error if the fit failed.
    `dropped` is None, or the round in which the backbone dropped out with its number of training images; then the
    figures are those of that round, and there is no run. `recommended` is true for the recommended run, and its
    `reason` says why. The test split is not opened.

    >>> compare("photos/")  # doctest: +SKIP
    >>> compare("photos/", backbone=["efficientnet-lite0", "resnet18"], plan="probe")  # doctest: +SKIP
    """
    from frostline.runs.run import create_run

    backbones = _several(backbone)
    chosen = Options(data, **options)  # an unknown option raises before any data is read
    plans = _several(plan if plan is not None else "probe" if AUTO in backbones else "auto")
    with terminal.quiet(bool(options.get("quiet"))):
        found = _found(chosen) if AUTO in backbones else []
        images = chosen.read()
        whole = create_run(out, f"compare-{images.name}")
        weak: list[dict[str, Any]] = []
        if len(found) > 1:
            found, weak = _tried(replace(chosen, plan=_one(plans)), images, found)
        named = [name for one in backbones for name in (found if one == AUTO else [one])]
        named = list(dict.fromkeys(named))
        results = _runs(_for_all(images, named, plans), named, plans, whole.path, options, weak)
        _write(whole, images, results, _command(data, backbones, plans, options), page=chosen.report)
        terminal.say(f"comparison: {whole.path}")
        if images.test is not None:
            terminal.say(
                f"the test split is still closed; to measure it: frostline evaluate RUN {images.origin or 'DATA'}"
            )
    return results


def _write(whole: Run, images: ImageSet, results: list[dict[str, Any]], command: str, *, page: bool) -> None:
    """Write the files of a comparison beside its runs."""
    from frostline.report.canvas import save
    from frostline.report.comparison import comparison
    from frostline.report.comparison_page import COMMAND, RESULTS, write_comparison
    from frostline.report.facts import called, judged
    from frostline.runs.run import Run, write_json, write_text

    write_json(whole, RESULTS, results)
    write_text(whole, COMMAND, command)
    fitted = [result for result in results if result.get("run")]
    if fitted:
        measured = called(Run(Path(fitted[0]["run"])).metrics["validation"], "valid")
        title = f"{terminal.printable(images.name)} · {measured}, n = {fitted[0]['n']:,}"
        save(comparison(fitted, judged(images.task), title), whole.path, "comparison", ("png", "svg"))
    if page:
        write_comparison(whole, results, command)


def _command(data: Data, backbones: Sequence[Any], plans: Sequence[Any], options: dict[str, Any]) -> str:
    """The command line that repeats the comparison; "" if a value cannot be written as words."""
    weights = options.get("weights", "pretrained")
    own = [one if "@" in str(one) or weights == "pretrained" else f"{one}@{weights}" for one in backbones]
    flags = as_flags(Options, {**options, "weights": "pretrained"})
    if flags is None or not all(isinstance(value, (str, Path)) for value in (data, *own, *plans)):
        return ""
    named = [["--backbone", str(one)] for one in own] + [["--plan", str(plan)] for plan in plans]
    return " \\\n  ".join(shlex.join(words) for words in [["frostline", "compare", str(data)], *named, *flags])


def _found(options: Options) -> list[str]:
    from frostline.fitting.choosing import candidates

    return candidates(options)


def _one(plans: Sequence[Any]) -> Any:
    """The plan that decides the image size in trials: auto if it is among the plans."""
    return next((plan for plan in plans if isinstance(plan, (str, Path)) and str(plan) == AUTO), "probe")


def _tried(options: Options, images: ImageSet, names: Sequence[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of the backbones that are worth a run, and the entries of the others: weak or failed."""
    from frostline.fitting.choosing import tried

    trials, failed = tried(options, images, names)
    weak = [{"run": None, "history": [], **trial.as_json()} for trial in trials if trial.behind]
    errors = [{"name": name, "error": str(error) or type(error).__name__} for name, error in failed.items()]
    return [trial.backbone.name for trial in trials if not trial.behind], [*weak, *errors]


def _runs(
    images: ImageSet,
    backbones: Sequence[str],
    plans: Sequence[Any],
    folder: Path,
    options: dict[str, Any],
    weak: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """A result per backbone and plan, then those of the weak backbones; one of all is recommended."""
    from frostline.fitting.recommending import recommended, why

    pairs, results = [(b, p) for b in backbones for p in plans], []
    for number, (one, phases) in enumerate(pairs, 1):
        name = _name(one, phases, [*backbones, *(result["name"] for result in weak)], len(plans) > 1)
        terminal.say(f"— {number}/{len(pairs)} {name}")
        out = folder / "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{number}-{name}")
        results.append({"name": name, **_fitted(images, one, phases, out, options)})
    results = [*_paired(results, images.groups), *weak]
    taken = recommended(results)
    reason = why(results, taken) if taken else ""
    return [
        result
        if "error" in result
        else {**result, "recommended": result is taken, "reason": reason if result is taken else ""}
        for result in results
    ]


def _for_all(images: ImageSet, names: Sequence[str], plans: Sequence[Any]) -> ImageSet:
    """The images without the test split; all runs are measured on the same images, even if these are few."""
    from frostline.fitting.choosing import alike
    from frostline.plan import may_end_with_head

    return replace(images, test=None, may_cross=all(may_end_with_head(plan) for plan in plans) and alike(images, names))


def _several(values: Any) -> list[Any]:
    """A list of the values; a name, a path or a list of phases is a single value."""

    is_plan = isinstance(values, Sequence) and bool(values) and all(isinstance(phase, Phase) for phase in values)
    return [values] if isinstance(values, (str, Path)) or is_plan else list(values)


def _name(backbone: str, plan: object, backbones: Sequence[str], several_plans: bool) -> str:
    """A name that is unique among the runs: the backbone, and its weights and plan if there are several."""
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
    if str(plan) == "probe" and not any(options.get(name) for name in TRAINED):
        options = {
            key: value for key, value in options.items() if key not in OF_PHASES
        }  # they are meant for the other plans
    try:
        run = fit(images, backbone=name, plan=plan, out=folder, **{**options, **own})
        metrics = run.metrics
        measured = {key: value for key, value in metrics["valid"].items() if key != "per_class"}
        measured["kept"] = [phase["kept_epoch"] for phase in metrics["phases"]]
        about = {"dropped": None, **{key: metrics["backbone"][key] for key in ("licence", "sha256")}}
        return {
            "run": str(run.path),
            **measured,
            "seconds": metrics["seconds"],
            **_cost(run, images.valid, options),
            **about,
        }
    except Exception as error:  # whatever it is, compare the others
        terminal.say(f"failed: {error}")
        return {"error": str(error) or type(error).__name__}


def _cost(run: Run, valid: Images, options: dict[str, Any]) -> dict[str, Any]:
    """The cost of the classifier: parameters, bytes on disk, images per second from file to label."""
    from frostline.classifier.artifact import load
    from frostline.fitting.choosing import images_per_second
    from frostline.machine import find_machine

    machine = find_machine(options.get("device", "auto"), "fp32", options.get("workers"))
    classifier = load(run, machine=machine)
    return {
        "parameters": sum(parameter.numel() for parameter in classifier.model.parameters()),
        "bytes": (run.model / "model.safetensors").stat().st_size,
        "images_per_second": images_per_second(classifier, valid),
        "history": run.history,
    }


def _paired(results: list[dict[str, Any]], groups: Mapping[str, str]) -> list[dict[str, Any]]:
    """The results, each with its difference to the most accurate one on the same validation images."""
    from frostline.fitting.recommending import differences
    from frostline.runs.run import Run, scores_of

    fitted = [result for result in results if "error" not in result]
    scores = [scores_of(Run(Path(result["run"])), "valid") for result in fitted]
    found = differences([result["accuracy"] for result in fitted], scores, groups)
    apart = dict(zip(map(id, fitted), found, strict=True))
    return [{**result, "to_best": apart[id(result)]} if id(result) in apart else result for result in results]
