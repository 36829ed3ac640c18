"""Shell completion: the names that are offered are those that there are, at once and without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import frostline
from frostline import completion
from frostline.cli import VERBS
from frostline.data.readers.named import NAMED
from frostline.plan import PRESETS
from frostline.trackers import Tool

SOURCE = Path(frostline.__file__).parents[1]
LINES = "import sys; from frostline.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"


def offered(line: str, folder: Path | None = None) -> list[tuple[str, str]]:
    """(type, value) of each completion of a line, whose last word is begun; fails where torch was imported for it."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_FROSTLINE_COMPLETE": "bash_complete"}
    environment = {**os.environ, **words, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", LINES], env=environment, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert not done.stderr
    return [tuple(answer.split(",", 1)) for answer in done.stdout.splitlines()]


def values(line: str, folder: Path | None = None) -> list[str]:
    return [value for kind, value in offered(line, folder) if kind == "plain"]


def test_names_read_as_text_are_those_that_importing_finds():
    assert sorted(f"{source}:{name}" for source, names in completion._by_source().items() for name in names) == sorted(
        frostline.list_backbones()
    )
    assert completion.datasets("") == list(NAMED)
    assert completion.plans("") == list(PRESETS)


@given(st.sampled_from(["", "timm:", "t", "res", "torchvision:resnet", "zz", "eff", "auto", "bundled:efficientnet"]))
def test_what_is_offered_begins_as_what_is_typed_and_can_be_named(begun):
    from frostline.backbones import resolve

    for name in completion.backbones(begun):
        assert name.startswith(begun)
        if name != "auto" and not name.endswith(":"):
            resolve(name)


def test_verbs_flags_and_words_are_offered():
    assert values("frostline ") == list(VERBS)
    assert values("frostline fit --optim") == ["--optimizer"]
    assert values("frostline fit --log-to ") == list(Tool.__args__)
    assert values("frostline fit --plan pr") == ["probe"]
    assert values("frostline compare x --backbone efficientnet-l") == [f"efficientnet-lite{i}" for i in range(3)]
    assert "timm:resnet50" in values("frostline plan timm:resnet50")
    assert values("frostline fit mni") == ["mnist"]


def test_paths_are_offered_where_paths_are_meant():
    assert offered("frostline fit ") == [("file", "")]
    assert offered("frostline fit x --out ") == [("file", "")]
    assert offered("frostline predict zz") == [("dir", "zz")]


def test_runs_are_offered_as_they_are_typed(tmp_path):
    for run in ("runs/pets", "runs/birds", "other", "runs/compare/1-a"):
        (tmp_path / run / "model").mkdir(parents=True)
        (tmp_path / run / "model" / "model.json").touch()
    (tmp_path / "runs" / "nothing").mkdir()
    assert values("frostline predict ", tmp_path) == ["other", "runs/birds", "runs/pets"]
    assert values("frostline evaluate runs/p", tmp_path) == ["runs/pets"]
    assert values("frostline report runs/", tmp_path) == ["runs/birds", "runs/compare/1-a", "runs/pets"]
    assert values("frostline inspect oth", tmp_path) == ["other"]
    assert values(f"frostline report {tmp_path}/runs/b", tmp_path) == [f"{tmp_path}/runs/birds"]


def test_a_folder_that_cannot_be_read_offers_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(Path, "glob", refuse)
    assert completion.runs(f"{tmp_path}/x") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_of_the_shells_are_printed(shell):
    environment = {**os.environ, "_FROSTLINE_COMPLETE": f"{shell}_source", "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "frostline"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert f"_FROSTLINE_COMPLETE={shell}_complete" in done.stdout
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=done.stdout, capture_output=True, text=True, timeout=60)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_bash_itself_completes(tmp_path):
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("no bash")
    command = tmp_path / "frostline"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCE} exec {sys.executable} -m frostline "$@"\n')
    command.chmod(0o755)
    script = """
        eval "$(_FROSTLINE_COMPLETE=bash_source frostline)"
        COMP_WORDS=(frostline fit photos/ --plan gra); COMP_CWORD=4
        _frostline_completion frostline 2> /dev/null  # compopt works only while bash completes
        echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "gradual\n"
