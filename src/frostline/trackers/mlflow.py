"""MLflow: a run in the store that MLFLOW_TRACKING_URI names, else in MLflow's default in the current folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.trackers import Figures

MOST = 6000  # characters per parameter
AT_ONCE = 100  # parameters or metrics per call


class MLflow:
    """An MLflow run, written through a client, so that the program's own active run is not changed."""

    def __init__(self, client: Any, run: str, where: str) -> None:
        self.client, self.run, self.where = client, run, where
        self.step = 0

    def epoch(self, step: int, figures: Figures) -> None:
        self.step = step
        self._log(figures)

    def result(self, figures: Figures, pictures: Sequence[Path]) -> None:
        self._log(figures)
        for picture in pictures:
            self.client.log_artifact(self.run, str(picture), "plots")

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.run, "FINISHED" if finished else "FAILED")

    def _log(self, figures: Figures) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now, self.step) for name, value in figures.items()]
        for start in range(0, len(metrics), AT_ONCE):
            self.client.log_batch(self.run, metrics=metrics[start : start + AT_ONCE])


def opened(folder: Path, config: Mapping[str, Any]) -> MLflow:
    """A new run in the experiment MLFLOW_EXPERIMENT_NAME, else "frostline"; a child of the active run, if any."""
    import mlflow
    from mlflow.entities import Param

    client, active = mlflow.MlflowClient(), mlflow.active_run()
    if active is not None:
        experiment, tags = active.info.experiment_id, {"mlflow.parentRunId": active.info.run_id}
    else:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "frostline")
        known = client.get_experiment_by_name(name)
        experiment, tags = known.experiment_id if known else client.create_experiment(name), {}
    run = client.create_run(experiment, run_name=folder.name, tags=tags).info.run_id
    params = [Param(name, _text(value)[:MOST]) for name, value in config.items()]
    for start in range(0, len(params), AT_ONCE):
        client.log_batch(run, params=params[start : start + AT_ONCE])
    return MLflow(client, run, f"mlflow ui --backend-store-uri {client.tracking_uri}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
