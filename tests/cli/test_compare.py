from __future__ import annotations

import inspect
import json

import pytest
from click.testing import CliRunner

import frostline
from frostline.cli.compare import _table, command
from frostline.errors import DataError, InputsFailedError

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = ["--image-size", "32", "--epochs", "1", "--quiet"]
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
    head, *lines, last = result.stdout.splitlines()
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())
    at = head.index("to the best")
    for line, of in zip(lines, results, strict=True):
        paired = of["to_best"]
        shown = line[at : at + 28].strip()
        assert shown == (f"{paired['difference']:.4f} ({paired['low']:.4f} … {paired['high']:.4f})" if paired else "")
    assert len({len(line) for line in (head, *lines)}) == 1
    (taken,) = [of for of in results if of["recommended"]]
    assert last == f"recommended: {taken['reason']}"


def test_json_is_one_document(photos, tmp_path):
    result = run(photos, "--backbone", SMALL, "--plan", "probe", "--out", tmp_path / "out", *TINY, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "comparison.json").read_text())


@pytest.mark.long
def test_without_names_those_on_this_machine_are_tried(photos, tmp_path, several_here):
    del several_here[2:]
    result = run(photos, "--out", tmp_path / "out", *TINY)
    assert result.exit_code == 0, result.output
    head, *lines, last = result.stdout.splitlines()
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert head.split()[-2:] == ["licence", "SHA-256"]
    for line, of in zip(lines, results, strict=True):
        assert line.startswith(of["name"])
        assert f"  {of['licence']}" in line
        assert of["sha256"][:12] in line
    assert last.startswith("recommended: ")


def test_one_that_dropped_out_says_when(capsys):
    figures = {
        "accuracy": 0.5,
        "interval": [0.4, 0.6],
        "loss": 1.0,
        "n": 9,
        "seconds": 1.0,
        "parameters": 7,
        "bytes": 28,
    }
    row = {**figures, "images_per_second": 3.0, "licence": "\x1b[31mmit", "sha256": None}
    paired = {"difference": -0.2, "low": -0.3, "high": -0.1}
    best = {**row, "name": "a", "to_best": None, "dropped": None, "recommended": True, "reason": "a, the only one"}
    weak = {**row, "name": "b", "to_best": paired, "dropped": {"round": 1, "images": 500}, "recommended": False}
    _table([best, weak])
    shown = capsys.readouterr().out
    _, first, second, last = shown.splitlines()
    assert second.endswith("dropped in round 1, of 500 images")
    assert "dropped" not in first
    assert last == "recommended: a, the only one"
    assert "\x1b" not in shown


def test_data_that_is_not_there_is_a_data_error(tmp_path):
    result = run(tmp_path / "none", "--backbone", SMALL, "--out", tmp_path / "out")
    assert isinstance(result.exception, DataError)
    assert not (tmp_path / "out").exists()


def test_every_flag_of_fit_but_its_own_is_taken():
    """Stumble 22."""
    flags = {parameter.name for parameter in command.params} - {"data", "as_json"}
    assert flags == set(inspect.signature(frostline.fit).parameters) - {"data"}


def test_options_of_other_plans_say_nothing_of_a_probe(photos, tmp_path, capsys):
    """Stumble 38."""
    options = {"backbone": SMALL, "weights": "none", "image_size": 32, "epochs": 1, "report": False}
    results = frostline.compare(photos, plan=["probe", "gradual"], out=tmp_path / "out", **options)
    assert not any("error" in result for result in results)
    assert "no effect" not in capsys.readouterr().err
