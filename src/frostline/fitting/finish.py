"""After all decisions: save the classifier and its validation figures, then open the test split, once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from frostline import distributed, terminal
from frostline.checks.findings import Checks
from frostline.checks.look import leaked
from frostline.checks.samples import Samples
from frostline.classifier.artifact import record_results, save_classifier
from frostline.classifier.classifier import Classifier
from frostline.data.grouping import membership
from frostline.data.views import Views
from frostline.engines.choice import release
from frostline.fitting import lines
from frostline.fitting.checking import checked, of_known_groups, without_leaks
from frostline.fitting.forecast import as_json
from frostline.fitting.job import Job, back_to_start
from frostline.fitting.phase import measured, open_split
from frostline.fitting.progress import Measured, Progress, candidates, measures_others, undone
from frostline.fitting.recording import write_history
from frostline.fitting.referring import refer
from frostline.fitting.refit import refit
from frostline.fitting.saved import checkpoint, read_checked
from frostline.fitting.studying import Study, curve_as_json, studied, write_worth
from frostline.network.part import weights_of
from frostline.report.card import write_card
from frostline.runs.run import PROGRESS, Run, write_csv, write_json
from frostline.tasks import task_of
from frostline.tasks.calibration import at_temperature, calibrate
from frostline.training.judging import predict_all

if TYPE_CHECKING:
    from frostline.report.shots import Shots


def finish(job: Job, progress: Progress) -> Run:
    """Write everything that a run holds. All that does not need the test split is written before it is opened."""
    task, classes = job.objective.task, job.images.classes
    write_history(job, progress)  # of a fit that stops here, without the phase that had only begun
    last, progress = measured(job, progress)
    # Outputs for the training images do not show how sure the network may be of others.
    calibration = calibrate(last.outputs, task, _group(progress, last)) if measures_others(progress) else None
    temperature = calibration.temperature if calibration else 1.0
    last = Measured(last.valid, at_temperature(last.outputs, temperature, task))
    by_split = {"valid": last}
    refitted = refit(job, progress)
    shown = progress.images.valid if job.options.golden == "photographs" else None
    save_classifier(job.run, job.network, classes, job.machine, task.name, temperature, job.images.colours, shown)
    figures: dict[str, Any] = {
        "valid": _figures(progress, last),
        "test": None,
        "validation": progress.images.validation if measures_others(progress) else "training images",
        "calibration": calibration.as_json() if calibration else None,
        "refit": refitted,
        "chosen_of": candidates(progress) * job.backbones_tried,
    }
    predictions = task.predictions(last.valid.images.names, "valid", last.outputs, classes)
    _write(job, progress, figures, predictions)
    if progress.images.test is not None and len(progress.images.test):
        opened, progress = _open_test(job, progress, refitted=refitted is not None)
        outputs = at_temperature(opened.outputs, temperature, task)
        figures["test"] = _figures(progress, Measured(opened.valid, outputs))
        predictions += task.predictions(opened.valid.images.names, "test", outputs, classes)
        _write(job, progress, figures, predictions)
        by_split["test"] = Measured(opened.valid, outputs)
    split, final = list(by_split.items())[-1]
    checks, samples = checked(job, progress)
    if measures_others(progress):
        with _unlost("the reference for predict --coverage could not be written"):
            leaks = leaked(checks, "valid") | of_known_groups(progress.images, "valid")
            refer(job, progress, last, leaks, refitted=refitted is not None)
    figures |= {"checks": checks.counts, **without_leaks(checks, progress.images, split, final, task)}
    study = _studied(job, progress, samples, leaked(checks, "valid") | of_known_groups(progress.images, "valid"))
    figures["learning_curve"] = curve_as_json(study.curve, classes)
    release()  # no pass over the images follows
    seen = _drawn(job, progress, by_split, temperature) if job.options.report else None
    if seen is not None:
        with _unlost("the report could not be gathered"):
            material = _gathered(job, final, samples.features_of(split), split, temperature, study, seen)
            write_json(job.run, "report.json", material | {"found": _found(job, temperature, samples, checks)})
    lines.say_calibration(calibration)
    lines.say_checks(checks)
    lines.say_more_images(figures["learning_curve"])
    metrics = _write(job, progress, figures, predictions)
    record_results(job.run)
    with _unlost("the model card could not be written"):
        write_card(job.run)
    if job.options.report:
        with _unlost("the report could not be written"):
            _write_page(job.run)
    lines.say_result(job, progress, metrics)
    (job.run.path / PROGRESS).unlink(missing_ok=True)  # the run is finished: nothing to go on with
    return job.run


def _studied(job: Job, progress: Progress, samples: Samples, leaks: set[str]) -> Study:
    study = Study()
    with _unlost("the effect of more images could not be estimated"):
        study = studied(samples, progress.images, leaks)
        write_worth(job.run, study, job.images.classes)
    return study


def _figures(progress: Progress, measured: Measured) -> dict[str, Any]:
    """The figures of a split; with intervals for new groups where images belong together."""
    task = task_of(measured.valid.images.task)
    return task.metrics(measured.outputs, progress.images.classes, _group(progress, measured))


def _group(progress: Progress, measured: Measured) -> np.ndarray | None:
    return membership(measured.valid.images.names, progress.images.groups)


def _write(
    job: Job,
    progress: Progress,
    figures: dict[str, Any],
    predictions: list[tuple[object, ...]],
) -> dict[str, Any]:
    """Write metrics.json and predictions.csv with all figures so far."""
    metrics = {
        "run": str(job.run.path),
        "task": job.images.task,
        "classes": list(job.images.classes),
        "backbone": _about(job),
        "phases": list(progress.phases),
        "decisions": list(progress.decisions),
        "ended": _ended(job, progress) or None,
        **figures,
        "forecast": as_json(job, progress),
        "seconds": time.perf_counter() - job.started,
        "processes": distributed.size(),
        "unreadable": [{"path": name, "error": reason} for _, name, reason in progress.unreadable],
    }
    write_csv(job.run, "predictions.csv", job.objective.task.columns, predictions)
    write_json(job.run, "metrics.json", metrics)
    return metrics


def _ended(job: Job, progress: Progress) -> str:
    """Why the fit ended before its plan; "" if it did not."""
    stopped = f"--stop-here ended it {job.stop_here}" if job.stop_here else ""
    return "; ".join(filter(None, (progress.ended, job.left_out, stopped)))


def _about(job: Job) -> dict[str, Any]:
    """The backbone, and the others that backbone auto tried."""
    about = {name: getattr(job.backbone, name) for name in ("name", "weights", "licence", "sha256")}
    return {**about, "tried": list(job.tried)}


def _open_test(job: Job, progress: Progress, *, refitted: bool) -> tuple[Measured, Progress]:
    """Measure the test images with the network after each phase, and with the final one.

    Returns the outputs of the final network.
    """
    ships = weights_of(job.network.model)
    back_to_start(job)
    job.placement.extract(progress.images, ["test"], len(progress.phases))
    results: list[dict[str, Any]] = []
    for number, (phase, result) in enumerate(zip(job.plan, progress.phases, strict=False)):
        if number in undone(progress):  # the network is the one from before the phase
            results.append({**result, "test": results[-1]["test"]})
            continue
        lower, upper = job.network.cut(phase.frostline)
        opened, progress = open_split(job, progress, lower, "test", number)
        upper.load_state_dict(read_checked(checkpoint(job.run, number + 1))[0])
        outputs, monitored = predict_all(upper, opened, job.objective.task, job.objective.monitor)
        results.append({**result, "test": {**job.objective.task.measure(outputs), "monitored_loss": monitored}})
    if refitted:
        job.network.model.load_state_dict(ships)
        outputs, _ = predict_all(upper, opened, job.objective.task)
    return Measured(opened, outputs), replace(progress, phases=tuple(results))


@contextlib.contextmanager
def _unlost(what: str) -> Iterator[None]:
    """Report an error and go on: a picture must not cost hours of training."""
    try:
        yield
    except Exception as error:
        terminal.say(f"{what}: {error}")


def _drawn(job: Job, progress: Progress, by_split: Mapping[str, Measured], temperature: float) -> Shots | None:
    """Fill plots/; returns the decoded images, None if that failed."""
    from frostline.report import gallery, shots  # matplotlib takes a second to import
    from frostline.report.facts import called

    classifier, classes, validation = _classifier(job, temperature), job.images.classes, job.run.metrics["validation"]
    seen, name = None, called(validation, "valid")
    with _unlost("the pictures could not be drawn"):
        gallery.draw_curves(job.run)
        for split, file in (("valid", "confusion"), ("test", "confusion-test")):
            if own := by_split.get(split):
                gallery.draw_confusion(job.run, file, called(validation, split), own.outputs, classes)
        both = {split: (own.valid.images, own.outputs) for split, own in by_split.items()}
        seen = shots.shots_of(classifier, progress.images.train, _most_views(job), both)
        gallery.draw_shots(job.run, seen, name, len(by_split["valid"].outputs), classes)
    return seen


def _gathered(
    job: Job,
    measured: Measured,
    features: Tensor | None,
    split: str,
    temperature: float,
    study: Study,
    seen: Shots,
) -> dict[str, Any]:
    from frostline.report.material import gather, pictured

    classifier = _classifier(job, temperature)
    material = gather(classifier, measured.valid.images, measured.outputs, features, split, seen)
    if study.train is not None:
        said = [job.images.classes[study.instead[i]] for i in study.harmful]
        material["harmful"] = pictured(classifier, study.train, study.harmful, said)
    return material


def _most_views(job: Job) -> Views:
    """The views of the phase with most views."""
    return replace(job.views, count=max(phase.views or 1 for phase in job.plan))


def _found(job: Job, temperature: float, samples: Samples, checks: Checks) -> dict[str, Any]:
    from frostline.report.material import of_findings

    every = np.arange(len(samples))
    keys = zip(samples.splits_at(every), samples.names(every), strict=True)
    places = {key: number for number, key in enumerate(keys)}
    return of_findings(_classifier(job, temperature), samples.images, places, checks.findings)


def _write_page(run: Run) -> None:
    from frostline.report.page import write_page

    write_page(run)


def _classifier(job: Job, temperature: float) -> Classifier:
    network, images = job.network, job.images
    return Classifier(
        network.model.eval(),
        images.classes,
        network.preprocessing,
        job.machine,
        images.task,
        temperature,
        colours=images.colours,
    )
