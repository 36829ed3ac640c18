"""Law 6: resumed equals uninterrupted."""

from __future__ import annotations

import contextlib
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
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import frostline
from conftest import JOB_PLAN, draw_images, small_backbone, write_photos
from frostline.backbones import load_backbone
from frostline.data.images import Images, ImageSet
from frostline.errors import DataError, UsageError, WeightsError
from frostline.fitting import keeping
from frostline.fitting.job import Job
from frostline.fitting.resuming import starting_progress, with_identity
from frostline.fitting.saved import checkpoint
from frostline.plan import Phase
from frostline.runs.run import PROGRESS, Run, claimed
from frostline.store.placement import Placement
from frostline.training.training import Training
from trainings import masked

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
    return frostline.fit(data, out=folder, **{**usual, **options})


def resume(folder: Path, data: object, **options: Any) -> Run:
    return frostline.resume(folder, data, **{"backbone": small_backbone(), "quiet": True, **options})


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


@pytest.mark.parametrize(
    "within", [pytest.param(0.0, id="within epochs", marks=pytest.mark.long), pytest.param(1e9, id="after epochs")]
)
def test_D25_a_fit_that_ends_at_any_step_goes_on_without_a_difference(
    within, plan, whole, stripes, tmp_path, monkeypatch, no_pictures
):
    expected, steps = whole
    monkeypatch.setattr(keeping, "WITHIN", within)
    monkeypatch.setattr(keeping, "SHARE", math.inf)

    @given(st.lists(st.integers(0, steps - 1), min_size=1, max_size=2), st.integers(1, 2))
    @settings(max_examples=2, deadline=None)
    @example([steps - 1], 2)
    def holds(stops: list[int], workers: int) -> None:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        for stop in stops:
            with contextlib.suppress(Killed):
                steps_of(lambda: gone_on(folder, stripes, plan=plan, workers=workers), monkeypatch, stop)
        assert_same(gone_on(folder, stripes, plan=plan, workers=3 - workers), expected)

    holds()


def gone_on(folder: Path, data: object, **options: Any) -> Run:
    """A fit into a folder, begun or gone on with."""
    if (folder / "config.yaml").exists():
        return resume(folder, data, workers=options["workers"])
    return fit(folder, data, **options)


def in_a_fork(action: Callable[[], object], seconds: float) -> bool:
    """Run it in a copy of this process, which is killed after some seconds; whether it had ended by then."""
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # no thread of the pool is alive in a copy
            action()
        finally:
            os._exit(0)
    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def survives_kills(kills: int, data: object, plan: list[Phase], expected: Ended, folder: Path) -> None:
    """Kill a fit again and again until so many were killed; every one that is left to its end ends the same."""
    chance, begun = np.random.default_rng(7), time.monotonic()
    assert in_a_fork(lambda: fit(folder / "once", data, plan=plan, workers=2), 600)
    takes, killed, number = time.monotonic() - begun, 0, 0
    while killed < kills:
        number, run = number + 1, folder / f"run-{number}"
        for _ in range(3):
            killed += not in_a_fork(lambda run=run: gone_on(run, data, plan=plan, workers=2), takes * chance.random())
        assert_same(gone_on(run, data, plan=plan, workers=1) if not_over(run) else Run(run), expected)
        shutil.rmtree(run)


def not_over(run: Path) -> bool:
    return not (run / "metrics.json").exists() or (run / PROGRESS).exists()


@pytest.fixture
def often(monkeypatch) -> None:
    """The state of a training is written at every step."""
    monkeypatch.setattr(keeping, "WITHIN", 0.0)
    monkeypatch.setattr(keeping, "SHARE", math.inf)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("plan", [WON], ids=["won"])
@pytest.mark.long
def test_F01_20_kills(plan, whole, stripes, tmp_path, often):
    survives_kills(20, stripes, plan, whole[0], tmp_path / "killed")


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_F01_200_kills(plan, whole, stripes, tmp_path, often):
    survives_kills(200 // len(PLANS) + 1, stripes, plan, whole[0], tmp_path / "killed")


def killed_at(step: int, folder: Path, data: object, monkeypatch, **options: Any) -> None:
    with pytest.raises(Killed):
        steps_of(lambda: fit(folder, data, **options), monkeypatch, step)


@pytest.mark.parametrize(
    ("step", "where", "epochs"),
    [(0, "after phase 1", 0), (1, "after phase 1", 0), (3, "in phase 2", 1), (4, "in phase 2", 2)]
    + [(6, "after phase 2", 3), (8, "in phase 3", 1), (9, "in phase 3", 1)],
)
@pytest.mark.long
def test_stop_here_makes_a_classifier_of_what_it_has(
    step, where, epochs, stripes, tmp_path, steady, monkeypatch, often, reports
):
    """An epoch has two steps; what was trained within one was never measured."""
    folder = tmp_path / "run"
    killed_at(step, folder, stripes, monkeypatch, plan=JOB_PLAN)
    run = resume(folder, stripes, stop_here=True)
    metrics = run.metrics
    assert len(metrics["phases"]) == int(where[-1])
    assert metrics["ended"] == f"--stop-here ended it {where}"
    assert metrics["phases"][-1]["epochs"] == epochs
    assert {epoch["phase"] for epoch in run.history} == set(range(1, int(where[-1]) + 1))
    assert (run.path / "report.html").exists()
    predicted = frostline.load(run.path, model=small_backbone().model).predict(stripes.test.pictures[:1])
    assert predicted
    assert metrics["valid"]["accuracy"] == pytest.approx(metrics["phases"][-1]["valid"]["accuracy"])


def test_nothing_learnt_is_no_classifier(stripes, tmp_path, steady, monkeypatch):
    folder, plan = tmp_path / "run", [Phase("block2", epochs=2)]
    killed_at(1, folder, stripes, monkeypatch, plan=plan)
    with pytest.raises(UsageError, match="has learnt nothing yet; leave out --stop-here"):
        resume(folder, stripes, stop_here=True)


@pytest.fixture
def stopped(stripes, tmp_path, steady, monkeypatch) -> Path:
    """The folder of a fit that was killed in its second phase."""
    folder = tmp_path / "run"
    killed_at(3, folder, stripes, monkeypatch, plan=JOB_PLAN, store=tmp_path / "store")
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 5}, "--seed is 5, but the fit in .* began with 0; leave out --seed, or begin another fit"),
        ({"batch_size": 7}, "--batch-size is 7, but the fit in .* began with its default"),
        ({"plan": "probe"}, "--plan is probe, but a fit goes on with its own plan; leave out --plan"),
        ({"out": "elsewhere"}, "--out is elsewhere, but the fit goes on in .*; leave out --out"),
        ({"epoch": 3}, "unknown option 'epoch'; nearest: epochs"),
        ({"backbone": "timm:test_resnet"}, "--backbone is timm:test_resnet, but the fit in .* began with Small"),
    ],
    ids=str,
)
def test_C14_D12_options_that_contradict_the_run_are_refused(options, message, stopped, stripes):
    with pytest.raises(UsageError, match=message):
        resume(stopped, stripes, **options)


def test_what_does_not_change_the_result_may_be_another(stopped, stripes, tmp_path, no_pictures):
    run = resume(stopped, stripes, workers=1, report=False, store=tmp_path / "other")
    assert len(run.metrics["phases"]) == 3


def test_D12_other_images_labels_or_contents_are_refused(stopped, stripes):
    train = stripes.train
    changed, labels = train.pictures.copy(), train.targets.copy()
    changed[2][:9] = 255
    labels[4] = (labels[4] + 1) % 3
    others = {
        "images are gone: picture-47": replace(stripes, train=train.take(np.arange(47))),
        "images are new: picture-24": replace(stripes, valid=draw_images(25, seed=1)),
        "images have another label, split or content: picture-4": replace(
            stripes, train=Images(train.pictures, labels, train.names)
        ),
    }
    for message, images in others.items():
        with pytest.raises(DataError, match=message):
            resume(stopped, images)
    with pytest.raises(DataError, match="the classes were flat, tall, plain and are now"):
        resume(stopped, replace(stripes, classes=("tall", "flat", "plain")))


def test_a_file_that_changed_since_is_refused(tmp_path, steady, monkeypatch):
    photos, folder = write_photos(tmp_path / "photos", 30), tmp_path / "run"
    killed_at(1, folder, photos, monkeypatch, plan=[Phase("block2", epochs=2)], store=tmp_path / "store")
    file = photos / "flat" / "003.png"
    Image.fromarray(np.asarray(Image.open(file)) // 2).save(file)
    with pytest.raises(DataError, match=r"images have another label, split or content: flat/003\.png; bring"):
        resume(folder, photos)


def test_other_weights_are_refused(stopped, stripes):
    other = small_backbone()
    with torch.no_grad():
        next(other.model.parameters())[0] += 1
    other = load_backbone(other.model, preprocessing=other.preprocessing)
    with pytest.raises(WeightsError, match="the weights of Small are not those that the fit in .* began with"):
        resume(stopped, stripes, backbone=other)


def test_a_damaged_checkpoint_ends_it_and_a_damaged_training_begins_anew(
    stripes, tmp_path, steady, monkeypatch, often, no_pictures, capsys
):
    folder = tmp_path / "run"
    expected = ended(fit(tmp_path / "whole", stripes, plan=JOB_PLAN))
    killed_at(8, folder, stripes, monkeypatch, plan=JOB_PLAN)
    (file,) = folder.glob("checkpoints/training-*")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    shutil.copytree(folder, tmp_path / "copy")
    assert_same(resume(folder, stripes, quiet=False), expected)
    assert "is damaged: its content is not what the fit wrote; this training begins anew" in capsys.readouterr().err
    file = checkpoint(Run(tmp_path / "copy"), 2)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(WeightsError, match=r"phase-2\.safetensors is damaged"):
        resume(tmp_path / "copy", stripes)


def test_D13_a_finished_run_has_nothing_to_go_on_with(fitted, capsys):
    run = fitted()
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    again = frostline.resume(run.path)
    assert again.path == run.path
    assert "the fit in run is finished; there is nothing to go on with" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_what_is_no_run_cannot_be_gone_on_with(tmp_path, stripes):
    with pytest.raises(UsageError, match="is no run: it has no config.yaml"):
        frostline.resume(tmp_path)


@pytest.mark.long
def test_limits_and_what_was_tried_are_not_decided_again(stripes, tmp_path, steady, monkeypatch, several_here):
    """A plan that was cut to a limit, and a backbone that was chosen, stay; the seconds are of both parts together."""
    folder, options = tmp_path / "run", {"backbone": "auto", "weights": "pretrained", "time": "1000s"}

    def dies(run: Run, _: int) -> None:
        if run.path == folder:  # not one of the trials
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("frostline.fitting.phase.forget", dies)
        with pytest.raises(Killed):
            fit(folder, stripes, **options, plan="probe")
    monkeypatch.setattr("frostline.fitting.choosing._chosen", lambda _: pytest.fail("chosen again"))
    monkeypatch.setattr("frostline.fitting.forecast.forecast", lambda _: pytest.fail("forecast again"))
    run = frostline.resume(folder, stripes, quiet=True)
    assert len(run.metrics["backbone"]["tried"]) == 3
    assert run.metrics["forecast"]["seconds"]["actual"] == pytest.approx(run.metrics["seconds"], abs=1)


def test_F16_two_fits_into_one_run(stopped, stripes):
    with (
        claimed(Run(stopped)),
        pytest.raises(UsageError, match="another process is fitting into .*; wait for its end$"),
    ):
        resume(stopped, stripes)
    assert (stopped / "history.csv").exists()


def test_a_run_that_is_not_finished_is_no_classifier(fitted, monkeypatch):
    """Even if the classifier is there: its figures may be missing."""

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("frostline.fitting.finish._write", killed)
        with pytest.raises(Killed):
            fitted()
    assert Path("run/model/model.json").exists()
    with pytest.raises(UsageError, match="run is not a finished run; .* go on with: frostline fit --resume run"):
        frostline.load_run("run")
    with pytest.raises(UsageError, match="run already exists, .* go on with: frostline fit --resume run"):
        fitted()


def test_images_that_have_moved_are_named_where_they_are_now(tmp_path, steady, monkeypatch, no_pictures):
    photos, folder = write_photos(tmp_path / "photos", 30), tmp_path / "run"
    killed_at(1, folder, photos, monkeypatch, plan=[Phase("block2", epochs=2)])
    moved = photos.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"which is not here; type where they are now: frostline fit FOLDER --resume"):
        resume(folder, None)
    with pytest.raises(Killed):
        steps_of(lambda: resume(folder, moved), monkeypatch, 1)
    assert resume(folder, None).metrics["phases"]
    assert Run(folder).config["data"] == str(moved)


def test_a_handler_that_returns_does_not_end_the_fit(stripes, tmp_path, steady, monkeypatch, no_pictures):
    """As that of a launcher, which notes that its time is over."""
    plan, noted = [Phase("block2", epochs=2)], []
    expected = ended(fit(tmp_path / "whole", stripes, plan=plan))
    before = signal.signal(signal.SIGTERM, lambda *_: noted.append(1))
    step = Training._step

    def signalled(self: Training, *batch: torch.Tensor) -> tuple[float, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *batch)

    monkeypatch.setattr(Training, "_step", signalled)
    try:
        run = fit(tmp_path / "run", stripes, plan=plan)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(noted) == 4
    assert_same(run, expected)


@pytest.mark.parametrize("step", [1, 3])
def test_stop_here_holds_for_later_resumes(step, stripes, tmp_path, steady, monkeypatch, often, no_pictures):
    """One that is killed while it only ends the fit; else the next one would mix both."""
    folder, plan = tmp_path / "run", [Phase("block2", epochs=3)]
    killed_at(step, folder, stripes, monkeypatch, plan=plan)
    if step == 1:  # within the first epoch
        with pytest.raises(UsageError, match="has learnt nothing yet; leave out --stop-here"):
            resume(folder, stripes, stop_here=True)
        return

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("frostline.fitting.finish.save_classifier", killed)
        with pytest.raises(Killed):
            resume(folder, stripes, stop_here=True)
    metrics = resume(folder, stripes).metrics
    assert metrics["ended"] == "--stop-here ended it in phase 1"
    assert [phase["epochs"] for phase in metrics["phases"]] == [1]


@pytest.mark.parametrize(
    "option",
    [{"lr": 0.5}, {"balanced": True}, {"batch_size": 20}, {"metric": "accuracy"}, {"mixup": 0.3}, "plan"],
    ids=str,
)
@pytest.mark.long
def test_another_configuration_is_refused(option, stopped, stripes):
    file = stopped / "config.yaml"
    config = yaml.safe_load(file.read_text())
    if option == "plan":
        del config["plan"]["phases"][-1]
    else:
        config |= option
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(WeightsError, match=r"config\.yaml is not the one that the fit began with; bring it back"):
        resume(stopped, stripes)


@pytest.mark.parametrize(
    "name",
    [
        "progress.safetensors",
        pytest.param("phase-1.safetensors", marks=pytest.mark.long),
        pytest.param("training-2-*.safetensors", marks=pytest.mark.long),
    ],
)
def test_files_of_another_fit_are_not_used(name, stripes, tmp_path, steady, monkeypatch, often, no_pictures, capsys):
    """They are whole, but of a fit with another seed."""
    expected = ended(fit(tmp_path / "whole", stripes, plan=JOB_PLAN))
    for folder, seed in (("run", 0), ("other", 7)):
        killed_at(4, tmp_path / folder, stripes, monkeypatch, plan=JOB_PLAN, seed=seed)
    (mine,) = (tmp_path / "run" / "checkpoints").glob(name)
    (other,) = (tmp_path / "other" / "checkpoints").glob(name)
    shutil.copy(other, mine)
    if name.startswith("training"):
        assert_same(resume(tmp_path / "run", stripes, quiet=False), expected)
        assert "is of another fit; this training begins anew" in capsys.readouterr().err
        return
    with pytest.raises(WeightsError, match="is not the one that the fit began with|is of another fit; the fit cannot"):
        resume(tmp_path / "run", stripes)


def test_another_order_or_other_groups_are_refused(stopped, stripes):
    train = stripes.train
    for other in (
        replace(stripes, train=train.take(np.arange(len(train))[::-1])),
        replace(stripes, groups=dict.fromkeys(train.names[:9], "a")),
    ):
        with pytest.raises(DataError, match="the order of the images, a mask or a group has changed"):
            resume(stopped, other)


def test_a_mask_that_changed_is_refused(tmp_path, steady, monkeypatch):
    images = ImageSet("squares", ("none", "green", "blue"), masked(12), masked(6, 1))
    folder, options = tmp_path / "run", {"plan": [Phase("head", epochs=3)]}
    killed_at(1, folder, images, monkeypatch, **options)
    changed = masked(12)
    changed.targets.pictures[4][:9] = 1
    with pytest.raises(DataError, match="a mask or a group has changed"):
        resume(folder, replace(images, train=changed))


def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, targets)


def test_your_own_loss_must_be_given_again(stripes, tmp_path, steady, monkeypatch, no_pictures):
    """Even where a loss of Frostline has its name."""
    folder = tmp_path / "run"
    killed_at(1, folder, stripes, monkeypatch, plan=[Phase("block2", epochs=2)], loss=focal)
    with pytest.raises(UsageError, match=r"your own loss, focal, .* again, as in frostline.resume\(run, loss=…\)"):
        resume(folder, stripes)
    assert resume(folder, stripes, loss=focal).metrics["phases"]


@pytest.mark.long
def test_what_was_tried_survives_a_kill_in_the_first_pass(stripes, tmp_path, steady, monkeypatch, several_here):
    folder, extract = tmp_path / "run", Placement.extract

    def killed(self: Placement, *arguments: object) -> None:
        if folder.exists():
            raise Killed
        extract(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Placement, "extract", killed)
        patch.setattr("frostline.fitting.lines.remove_start", lambda *_: None)
        with pytest.raises(Killed):
            fit(folder, stripes, backbone="auto", weights="pretrained", plan="probe")
    assert len(frostline.resume(folder, stripes, quiet=True).metrics["backbone"]["tried"]) == 3


@pytest.mark.parametrize("left", [("config.yaml",), ("config.yaml", "classes.json")], ids=str)
def test_a_fit_that_was_killed_while_its_run_was_created_goes_on(left, stopped, stripes, no_pictures):
    for file in stopped.rglob("*"):
        if file.is_file() and file.name not in left:
            file.unlink()
    assert len(resume(stopped, stripes).metrics["phases"]) == 3


def test_stop_here_that_is_killed_before_a_phase_ended_stops_nothing(
    stripes, tmp_path, steady, monkeypatch, often, no_pictures
):
    folder, options = tmp_path / "run", {"plan": [Phase("block2", epochs=3)]}
    expected = ended(fit(tmp_path / "whole", stripes, **options))
    killed_at(3, folder, stripes, monkeypatch, **options)
    with monkeypatch.context() as patch:
        patch.setattr("frostline.verbs.fit.completed", fails_after_begin)
        with pytest.raises(Killed):
            resume(folder, stripes, stop_here=True)
    assert_same(resume(folder, stripes), expected)


def fails_after_begin(job: Job) -> Run:
    starting_progress(with_identity(job))
    raise Killed


def test_a_fit_that_stops_here_says_so_to_later_resumes(
    stripes, tmp_path, steady, monkeypatch, often, no_pictures, capsys
):
    folder = tmp_path / "run"
    killed_at(3, folder, stripes, monkeypatch, plan=[Phase("block2", epochs=3)])
    with monkeypatch.context() as patch:
        patch.setattr("frostline.fitting.finish.save_classifier", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            resume(folder, stripes, stop_here=True)
    resume(folder, stripes, quiet=False)
    assert "the fit was told to stop here: it trains no further" in capsys.readouterr().err


def test_a_damaged_training_is_told_by_stop_here_too(
    stripes, tmp_path, steady, monkeypatch, often, no_pictures, capsys
):
    folder = tmp_path / "run"
    killed_at(4, folder, stripes, monkeypatch, plan=JOB_PLAN)
    (file,) = folder.glob("checkpoints/training-2-*")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert resume(folder, stripes, stop_here=True, quiet=False).metrics["ended"] == "--stop-here ended it after phase 1"
    assert "is damaged: its content is not what the fit wrote; it is left out" in capsys.readouterr().err


def test_files_that_have_moved_may_be_named_anew(tmp_path, steady, monkeypatch, no_pictures):
    """Weights and the folder of a manifest's images: both are compared by what they hold."""
    photos, folder = write_photos(tmp_path / "photos", 30), tmp_path / "run"
    names = [f"{file.relative_to(photos)},{file.parent.name}" for file in sorted(photos.rglob("*.png"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *names]))
    save_file(load_backbone("timm:test_resnet", weights="none").model.state_dict(), tmp_path / "w.safetensors")
    options = {"backbone": "timm:test_resnet", "image_size": 32, "plan": [Phase("layer4", epochs=2)]}
    places = {"weights": tmp_path / "w.safetensors", "images": photos}
    killed_at(1, folder, tmp_path / "list.csv", monkeypatch, **options, **places)
    moved = {"weights": (tmp_path / "w.safetensors").rename(tmp_path / "v.safetensors")}
    moved["images"] = photos.rename(tmp_path / "moved")
    run = frostline.resume(folder, quiet=True, **moved)
    assert run.metrics["phases"]
    assert {name: run.config[name] for name in moved} == {name: str(value) for name, value in moved.items()}


def test_other_weights_in_another_place_are_refused(tmp_path, steady, monkeypatch, no_pictures):
    photos, folder = write_photos(tmp_path / "photos", 30), tmp_path / "run"
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for seed, file in enumerate(files):
        save_file(load_backbone("timm:test_resnet", weights="none", seed=seed).model.state_dict(), file)
    options = {"backbone": "timm:test_resnet", "image_size": 32, "plan": [Phase("layer4", epochs=2)]}
    killed_at(1, folder, photos, monkeypatch, weights=files[0], **options)
    with pytest.raises(WeightsError, match="are not those that the fit"):
        frostline.resume(folder, quiet=True, weights=files[1])
    with pytest.raises(UsageError, match="--weights is none, but the fit"):
        frostline.resume(folder, quiet=True, weights="none")
    assert frostline.resume(folder, quiet=True).config["weights"] == str(files[0])


def test_a_fold_says_how_to_go_on_and_the_command_line_cannot(tmp_path, steady, monkeypatch, no_pictures, capsys):
    photos, folder = write_photos(tmp_path / "photos", 30), tmp_path / "folds"
    options = {"backbone": "timm:test_resnet", "weights": "none", "image_size": 32, "plan": [Phase("layer4", epochs=2)]}

    def interrupted(*_: object) -> tuple[float, float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("frostline.fitting.attempt._kept", interrupted)
        with pytest.raises(KeyboardInterrupt):
            frostline.cross_validate(photos, 2, out=folder, **options)
    assert "for all folds repeat the command with another --out" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"your own data, .*; give it again, as in frostline\.resume\(run, data=…"):
        frostline.resume(folder / "fold-1", quiet=True)


def test_a_finished_fit_refuses_other_options_too(stripes, tmp_path, steady, no_pictures):
    fit(tmp_path / "run", stripes, plan=[Phase("block2", epochs=1)])
    with pytest.raises(UsageError, match=r"--lr is 5\.0, but the fit"):
        frostline.resume(tmp_path / "run", lr=5.0)


def of_several_labels(count: int, seed: int) -> Images:
    chance, names = np.random.default_rng(seed), [f"{seed}-{number}" for number in range(count)]
    return Images(draw_images(count, seed=seed).pictures, chance.random((count, 3)) > 0.5, names)


SHORT = [Phase("head", epochs=0), Phase("block2", epochs=2, batch_size=8), Phase("block1", epochs=2, batch_size=8)]
OPTIONS: dict[str, dict[str, Any]] = {
    "balanced": {"balanced": True},
    "f1": {"metric": "f1"},
    "weighted": {"class_weights": "balanced", "label_smoothing": 0.1},
    "sgd": {"optimizer": "sgd", "schedule": "step", "clip": 0.5, "lr": 0.01},
    "focal": {"loss": "focal"},
    "views": {"views": 3, "augment": "standard"},
    "little disk": {"disk": "1KB"},
    "several labels": {"metric": "mean_ap"},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "several labels" else pytest.mark.long) for name in OPTIONS]
)
@pytest.mark.parametrize("step", [pytest.param(0, marks=pytest.mark.long), 5, pytest.param(11, marks=pytest.mark.long)])
def test_no_option_makes_a_difference_to_going_on(
    name, step, stripes, tmp_path, steady, monkeypatch, often, no_pictures
):
    parts = (of_several_labels(count, seed) for seed, count in enumerate((36, 18, 12)))
    data = ImageSet("drawn", ("a", "b", "c"), *parts) if name == "several labels" else stripes
    expected = ended(fit(tmp_path / "whole", data, plan=SHORT, **OPTIONS[name]))
    killed_at(step, tmp_path / "run", data, monkeypatch, plan=SHORT, **OPTIONS[name])
    assert_same(resume(tmp_path / "run", data), expected)
