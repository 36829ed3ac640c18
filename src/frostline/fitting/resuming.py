"""Going on with an interrupted fit: with its own options, on the same images, from the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from frostline import terminal
from frostline.backbones import Backbone
from frostline.data.digests import Digests
from frostline.data.images import ImageSet
from frostline.errors import DataError, UsageError, WeightsError
from frostline.files import unfinished
from frostline.fitting.job import Job
from frostline.fitting.options import Options
from frostline.fitting.progress import Progress
from frostline.fitting.saved import checkpoint, read_checked, read_progress, read_saved
from frostline.plan import Phase
from frostline.runs.config import plain, read_config
from frostline.runs.run import Run, is_finished

# These do not change the result, so a fit may go on with others.
FREE = ("device", "workers", "cache", "cache_dir", "cache_budget", "download", "report", "log_to", "quiet")
NAMED = 3  # images in a message


def interrupted(folder: str | Path) -> Run | None:
    """The run in a folder whose fit did not come to its end; None if it did. Raises UsageError for any other folder."""
    run = Run(Path(folder))
    if not (run.path / "config.yaml").is_file():
        raise UsageError(f"{folder} is no run: it has no config.yaml; give the folder that `frostline fit` printed")
    return None if is_finished(run.path) else run


def options_of(run: Run, data: Any, given: Mapping[str, Any]) -> Options:
    """The options that a fit began with; of those given only what does not change the result.

    Objects, such as your own data, network or loss, must be given again: a run holds only their names.
    Raises UsageError for options that differ from those of the run.
    """
    recorded = read_config(run.path / "config.yaml", [field.name for field in dataclasses.fields(Options)])
    for name, value in given.items():
        _refuse_other(run, name, value, recorded.get(name))
    own = {"data": recorded["data"] if data is None else data, "out": None, "quiet": given.get("quiet", False)}
    return Options(**{**recorded, **given, **own})


def _refuse_other(run: Run, name: str, value: Any, before: Any) -> None:
    """Raises UsageError for an option that would change what the fit began with."""
    flag, begin = f"--{name.replace('_', '-')}", "or begin another fit with another --out"
    if name in ("plan", "out"):
        raise UsageError(f"{flag} is {value}, but a fit goes on with its own plan in its own folder; leave out {flag}")
    if name not in FREE and plain(value) != before and not _is_an_object(value):
        raise UsageError(
            f"{flag} is {plain(value)}, but the fit in {run.path} began with {before}; leave out {flag}, {begin}"
        )


def _is_an_object(value: object) -> bool:
    """Whether a value is an object, such as a network, of which a run holds only the name."""
    return not isinstance(value, (str, Path, bool, int, float, tuple, list, dict, type(None)))


def reopened(run: Run, images: ImageSet, backbone: Backbone) -> Mapping[str, Any] | None:
    """What an interrupted fit wrote of its job; None if it had not come so far.

    Raises DataError if the images are not those of the run, WeightsError if the weights are others or what was written
    is damaged.
    """
    _refuse_other_images(run, images)
    saved = read_saved(run)
    if saved and saved["weights"] != backbone.sha256:
        raise WeightsError(
            f"the weights of {backbone.name} are not those that the fit in {run.path} began with; bring them back, or "
            "begin another fit with another --out"
        )
    return saved


def _refuse_other_images(run: Run, images: ImageSet) -> None:
    """Raises DataError if a class, an image, its label, its split or its content is not as it was."""
    if list(run.classes) != list(images.classes):
        raise DataError(f"the classes were {', '.join(run.classes)} and are now {', '.join(images.classes)}")
    before = {(each["split"], each["path"]): (each["label"], each["digest"]) for each in run.split}
    now = {
        (split, name): (label, part.digests, number)
        for split, part in images.distinct.items()
        for number, (name, label) in enumerate(zip(part.names, part.labels(images.classes), strict=True))
    }
    gone, new = ({name for _, name in keys} for keys in (before.keys() - now.keys(), now.keys() - before.keys()))
    other = {key[1] for key in before.keys() & now.keys() if _differ(before[key], now[key])}
    changes = {"are gone": gone - new, "are new": new - gone}
    changes["have another label, split or content"] = other | (gone & new)
    for said, changed in changes.items():
        if changed:
            names = sorted(changed)
            others = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise DataError(
                f"since the fit in {run.path} began, {len(names)} images {said}: {', '.join(names[:NAMED])}{others}; "
                "bring the images back as they were, or begin another fit with another --out"
            )


def _differ(before: tuple[str, str], now: tuple[str, Digests, int]) -> bool:
    """Whether an image is not as it was. Its file is read if the fit has read it and the store does not know it.

    before: its label and digest. now: its label, the digests of its split and its number there.
    """
    (label_before, digest), (label, digests, number) = before, now
    return label != label_before or bool(digest and digests[number].hex() != digest)


def begun_phases(run: Run, saved: Mapping[str, Any] | None, plan: Sequence[Phase]) -> tuple[Phase, ...]:
    """The phases of a plan that an interrupted fit has begun; raises UsageError if there are none."""
    done = len(saved["progress"]["phases"]) if saved else 0
    begun = any((run.path / "checkpoints").glob(f"training-{done + 1}-*.safetensors"))
    if not done + begun:
        raise UsageError(f"the fit in {run.path} has learnt nothing yet; leave out --stop-here")
    return tuple(plan[: done + begun])


def continued(job: Job, saved: Mapping[str, Any] | None, *, stop_here: bool) -> Job:
    """The job of an interrupted fit, with what was decided before it trained, and the seconds that it took so far."""
    job = replace(job, resumes=True, saved=saved, stop_here=stop_here)
    if saved is None:
        return job
    left_out = f"--stop-here ended it in phase {len(job.plan)}" if stop_here else saved["left_out"]
    return replace(job, tried=tuple(saved["tried"]), left_out=left_out, started=job.started - saved["seconds"])


def begun(job: Job) -> Progress:
    """The progress that a fit goes on from: none, or what an interrupted one wrote; the network gets its weights."""
    for folder in ("", "checkpoints", "model", "plots"):
        unfinished(job.run.path / folder, remove=True)
    if job.saved is None:
        return Progress(job.images)
    progress = read_progress(job.run, job.images)
    done = len(progress.phases)
    if done:
        weights, _ = read_checked(checkpoint(job.run, done))
        job.network.model.load_state_dict(weights, strict=False)
    job.logbook.steps = len(progress.epochs)
    terminal.say(f"going on after {done} of {len(job.plan)} phases")
    return progress
