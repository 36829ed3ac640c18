"""Start reading here: from labelled images to a classifier.

data → backbone → plan → forecast → for each phase: cut, compute activations once, solve or train, keep the best →
test once → run

`Options` define what to do, a `Job` holds all decisions made before training, and `Progress` is the only thing that
changes. Each step is a function of these, in a file of its own under `fitting/`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from frostline import settings, terminal
from frostline.fitting.options import Options

if TYPE_CHECKING:  # torch takes seconds to import, and `frostline fit --help` needs only the options
    from pathlib import Path

    from frostline.data import Data
    from frostline.fitting.job import Job
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
    from frostline.runs.run import claimed

    with terminal.quiet(options.quiet):
        job = prepared(options)
        with claimed(job.run):
            return completed(job)


def resume(run: str | Path | Run, data: Data | Any = None, *, stop_here: bool = False, **options: Any) -> Run:
    """Go on with a fit that was interrupted, at the step where its state was last written: the result is the same.

        run = frostline.resume("runs/pets")

    run: the folder of its run. data: where the images are now, if they have moved; they must be the same.
    stop_here: train no further, and make a classifier of what the fit has learnt.
    options: of `fit`, those that do not change the result (device, workers, cache, store, cache_budget, download,
        report, log_to, quiet), and objects that the fit was given (backbone, loss, augment): a run holds their names.

    Returns the run, at once if its fit is finished.
    Raises UsageError for a folder without a run and for options that differ from those of the run, DataError if the
    images do, and WeightsError if the weights do or what was written is damaged.
    """
    from frostline.fitting.resuming import interrupted_run, refuse_other_options, resumed_options
    from frostline.fitting.setup import prepare
    from frostline.runs.run import claimed, is_finished

    found = interrupted_run(run)
    refuse_other_options(found, options)
    over = is_finished(found.path)
    with terminal.quiet(options.get("quiet", False)), contextlib.nullcontext() if over else claimed(found):
        if is_finished(found.path):  # maybe by the process that had claimed it
            terminal.say(f"the fit in {found.path} is finished; there is nothing to go on with")
            return found
        return completed(prepare(resumed_options(found, data, options), found, stop_here=stop_here))


def completed(job: Job) -> Run:
    """The run of a job, after all phases that are left."""
    from frostline.fitting.finish import finish
    from frostline.fitting.forecast import announced
    from frostline.fitting.lines import logged
    from frostline.fitting.phase import run_phase
    from frostline.fitting.resuming import load_trained, starting_progress, with_identity
    from frostline.fitting.tracking import tracked

    with logged(job), tracked(job) as job:
        job = with_identity(announced(job))
        progress = starting_progress(job)
        job.placement.extract(job.images, ["train", "valid"])  # one pass over the images
        load_trained(job, progress)  # of a fit that goes on; below the frostlines nothing has trained
        for phase in job.plan[len(progress.phases) :]:
            if progress.ended:  # no deeper phase is worth a try
                break
            progress = run_phase(job, progress, phase)
        return finish(job, progress)
