"""What the process may use, and that only the command line changes what belongs to the whole process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline import process
from frostline.errors import UsageError
from frostline.process import (
    cgroup_cores,
    cpu_model,
    give_back_freed_memory,
    keep_freed_memory,
    limit_threads,
    offline,
    usable_cores,
)


def group(root: Path, files: dict[str, str], membership: str = "0::/") -> tuple[Path, Path]:
    """A tree of cgroups as they are mounted, and the file that says which one the process is in."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "membership").write_text(membership + "\n")
    return root, root / "membership"


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, "0::/", 2.0),
        ({"cpu.max": "max 100000\n"}, "0::/", None),
        ({"cpu.max": "max 100000\n", "pod/cpu.max": "150000 100000\n"}, "0::/pod/container", 1.5),
        ({"pod/cpu.max": "400000 100000\n", "pod/own/cpu.max": "100000 100000\n"}, "0::/pod/own", 1.0),
        ({"pod/cpu.max": "100000 100000\n", "pod/own/cpu.max": "400000 100000\n"}, "0::/pod/own", 1.0),
        ({"other/cpu.max": "100000 100000\n"}, "0::/pod", None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", None),
        (
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            "4:memory:/b\n1:cpu,cpuacct:/a",
            0.5,
        ),
        ({"cpu.max": "nonsense\n"}, "no colons", None),
        ({"cpu.max": "100000 0\n"}, "0::/", None),
        ({}, "0::/", None),
    ],
)
def test_cgroups_of_both_versions_limit_the_cores(files, membership, cores, tmp_path):
    assert cgroup_cores(*group(tmp_path, files, membership)) == cores


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_a_quota_leaves_at_least_one_core_and_never_more_than_there_are(quota, period):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "cgroup_cores", lambda *_: quota / period)
        assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_cores_follow_the_cgroup(tmp_path, monkeypatch):
    root, membership = group(tmp_path, {"cpu.max": "100000 100000\n"})
    monkeypatch.setattr(process, "CGROUPS", root)
    monkeypatch.setattr(process, "OWN_CGROUP", membership)
    monkeypatch.setattr(process, "_affinity", lambda: 64)
    assert usable_cores() == 1
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.skipif(not shutil.which("taskset"), reason="needs taskset")
def test_cores_follow_the_affinity():
    code = "from frostline.process import usable_cores; print(usable_cores())"
    first = str(min(os.sched_getaffinity(0)))
    shown = subprocess.run(
        ["taskset", "-c", first, sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "1\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (
            "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) Gold\n\nprocessor\t: 1\n",
            "Intel(R) Xeon(R) Gold, family 6 model 85",
        ),
        ("model name : Some CPU\n", "Some CPU"),
    ],
)
def test_the_processor_has_a_name(content, name, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(process, "CPU_INFO", tmp_path / "cpuinfo")
    cpu_model.cache_clear()
    assert cpu_model() == name
    monkeypatch.setattr(process, "CPU_INFO", tmp_path / "none")
    cpu_model.cache_clear()
    assert cpu_model()
    cpu_model.cache_clear()


def test_keeping_freed_memory_may_be_asked_for_anywhere(monkeypatch):
    give_back_freed_memory()
    monkeypatch.setattr("sys.platform", "darwin")
    keep_freed_memory()
    give_back_freed_memory()


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives memory back and forth")
def test_on_the_command_line_freed_memory_serves_the_next_batch():
    """Stumble 19."""
    code = """
import resource, sys
import numpy as np
from frostline import cli
def main():
    for batch in range(20):
        if batch == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [np.ones(3_000_000, np.uint8) for _ in range(8)]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
cli.main = main
getattr(cli, sys.argv[1])()
"""
    faults = [
        int(subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True).stdout)
        for name in ("main", "command")
    ]
    assert faults[1] < faults[0] / 4


@pytest.mark.long
def test_a_host_program_finds_nothing_of_its_process_changed(tmp_path, photos):
    """Allocator, warnings' filters, threads, garbage collection, signals and environment are as before a fit."""
    code = f"""
import ctypes, gc, json, os, signal, warnings
from frostline import process
class Watched:
    def __init__(self, libc): self.libc = libc
    def mallopt(self, *arguments): raise AssertionError("the library called mallopt")
    def __getattr__(self, name): return getattr(self.libc, name)
original = process._libc
process._libc = lambda: Watched(original())
import matplotlib.pyplot, sklearn.linear_model, timm, torch, torchvision, torch._dynamo, frostline  # these set some
def state():
    return [repr(warnings.filters), torch.get_num_threads(), gc.get_threshold(), dict(os.environ),
            str(signal.getsignal(signal.SIGTERM)), str(signal.getsignal(signal.SIGINT))]
before = state()
frostline.fit({str(photos)!r}, backbone="torchvision:resnet18", weights="none", image_size=32, plan="probe",
              out={str(tmp_path / "run")!r}, quiet=True)
classifier = frostline.load({str(tmp_path / "run")!r})
next(iter(classifier.predictions([{str(photos / "flat" / "000.png")!r}] * 3)))
names = "filters threads gc environ term int".split()
print(json.dumps([name for name, a, b in zip(names, before, state()) if a != b]))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout.splitlines()[-1]) == [], shown.stderr


@pytest.mark.parametrize("value", ["1", "true", "YES", "On"])
def test_a_variable_forbids_downloads(value, monkeypatch):
    monkeypatch.setenv("FROSTLINE_OFFLINE", value)
    assert offline("HF_HUB_OFFLINE") == f"FROSTLINE_OFFLINE={value}"
    monkeypatch.setenv("FROSTLINE_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert (offline("HF_HUB_OFFLINE"), offline()) == (f"HF_HUB_OFFLINE={value}", "")


@pytest.mark.parametrize("value", ["", "0", "False", "no", "off"])
def test_a_variable_that_is_off_forbids_nothing(value, monkeypatch):
    monkeypatch.setenv("FROSTLINE_OFFLINE", value)
    assert offline() == ""


def test_a_variable_that_is_neither_is_refused(monkeypatch):
    monkeypatch.setenv("FROSTLINE_OFFLINE", "maybe")
    with pytest.raises(UsageError, match="FROSTLINE_OFFLINE is 'maybe'; set it to 1 to forbid downloads"):
        offline()
