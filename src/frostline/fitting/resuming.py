"""Going on with an interrupted fit: with its own options, on the same images, from the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from frostline import terminal
from frostline.backbones import Backbone
from frostline.data.digests import Digests
from frostline.data.images import ImageSet
from frostline.errors import DataError, UsageError, WeightsError
from frostline.fitting.job import Job
from frostline.fitting.options import Options
from frostline.fitting.progress import Progress
from frostline.fitting.saved import PROGRESS, checkpoint, read_checked, read_progress, read_saved
from frostline.plan import Phase
from frostline.runs.config import plain, read_config
from frostline.runs.run import Run

# These do not change the result, so a fit may go on with others.
FREE = ("device", "workers", "cache", "cache_dir", "cache_budget", "download", "report", "log_to", "quiet")
OWN = ("data", "out", "resume", "stop_here")
NAMED = 3  # images in a message


def resumed(options: Options) -> Options:
    """The options that an interrupted fit began with; of those given only what does not change the result.

    Objects, such as your own network or loss, must be given again: a run holds only their names.
    Raises UsageError if there is no interrupted fit, and for options that differ from those of the run.
    """
    folder = Path(str(options.resume))
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} is no run: it has no config.yaml; give the folder that `frostline fit` printed")
    names = [field.name for field in dataclasses.fields(Options)]
    recorded = read_config(folder / "config.yaml", names)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Options)}
    given = {n: v for n, v in given.items() if n not in OWN and v != getattr(Options, n, None)}
    refuse_other(folder, given, recorded)
    if options.out is not None and Path(options.out).resolve() != folder.resolve():
        raise UsageError(f"--resume goes on in {folder}, but --out is {options.out}; leave out --out")
    kept = {n: v for n, v in recorded.items() if n not in OWN}
    own = {"data": options.data if options.data is not None else recorded["data"], "resume": folder}
    return Options(**{**kept, **given, **own, "stop_here": options.stop_here})


def refuse_other(folder: Path, given: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that would change what the fit began with."""
    for name, value in given.items():
        if name in FREE or name in OWN:
            continue
        before, flag = recorded.get(name), f"--{name.replace('_', '-')}"
        if name == "plan":
            raise UsageError(f"--resume goes on with the plan of {folder}, so it takes no --plan; leave that out")
        if plain(value) != before and not _names_an_object(value):
            raise UsageError(
                f"{flag} is {plain(value)}, but the fit in {folder} began with {before}; leave out {flag}, or begin "
                "another fit with another --out"
            )


def _names_an_object(value: object) -> bool:
    """Whether a value is an object, such as a network, of which a run holds only the name."""
    return not isinstance(value, (str, Path, bool, int, float, tuple, list, dict, type(None)))


def reopened(options: Options, images: ImageSet, backbone: Backbone) -> tuple[Run, Mapping[str, Any] | None]:
    """The run of an interrupted fit, and what it wrote of its job; None if it had not come so far.

    Raises DataError if the images are not those of the run, WeightsError if the weights are others or what was written
    is damaged.
    """
    run = Run(Path(str(options.resume)))
    _refuse_other_images(run, images)
    saved = read_saved(run)
    if saved and saved["weights"] != backbone.sha256:
        raise WeightsError(
            f"the weights of {backbone.name} are not those that the fit in {run.path} began with; bring them back, or "
            "begin another fit with another --out"
        )
    return run, saved


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


def left(options: Options, run: Run, saved: Mapping[str, Any] | None, plan: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """The plan of a fit that goes on; with `stop_here` only the phases that have begun.

    Raises UsageError if none has.
    """
    if not options.stop_here:
        return plan
    done = len(saved["progress"]["phases"]) if saved else 0
    begun = any((run.path / "checkpoints").glob(f"training-{done + 1}-*.safetensors"))
    if not done + begun:
        raise UsageError(f"the fit in {run.path} has learnt nothing yet; leave out --stop-here")
    return plan[: done + begun]


def continued(job: Job, saved: Mapping[str, Any]) -> Job:
    """The job of an interrupted fit, with what was decided before it trained, and the seconds that it took so far."""
    left_out = saved["left_out"]
    if job.options.stop_here:
        left_out = f"--stop-here ended it in phase {len(job.plan)}"
    tried, started = tuple(saved["tried"]), job.started - saved["seconds"]
    return replace(job, saved=saved, tried=tried, left_out=left_out, started=started)


def begun(job: Job) -> Progress:
    """The progress that a fit goes on from: none, or what an interrupted one wrote; the network gets its weights."""
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


def finished(options: Options) -> Run | None:
    """The run to go on with, if its fit has come to its end: then nothing is left to do."""
    folder = Path(options.resume) if options.resume else None
    if folder is None or not (folder / "metrics.json").is_file() or (folder / PROGRESS).exists():
        return None
    terminal.say(f"the fit in {folder} is finished; there is nothing to go on with")
    return Run(folder)
