"""The words of closed sets are written once more than the tables behind them, without torch: here they are compared."""

from __future__ import annotations

import numpy as np
import pytest

from frostline.data.augment import PRESETS
from frostline.errors import UsageError
from frostline.fitting.options import LARGEST_SEED, Options
from frostline.machine import PRECISIONS
from frostline.plan import LEARNING_RATES, SCHEDULES
from frostline.settings import settings_of
from frostline.tasks import NAMES, task_of

SETTINGS = settings_of(Options)


def test_words_are_those_of_the_tables():
    losses = {name for task in NAMES for name in task_of(task).losses}
    assert set(SETTINGS["loss"].choices) == losses
    assert set(SETTINGS["augment"].choices) == {"auto", *PRESETS}
    assert set(SETTINGS["precision"].choices) == set(PRECISIONS)
    assert set(SETTINGS["optimizer"].choices) == set(LEARNING_RATES)
    assert set(SETTINGS["schedule"].choices) == set(SCHEDULES)
    assert SETTINGS["class_weights"].choices == ("balanced", "none")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": "many"}, "epochs is 'many'; it must be a whole number"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
        ({"epochs": True}, "epochs is True; it must be a whole number"),
        ({"seed": [1]}, r"seed is \[1\]; it must be a whole number"),
        ({"seed": -1}, "seed is -1; it must be 0 …"),
        ({"seed": LARGEST_SEED + 1}, "it must be 0 …"),
        ({"seed": None}, "seed is None; it must be a whole number"),
        ({"image_size": "big"}, "image_size is 'big'; it must be a whole number"),
        ({"device": []}, r"device is \[\]; it must be a name"),
        ({"mixup": {}}, r"mixup is {}; it must be a number"),
        ({"backbone": None}, "backbone is None"),
        ({"backbone": 5}, "backbone is 5"),
        ({"cache": "no way"}, "cache is 'no way'; it must be true or false"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
        ({"augment": "digit"}, "nearest: digits"),
        ({"precision": "fp16"}, "nearest: "),
        ({"class_weights": "even"}, "unknown class weights 'even'; there are balanced"),
        ({"lr": "fast"}, "lr is 'fast'; it must be a number"),
        ({"plan": 3}, "plan is 3"),
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        Options("digits", **wrong)


def test_what_files_and_arrays_give_is_taken():
    options = Options("digits", epochs=3.0, lr="1e-3", seed=np.int64(7), momentum=np.float32(0.5))
    assert (options.epochs, options.lr, options.seed, options.momentum) == (3, 0.001, 7, 0.5)
    assert isinstance(options.epochs, int)


def test_objects_go_through():
    def own(image):
        return image

    options = Options([1], backbone=own, augment=own, loss=own, class_weights={"a": 1.0}, plan=[])
    assert options.augment is options.loss is options.backbone is own


def test_a_value_that_holds_itself_is_refused_in_a_short_line():
    value: list[object] = ["x"]
    for _ in range(30):
        value = [value] * 9
    with pytest.raises(UsageError) as caught:
        Options("digits", epochs=value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "wrong",
    [{"backbone": [1]}, {"backbone": {"a": 1}}, {"backbone": b"b"}, {"loss": [1]}, {"loss": {"a": 1}}, {"augment": [1]},
     {"class_weights": [1]}, {"store": "a\0b"}, {"out": "\0"}, {"plan": {"a": 1}}],
    ids=str,
)  # fmt: skip
def test_plain_values_in_the_place_of_objects_are_refused(wrong):
    with pytest.raises(UsageError):
        Options("digits", **wrong)


@pytest.mark.parametrize(
    "wrong", [{"plan": [1]}, {"loss": object()}, {"backbone": object()}], ids=["plan", "loss", "b"]
)
def test_objects_of_the_wrong_kind_are_refused_when_they_are_used(wrong, job_of):
    with pytest.raises(UsageError):
        job_of(**wrong)
