"""Start reading here: from labelled images to a classifier.

data → backbone → plan → forecast → for each phase: cut, compute activations once, solve or train, keep the best →
test once → run

`Options` define what to do, a `Job` holds all decisions made before training, and `Progress` is the only thing that
changes. Each step is a function of these, in a file of its own under `fitting/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from frostline import settings, terminal
from frostline.fitting.options import Options

if TYPE_CHECKING:  # torch takes seconds to import, and `frostline fit --help` needs only the options
    from frostline.runs.run import Run


@settings.takes(Options)
def fit(options: Options) -> Run:
    """Train a classifier on labelled images and write a run.

        run = frostline.fit("digits", plan="probe")
        run.metrics["valid"]["accuracy"]

    Returns the run; its `metrics` are what `fit --json` prints.
    Raises FrostlineError in one of its kinds (frostline.errors), each with what to do about it.
    """
    from frostline.fitting.choosing import prepared
    from frostline.fitting.finish import finish
    from frostline.fitting.forecast import announced
    from frostline.fitting.lines import logged
    from frostline.fitting.phase import run_phase
    from frostline.fitting.resuming import begun, finished
    from frostline.fitting.tracking import tracked

    with terminal.quiet(options.quiet):
        if run := finished(options):
            return run
        job = prepared(options)
        with logged(job), tracked(job) as job:
            job = announced(job)
            job.placement.extract(job.images, ["train", "valid"])  # one pass over the images
            progress = begun(job)
            for phase in job.plan[len(progress.phases) :]:
                if progress.ended:  # no deeper phase is worth a try
                    break
                progress = run_phase(job, progress, phase)
            return finish(job, progress)
