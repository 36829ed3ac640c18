from __future__ import annotations

import pytest

from frostline import errors
from frostline.errors import FrostlineError, UsageError, unknown

CODES = {
    "FrostlineError": 1,
    "UsageError": 2,
    "DataError": 3,
    "WeightsError": 4,
    "DivergedError": 5,
    "InputsFailedError": 6,
    "MachineError": 7,
}


def test_exit_codes_are_those_of_the_table() -> None:
    from_lower_cut = {name: kind for name, kind in vars(errors).items() if name.endswith("Error")}
    assert {name: kind.exit_code for name, kind in from_lower_cut.items()} == CODES
    assert all(issubclass(kind, FrostlineError) for kind in from_lower_cut.values())
    for name, code in CODES.items():
        assert f"{name} " in errors.__doc__
        assert str(code) in errors.__doc__.split(name)[1].splitlines()[0]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet8", "resnet18"),
        ("ResNet18", "resnet18"),
        ("resnet-50", "resnet50"),
        ("efficentnet", "efficientnet_b0"),
        ("mobilnet", "mobilenet_v2"),
    ],
)
def test_unknown_names_the_nearest_first(name: str, nearest: str) -> None:
    error = unknown("backbone", name, ["resnet18", "resnet50", "efficientnet_b0", "mobilenet_v2"])
    assert type(error) is UsageError
    assert str(error).startswith(f"unknown backbone {name!r}; nearest: {nearest}")


def test_unknown_without_a_near_name_shows_what_there_is() -> None:
    assert str(unknown("key", "zzz", (f"{i}" for i in range(20)))) == (
        "unknown key 'zzz'; nearest: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    )


def test_unknown_names_at_most_five_near_names() -> None:
    assert len(str(unknown("key", "name", [f"name{i}" for i in range(9)])).split("; ")[1].split(", ")) == 5


def test_unknown_takes_any_iterable_and_an_empty_name() -> None:
    assert str(unknown("key", "", {"a": 1, "b": 2})) == "unknown key ''; nearest: a, b"
    assert "'x'" in str(unknown("key", "x", ()))
