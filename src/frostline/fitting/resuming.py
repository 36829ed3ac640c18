"""Going on with an interrupted fit: with its own options, on the same images, from the same weights."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from frostline import terminal
from frostline.backbones import Backbone
from frostline.data.digests import Digests
from frostline.data.images import ImageSet
from frostline.data.readers.named import NAMED
from frostline.errors import DataError, UsageError, WeightsError, several, unknown
from frostline.files import unfinished
from frostline.fitting.identity import config_digest, images_digest
from frostline.fitting.job import Job
from frostline.fitting.options import FREE, Options
from frostline.fitting.progress import Progress
from frostline.fitting.saved import (
    Saved,
    checkpoint,
    forget,
    progress_of,
    read_checked,
    read_saved,
    refuse_other_fit,
    trainings,
    write_progress,
)
from frostline.plan import Phase
from frostline.runs.config import plain, read_config
from frostline.runs.run import Run, to_repeat, to_resume, write_config, write_data

MOST = 3  # images in a message
NAMES = [field.name for field in dataclasses.fields(Options)]
PLACES = ("data", "images", "weights")  # options that may name another place of the same files


def interrupted_run(run: str | Path | Run) -> Run:
    """The run of a fit that has begun; raises UsageError for anything else."""
    folder = run.path if isinstance(run, Run) else Path(run)
    if not folder.is_dir():
        raise UsageError(f"there is no run at {folder}; give the folder that `frostline fit` printed")
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} is no run: it has no config.yaml; give the folder that `frostline fit` printed")
    return Run(folder)


def resumed_options(run: Run, data: Any, given: Mapping[str, Any]) -> Options:
    """The options that a fit began with, and those given, which `refuse_other_options` has let pass.

    Objects, such as your own data, network or loss, must be given again: a run holds only their names.
    Raises DataError if its images are not where they were.
    """
    recorded = read_config(run.path / "config.yaml", NAMES)
    if data is None:
        data = recorded.get("data")
        if not data or (data.partition(":")[0] not in NAMED and not Path(data).exists()):
            raise DataError(
                f"the images of the fit in {run.path} were in {data}, which is not here; type where they are now: "
                f"{to_resume(run.path, 'FOLDER ')}"
            )
    return Options(**{**recorded, **given, "data": data, "out": None, "quiet": given.get("quiet", False)})


def refuse_other_options(run: Run, given: Mapping[str, Any]) -> None:
    """Raises UsageError for options that would change what the fit began with."""
    recorded = read_config(run.path / "config.yaml", NAMES)
    for name, value in given.items():
        if name not in NAMES:
            raise unknown("option", name, NAMES)
        _refuse_other(run, name, value, recorded.get(name))


def _refuse_other(run: Run, name: str, value: Any, before: Any) -> None:
    """Raises UsageError for an option that would change what the fit began with."""
    flag = f"--{name.replace('_', '-')}"
    if name == "plan":
        raise UsageError(f"--plan is {value}, but a fit goes on with its own plan; leave out --plan")
    if name == "out" and value is not None and Path(value).resolve() != run.path.resolve():
        raise UsageError(f"--out is {value}, but the fit goes on in {run.path}; leave out --out")
    if name in PLACES and _is_path(value) and _is_path(before):  # the content is compared
        return
    if name not in (*FREE, "out") and plain(value) != before and not _is_an_object(value):
        began = "its default" if before is None else before
        raise UsageError(
            f"{flag} is {plain(value)}, but the fit in {run.path} began with {began}; leave out {flag}, or begin "
            "another fit with another --out"
        )


def _is_path(value: object) -> bool:
    """Whether a value names files, and no weights of a source."""
    return isinstance(value, Path) or (isinstance(value, str) and ("/" in value or os.sep in value or "." in value))


def _is_an_object(value: object) -> bool:
    """Whether a value is an object, such as a network, of which a run holds only the name."""
    return not isinstance(value, (str, Path, bool, int, float, tuple, list, dict, type(None)))


def saved_job(run: Run, options: Options, images: ImageSet, backbone: Backbone) -> Saved | None:
    """What an interrupted fit wrote of its job; None if it had not come so far.

    Raises DataError if the images are not those of the run, WeightsError if the weights or config.yaml are others or
    what was written is damaged, UsageError if an object of the fit was not given again.
    """
    saved = read_saved(run)
    if saved and saved.config != config_digest(run):
        raise WeightsError(
            f"{run.path / 'config.yaml'} is not the one that the fit began with; bring it back, or begin another fit "
            "with it: frostline fit --config FILE"
        )
    for name in saved.objects if saved else ():
        if not _is_own(value := getattr(options, name), name):
            raise UsageError(
                f"the fit in {run.path} began with your own {name}, {value}, of which a run holds only the name; give "
                f"it again, as in frostline.resume(run, {name}=…)"
            )
    if saved is None and not (run.path / "split.csv").exists():  # killed right after config.yaml was written
        write_data(run, images)
    _refuse_other_images(run, images)
    if saved and saved.weights != backbone.sha256:
        raise WeightsError(
            f"the weights of {backbone.name} are not those that the fit in {run.path} began with; bring them back, or "
            "begin another fit with another --out"
        )
    _note_places(run, options)
    return saved


def _note_places(run: Run, options: Options) -> None:
    """Write to config.yaml where the same files are now, so that the next command finds them."""
    config = run.config
    now = {name: str(value) for name in PLACES if isinstance(value := getattr(options, name), (str, Path))}
    if any(config.get(name) != place for name, place in now.items()):
        write_config(run, {**config, **now})


def objects_of(options: Options) -> list[str]:
    """The names of the options that are objects, such as your own loss: a run holds only their names."""
    return [name for name in ("data", "backbone", "loss", "augment") if _is_own(getattr(options, name), name)]


def _is_own(value: object, name: str) -> bool:
    """Whether an option is an object, and no name; data may be arrays and lists."""
    return not isinstance(value, (str, Path)) if name == "data" else _is_an_object(value)


def with_identity(job: Job) -> Job:
    """The job with the identity of its fit, which its files bear.

    Raises DataError if an interrupted fit began with other images.
    """
    job = replace(job, config_digest=config_digest(job.run), images_digest=images_digest(job.images))
    if job.saved and job.saved.images != job.images_digest:
        raise DataError(
            f"since the fit in {job.run.path} began, the order of the images, a mask or a group has changed; bring "
            "them back as they were, or begin another fit with another --out"
        )
    return job


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
    told = [f"{said}: {several(sorted(names), MOST)}" for said, names in changes.items() if names]
    if told:
        raise DataError(
            f"since the fit in {run.path} began, images {'; images '.join(told)}; bring them back as they were, or "
            "begin another fit with another --out"
        )


def _differ(before: tuple[str, str], now: tuple[str, Digests, int]) -> bool:
    """Whether an image is not as it was. Its file is read if the fit has read it and the store does not know it.

    before: its label and digest. now: its label, the digests of its split and its number there.
    """
    (label_before, digest), (label, digests, number) = before, now
    return label != label_before or bool(digest and digests[number].hex() != digest)


def trained_phases(run: Run, saved: Saved | None, plan: Sequence[Phase]) -> tuple[Phase, ...]:
    """The phases of a plan that have trained an epoch, or are over; raises UsageError if there are none."""
    done = len(saved.progress["phases"]) if saved else 0
    begun = any(_has_epochs(file) for file in trainings(run, done + 1))
    if not done + begun:
        raise UsageError(f"the fit in {run.path} has learnt nothing yet; leave out --stop-here")
    return tuple(plan[: done + begun])


def _has_epochs(training: Path) -> bool:
    try:
        return bool(read_checked(training)[1]["epochs"])
    except WeightsError as error:
        terminal.say(f"{error}; it is left out")
        return False


def with_saved(job: Job, saved: Saved | None, *, stop_here: bool) -> Job:
    """The job of an interrupted fit, with what was decided before it trained, and the seconds that it took so far."""
    job = replace(job, resumes=True, saved=saved)
    if saved is None:
        return job
    done = len(saved.progress["phases"])
    where = f"in phase {done + 1}" if len(job.plan) > done else f"after phase {done}"
    return replace(
        job,
        tried=tuple(saved.tried),
        left_out=saved.left_out,
        stop_here=saved.stop_here or (where if stop_here else ""),
        started=job.started - saved.seconds,
    )


def starting_progress(job: Job) -> Progress:
    """The progress that a fit goes on from: none, or what an interrupted one wrote."""
    for folder in ("", "checkpoints", "model", "plots"):
        unfinished(job.run.path / folder, remove=True)
    progress = progress_of(job.saved, job.images) if job.saved else Progress(job.images)
    done = len(progress.phases)
    for number in range(1, done + 1):  # of a fit that was killed before it did
        forget(job.run, number)
    job.logbook.steps = len(progress.epochs)
    if job.saved:
        terminal.say(f"going on after {done} of {len(job.plan)} phases")
    # What was decided before the first pass. A phase has to end before a fit that is to stop here cannot go on.
    write_progress(replace(job, stop_here=job.saved.stop_here if job.saved else ""), progress)
    return progress


def load_trained(job: Job, progress: Progress) -> None:
    """Give the network the weights that it had after the last phase.

    Raises WeightsError, with what to do, if they cannot be used.
    """
    done = len(progress.phases)
    if not done:
        return
    try:
        weights, about = read_checked(checkpoint(job.run, done))
        refuse_other_fit(checkpoint(job.run, done), about, job.identity)
    except WeightsError as error:
        raise WeightsError(f"{error}; the fit cannot go on; begin it again with: {to_repeat(job.run.path)}") from error
    job.network.model.load_state_dict(weights, strict=False)
