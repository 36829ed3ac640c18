from __future__ import annotations

import inspect
import json

import pytest
from click.testing import CliRunner

import frostline
from frostline.cli.compare import command
from frostline.errors import DataError, InputsFailedError

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = ["--image-size", "64", "--epochs", "1", "--quiet"]
SMALL = "timm:test_resnet@none"


def run(*arguments: object):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_row_for_each_and_the_failed_one_named(photos, tmp_path):
    names = ["--backbone", SMALL, "--backbone", "timm:no_such"]
    result = run(photos, *names, "--plan", "probe", "--out", tmp_path / "out", *TINY)
    assert isinstance(result.exception, InputsFailedError)
    assert "1 of 2 could not be fitted" in str(result.exception)
    head, good, bad = result.stdout.splitlines()
    assert head.split()[:1] == ["accuracy"]
    assert good.startswith("timm:test_resnet ")
    assert bad.split() == ["timm:no_such", "failed"]
    row = json.loads((tmp_path / "out" / "comparison.json").read_text())[0]
    assert good.split()[1] == f"{row['accuracy']:.4f}"


def test_the_difference_to_the_best_is_told_with_its_interval(photos, tmp_path):
    names = ["--backbone", SMALL, "--backbone", "timm:test_efficientnet@none"]
    result = run(photos, *names, "--plan", "probe", "--out", tmp_path / "out", *TINY)
    assert result.exit_code == 0, result.output
    head, *lines = result.stdout.splitlines()
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())
    at = head.index("to the best")
    for line, of in zip(lines, results, strict=True):
        paired = of["to_best"]
        shown = line[at : at + 28].strip()
        assert shown == (f"{paired['difference']:.4f} ({paired['low']:.4f} … {paired['high']:.4f})" if paired else "")
    assert len({len(line) for line in (head, *lines)}) == 1


def test_json_is_one_document(photos, tmp_path):
    result = run(photos, "--backbone", SMALL, "--plan", "probe", "--out", tmp_path / "out", *TINY, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "comparison.json").read_text())


def test_data_that_is_not_there_is_a_data_error(tmp_path):
    result = run(tmp_path / "none", "--backbone", SMALL, "--out", tmp_path / "out")
    assert isinstance(result.exception, DataError)
    assert not (tmp_path / "out").exists()


def test_every_flag_of_fit_but_its_own_is_taken():
    flags = {parameter.name for parameter in command.params} - {"data", "as_json"}
    assert flags == set(inspect.signature(frostline.fit).parameters) - {"data", "weights"}
