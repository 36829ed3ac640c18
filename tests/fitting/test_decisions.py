"""What a phase was worth is said, stored and true."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from frostline.errors import UsageError
from frostline.fitting.decisions import SURE, chance_of_nothing, decision, image_losses, nothing_to_prove
from frostline.fitting.finish import finish
from frostline.fitting.job import Objective
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.fitting.saved import progress_of, read_saved
from frostline.plan import Phase
from frostline.tasks import Task, classification, multilabel, segmentation
from frostline.tasks.paired import paired_difference
from frostline.training.race import Heat

HEAD, HARMLESS, HARMFUL = Phase("head", epochs=0), Phase("block2", epochs=2), Phase("block2", epochs=2, lr=5.0)


def objective(task, weights=None, own=False):
    loss = next(iter(task.losses.values())) if isinstance(task, Task) else None
    return Objective(task, loss, loss, loss, own, torch.device("cpu"), weights, "")


def looked(settings):
    """So many settings that were tried."""
    return [Heat(1e-3, "frozen", 3, 100, 0.5)] * settings


def outputs(right: list[int]):
    logits = torch.nn.functional.one_hot(torch.tensor(right), 2).float() * 4
    return classification.outputs(logits, torch.ones(len(right), dtype=torch.long))


def test_the_difference_is_that_of_the_same_images():
    before, after = outputs([1, 0, 0, 1, 0]), outputs([1, 1, 1, 1, 0])
    made = decision(objective(classification.TASK), before, after, number=2, phase=Phase("layer4"), won=True)
    assert made.accuracy == paired_difference(np.array([1, 1, 1, 1, 0]), np.array([1, 0, 0, 1, 0]))
    assert made.accuracy.difference == pytest.approx(0.4)
    assert made.loss == (pytest.approx(float(before.losses.mean())), pytest.approx(float(after.losses.mean())))
    assert json.loads(json.dumps(made.as_json()))["loss"][1] < made.loss[0]


@pytest.mark.parametrize(
    ("task", "logits", "targets"),
    [
        (classification, torch.randn(9, 3), torch.randint(3, (9,))),
        (multilabel, torch.randn(9, 2), torch.randint(2, (9, 2)).float()),
        (segmentation, torch.randn(9, 3, 4, 4), torch.randint(3, (9, 4, 4))),
    ],
)
def test_the_mean_score_is_the_accuracy_of_every_task(task, logits, targets):
    scores = task.scores(task.outputs(logits, targets))
    assert scores.shape == (9,)
    assert float(scores.mean()) == pytest.approx(task.accuracy(logits, targets))


@pytest.mark.parametrize("phase", [HARMLESS, HARMFUL])
def test_a_fit_tells_and_stores_what_each_phase_was_worth(phase, job_of, capsys):
    """Stumble 10."""
    job = job_of(plan=[HEAD, phase], quiet=False)
    progress = Progress(job.images)
    for each in job.plan:
        progress = run_phase(job, progress, each)
    (made,) = progress.decisions
    losses = [epoch["valid_loss"] for epoch in progress.epochs if epoch["phase"] == 2]
    assert made["kept"] is bool(min(losses[1:]) < losses[0])
    assert made["loss"] == pytest.approx((losses[0], min(losses[1:])), rel=1e-4)
    word = (
        f"kept epoch {progress.phases[1]['kept_epoch']}"
        if made["kept"]
        else "undone: no epoch had a lower validation loss than the start of the phase"
    )
    assert progress.phases[1]["kept_epoch"] == (int(np.argmin(losses[1:])) + 1 if made["kept"] else None)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "points (95 %" in line]
    assert line.startswith("  block2 trained: ")
    assert line.endswith(f", {word}")
    assert progress_of(read_saved(job.run), job.images).decisions[0]["accuracy"] == made["accuracy"]
    assert finish(job, progress).metrics["decisions"][0]["kept"] is made["kept"]


def test_a_harmful_phase_is_undone_and_its_harm_is_the_evidence(job_of):
    job = job_of(plan=[HEAD, HARMFUL])
    progress = Progress(job.images)
    for each in job.plan:
        progress = run_phase(job, progress, each)
    (made,) = progress.decisions
    assert not made["kept"]
    assert [result["kept_epoch"] for result in progress.phases] == [0, None]
    assert made["loss"][1] > made["loss"][0]
    assert progress.phases[1]["valid"] == pytest.approx(progress.phases[0]["valid"], abs=1e-6)


def test_a_head_that_is_solved_again_is_a_decision_too(job_of):
    job = job_of(plan=[HEAD, replace(HEAD)])
    progress = Progress(job.images)
    for each in job.plan:
        progress = run_phase(job, progress, each)
    (made,) = progress.decisions
    assert (made["how"], made["phase"], made["frostline"]) == ("solved", 2, "head")


@pytest.mark.parametrize("settings", [1, 3])
def test_the_same_network_with_noise_is_kept_in_at_most_one_case_in_twenty(settings):
    """The best of so many settings of it: what the test has to see through."""
    task, kept = classification.TASK, 0
    for seed in range(200):
        random = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(300, 4, generator=random)
        targets = torch.distributions.Categorical(logits=logits).sample() if seed % 2 else logits.argmax(1)
        before = task.outputs(logits, targets)
        tried = [task.outputs(logits + 0.3 * torch.randn(300, 4, generator=random), targets) for _ in range(settings)]
        best = min(tried, key=lambda each: float(image_losses(objective(task), each).mean()))
        facts = {"number": 2, "phase": HARMLESS, "tried": looked(settings), "won": True}
        kept += decision(objective(task), before, best, **facts).kept
    assert kept <= 0.05 * 200


def test_one_that_is_neither_better_nor_worse_is_kept_as_often_as_the_test_allows():
    task, kept = classification.TASK, 0
    for seed in range(200):
        random = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(300, 4, generator=random)
        targets = torch.distributions.Categorical(logits=logits).sample()
        before, *tried = (task.outputs(logits + 0.3 * torch.randn(300, 4, generator=random), targets) for _ in range(3))
        best = min(tried, key=lambda each: float(image_losses(objective(task), each).mean()))
        kept += decision(objective(task), before, best, number=2, phase=HARMLESS, tried=looked(2), won=True).kept
    assert 0.05 * 200 < kept <= (SURE + 0.05) * 200


def test_a_phase_that_pays_is_kept():
    torch.manual_seed(0)
    logits, task = torch.randn(300, 4), classification.TASK
    targets = torch.randint(4, (300,))
    before = task.outputs(logits + 1.0 * torch.nn.functional.one_hot(targets, 4), targets)
    after = task.outputs(logits + 2.0 * torch.nn.functional.one_hot(targets, 4), targets)
    made = decision(objective(task), before, after, number=2, phase=HARMLESS, won=True, tried=looked(10))
    assert made.kept
    assert made.p_value < SURE
    assert made.accuracy.low > 0


def test_being_surer_of_the_same_is_nothing_won():
    """A temperature mends it without any training."""
    torch.manual_seed(0)
    logits, task = torch.randn(300, 4), classification.TASK
    targets = torch.distributions.Categorical(logits=logits).sample()
    before, after = task.outputs(logits / 3, targets), task.outputs(logits, targets)
    assert float(after.losses.mean()) < float(before.losses.mean())
    made = decision(objective(task), before, after, number=2, phase=HARMLESS, won=True, tried=looked(1))
    assert not made.kept
    assert made.loss[0] == pytest.approx(made.loss[1], abs=1e-5)


def test_losses_are_weighed_by_their_classes():
    task, weights = classification.TASK, torch.tensor([3.0, 1.0])
    made = task.outputs(torch.tensor([[0.0, 2.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 1]))
    plain, weighed = image_losses(objective(task), made), image_losses(objective(task, weights), made)
    assert torch.allclose(weighed / plain, torch.tensor([3.0, 1.0, 1.0]).double() * 3 / 5)


def test_your_own_loss_decides_image_by_image():
    task = classification.TASK

    def own(logits, targets):
        return (logits.argmax(1) != targets).float().mean()

    made = task.outputs(torch.tensor([[0.0, 2.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 1]))
    asked = Objective(task, own, own, own, True, torch.device("cpu"), None, "")
    assert image_losses(asked, made).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("wrong", "hopeless"), [(0, True), (4, True), (5, False)])
def test_few_mistakes_prove_nothing(wrong, hopeless):
    made = outputs([0] * wrong + [1] * 50)
    assert nothing_to_prove(objective(classification.TASK), made) is hopeless


@pytest.mark.parametrize("losses", [[], [1.0], [1.0] * 19, [float("nan")] + [1.0] * 40])
def test_where_nothing_can_be_told_nothing_is_won(losses):
    assert chance_of_nothing(torch.tensor(losses), torch.tensor(losses) / 2) == 1


def test_losses_that_fall_by_the_same_on_every_image_are_sure():
    assert chance_of_nothing(torch.full((29,), 2.0), torch.full((29,), 1.0)) < 1e-9


def test_where_images_belong_together_the_test_is_of_groups():
    """Half of 20 groups win by nothing but chance, and each by ten images: image by image that looks sure."""
    chance, group, sure = np.random.default_rng(0), np.repeat(np.arange(20), 10), [0, 0]
    for _ in range(200):
        before = torch.from_numpy(chance.exponential(1, 200))
        after = before + torch.from_numpy(chance.normal(0, 0.3, 20)[group])
        sure[0] += chance_of_nothing(before, after, group=group) < 0.05
        sure[1] += chance_of_nothing(before, after) < 0.05
    assert sure[0] / 200 <= 0.1
    assert sure[1] / 200 > 0.2
    assert chance_of_nothing(before, before / 2, group=np.zeros(200, int)) > 0.15  # a single group tells nothing


def test_of_a_segmentation_the_overlap_decides():
    """And a few wrong pixels in every image are no few wrong images."""
    masks = torch.randint(2, (30, 8, 8))
    logits = torch.nn.functional.one_hot(masks, 2).permute(0, 3, 1, 2).float() * 4
    made = segmentation.outputs(logits, masks)
    assert image_losses(objective(segmentation), made).tolist() == [0.0] * 30
    logits[:, :, 0] = logits[:, :, 0].flip(1)
    worse = segmentation.outputs(logits, masks)
    assert all(loss > 0 for loss in image_losses(objective(segmentation), worse))
    assert not nothing_to_prove(objective(segmentation), worse)


def test_labels_are_weighed_as_they_are_in_training():
    logits, targets, weights = torch.randn(40, 2), torch.randint(2, (40, 2)).float(), torch.tensor([50.0, 1.0])
    made = image_losses(objective(multilabel, weights), multilabel.outputs(logits, targets))
    plain = image_losses(objective(multilabel), multilabel.outputs(logits, targets))
    none_present = targets[:, 0] == 0
    assert torch.allclose(made[none_present], plain[none_present])
    assert (made[~none_present] > plain[~none_present]).all()


def test_your_own_loss_that_needs_several_images_is_not_asked_of_one():
    def centred(logits, targets):
        return torch.nn.functional.cross_entropy(logits - logits.mean(0), targets)

    task = classification
    made = task.outputs(torch.randn(40, 3), torch.randint(3, (40,)))
    asked = Objective(task, centred, centred, centred, True, torch.device("cpu"), None, "")
    assert torch.allclose(image_losses(asked, made), image_losses(objective(task), made))


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1"])
def test_a_metric_decides_which_epoch_is_kept(metric, job_of, capsys):
    job = job_of(plan=[HEAD, replace(HARMLESS, epochs=5, lr=0.05, patience=9)], metric=metric, quiet=False)
    progress = Progress(job.images)
    for each in job.plan:
        progress = run_phase(job, progress, each)
    (made,) = progress.decisions
    name, score = job.objective.score
    epochs = [epoch for epoch in progress.epochs if epoch["phase"] == 2]
    deciding = [epoch["deciding_loss"] for epoch in epochs]
    assert made["score"] == pytest.approx((1 - deciding[0], 1 - min(deciding[1:])))
    assert made["kept"] is bool(min(deciding[1:]) < deciding[0])
    if metric == "accuracy":
        assert made["score"][0] == pytest.approx(epochs[0]["valid_accuracy"])
        best = int(np.argmax([epoch["valid_accuracy"] for epoch in epochs[1:]])) + 1
        assert progress.phases[1]["kept_epoch"] == (best if made["kept"] else None)
    outputs = progress.last.outputs
    assert score(outputs) == pytest.approx(max(made["score"]), abs=1e-6)  # what stands is the better one
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "points (95 %" in line]
    assert line.endswith(
        f"kept epoch {progress.phases[1]['kept_epoch']}"
        if made["kept"]
        else f"a higher {name} than the start of the phase"
    )


@pytest.mark.parametrize(
    ("task", "metric", "theirs"),
    [
        (classification, "accuracy", lambda y, p: accuracy_score(y, p)),
        (classification, "balanced_accuracy", lambda y, p: balanced_accuracy_score(y, p)),
        (classification, "f1", lambda y, p: f1_score(y, p, average="macro")),
        (multilabel, "f1", lambda y, p: f1_score(y, p, average="micro")),
        (multilabel, "accuracy", lambda y, p: accuracy_score(y, p)),
    ],
)
def test_metrics_are_scikit_learns(task, metric, theirs):
    chance = torch.Generator().manual_seed(1)
    logits = torch.randn(60, 3, generator=chance)
    several = task is multilabel
    targets = torch.randint(2, (60, 3), generator=chance).float() if several else torch.arange(60) % 3
    predicted = (logits >= 0).float() if several else logits.argmax(1)
    own = task.TASK.scored_by[metric](task.TASK.outputs(logits, targets))
    assert own == pytest.approx(theirs(targets.numpy(), predicted.numpy()))


def test_a_metric_of_another_task_is_refused(job_of):
    with pytest.raises(UsageError, match="metric mean_iou does not fit these labels; use loss, accuracy, balanced"):
        job_of(plan=[HEAD], metric="mean_iou")
    with pytest.raises(UsageError, match="metric"):
        job_of(plan=[HEAD], metric="acuracy")


def test_a_phase_of_plan_auto_has_to_win_by_the_metric_and_by_its_test():
    right = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    targets = right.argmax(1)
    sure, unsure = classification.TASK.outputs(right * 9, targets), classification.TASK.outputs(right, targets)
    judged = replace(objective(classification.TASK), score=("accuracy", classification.TASK.scored_by["accuracy"]))
    tried = [Heat(1e-3, "frozen", 1, 40, 0.0, (0.0,), (1.0,))]
    phase = Phase("layer4", race=True)
    made = decision(judged, unsure, sure, number=2, phase=phase, won=False, tried=tried)
    assert not made.kept
    assert made.score == (1.0, 1.0)
