"""The findings about the images of a fit, and its figures without leaked images."""

from __future__ import annotations

from typing import Any

from frostline.checks.findings import Checks
from frostline.checks.look import leaked, look
from frostline.checks.samples import Samples, gathered, samples_of
from frostline.data.grouping import membership
from frostline.data.images import ImageSet
from frostline.fitting.job import Job, back_to_start
from frostline.fitting.progress import Measured, Progress
from frostline.network.part import weights_of
from frostline.runs.run import write_json, write_split
from frostline.tasks import Task
from frostline.tasks.clustered import accuracy_for


def checked(job: Job, progress: Progress) -> tuple[Checks, Samples]:
    """All findings about the images, from the activations stored below the first phase; written to the run.

    Without stored activations only copies with the same bytes are found. Also returns the images as they were checked.
    """
    splits = progress.images.distinct
    if job.placement.keeps(0):
        ships = weights_of(job.network.model)
        back_to_start(job)
        lower = job.network.below(job.network.find(job.plan[0].frostline))  # a check freezes nothing
        rows = {name: job.placement.activations(0, lower, part, name) for name, part in splits.items()}
        job.network.model.load_state_dict(ships)
        samples, lacking = gathered(rows, job.images.classes)
    else:
        samples, lacking = samples_of(splits, job.images.classes), "the fit stored no features"
    checks = look(samples, progress.unreadable, lacking, progress.images.groups)
    write_json(job.run, "checks.json", checks.as_json())
    for part in splits.values():
        part.digests.all()
    write_split(job.run, job.images, progress.images)
    return checks, samples


def without_leaks(checks: Checks, images: ImageSet, split: str, measured: Measured, task: Task) -> dict[str, Any]:
    """`without_leaks`: the accuracy on the images of a split that have no copy in an earlier one; empty without leaks.

    Images whose group is also in an earlier split do not count either.
    """
    names, leaks = measured.valid.images.names, leaked(checks, split) | of_known_groups(images, split)
    clean = [number for number, name in enumerate(names) if name not in leaks]
    if len(clean) == len(names):
        return {}
    scores = task.scores(measured.outputs).numpy()[clean]
    return {"without_leaks": accuracy_for(scores, membership([names[i] for i in clean], images.groups))}


def of_known_groups(images: ImageSet, split: str) -> set[str]:
    """The names of the images of a split whose group also has images in an earlier split."""
    splits = images.distinct
    if split not in splits or not images.groups:
        return set()
    before = list(splits)[: list(splits).index(split)]
    known = {images.groups.get(name, "") for each in before for name in splits[each].names} - {""}
    return {name for name in splits[split].names if images.groups.get(name) in known}
