"""Once all is decided: the head that ships is solved on the validation images, too, where these were only split off.

As scikit-learn's `refit` does. What was measured on them stays what it was: of the head that had not seen them. A
network that has trained below its head is left alone: features that were made to fit the training images are not to be
trusted as much as a head would trust them then, and training anew takes as long as it did.
"""

from __future__ import annotations

from typing import Any

from frostline import terminal
from frostline.data.grouping import membership
from frostline.data.images import join
from frostline.fitting.job import Job
from frostline.fitting.progress import Progress, standing
from frostline.training.probe import solve_head


def refit(job: Job, progress: Progress) -> dict[str, Any] | None:
    """Solve the head of the last phase that stands on training and validation images; what it was made of, by name.

    None, and nothing is changed, where the validation images were given as such, where more than a head has trained or
    the head was trained, and where nobody wants it. Where all images are for training anyway, it says so.
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
    if not solve_head(job.network, upper, rows, job.options.seed, job.objective.class_weights, group):
        return None
    terminal.say(f"head solved once more on all {len(rows.images)} images, those for validation too")
    return {"frostline": phase.frostline, "images": len(rows.images)}
