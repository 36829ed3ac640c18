from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.errors import UsageError
from frostline.training.learning import LearningCurve, forecast, learning_curve
from frostline.training.ridge import best_penalty, decompose, solution
from regressions import features


def clouds(seed: int, count: int, classes: int = 3, width: int = 8, apart: float = 1.0):
    """Features of classes that overlap, in turn."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, apart, (classes, width))
    targets = np.arange(count) % classes
    x = centres[targets] + chance.normal(0, 1.5, (count, width))
    return x.astype(np.float32), targets


def curve_of(errors, sizes=(100, 200, 400, 700, 1000), held_out=600):
    accuracy = 1 - np.array(errors)
    each = np.full(len(sizes), float(held_out))
    return LearningCurve(np.array(sizes), accuracy, each, accuracy[:, None], each[:, None])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
    st.integers(1, 10**7),
    st.sampled_from([1, 12, 600]),
    st.floats(0.1, 0.95),
)
def test_a_forecast_lies_in_its_band_and_is_an_accuracy(errors, images, held_out, band):
    low, middle, high = forecast(curve_of(errors, held_out=held_out), images, band)
    assert 0 <= low <= middle <= high <= 1


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 0.9), st.floats(0, 0.05), st.floats(0.05, 0.4))
def test_what_falls_as_a_power_goes_on_falling_so(slope, floor, error):
    sizes = np.array([100, 200, 400, 700, 1000])
    law = floor + error * (sizes / 1000) ** -slope * 0.5
    low, _, high = forecast(curve_of(law, held_out=3000), 4000)
    assert low <= 1 - (floor + error * 4**-slope * 0.5) <= high


def test_a_forecast_is_surer_of_more_held_out_images_and_of_a_narrower_band():
    law = [0.3, 0.24, 0.2, 0.17, 0.15]
    widths = [
        np.ptp(forecast(curve_of(law, held_out=n), 2000, band)) for n, band in ((100, 0.8), (2000, 0.8), (2000, 0.5))
    ]
    assert widths[0] > widths[1] > widths[2]


def test_a_curve_without_a_mistake_promises_no_certainty():
    assert forecast(curve_of([0.0] * 5, held_out=50), 2000)[0] < 1


def test_points_are_what_heads_on_parts_of_the_images_show():
    (x, y), (xv, yv) = clouds(0, 300), clouds(1, 90)
    train, held_out = features(x, y, 1), features(xv, yv, 1)
    curve = learning_curve(train, 3, held_out)
    assert curve.sizes.tolist() == [30, 60, 120, 210, 300]
    assert curve.held_out.tolist() == [270 + 90, 240 + 90, 180 + 90, 90 + 90, 300 + 90]
    assert curve.accuracy[0] < curve.accuracy[-1]
    ridge = decompose(train, 3)
    right, of = np.zeros(3), np.bincount(np.concatenate([y, yv]))
    for i in range(300):  # the head is solved anew without each image; its scale and penalty stay
        others = np.delete(x, i, 0)
        weight, bias = solution(decompose(features(others, np.delete(y, i), 1), 3), best_penalty(ridge))
        right[y[i]] += int((torch.from_numpy(x[i]).double() @ weight.T + bias).argmax() == y[i])
    weight, bias = solution(ridge, best_penalty(ridge))
    said = (torch.from_numpy(xv).double() @ weight.T + bias).argmax(1).numpy()
    right += np.bincount(yv[said == yv], minlength=3)
    np.testing.assert_allclose(curve.recall[-1], right / of, atol=0.01)
    np.testing.assert_allclose(curve.accuracy, curve.recall.mean(1))  # each class has a third of the training images


def test_without_held_out_images_the_others_measure():
    curve = learning_curve(features(*clouds(0, 150), 1), 3)
    assert curve.held_out.tolist() == [135, 120, 90, 45, 150]


def test_the_band_holds_what_four_times_the_images_bring():
    """30 trials as in a fit, measured on 6,000 new images."""
    hits = 0
    for trial in range(30):
        x, y = clouds(trial, 1200, classes=4, width=24, apart=0.7)
        new = clouds(1000 + trial, 6000, classes=4, width=24, apart=0.7)
        ridge = decompose(features(x, y, 1), 4)
        weight, bias = solution(ridge, best_penalty(ridge))
        actual = float(((torch.from_numpy(new[0]).double() @ weight.T + bias).argmax(1).numpy() == new[1]).mean())
        held_out = clouds(2000 + trial, 75, classes=4, width=24, apart=0.7)
        low, _, high = forecast(learning_curve(features(x[:300], y[:300], 1), 4, features(*held_out, 1)), 1200)
        hits += low <= actual <= high
    assert hits >= 23


def test_too_few_images_have_no_curve():
    assert learning_curve(features(*clouds(0, 20), 1), 3) is None


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda: forecast(curve_of([0.3] * 5), 0), "images is 0"),
        (lambda: learning_curve(features(np.repeat(clouds(0, 60)[0], 2, 0), clouds(0, 60)[1], 2), 3), "2 views"),
    ],
)
def test_what_cannot_be_asked(ask, text):
    with pytest.raises(UsageError, match=text):
        ask()


def test_nothing_is_forecast_of_a_class_that_was_not_measured():
    curve = curve_of([0.3] * 5)
    with pytest.raises(UsageError, match="class 0"):
        forecast(
            LearningCurve(curve.sizes, curve.accuracy, curve.held_out, curve.recall, 0 * curve.present), 100, label=0
        )


def test_held_out_images_of_another_kind_measure_alone():
    """They are harder: mixed with the training images the points would stand on two scales."""
    (x, y), (xv, yv) = clouds(0, 300), clouds(1, 90, apart=0.2)
    curve = learning_curve(features(x, y, 1), 3, features(xv, yv, 1), pooled=False)
    assert curve.held_out.tolist() == [90] * 5
    easy = learning_curve(features(x, y, 1), 3, features(*clouds(1, 90), 1), pooled=False)
    assert (easy.accuracy > curve.accuracy).all()
    assert learning_curve(features(x, y, 1), 3, pooled=False) is None


def test_rare_classes_weigh_the_same_in_every_point():
    chance = np.random.default_rng(0)
    y = np.concatenate([np.arange(300) % 2, np.full(12, 2)])
    x = chance.normal(size=(312, 6)).astype(np.float32)
    x[y < 2, 0] += 9 * y[y < 2] - 4  # the common classes are plain, the rare one is noise among them
    curve = learning_curve(features(x, y, 1), 3)
    shares = np.bincount(y) / len(y)
    np.testing.assert_allclose(curve.accuracy, curve.recall @ shares)


def test_parts_of_groups_are_whole_groups_and_sizes_are_what_was_drawn():
    (x, y), held_out = clouds(0, 300), features(*clouds(1, 90), 1)
    groups = [str(i // 12) for i in range(300)]
    curve = learning_curve(features(x, y, 1), 3, held_out, groups=groups)
    assert all(size % 1 == 0 for size in curve.sizes)
    assert curve.held_out.tolist() == [90] * len(curve.sizes)
    assert curve.sizes[-1] == 300
    many = learning_curve(features(*clouds(0, 45, classes=9), 1), 9)
    assert many is None or many.sizes[-1] == 45
