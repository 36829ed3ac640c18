"""A fit that is logged to experiment trackers: a job with their logbook, which is always closed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from frostline import trackers
from frostline.fitting.job import Job


@contextlib.contextmanager
def tracked(job: Job) -> Iterator[Job]:
    """The job with an open logbook, which gets the results and the pictures at the end of the block."""
    with trackers.opened(job.options.tools, job.run.path, job.run.config) as logbook:
        yield replace(job, logbook=logbook)
        logbook.result(job.run.metrics, sorted((job.run.path / "plots").glob("*.png")))
