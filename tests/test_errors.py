from __future__ import annotations

import pytest

from frostline import errors
from frostline.errors import FrostlineError, UsageError, lacks_memory, unknown

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


def test_names_that_begin_so_come_first_with_their_source() -> None:
    """Stumble 36."""
    names = ["timm:gcvit_tiny", "timm:vit_tiny_patch16_224", "torchvision:resnet50", "timm:resnet50", "timm:resnet50d"]
    assert "nearest: timm:vit_tiny_patch16_224, timm:gcvit_tiny" in str(unknown("backbone", "timm:vit_tiny", names))
    assert "nearest: torchvision:resnet50, timm:resnet50, timm:resnet50d" in str(unknown("backbone", "ResNet50", names))


def test_where_nothing_is_near_a_short_table_is_told_and_a_long_one_is_not() -> None:
    """Stumble 36."""
    assert str(unknown("loss", "xyz", ["dice", "focal"])) == "unknown loss 'xyz'; there are dice, focal"
    assert str(unknown("data set", "nowhere", [f"flowers{i}" for i in range(30)])) == "unknown data set 'nowhere'"


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


def test_unknown_names_at_most_five_near_names() -> None:
    assert len(str(unknown("key", "name", [f"name{i}" for i in range(9)])).split("; ")[1].split(", ")) == 5


def test_unknown_takes_any_iterable_and_an_empty_name() -> None:
    assert str(unknown("key", "", {"a": 1, "b": 2})) == "unknown key ''; nearest: a, b"
    assert "'x'" in str(unknown("key", "x", ()))


def test_of_a_long_table_the_usual_names_are_told_where_none_is_near():
    known = [f"layer{i}.conv" for i in range(99)]
    assert str(unknown("stage", "zzz", known, ["layer1", "head"])) == "unknown stage 'zzz'; there are layer1, head"
    assert "nearest" in str(unknown("stage", "layer1.con", known, ["layer1", "head"]))


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (RuntimeError("shapes do not match"), False),
    ],
    ids=str,
)
def test_R23_what_fails_for_want_of_memory(error, lacks) -> None:
    assert lacks_memory(error) == lacks
