"""What a fit tells MLflow: to a stand-in that records it, and to a real local store where it is installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest


class Recorded:
    """A client of MLflow that keeps what it gets."""

    tracking_uri = "sqlite:///somewhere.db"

    def __init__(self):
        self.experiments, self.created, self.params, self.metrics, self.artifacts, self.ended = {}, [], {}, [], [], []

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        self.experiments[name] = str(len(self.experiments) + 1)
        return self.experiments[name]

    def create_run(self, experiment, run_name, tags):
        self.created.append((experiment, run_name, tags))
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run {len(self.created)}"))

    def log_batch(self, _, metrics=(), params=()):
        assert len(metrics) <= 100
        self.params |= dict(params)
        self.metrics += metrics

    def log_artifact(self, _, file, folder):
        self.artifacts.append((file, folder))

    def set_terminated(self, run, status):
        self.ended.append((run, status))


@pytest.fixture
def client(stand_in, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    recorded = Recorded()
    stand_in("mlflow", MlflowClient=lambda: recorded, active_run=lambda: None)
    stand_in("mlflow.entities", Metric=lambda *metric: metric, Param=lambda *param: param)
    return recorded


def test_a_run_gets_options_epochs_result_and_pictures(client, fitted, capsys):
    run = fitted(log_to="mlflow", label_smoothing=0.1)
    assert client.created == [("1", "run", {})]
    assert client.experiments == {"frostline": "1"}
    assert (client.params["seed"], client.params["label_smoothing"], client.params["backbone"]) == ("0", "0.1", "Small")
    assert '"frostline": "block2"' in client.params["plan"]
    losses = [(value, step) for name, value, _, step in client.metrics if name == "valid/loss"]
    assert losses == [(entry["valid_loss"], step) for step, entry in enumerate(run.history, 1)]
    final = {name: value for name, value, *_ in client.metrics if name.startswith("final/")}
    assert final["final/test/accuracy"] == run.metrics["test"]["accuracy"]
    assert ("run/plots/curves.png", "plots") in client.artifacts
    assert client.ended == [("run 1", "FINISHED")]
    assert "logged to mlflow: mlflow ui --backend-store-uri sqlite:///somewhere.db" in capsys.readouterr().err


def test_experiments_are_named_by_the_environment_and_used_again(client, fitted, monkeypatch, no_pictures):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "pets")
    fitted(log_to="mlflow")
    fitted(log_to="mlflow", out="again")
    assert client.experiments == {"pets": "1"}
    assert [name for _, name, _ in client.created] == ["run", "again"]


def test_the_run_that_a_program_has_active_becomes_the_parent(client, fitted, no_pictures):
    info = SimpleNamespace(experiment_id="7", run_id="outer")
    sys.modules["mlflow"].active_run = lambda: SimpleNamespace(info=info)
    fitted(log_to="mlflow")
    assert client.created == [("7", "run", {"mlflow.parentRunId": "outer"})]


@pytest.mark.filterwarnings("ignore")  # what MLflow and its database library find old in each other
def test_a_real_store_holds_the_fit(fitted, monkeypatch, tmp_path):
    pytest.importorskip("mlflow", reason="no mlflow: pip install 'frostline[mlflow]'")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/tracked.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = fitted(log_to="mlflow")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("frostline")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["seed"] == "0"
    assert found.data.metrics["final/valid/accuracy"] == pytest.approx(run.metrics["valid"]["accuracy"])
    history = client.get_metric_history(found.info.run_id, "valid/loss")
    assert [metric.step for metric in history] == list(range(1, len(run.history) + 1))
    assert [metric.value for metric in history] == pytest.approx([entry["valid_loss"] for entry in run.history])
    plots = [artifact.path for artifact in client.list_artifacts(found.info.run_id, "plots")]
    assert "plots/curves.png" in plots
