"""Trackers whichever they are: what they are told, that none ends a fit, and what is said where one lacks."""

from __future__ import annotations

import importlib.util
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import frostline
from conftest import write_photos
from frostline import trackers
from frostline.cli import main
from frostline.errors import MachineError, UsageError
from frostline.fitting.options import Options
from frostline.trackers import Logbook, of_epoch, of_result, refuse_missing


class Kept:
    """A tracker that keeps what it is told, and fails from a call on."""

    where = "in a list"

    def __init__(self, fails_from: int = 10**9) -> None:
        self.told, self.fails_from = [], fails_from

    def _tell(self, *what):
        if len(self.told) + 1 >= self.fails_from:
            raise ConnectionError("the server is gone\nand more lines")
        self.told.append(what)

    def epoch(self, step, figures):
        self._tell("epoch", step, figures)

    def result(self, figures, pictures):
        self._tell("result", figures, [picture.stem for picture in pictures])

    def close(self, finished):
        self._tell("close", finished)


@pytest.fixture
def kept(monkeypatch):
    """In place of TensorBoard and W&B."""
    both = {"tensorboard": Kept(), "wandb": Kept()}
    monkeypatch.setattr(trackers, "refuse_missing", lambda _: None)
    monkeypatch.setattr("frostline.fitting.options.refuse_missing", lambda _: None)
    monkeypatch.setattr(trackers, "_opened", lambda tool, *_: both[tool])
    return both


def test_every_epoch_of_every_phase_and_the_result_are_told(fitted, kept):
    run = fitted(log_to=["tensorboard", "wandb"])
    told = kept["tensorboard"].told
    assert kept["wandb"].told == told
    epochs = [figures for kind, *rest in told if kind == "epoch" for figures in rest[1:]]
    assert [step for kind, step, *_ in told if kind == "epoch"] == list(range(1, len(run.history) + 1))
    assert len(epochs) == len(run.history)
    for figures, entry in zip(epochs, run.history, strict=True):
        assert (figures["phase"], figures["epoch"]) == (entry["phase"], entry["epoch"])
        assert figures["valid/loss"] == entry["valid_loss"]
        assert figures.get("train/loss") == entry["train_loss"]
    _, figures, pictures = told[-2]
    assert figures["final/valid/accuracy"] == run.metrics["valid"]["accuracy"]
    assert figures["final/test/accuracy_low"] == run.metrics["test"]["interval"][0]
    assert "curves" in pictures
    assert told[-1] == ("close", True)
    assert run.config["log_to"] == ["tensorboard", "wandb"]


@pytest.mark.parametrize("fails_from", [1, 3, 6, 7])
@pytest.mark.usefixtures("no_pictures")
def test_a_tracker_that_fails_ends_no_fit_and_is_noted_once(fails_from, fitted, kept):
    kept["wandb"] = Kept(fails_from)
    run = fitted(log_to=["wandb", "tensorboard"])
    log = (run.path / "log.txt").read_text()
    assert log.count("wandb failed and is told no more, the fit goes on: the server is gone\n") == 1
    assert len(kept["wandb"].told) == fails_from - 1
    assert kept["tensorboard"].told[-1] == ("close", True)


@pytest.mark.usefixtures("no_pictures")
def test_a_fit_that_ends_with_an_error_closes_its_records_as_failed(fitted, kept, monkeypatch):
    monkeypatch.setattr("frostline.fitting.finish.finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fitted(log_to="wandb")
    assert kept["wandb"].told[-1] == ("close", False)
    assert not any(what[0] == "result" for what in kept["wandb"].told)


def test_a_tracker_that_does_not_open_is_an_error_before_anything_is_computed(fitted, stand_in, tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("no API key")

    stand_in("wandb", run=None, init=init, Settings=dict)
    with pytest.raises(MachineError, match="wandb opens no record: no API key; mend that, or leave out --log-to wandb"):
        fitted(log_to="wandb")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tool", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_said_at_once(tool, monkeypatch, tmp_path, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == tool else real(name))
    with pytest.raises(SystemExit) as end:
        main(["fit", str(tmp_path / "no images at all"), "--log-to", tool])
    assert end.value.code == 7
    assert f"pip install 'frostline[{tool}]'" in capsys.readouterr().err
    with pytest.raises(MachineError, match=f"--log-to {tool} needs {tool}: pip"):
        frostline.compare(str(write_photos(tmp_path / "photos", 2)), log_to=tool)


def test_a_folder_of_old_records_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    with pytest.raises(MachineError, match="wandb"):
        refuse_missing(["wandb"])


def test_an_unknown_tool_gets_the_nearest_name():
    with pytest.raises(UsageError, match="unknown log to 'tensorbord'; nearest: tensorboard"):
        Options("digits", log_to="tensorbord")
    with pytest.raises(UsageError, match="a list of tensorboard, wandb, mlflow"):
        Options("digits", log_to=5)


def test_nothing_is_told_where_nothing_is_asked_for(fitted, no_pictures):
    assert Options("digits").tools == ()
    assert fitted().config["log_to"] == []


numbers = st.one_of(st.integers(-9, 9), st.floats(), st.booleans(), st.sampled_from(["", "head", None]))
names = st.sampled_from(["epoch", "lr", "train_loss", "valid_loss", "valid_mean_iou", "deciding_loss", "valid_"])


@given(st.dictionaries(names, numbers))
def test_of_an_epoch_only_finite_numbers_are_told_and_none_is_lost(entry):
    figures = of_epoch(entry)
    told = {k: v for k, v in entry.items() if isinstance(v, (int, float)) and not isinstance(v, bool) and v * 0 == 0}
    assert sorted(figures.values()) == sorted(map(float, told.values()))
    assert {name.replace("/", "_") for name in figures} == set(told)
    json.dumps(figures, allow_nan=False)


def test_of_a_result_without_test_images_there_is_no_figure_of_them():
    metrics = {"valid": {"accuracy": 0.5, "interval": [0.25, 0.75], "per_class": [1]}, "test": None, "seconds": 2.0}
    assert of_result(metrics) == {
        "final/valid/accuracy": 0.5,
        "final/valid/accuracy_low": 0.25,
        "final/valid/accuracy_high": 0.75,
        "final/seconds": 2.0,
    }


def test_a_logbook_without_trackers_counts_and_says_nothing():
    book = Logbook()
    book.epoch({"epoch": 1})
    book.close(True)
    assert book.steps == 1
