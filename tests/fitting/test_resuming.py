"""Law 6: resumed equals uninterrupted."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import frostline
from conftest import JOB_PLAN, small_backbone, write_photos
from frostline.errors import DataError, UsageError, WeightsError
from frostline.fitting import keeping
from frostline.fitting.options import Options
from frostline.fitting.saved import PROGRESS, checkpoint
from frostline.plan import Phase
from frostline.runs.run import Run
from frostline.training.training import Training

# All kinds of phases: solved, trained with early stopping, raced; and both may be undone or kept.
RACED = [
    Phase("head", epochs=0),
    Phase("block2", epochs=4, race=True, batch_size=6),
    Phase("stem", epochs=2, race=True, batch_size=6),
]
WON = [Phase("head", epochs=1, lr=1e-5), replace(RACED[1], lr=1e-2, batch_size=12), RACED[2]]
PLANS = {"trained": [JOB_PLAN[0], replace(JOB_PLAN[1], mixup=0.2, patience=1), JOB_PLAN[2]], "raced": RACED, "won": WON}


class Killed(BaseException):
    """As abrupt as a signal that cannot be caught: nothing that runs afterwards may matter."""


Ended = tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, Any]]


def fit(folder: Path, data: object, **options: Any) -> Run:
    usual = {"backbone": small_backbone(), "precision": "fp32", "device": "cpu", "quiet": True}
    return frostline.fit(data, **{**usual, **options, **({} if "resume" in options else {"out": folder})})


def told(value: Any) -> Any:
    """Figures without what differs between two equal fits: times, places, and what was found in the store."""
    changes = ("seconds", "fill_seconds", "run", "forecast", "computed", "reused", "cached_bytes")
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items() if key not in changes}
    return [told(item) for item in value] if isinstance(value, list) else value


def ended(run: Run) -> Ended:
    history = [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in run.history]
    return load_file(run.path / "model" / "model.safetensors"), history, told(run.metrics)


def assert_same(run: Run, expected: Ended) -> None:
    weights, history, metrics = ended(run)
    assert history == expected[1]
    assert metrics == expected[2]
    assert weights.keys() == expected[0].keys()
    for name, value in expected[0].items():
        assert torch.equal(value, weights[name]), name
    assert not list(run.path.glob("checkpoints/training-*"))
    assert not (run.path / PROGRESS).exists()


@pytest.fixture(params=PLANS)
def plan(request) -> list[Phase]:
    return PLANS[request.param]


@pytest.fixture(scope="module")
def steady() -> Iterator[None]:
    """Phases of the short fits here race, and no pictures are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_confusion", "draw_shots"):
            patch.setattr(f"frostline.report.gallery.{name}", lambda *_: None)
        patch.setattr("frostline.fitting.tuning.WORTH_A_RACE", 10)
        patch.setattr("frostline.fitting.tuning.RACE_STEPS", 12)
        patch.setattr("frostline.fitting.attempt.learnt", lambda *_: False)
        patch.setattr("frostline.fitting.tuning.learnt", lambda *_: False)
        patch.setattr("frostline.fitting.phase.nothing_to_prove", lambda *_: False)
        patch.setattr("frostline.fitting.tuning.nothing_to_prove", lambda *_: False)
        yield


def steps_of(action: Callable[[], Run], monkeypatch, stop: float = math.inf) -> int:
    """The number of steps of a fit, which ends abruptly at one of them."""
    taken, step = 0, Training._step

    def counted(self: Training, *batch: torch.Tensor) -> tuple[float, float]:
        nonlocal taken
        if taken == stop:
            raise Killed
        taken += 1
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", counted)
        action()
    return taken


@pytest.fixture
def whole(plan, stripes, tmp_path, steady, monkeypatch, no_pictures) -> tuple[Ended, int]:
    """How the uninterrupted fit ends, and its number of steps."""
    steps = steps_of(lambda: fit(tmp_path / "whole", stripes, plan=plan), monkeypatch)
    return ended(Run(tmp_path / "whole")), steps


@pytest.mark.parametrize("within", [0.0, 1e9], ids=["within epochs", "after epochs"])
def test_a_fit_that_ends_at_any_step_goes_on_without_a_difference(
    within, plan, whole, stripes, tmp_path, monkeypatch, no_pictures
):
    expected, steps = whole
    monkeypatch.setattr(keeping, "WITHIN", within)
    monkeypatch.setattr(keeping, "SHARE", math.inf)

    @given(st.lists(st.integers(0, steps - 1), min_size=1, max_size=2), st.integers(1, 2))
    @settings(max_examples=3, deadline=None)
    @example([0], 1)
    @example([steps - 1], 2)
    def holds(stops: list[int], workers: int) -> None:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        options: dict[str, Any] = {"plan": plan}
        for stop in stops:
            try:
                steps_of(lambda: fit(folder, stripes, workers=workers, **options), monkeypatch, stop)
            except Killed:
                options = {"resume": folder}
        run = fit(folder, stripes, workers=3 - workers, **options) if not (folder / "metrics.json").exists() else Run(folder)
        assert_same(run, expected)

    holds()

