from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from frostline.cli.datasets import command
from frostline.data.readers.named import NAMED


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "frostline" / "datasets"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_json_lists_every_name_with_its_classes(root: Path) -> None:
    rows = json.loads(run("--json"))
    assert [row["name"] for row in rows] == list(NAMED)
    assert all(row.keys() == {"name", "classes", "found"} for row in rows)
    assert {row["name"]: row["classes"] for row in rows}["flowers102"] == 102


def test_found_is_what_is_there(root: Path) -> None:
    assert [row["name"] for row in json.loads(run("--json")) if row["found"]] == ["digits"]
    (root / "food-101").mkdir(parents=True)
    (root / "MNIST" / "raw").mkdir(parents=True)  # without files: nothing to read
    (root / "KMNIST" / "raw").mkdir(parents=True)
    (root / "KMNIST" / "raw" / "train-images-idx3-ubyte.gz").touch()
    found = [row["name"] for row in json.loads(run("--json")) if row["found"]]
    assert found == ["digits", "kmnist", "food101"]


def test_the_table_has_one_line_a_name_and_says_how_to_go_on(root: Path) -> None:
    *lines, last = run().splitlines()
    assert [line.split()[0] for line in lines] == list(NAMED)
    assert [line.split()[0] for line in lines if line.endswith("found")] == ["digits"]
    assert lines[1].split()[1:] == ["10", "classes"]
    assert str(root) in last
    assert "NAME:ROOT" in last
    assert "--download" in last


def test_control_characters_of_the_root_do_not_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/red\x1b[31m")
    assert "\x1b" not in run()


def test_listing_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from frostline.cli.datasets import command;"
        "assert CliRunner().invoke(command, []).exit_code == 0;"
        "assert not {'torch', 'torchvision'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
