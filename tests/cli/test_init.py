"""`frostline init`: a config with every option of fit, which fit takes back."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml
from click.testing import CliRunner

from frostline.cli import main
from frostline.cli.fit import command as fit_command
from frostline.cli.init import command
from frostline.fitting.options import Options
from frostline.runs.run import load_run

TINY = ["--backbone", "timm:test_resnet", "--weights", "none", "--plan", "probe", "--precision", "fp32", "--quiet"]


def init(*arguments: object):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def uncommented(text: str) -> str:
    """The file after somebody took away the "# " before every option, and below one the rest of its value."""
    options = "|".join(field.name for field in dataclasses.fields(Options))
    return re.sub(rf"^# (?='?({options})'?: )", "", text, flags=re.M)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "pets.yaml"


def test_every_option_is_there_with_its_text_at_its_default(file):
    result = init(file)
    assert (result.exit_code, result.output) == (0, f"wrote {file}; next: frostline fit --config {file}\n")
    text = file.read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {"data": "photos/"}
    everything = yaml.safe_load(uncommented(text))
    assert list(everything) == [field.name for field in dataclasses.fields(Options)]
    assert Options(**everything) == Options("photos/")
    assert "\n# images per step.\n# batch_size: null\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_flags_that_are_given_are_set(file, monkeypatch):
    monkeypatch.setattr("frostline.fitting.options.refuse_missing", lambda _: None)
    assert init(file, "--data", "mnist", "--epochs", 3, "--no-report", "--log-to", "mlflow").exit_code == 0
    given = {"data": "mnist", "epochs": 3, "report": False, "log_to": ["mlflow"]}
    assert yaml.safe_load(file.read_text()) == given


@pytest.mark.usefixtures("no_pictures")
def test_fit_takes_the_file_and_the_folder_that_it_names(photos, file, tmp_path):
    out = tmp_path / "named"
    assert init(file, "--data", photos, "--out", out, "--seed", 5, *TINY).exit_code == 0
    result = CliRunner().invoke(fit_command, ["--config", str(file)])
    assert result.exit_code == 0, result.exception
    config = load_run(out).config
    assert (config["seed"], config["out"], config["backbone"]) == (5, str(out), "timm:test_resnet")
    again = CliRunner().invoke(fit_command, ["--config", str(file)])
    assert "a run is never overwritten" in str(again.exception)
    repeated = CliRunner().invoke(fit_command, ["--config", str(out / "config.yaml"), "--out", str(tmp_path / "again")])
    assert repeated.exit_code == 0, repeated.exception


def test_nothing_is_overwritten(file, capsys):
    file.write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["init", str(file)])
    assert end.value.code == 2
    assert "already exists and is not overwritten" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_what_fit_would_refuse_is_refused(file):
    result = init(file, "--label-smoothing", "2", "--memory", "lots")
    assert "'lots' is no size" in str(result.exception)
    assert not file.exists()
