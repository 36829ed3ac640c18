"""Fits under torchrun, in two and more processes of one machine. Minutes: run by `make test-long`."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import write_photos

pytestmark = pytest.mark.long

NETWORK = ["--backbone", "timm:test_resnet", "--weights", "none", "--precision", "fp32", "--device", "cpu"]
UNFREEZING = """
phases:
  - {frostline: head, epochs: 0}
  - {frostline: layer4, epochs: 3, batchnorm: updated}
  - {frostline: layer2, epochs: 2, lr: 0.0003, mixup: 0.2}
"""


def command(processes: int, *arguments: str) -> list[str]:
    program = ["-m", "frostline", "fit", *arguments]
    if processes == 1:
        return [sys.executable, *program]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *launch, *program]


def fitted(processes: int, out: Path, *arguments: str) -> Path:
    done = subprocess.run(
        command(processes, *arguments, "--out", str(out)), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


def epochs_of(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as file:
        return [epoch for epoch in csv.DictReader(file) if epoch["train_loss"]]


def accuracy_of(run: Path) -> float:
    return float(json.loads((run / "metrics.json").read_text())["valid"]["accuracy"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("pictures") / "photos", 180)


@pytest.mark.parametrize("plan", ["probe", "gradual", "full", "auto", "unfreezing"])
def test_two_processes_fit_as_one_does(plan, pictures, tmp_path):
    """The first epoch of a phase that trains has five steps; later ones agree within noise."""
    (tmp_path / "unfreezing.yaml").write_text(UNFREEZING)
    chosen = str(tmp_path / "unfreezing.yaml") if plan == "unfreezing" else plan
    arguments = [str(pictures), *NETWORK, "--plan", chosen, *(["--epochs", "4"] if plan in ("gradual", "full") else [])]
    one, two = (fitted(count, tmp_path / str(count), *arguments) for count in (1, 2))
    first, second = epochs_of(one), epochs_of(two)
    assert [epoch["epoch"] for epoch in first] == [epoch["epoch"] for epoch in second]
    for ours, theirs in zip(first[:4], second[:4], strict=True):
        assert float(theirs["train_loss"]) == pytest.approx(float(ours["train_loss"]), rel=1e-4, abs=1e-4)
    assert accuracy_of(two) == pytest.approx(accuracy_of(one), abs=0.05)
    assert json.loads((two / "environment.json").read_text())["processes"] == 2
    assert sorted(path.name for path in (two / "model").iterdir()) == sorted(
        path.name for path in (one / "model").iterdir()
    )


def test_four_processes_fit_as_one_does(pictures, tmp_path):
    arguments = [str(pictures), *NETWORK, "--plan", "full", "--epochs", "3"]
    one, four = (epochs_of(fitted(count, tmp_path / str(count), *arguments)) for count in (1, 4))
    losses = [[float(epoch["train_loss"]) for epoch in epochs] for epochs in (one, four)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4, abs=1e-4)


def test_small_images_whose_rows_are_as_fast_to_compute_are_shared_too(tmp_path):
    """The command of the page: an estimate for one process would store nothing, and leave the others idle."""
    arguments = [
        "digits",
        *NETWORK,
        "--image-size",
        "32",
        "--plan",
        "full",
        "--epochs",
        "1",
        "--store",
        str(tmp_path / "store"),
    ]
    log = (fitted(2, tmp_path / "run", *arguments) / "log.txt").read_text()
    assert "not caching" not in log
    assert "in one process" not in log
    assert list((tmp_path / "store").rglob("*.shard"))


@pytest.fixture
def running(pictures, tmp_path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A fit in two processes, in the middle of its phase."""
    out, log = tmp_path / "run", tmp_path / "stderr"
    arguments = [str(pictures), *NETWORK, "--plan", "full", "--epochs", "60", "--out", str(out)]
    with log.open("w") as errors:
        process = subprocess.Popen(command(2, *arguments), stderr=errors, text=True, start_new_session=True)
    try:
        until(lambda: (out / "history.csv").exists() and len(epochs_of(out)) >= 3, 120)
        yield process, log
    finally:
        for each in [process.pid, *ranks_of(process.pid)]:
            with_kill(each)
        process.wait()


def with_kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def until(condition, seconds: float) -> float:
    """Wait for something; how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.05)
    return time.monotonic() - started


def ranks_of(launcher: int) -> list[int]:
    """The process ids of torchrun's processes, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == launcher and (rank := re.search(rb"\0RANK=(\d+)", environment)):
            found[int(rank[1])] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


def goes_on(process: subprocess.Popen[str], log: Path, pictures: Path, processes: int) -> None:
    """The run that was left is finished, as one that nothing disturbed."""
    assert process.wait(40) != 0
    out = log.parent / "run"
    done = len(epochs_of(out))
    again = subprocess.run(command(processes, "--resume", str(out)), capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert "going on in epoch" in again.stderr
    arguments = [str(pictures), *NETWORK, "--plan", "full", "--epochs", "60"]
    whole = epochs_of(fitted(1, log.parent / "whole", *arguments))
    epochs = epochs_of(out)
    assert len(epochs) > done
    losses = [[float(epoch["train_loss"]) for epoch in each[: done + 2]] for each in (epochs, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02, abs=0.02)
    assert accuracy_of(out) == pytest.approx(accuracy_of(log.parent / "whole"), abs=0.05)


def lines_of_rank_0(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("frostline: ")]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_is_killed_ends_the_fit_which_goes_on_later(processes, running, pictures):
    process, log = running
    first, second = ranks_of(process.pid)
    os.kill(second, signal.SIGKILL)
    assert until(lambda: not Path(f"/proc/{first}").exists(), 30) < 30
    assert process.wait(40) != 0
    (line,) = lines_of_rank_0(log)
    assert re.match(r"frostline: process 1 of 2 has ended$", line)
    goes_on(process, log, pictures, processes)


def test_a_worker_that_hangs_ends_the_fit_which_goes_on_later(running, pictures):
    process, log = running
    first, second = ranks_of(process.pid)
    os.kill(second, signal.SIGSTOP)
    until(lambda: not Path(f"/proc/{first}").exists(), 45)
    (line,) = lines_of_rank_0(log)
    assert "has not answered in time" in line
    until(lambda: process.poll() is not None, 60)
    assert re.search(r"exitcode\s*: 7", log.read_text())
    goes_on(process, log, pictures, 2)


def test_workers_end_when_rank_0_dies(running):
    process, log = running
    first, second = ranks_of(process.pid)
    os.kill(first, signal.SIGKILL)
    assert until(lambda: not Path(f"/proc/{second}").exists(), 30) < 30
    process.wait(40)
    assert lines_of_rank_0(log) == []


def test_ctrl_c_ends_all_of_them_and_keeps_what_was_trained(running, pictures):
    process, log = running
    ranks = ranks_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    until(lambda: process.poll() is not None, 40)
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert "interrupted; to go on: torchrun --nproc-per-node 2 -m frostline fit --resume" in log.read_text()
    goes_on(process, log, pictures, 2)


def test_another_verb_is_run_once(pictures):
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "frostline"]
    done = subprocess.run([*program, "datasets"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stdout.count("digits") == 1


def test_an_error_of_a_fit_is_one_line(tmp_path):
    done = subprocess.run(command(2, str(tmp_path / "nothing")), capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("frostline: ")]
    assert len(lines) == 1
    assert re.search(r"exitcode\s*: 3", done.stderr)
