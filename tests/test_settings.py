from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from frostline import settings
from frostline.errors import UsageError
from frostline.fitting.options import Options

Colour = Literal["red", "green"]


@dataclass(frozen=True)
class Paint:
    """What to paint.

    Args:
        what: the thing,
            whatever it is.
        colour: red or green.
        coats: so many.
    """

    what: str
    _: KW_ONLY
    colour: Colour | None = None
    coats: int = 1
    thickness: float = 0.5
    dry: bool = False
    tools: tuple[str, ...] = ()
    shades: Colour | Sequence[Colour] = ()

    def __post_init__(self) -> None:
        settings.check(self)


@settings.takes(Paint)
def paint(job: Paint) -> str:
    """Paint it."""
    return f"{job.what} {job.colour} {job.coats}"


def test_a_class_defines_names_kinds_words_defaults_and_texts():
    found = settings.settings_of(Paint)
    assert list(found) == ["what", "colour", "coats", "thickness", "dry", "tools", "shades"]
    assert found["what"].text == "the thing, whatever it is."
    assert found["colour"].choices == ("red", "green")
    assert found["colour"].kinds == {"choice", "None"}
    assert found["coats"].default == 1


def test_several_words_of_a_closed_set_may_be_one_too():
    assert settings.settings_of(Paint)["shades"].choices == ("red", "green")
    assert Paint("door", shades="red").shades == ("red",)
    assert Paint("door", shades=["green", "red"]).shades == ("green", "red")
    with pytest.raises(UsageError, match="unknown shades 'rad'; nearest: red"):
        Paint("door", shades=["green", "rad"])
    with pytest.raises(UsageError, match="shades is 3; it must be a list of red, green"):
        Paint("door", shades=3)
    assert settings.as_flags(Paint, {"what": "door", "shades": ("red", "green")})[1:] == [
        ["--shades", "red"],
        ["--shades", "green"],
    ]


given_values = st.fixed_dictionaries(
    {"what": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs", "Cc"]))},
    optional={
        "colour": st.sampled_from([None, "red", "green"]),
        "coats": st.integers(-5, 5),
        "thickness": st.floats(allow_nan=False),
        "dry": st.booleans(),
        "tools": st.lists(st.text("abc# :'", max_size=5), max_size=3),
    },
)


@given(given_values)
def test_settings_as_yaml_give_themselves_back_and_uncommented_their_defaults(given):
    text = settings.as_yaml(Paint, given)
    assert yaml.safe_load(text) == given
    assert Paint(**yaml.safe_load(text)) == Paint(**given)
    assert "# the thing, whatever it is.\nwhat: " in text
    assert ("# red or green.\n# colour: null" in text) == ("colour" not in given)


def test_a_function_that_takes_options_looks_as_the_class_does():
    assert list(inspect.signature(paint).parameters) == list(settings.settings_of(Paint))
    assert "    coats: so many." in paint.__doc__
    assert paint("door", colour="red", coats=2) == "door red 2"
    with pytest.raises(TypeError, match="unexpected keyword argument 'coat'"):
        paint("door", coat=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"colour": "rad"}, "unknown colour 'rad'; nearest: red"),
        ({"colour": 3}, "colour is 3; it must be one of red, green"),
        ({"coats": "two"}, "coats is 'two'; it must be a whole number"),
        ({"dry": 1}, "dry is 1; it must be true or false"),
        ({"tools": 3}, "tools is 3; it must be a list of names or globs"),
        ({"tools": ["a", 3]}, "it must be a list of names or globs"),
    ],
    ids=str,
)
def test_a_value_that_the_annotation_does_not_allow_is_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        Paint("door", **wrong)


@given(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_may_be_written_as_text(whole, real):
    job = Paint("door", coats=str(whole), thickness=repr(real))  # type: ignore[arg-type]
    assert (job.coats, job.thickness) == (whole, real)
    assert Paint("door", coats=float(whole)).coats == whole  # type: ignore[arg-type]


@given(st.none() | st.booleans() | st.binary() | st.lists(st.integers()) | st.dictionaries(st.text(), st.text()))
@example(b"0")
def test_what_is_no_number_never_is(value):
    with pytest.raises(UsageError, match="^coats is "):
        Paint("door", coats=value)  # type: ignore[arg-type]


def test_one_name_is_meant_as_a_list_of_one():
    assert Paint("door", tools="brush").tools == ("brush",)  # type: ignore[arg-type]


@given(st.integers(0, 30), st.integers(0, 59), st.integers(1, 59))
def test_hours_minutes_and_seconds(hours, minutes, seconds):
    assert settings.parse_seconds(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds
    assert settings.parse_seconds(f" {seconds} ") == settings.parse_seconds(f"{seconds}S") == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "soon", "5m2h", "1e9", "nan"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="is not a time; write it as in 10m"):
        settings.parse_seconds(text)


def test_settings_are_said_as_flags_but_for_what_is_so_anyway():
    given = {"colour": "red", "coats": 1, "thickness": 2.0, "dry": True}
    assert settings.as_flags(Paint, given) == [["--colour", "red"], ["--thickness", "2.0"], ["--dry"]]
    assert settings.as_flags(Options, {"report": False, "store": "x"}) == [["--store", "x"], ["--no-report"]]
    assert settings.as_flags(Paint, {"tools": object()}) is None


@pytest.mark.parametrize("seed", [9_007_199_254_740_993, "9007199254740993", np.int64(9_007_199_254_740_993)])
def test_whole_numbers_are_exact(seed):
    assert Options("x", seed=seed).seed == 9_007_199_254_740_993
    with pytest.raises(UsageError, match=r"seed is 1\.5"):
        Options("x", seed=1.5)
    assert [Options("x", seed=value).seed for value in (2.0, "2.0", "1e3")] == [2, 2, 1000]
