"""The temperature of logits, and how far probabilities are from what happens."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from frostline.tasks import Outputs, classification, multilabel, segmentation
from frostline.tasks import calibration as module
from frostline.tasks.calibration import (
    at_temperature,
    believed,
    calibrate,
    calibration_error,
    expected_calibration_error,
    fit_temperature,
)

TASKS = [classification, multilabel]
tasks = st.sampled_from(TASKS)


def some(task: ModuleType, n: int, seed: int, *, spread: float = 2.0, scale: float = 1.0, classes: int = 4) -> Outputs:
    """Outputs of a network whose logits / scale are the truth: the targets are drawn with these probabilities."""
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=chance) * spread
    if task is multilabel:
        targets = (torch.rand(n, classes, generator=chance) < logits.sigmoid()).long()
    else:
        targets = torch.multinomial(logits.softmax(1), 1, generator=chance)[:, 0] if n else torch.zeros(0).long()
    return task.outputs(logits * scale, targets)


def loss(task: ModuleType, given: Outputs, temperature: float) -> float:
    return float(task.outputs(given.logits.double() / temperature, given.targets).losses.mean())


@settings(deadline=None)
@given(tasks, st.integers(0, 60), st.integers(0, 999), st.floats(0.1, 8), st.integers(1, 5))
def test_a_temperature_is_never_worse_than_none(task, n, seed, scale, classes):
    given = some(task, n, seed, scale=scale, classes=classes)
    temperature = fit_temperature(given.logits, given.targets)
    assert 0.05 <= temperature <= 20
    if n:
        assert loss(task, given, temperature) <= loss(task, given, 1.0) + 1e-12


@settings(deadline=None)
@given(tasks, st.integers(1, 60), st.integers(0, 999), st.floats(0.05, 20))
def test_no_label_changes(task, n, seed, temperature):
    given = some(task, n, seed)
    after = at_temperature(given, temperature, task.TASK)
    best = given.logits.argmax(1, keepdim=True)
    assert torch.equal(after.logits.gather(1, best)[:, 0], after.logits.max(1).values)  # equal but for rounding
    assert task.TASK.accuracy(after.logits, after.targets) == task.TASK.accuracy(given.logits, given.targets)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scale", [0.2, 0.5, 1.0, 1.7, 5.0])
def test_a_known_scale_is_found(task, scale):
    given = some(task, 20_000, 1, scale=scale)
    assert fit_temperature(given.logits, given.targets) == pytest.approx(scale, rel=0.03)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [25, 300])  # the fewer images, the more the one counts
def test_it_is_the_lowest_loss_with_one_image_more(task, seed, count):
    """Spelled out and minimised by scipy: every target shares one image of the classes' frequencies."""
    given = some(task, count, seed, scale=2.0)
    n, z = len(given), given.logits.double()
    hot = given.targets.double() if task is multilabel else torch.eye(4, dtype=torch.float64)[given.targets]
    rates = (hot.sum(0) + (0.5 if task is multilabel else 0.25)) / (n + 1)
    shared = (n * hot + rates) / (n + 1)

    def objective(temperature: float) -> float:
        if task is multilabel:
            p = (z / temperature).sigmoid()
            return float(-(shared * p.log() + (1 - shared) * (1 - p).log()).mean())
        return float(-(shared * (z / temperature).log_softmax(1)).sum(1).mean())

    best = minimize_scalar(objective, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(given.logits, given.targets) == pytest.approx(best.x, rel=1e-5)
    plain = minimize_scalar(lambda t: loss(task, given, t), bounds=(0.05, 20), method="bounded")
    assert count < 300 or best.x == pytest.approx(plain.x, rel=0.05)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0, 30.0, 3000.0])
def test_images_that_are_all_right_do_not_make_it_sure_of_everything(task, margin):
    targets = torch.arange(150) % 3
    hot = torch.eye(3)[targets]
    given = task.outputs((2 * hot - 1) * margin / 2, hot.long() if task is multilabel else targets)
    temperature = fit_temperature(given.logits, given.targets)
    p = float(task.probabilities(given.logits[:1] / temperature).max())
    if margin < 5:
        assert 0.98 < p < 0.999  # as of one error in 150, or none
    else:
        assert temperature == 1.0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_images_tell_nothing(task, n):
    given = some(task, n, 0)
    assert fit_temperature(given.logits, given.targets) == 1.0
    assert calibrate(given, task.TASK).temperature == 1.0


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_left_as_they_are(wrong):
    given = some(classification, 40, 0)
    given.logits[3, 1] = wrong
    found = calibrate(classification.outputs(given.logits, given.targets), classification.TASK)
    assert found.temperature == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_logits_that_say_nothing_and_one_class_do_not_crash(task):
    targets = torch.zeros(30, 1).long() if task is multilabel else torch.zeros(30).long()
    for value in (0.0, 2.0):
        given = task.outputs(torch.full((30, 1), value), targets)
        assert 0.05 <= fit_temperature(given.logits, given.targets) <= 20


@settings(deadline=None)
@given(tasks, st.integers(0, 80), st.integers(0, 999), st.floats(0.2, 5))
def test_calibrating_never_harms_and_says_what_it_did(task, n, seed, scale):
    given = some(task, n, seed, scale=scale)
    found = calibrate(given, task.TASK)
    assert found.n == n
    if n:
        assert found.loss_before == pytest.approx(float(given.losses.mean()))
    assert found.ece_before == expected_calibration_error(given.logits, given.targets)
    if found.temperature == 1:
        assert (found.loss_after, found.ece_after) == (found.loss_before, found.ece_before)
    else:
        assert n >= module.FEWEST
        assert found.loss_after < found.loss_before
        assert found.temperature == fit_temperature(given.logits, given.targets)
    assert calibrate(given, task.TASK) == found
    assert found.as_json() == {
        "temperature": found.temperature,
        "n": n,
        "ece": [found.ece_before, found.ece_after],
        "loss": [found.loss_before, found.loss_after],
    }


@pytest.mark.parametrize("task", TASKS)
def test_what_is_said_is_what_new_images_show(task):
    """Of a network that is three times too sure; the figures are of 2,000 images, the truth of 20,000 others."""
    found = calibrate(some(task, 2_000, 0, scale=3.0), task.TASK)
    new = some(task, 20_000, 1, scale=3.0)
    after = at_temperature(new, found.temperature, task.TASK)
    assert found.loss_after == pytest.approx(float(after.losses.mean()), abs=0.05)
    assert float(after.losses.mean()) < 0.9 * float(new.losses.mean())
    ece = [expected_calibration_error(o.logits, o.targets) for o in (new, after)]
    assert ece[1] < 0.25 * ece[0]
    assert found.ece_after < 0.5 * found.ece_before


def test_a_gain_within_the_margin_is_none(monkeypatch):
    given = some(classification, 2_000, 0, scale=3.0)
    monkeypatch.setattr(module, "MARGIN", 1e6)
    assert calibrate(given, classification.TASK).temperature == 1


@pytest.mark.parametrize("task", TASKS)
def test_a_network_that_is_too_unsure_gets_a_temperature_too(task):
    assert calibrate(some(task, 2_000, 0, scale=0.4), task.TASK).temperature == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_a_network_that_needs_no_temperature_hardly_ever_gets_one(task):
    found = [calibrate(some(task, 150, seed), task.TASK).temperature for seed in range(100)]
    assert sum(temperature != 1 for temperature in found) <= 15


def test_no_image_decides_on_its_own_figures():
    """An image that is very wrong does not change by what it is divided in its own fold."""
    given = some(classification, 50, 0, scale=2.0)
    divided = module._cross_fitted(given.logits, given.targets, None)
    logits, targets = given.logits.clone(), given.targets.clone()
    targets[7] = int(logits[7].argmin())
    again = module._cross_fitted(logits, targets, None)
    ratio = (logits / again)[:, 0]
    assert torch.equal(divided[7], again[7])
    assert len({round(float(value), 4) for value in ratio}) <= module.FOLDS
    assert not torch.allclose(divided, again)


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(0, 999), st.floats(0.5, 20))  # it clips probabilities below 2e-16
def test_the_calibrated_loss_is_scikit_learns(n, seed, temperature):
    given = some(classification, n, seed)
    after = at_temperature(given, temperature, classification.TASK)
    p = (given.logits.double() / temperature).softmax(1).numpy()
    assert float(after.losses.mean()) == pytest.approx(log_loss(given.targets, p, labels=range(4)), rel=1e-4, abs=1e-6)


def test_a_segmentation_is_left_as_it_is():
    given = segmentation.outputs(torch.randn(30, 2, 4, 4), torch.zeros(30, 4, 4).long())
    assert calibrate(given, segmentation.TASK) is None
    assert at_temperature(given, 2.0, segmentation.TASK) is given


def counted(sure: np.ndarray, right: np.ndarray, bins: int) -> float:
    """The definition, bin by bin."""
    error = 0.0
    for i in range(bins):
        inside = (sure > i / bins) & (sure <= (i + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    return error


@settings(deadline=None)
@given(tasks, st.integers(1, 200), st.integers(0, 999), st.integers(1, 20))
def test_the_calibration_error_is_its_definition(task, n, seed, bins):
    given = some(task, n, seed)
    z = given.logits.double()
    if task is multilabel:
        sure, right = z.sigmoid().flatten().numpy(), given.targets.flatten().numpy()
    else:
        sure, right = z.softmax(1).max(1).values.numpy(), (z.argmax(1) == given.targets).numpy()
    assert expected_calibration_error(given.logits, given.targets, bins) == pytest.approx(counted(sure, right, bins))


def test_who_says_what_happens_has_no_error():
    logits = torch.tensor([[0.8, 0.2]]).log().repeat(10, 1)
    assert expected_calibration_error(logits, torch.tensor([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-7)
    several = torch.logit(torch.tensor([[0.3]])).repeat(10, 1)
    assert expected_calibration_error(several, torch.tensor([[1]] * 3 + [[0]] * 7)) == pytest.approx(0, abs=1e-7)


def test_who_is_sure_and_always_wrong_has_all_of_it():
    assert expected_calibration_error(torch.tensor([[99.0, 0.0]] * 5), torch.ones(5).long()) == 1.0
    assert expected_calibration_error(torch.tensor([[99.0]] * 5), torch.zeros(5, 1)) == 1.0


def test_many_images_are_taken_in_parts(monkeypatch):
    for task in TASKS:
        given = some(task, 1_000, 0, scale=2.0)
        whole = fit_temperature(given.logits, given.targets)
        error = calibration_error(given.logits, given.targets)
        monkeypatch.setattr(module, "NUMBERS", 64 * given.logits.shape[1])
        assert fit_temperature(given.logits, given.targets) == pytest.approx(whole, rel=1e-9)
        assert calibration_error(given.logits, given.targets) == error
        monkeypatch.undo()


def test_R24_of_thousands_of_classes_some_of_the_images_decide(monkeypatch):
    given = some(classification, 4_000, 0, scale=2.0)
    group = np.arange(4_000).astype(str)
    whole, whole_believed = calibrate(given, classification, group), believed(given, classification)
    monkeypatch.setattr(module, "MOST_LOGITS", 1_000 * given.logits.shape[1])
    part = calibrate(given, classification, group)
    assert (whole.n, part.n) == (4_000, 1_000)
    assert part.temperature == pytest.approx(whole.temperature, rel=0.1)
    assert len(believed(given, classification)) == 4_000
    torch.testing.assert_close(believed(given, classification).logits, whole_believed.logits, rtol=0.1, atol=0.1)


def drawn(n: int, sharper: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 3 classes whose probabilities are just right, multiplied, and the labels that they promise."""
    chance = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 3, generator=chance)
    return sharper * logits, torch.multinomial(logits.softmax(1), 1, generator=chance)[:, 0]


def test_probabilities_that_are_right_show_no_more_than_chance_does():
    below = [
        found["ece"] <= found["ece_by_chance"] for found in (calibration_error(*drawn(300, 1, s)) for s in range(300))
    ]
    assert 0.91 <= sum(below) / 300 <= 0.99


def test_probabilities_that_are_too_sure_show_more():
    found = calibration_error(*drawn(300, 3, 0))
    assert found["ece"] > found["ece_by_chance"]
    assert found["ece_interval"][0] > 0
    assert found["ece"] == expected_calibration_error(*drawn(300, 3, 0))


def test_without_images_nothing_is_known():
    assert calibration_error(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))["ece_interval"] == [0.0, 1.0]


@pytest.mark.parametrize("n", [100, 400])
def test_the_interval_of_the_calibration_error_holds_0_where_there_is_none(n):
    found = [calibration_error(*drawn(n, 1, seed)) for seed in range(200)]
    assert np.mean([each["ece_interval"][0] == 0 for each in found]) >= 0.9
    for each in found:
        assert each["ece_interval"][0] <= each["ece"] <= each["ece_interval"][1]
