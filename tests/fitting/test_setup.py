from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import frostline
from conftest import assert_same_state, small_model, state_of
from frostline.errors import UsageError
from frostline.fitting.lines import logged
from frostline.fitting.options import Options
from frostline.fitting.setup import prepare
from frostline.plan import Phase


def test_a_job_is_decided_and_frozen(job_of):
    job = job_of(views=2)
    assert [phase.frostline for phase in job.plan] == ["head", "block2", "stem"]
    assert [phase.views for phase in job.plan] == [2, 2, 2]
    assert (job.run.path / "config.yaml").is_file()
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.plan = ()


def test_preparing_trains_nothing(job_of):
    before = {name: value for name, value in state_of(small_model()).items() if not name.startswith("head")}
    after = job_of().network.model.state_dict()
    assert all((after[name] == value).all() for name, value in before.items())


def test_preparing_leaves_the_backbone_as_it_is(job_of, small):
    before = state_of(small.model)
    job_of(backbone=small)
    assert_same_state(before, small.model)
    assert all(p.requires_grad for p in small.model.parameters())


def test_options_of_a_phase_are_for_every_phase_that_trains(job_of):
    job = job_of(epochs=7, optimizer="sgd")
    assert job.options.of_phases == {"epochs": 7, "optimizer": "sgd"}
    assert [(phase.epochs, phase.optimizer) for phase in job.plan] == [(0, "adamw"), (7, "sgd"), (7, "sgd")]


@pytest.mark.parametrize("frostline", ["block2", "block1", "stem"])
def test_only_the_head_can_be_solved(frostline, job_of, tmp_path):
    with pytest.raises(
        UsageError,
        match=rf"epochs is 0 at '{frostline}', but more than the head lies above.*'head'",
    ):
        job_of(plan=[Phase(frostline, epochs=0)])
    assert not (tmp_path / "run").exists()


def test_a_head_may_be_solved_below_layers_without_weights(job_of):
    assert job_of(plan=[Phase("pool", epochs=0)]).plan[0].frostline == "pool"


def test_a_frostline_that_rises_is_refused_before_there_is_a_run(job_of, tmp_path):
    with pytest.raises(UsageError, match="the frostline rises to 'head'"):
        job_of(plan=[Phase("block2"), Phase("head")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [({}, ""), ({"mixup": 0.2}, "mixup"), ({"balanced": True, "label_smoothing": 0.1}, "label smoothing, balanced")],
    ids=str,
)
def test_why_a_head_is_trained_instead_of_solved(options, reason, job_of):
    assert job_of(**options).objective.unsolvable == reason


def of_sizes(large: int, small: int):
    random = np.random.default_rng(0)
    labels = np.array([0] * large + [1] * small)
    return random.integers(0, 255, (len(labels), 16, 16, 3)).astype(np.uint8), labels


@pytest.mark.parametrize(
    ("large", "small", "options", "weighed"),
    [
        (60, 5, {}, True),
        (60, 6, {}, False),
        (60, 5, {"class_weights": "none"}, False),
        (60, 5, {"plan": "probe"}, False),
        (60, 5, {"balanced": True}, False),
        (60, 5, {"class_weights": {"0": 1.0, "1": 1.0}}, True),
    ],
)
def test_imbalance_is_noticed_and_handled_by_auto(large, small, options, weighed, job_of, capsys):
    images, labels = of_sizes(large, small)
    valid = of_sizes(4, 4)
    job = job_of(data={"train": (images, labels), "valid": valid}, **{"plan": "auto", "quiet": False, **options})
    told = "one class has 12 times the images of another" in capsys.readouterr().err
    assert (job.objective.class_weights is not None) is weighed
    assert told is (weighed and "class_weights" not in options)


@pytest.mark.parametrize(
    ("side", "options", "size"),
    [(28, {}, 128), (95, {}, 128), (96, {}, 224), (28, {"plan": "probe"}, 224), (28, {"image_size": 64}, 64)],
)
def test_auto_shows_tiny_images_at_128_pixels(side, options, size, tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (8, side, side, 3)).astype(np.uint8)
    job = prepare(Options((images, np.arange(8) % 2), weights="none", out=tmp_path / "run", quiet=True, **options))
    assert job.network.preprocessing.size == size


def test_what_auto_decides_is_in_the_configuration(tmp_path):
    """A fit from it is the same fit."""
    images, labels = of_sizes(24, 2)
    given = Options((images, labels), weights="none", out=tmp_path / "run", quiet=True)
    job = prepare(given)
    config = job.run.config
    assert (config["image_size"], config["class_weights"]) == (128, "balanced")
    plan = [frostline.plan.phase_from(phase, "config.yaml") for phase in config["plan"]["phases"]]
    options = {"image_size": config["image_size"], "class_weights": config["class_weights"], "plan": plan}
    again = prepare(Options((images, labels), weights="none", out=tmp_path / "again", quiet=True, **options))
    assert again.plan == job.plan
    assert torch.equal(again.objective.class_weights, job.objective.class_weights)
    assert again.network.preprocessing == job.network.preprocessing


@pytest.mark.parametrize("wrong", [{"plan": "nowhere.yaml"}, {"lr": -1.0}, {"epochs": -1}, {"views": 0}], ids=str)
def test_what_needs_no_images_is_refused_before_they_are_read(wrong, tmp_path):
    """Stumble 13."""
    with pytest.raises(UsageError, match=next(iter(wrong))):
        prepare(Options(tmp_path / "there-is-no-such-folder", **wrong))


def test_the_log_begins_with_what_was_said_before_there_was_a_run(job_of):
    job = job_of(quiet=True)
    with logged(job):
        pass
    first, *_ = (job.run.path / "log.txt").read_text().splitlines()
    assert first.startswith("stripes: 48 train · 24 valid")
