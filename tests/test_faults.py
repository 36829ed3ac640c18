"""The Nth operation on the disk fails, for every N of a whole fit: nothing is lost, and the message is clean."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import write_photos
from faulty import Ask, asking

KINDS = ("kill", "ENOSPC", "EIO")
SAMPLED = 4

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    folder = tmp_path_factory.mktemp("faults")
    write_photos(folder / "photos", 10)
    with asking(folder) as function:
        yield function


@pytest.fixture(scope="module")
def intact(ask: Ask) -> dict[str, Any]:
    """The number of operations of a fit, and a digest of its weights."""
    return ask("none")


def assert_nothing_lost(found: dict[str, Any], weights: str) -> None:
    about = f"{found['kind']} at operation {found['last']}:\n{found['said']}"
    assert "failed" not in found, f"{about}\n{found.get('failed')}"
    assert (found["wrong"], found["damaged"], found["left"]) == ([], [], []), about
    assert found["loads"] in (True, None), about
    assert found["again"] == weights, f"another fit with the same store ends elsewhere; {about}"
    assert found["resumed"] in (None, weights), f"it goes on otherwise; {about}"
    assert "Traceback" not in found["said"], about
    if found["kind"] == "kill":
        assert found["code"] == -signal.SIGKILL, about
    elif found["code"] == 0:
        assert found["weights"] == weights, about
    else:
        assert found["code"] == 7, about
        last = found["said"].splitlines()[-1]
        assert last.startswith("frostline: ")
        assert found["folder"] in last, f"no file is named; {about}"


@pytest.mark.long
def test_F02_F03_F05_some_operations_fail(ask, intact):
    """A checkpoint, a shard, an entry, a classifier: killed in the middle, on a full disk, on a bad one."""
    for number in range(SAMPLED):
        last = 1 + (2 * number + 1) * intact["operations"] // (2 * SAMPLED)
        assert_nothing_lost(ask(KINDS[number % len(KINDS)], last), intact["weights"])


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_F02_F03_F05_every_operation_fails(kind, ask, intact):
    found = [ask(kind, last) for last in range(1, intact["operations"] + 1)]
    for each in found:
        assert_nothing_lost(each, intact["weights"])


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_F03_a_report_is_whole_or_not_there(kind, ask):
    whole = ask("none", report=True)
    for last in range(1, whole["operations"] + 1, 7):
        assert_nothing_lost(ask(kind, last, report=True), whole["weights"])


@pytest.mark.parametrize("count", [4, pytest.param(10, marks=pytest.mark.long)])
def test_F15_fits_at_once_compute_every_row_once(count, ask, intact):
    found = ask("together", count=count)
    assert found["codes"] == [0] * count, found["said"]
    assert found["rows"] == intact["rows"]
    assert found["weights"] == [intact["weights"]] * count
    assert any("waiting for process" in said for said in found["said"])


def test_F15_who_waits_goes_on_when_the_holder_is_killed(ask, intact):
    """The first one is killed while it writes its first shard; its claim is free at once."""
    found = ask("together", 3, count=3)
    assert found["codes"] == [-signal.SIGKILL, 0, 0], found["said"]
    assert intact["rows"] < found["rows"] < 2 * intact["rows"]
    assert found["weights"] == [None, *[intact["weights"]] * 2]


def test_F06_a_full_disk_of_the_store_costs_only_the_store(ask, intact):
    found = ask("ENOSPC", 8, under="store")
    assert_nothing_lost(found, intact["weights"])
    assert found["code"] == 0
    assert "No space left on device): going on without a cache" in found["said"]


@pytest.mark.long
def test_F08_a_store_that_is_read_only_is_no_obstacle(ask, intact):
    found = ask("EROFS", 1, under="store")
    assert_nothing_lost(found, intact["weights"])
    assert found["code"] == 0
    assert "Read-only file system): going on without a cache" in found["said"]


@pytest.mark.parametrize("most", [30_000, *(pytest.param(most, marks=pytest.mark.long) for most in (5_000, 1_000_000))])
def test_F07_R10_a_limit_of_file_sizes_is_told_with_the_file(most, ask, intact):
    found = ask("limits", limits=["FSIZE", most])
    assert_nothing_lost(found, intact["weights"])
    assert found["code"] == 7
    assert "File too large" in found["said"]


def test_F14_few_file_descriptors(ask, intact):
    found = ask("limits", limits=["NOFILE", 64])
    assert_nothing_lost(found, intact["weights"])
