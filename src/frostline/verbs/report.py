"""The page of a run or of a comparison, made again from what its folder holds."""

from __future__ import annotations

from pathlib import Path

from frostline.errors import UsageError
from frostline.report.comparison_page import RESULTS, remake_comparison
from frostline.report.page import write_page
from frostline.runs.run import Run, load_run


def make_report(run: str | Path | Run) -> Path:
    """Write `report.html` into a run: one file to look at, offline, without a single request.

    Every fit leaves one (`--no-report` does not). The images need not be there: thumbnails are in the run's
    `report.json`, where the fit gathered them. Of a folder that `compare` made it is `comparison.html`.

    Returns the path of the page. Raises UsageError where there is no finished run and no comparison, and for a run of
    `save_run`, because nothing is known of how it was trained.

    >>> make_report("runs/pets")  # doctest: +SKIP
    PosixPath('runs/pets/report.html')
    """
    if not isinstance(run, Run) and (Path(run) / RESULTS).is_file():
        return remake_comparison(Run(Path(run)))
    run = run if isinstance(run, Run) else load_run(run)
    if not run.metrics["phases"]:
        raise UsageError(f"{run.path} was saved from a loop of your own, of which no report can be made")
    return write_page(run)
