"""The flags of `frostline fit`, and a run repeated from its configuration."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import draw
from frostline.cli.evaluate import command as evaluate_command
from frostline.cli.fit import command
from frostline.errors import UsageError
from frostline.fitting.options import Options
from frostline.runs.run import load_run

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = ["--backbone", "timm:test_resnet", "--weights", "none", "--image-size", "64", "--precision", "fp32", "--quiet"]
GIVEN = {
    "optimizer": "sgd",
    "momentum": 0.5,
    "weight_decay": 0.1,
    "schedule": "step",
    "clip": 1.5,
    "loss": "cross-entropy",
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "mixup": 0.2,
    "augment": "standard",
    "views": 2,
    "epochs": 1,
    "batch_size": 8,
}
FLAGS = [text for name, value in GIVEN.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def run(*arguments: object):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def weights(folder) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_new_flags_are_kept_and_a_config_repeats_them(photos, tmp_path):
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    assert run(photos, *TINY, "--plan", "full", *FLAGS, "--balanced", "--out", first).exit_code == 0
    config = load_run(first).config
    assert {**GIVEN, "balanced": True}.items() <= config.items()
    assert run("--config", first / "config.yaml", "--out", again, "--quiet").exit_code == 0
    assert weights(first) == weights(again)
    assert load_run(again).config == {**config, "out": str(again)}
    assert run("--config", first / "config.yaml", "--out", other, "--quiet", "--optimizer", "adam").exit_code == 0
    assert load_run(other).config["optimizer"] == "adam"
    assert load_run(other).config["plan"]["phases"][-1]["optimizer"] == "adam"


VALUES = {
    "epochs": [1, 2],
    "lr": [0.1, 0.2],
    "optimizer": ["sgd", "adamw"],
    "metric": ["loss", "accuracy"],
    "seed": [0, 1, 2],
    "cache": [True, False],
    "workers": [1, 2],
    "group": ["names", "patient"],
}
some_values = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()})


def typed(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    return [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]


@given(some_values, some_values)
def test_what_is_typed_comes_before_the_file_and_the_file_before_the_defaults(tmp_path_factory, written, flags):
    """Also a value that is typed and happens to be the default."""
    file = tmp_path_factory.getbasetemp() / "precedence.yaml"
    file.write_text(yaml.safe_dump({"data": "photos", **written}))
    usual = {field.name: field.default for field in fields(Options)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("frostline.cli.fit.fit", lambda data, **options: asked.append((data, options)))
        patch.setattr("frostline.cli.fit._print", lambda *_: None)
        asked: list = []
        result = run("--config", file, *(text for name, value in flags.items() for text in typed(name, value)))
    assert result.exit_code == 0, result.output
    ((data, options),) = asked
    assert data == "photos"
    assert {name: options[name] for name in VALUES} == {name: usual[name] for name in VALUES} | written | flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optimizer", "lion"], "'lion' is not one of 'adamw', 'adam', 'sgd'"),
        (["--loss", "dice"], "loss 'dice' does not fit these labels"),
        (["--augment", "digit"], "'digit' is not one of 'auto'"),
        (["--class-weights", "even"], "'even' is not one of 'balanced', 'none'"),
        (["--schedule", "linear"], "'linear' is not one of 'cosine'"),
        (["--label-smoothing", "2"], "label smoothing is 2.0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_no_flag_can_mean_is_refused(flags, message, photos, tmp_path):
    result = run(photos, *TINY, "--plan", "full", *flags, "--out", tmp_path / "run")
    assert result.exit_code == 2 or isinstance(result.exception, UsageError)
    assert message in result.output + str(result.exception)
    assert not (tmp_path / "run").exists()


def test_class_weights_by_name_come_from_a_config(photos, tmp_path):
    config = {"data": str(photos), "class_weights": {"flat": 1.0, "tall": 3.0}, "plan": "probe"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    result = run("--config", tmp_path / "config.yaml", *TINY, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.exception
    assert load_run(tmp_path / "run").config["class_weights"] == {"flat": 1.0, "tall": 3.0}


def test_groups_are_held_out_as_a_whole_checked_and_measured(tmp_path):
    chance, rows = np.random.default_rng(0), []
    for i in range(96):
        Image.fromarray(draw(i % 2, chance)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{('flat', 'tall')[i % 2]},p{i // 4}")
    manifest = tmp_path / "all.csv"
    manifest.write_text("path,label,patient\n" + "\n".join(rows))
    result = run(manifest, *TINY, "--group", "patient", "--plan", "probe", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    fitted = load_run(tmp_path / "run")
    split = {row["path"]: row["split"] for row in fitted.split}
    of_patient = {f"p{g}": {split[f"{i}.png"] for i in range(4 * g, 4 * g + 4)} for g in range(24)}
    assert all(len(splits) == 1 for splits in of_patient.values())
    held_out = sum(splits == {"valid"} for splits in of_patient.values())
    assert fitted.metrics["valid"]["groups"] == held_out
    assert fitted.metrics["checks"]["group"] == 0
    assert f"in {held_out} groups" in (tmp_path / "run" / "log.txt").read_text()
    arguments = [str(tmp_path / "run"), str(manifest), "--group", "patient", "--json", "--quiet"]
    measured = json.loads(CliRunner().invoke(evaluate_command, arguments).stdout)
    assert (measured["n"], measured["groups"]) == (96, 24)
    pair = json.loads(CliRunner().invoke(evaluate_command, [arguments[0], *arguments]).stdout)
    assert [own["groups"] for own in pair["runs"]] == [24, 24]
    assert (pair["paired"]["difference"], pair["paired"]["n"]) == (0, 96)
