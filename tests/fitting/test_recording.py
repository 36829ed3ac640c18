from __future__ import annotations

import csv

from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.fitting.recording import record, write_history


def test_an_epoch_is_written_and_told(job_of, capsys):
    job = job_of(quiet=False)
    progress = run_phase(job, Progress(job.images), job.plan[0])
    capsys.readouterr()
    epoch = {"epoch": 1, "lr": 0.1, "train_loss": 0.5, "train_accuracy": 0.9, "valid_loss": 0.4}
    after = record(job, progress, job.plan[1], epoch, {"accuracy": 0.8, "loss": 0.4, "f1": 0.7}, 1.5)
    told = capsys.readouterr().err
    assert "epoch  1/3  train 0.9000 loss 0.5000 · valid 0.8000 loss 0.4000 F1 0.7000 · 1.5 s" in told
    assert len(after.epochs) == len(progress.epochs) + 1
    assert epochs_written(job) == ["0", "1"]
    write_history(job, progress)
    assert epochs_written(job) == ["0"]


def epochs_written(job):
    with (job.run.path / "history.csv").open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]
