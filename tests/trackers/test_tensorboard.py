"""What TensorBoard itself reads of the event files that a fit wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tensorboard", reason="no tensorboard: pip install 'frostline[tensorboard]'")


@pytest.fixture
def read():
    """The events below a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def call(folder: Path) -> EventAccumulator:
        return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()

    return call


def test_epochs_result_options_and_pictures_are_in_the_event_files(fitted, read, capsys):
    run = fitted(log_to="tensorboard")
    assert f"logged to tensorboard: tensorboard --logdir {run.path / 'tensorboard'}" in capsys.readouterr().err
    events = read(run.path / "tensorboard")
    losses = events.Scalars("valid/loss")
    assert [event.step for event in losses] == list(range(1, len(run.history) + 1))
    assert [event.value for event in losses] == pytest.approx([entry["valid_loss"] for entry in run.history])
    assert [event.value for event in events.Scalars("phase")] == [entry["phase"] for entry in run.history]
    final = events.Scalars("final/test/accuracy")[0]
    assert (final.value, final.step) == (pytest.approx(run.metrics["test"]["accuracy"]), len(run.history))
    plots = sorted(file.stem for file in (run.path / "plots").glob("*.png"))
    assert sorted(events.Tags()["images"]) == [f"plots/{name}" for name in plots]
    picture = events.Images("plots/curves")[0]
    assert picture.width > 300
    assert picture.height > 200
    text = events.Tensors("options/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text.removeprefix("```\n").removesuffix("\n```"))["plan"]["phases"][1]["frostline"] == "block2"


def test_hyperparameters_stand_beside_the_result_in_the_same_record(fitted, read, no_pictures):
    run = fitted(log_to="tensorboard", seed=3)
    content = read(run.path / "tensorboard").summary_metadata
    assert "_hparams_/session_start_info" in content
    started = content["_hparams_/session_start_info"].plugin_data.content
    assert b"seed" in started
    assert len(list((run.path / "tensorboard").rglob("events*"))) == 1
