"""The page of a run or of a comparison, rebuilt from its folder."""

from __future__ import annotations

from pathlib import Path

from frostline.errors import UsageError
from frostline.report.comparison_page import RESULTS, remake_comparison
from frostline.report.page import write_page
from frostline.runs.run import Run, corrupt, load_run

FIGURES = {"classes": list, "backbone": dict, "phases": list, "validation": str}  # which the page needs


def make_report(run: str | Path | Run) -> Path:
    """Write `report.html` into a run: one file to look at, offline, without a single request.

    Every fit writes one (unless `--no-report` is set). The images are not needed any more: the fit put thumbnails into
    the run's `report.json`. For a folder of `compare` it writes `comparison.html`.

    Returns the path of the page. Raises UsageError for a folder without a finished run or comparison, and for a run of
    `save_run`, whose training is unknown.

    >>> make_report("runs/pets")  # doctest: +SKIP
    PosixPath('runs/pets/report.html')
    """
    if not isinstance(run, Run) and (Path(run) / RESULTS).is_file():
        return remake_comparison(Run(Path(run)))
    run = run if isinstance(run, Run) else load_run(run)
    metrics = run.metrics
    for name, kind in FIGURES.items():
        if not isinstance(metrics.get(name), kind):
            raise corrupt(run.path / "metrics.json", f"{name} is no {kind.__name__}")
    if not metrics["phases"]:
        raise UsageError(f"{run.path} was saved from your own training loop, which a report cannot describe")
    return write_page(run)
