"""After all decisions: solve the final head on the validation images as well, if these were split off.

This is scikit-learn's `refit`. The reported figures stay those of the head that had not seen the validation images. A
network that has trained below its head is left alone: its features fit the training images, so a head solved on them
would be too sure, and training anew takes as long as before.
"""

from __future__ import annotations

from typing import Any

from frostline import terminal
from frostline.data.grouping import membership
from frostline.data.images import join
from frostline.fitting.job import Job
from frostline.fitting.members import solving_members
from frostline.fitting.progress import Progress, standing
from frostline.training.probe import solve_head


def refit(job: Job, progress: Progress) -> dict[str, Any] | None:
    """Solve the head of the last kept phase on training and validation images; returns its frostline and their number.

    Returns None and changes nothing if the data came with a validation split, if the head or more was trained, or
    without the option. If all images are for training anyway, it only returns their number.
    """
    images, number = progress.images, standing(progress)
    phase, solved = job.plan[number], progress.phases[number]["epochs"] == 0
    if images.validation == "crossed" and solved:
        return {"frostline": phase.frostline, "images": len(images.train)}
    if not job.options.refit or images.validation != "split" or not solved:
        return None
    lower, upper = job.network.cut(phase.frostline, phase.freeze)
    together = join([images.train, images.valid])
    rows = job.placement.activations(number, lower, together, "train")
    group = membership(rows.images.names, images.groups)
    with solving_members(job.machine, rows, job.said):
        if not solve_head(job.network, upper, rows, job.options.seed, job.objective.class_weights, group):
            return None
    terminal.say(f"solved the head once more on all {len(rows.images)} images, validation included")
    return {"frostline": phase.frostline, "images": len(rows.images)}
