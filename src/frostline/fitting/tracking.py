"""A fit that is also told to experiment trackers: a job with their logbook, closed whatever comes of the fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from frostline import trackers
from frostline.fitting.job import Job


@contextlib.contextmanager
def tracked(job: Job) -> Iterator[Job]:
    """The job with an open logbook; at the end of the block it gets what the fit came to, and its pictures."""
    with trackers.opened(job.options.tools, job.run.path, job.run.config) as logbook:
        yield replace(job, logbook=logbook)
        logbook.result(job.run.metrics, sorted((job.run.path / "plots").glob("*.png")))
