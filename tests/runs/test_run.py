from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.data import read_data
from frostline.errors import UsageError, WeightsError
from frostline.runs.run import (
    Run,
    create_run,
    environment,
    load_run,
    read_json,
    remove_start,
    write_csv,
    write_json,
    write_start,
)


def test_a_run_is_created_once(tmp_path):
    run = create_run(tmp_path / "a" / "run", "name")
    assert run.path.is_dir()
    write_json(run, "metrics.json", {"ü": 1})
    assert run.metrics == {"ü": 1}
    with pytest.raises(UsageError, match="never overwritten"):
        create_run(tmp_path / "a" / "run", "name")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="already exists"):
        create_run(tmp_path / "file", "name")
    with pytest.raises(UsageError, match="cannot create the run folder"):
        create_run(tmp_path / "file" / "run", "name")


def test_default_names_count_up_and_are_safe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str(create_run(None, "../a b:c").path) for _ in range(2)]
    assert paths == ["runs/..-a-b-c-1", "runs/..-a-b-c-2"]


def test_a_folder_that_is_no_finished_run(tmp_path):
    with pytest.raises(UsageError, match="no run at"):
        load_run(tmp_path / "none")
    with pytest.raises(UsageError, match="not a finished run"):
        load_run(tmp_path)
    with pytest.raises(WeightsError, match="has no readable metrics.json"):
        _ = Run(tmp_path).metrics


def test_no_cell_is_a_formula(tmp_path):
    run = create_run(tmp_path / "run", "name")
    write_csv(run, "split.csv", ("path", "n"), [("=cmd()", -1), ("+1", 2), ("plain", 3.5)])
    rows = list(csv.reader(io.StringIO((run.path / "split.csv").read_text())))
    assert rows == [["path", "n"], ["'=cmd()", "-1"], ["'+1", "2"], ["plain", "3.5"]]


def test_numbers_of_a_table_are_numbers_and_empty_cells_none(tmp_path):
    """Stumble 24."""
    run = create_run(tmp_path / "run", "name")
    header = ("phase", "frostline", "epoch", "train_loss", "valid_loss")
    write_csv(run, "history.csv", header, [(1, "head", 0, "", 0.308), (2, "7", 1, 1e-05, math.nan)])
    first, second = run.history
    assert first == {"phase": 1, "frostline": "head", "epoch": 0, "train_loss": None, "valid_loss": 0.308}
    assert (second["frostline"], second["train_loss"]) == ("7", 1e-05)
    assert math.isnan(second["valid_loss"])
    write_csv(run, "predictions.csv", ("path", "split", "label", "probability"), [("1.png", "valid", "7", 0.5)])
    assert run.predictions == [{"path": "1.png", "split": "valid", "label": "7", "probability": 0.5}]


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(st.tuples(NAMES, NAMES, st.sampled_from(["train", "valid", "test"]))))
def test_what_is_written_is_read_back_whatever_the_names(records):
    with tempfile.TemporaryDirectory() as folder:
        write_csv(Run(Path(folder)), "split.csv", ("path", "label", "split"), records)
        read = [(record["path"], record["label"], record["split"]) for record in Run(Path(folder)).split]
    assert read == records


def test_a_name_that_is_no_utf_8_is_read_back(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    write_csv(Run(tmp_path), "predictions.csv", ("path", "split"), [(name, "valid")])
    assert Run(tmp_path).predictions == [{"path": name, "split": "valid"}]


def test_json_has_null_in_place_of_what_is_no_number(tmp_path):
    measured = {"loss": math.nan, "phases": [{"loss": math.inf, "n": 3}], "interval": (-math.inf, 0.5)}
    write_json(Run(tmp_path), "metrics.json", measured)
    assert "NaN" not in (tmp_path / "metrics.json").read_text()
    assert Run(tmp_path).metrics == {"loss": None, "phases": [{"loss": None, "n": 3}], "interval": [None, 0.5]}


def test_the_environment_names_versions_and_no_variables(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    text = json.dumps(environment())
    assert "torch" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("content", ["{", "[1]", "a: [", "\x00"])
def test_damaged_files_of_a_run_are_said(tmp_path, content):
    run = Run(tmp_path)
    for name in ("config.yaml", "metrics.json"):
        (tmp_path / name).write_text(content)
    with pytest.raises(WeightsError, match=r"config\.yaml is corrupt: .*; copy it again"):
        _ = run.config
    for read in (lambda: read_json(run, "metrics.json"), lambda: run.metrics):
        with pytest.raises(WeightsError, match=r"metrics\.json is corrupt: .*; copy it again"):
            read()


@pytest.mark.parametrize(
    "text", ["", "path,split\n", "path,label,split,digest\na.png,cat,tr", "label,path,split\n1,2,3,4\n"]
)
def test_a_table_that_is_cut_is_said(tmp_path, text):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(WeightsError, match=r"split\.csv is corrupt: (it has no column|line 2 has not one cell) .*;"):
        _ = Run(tmp_path).split


def test_what_others_put_into_a_run_that_is_removed_stays(tmp_path, photos):
    run = create_run(tmp_path / "run", "name")
    write_start(run, {"data": "x"}, read_data(photos))
    (run.path / "notes.txt").write_text("mine")
    remove_start(run)
    assert [file.name for file in run.path.iterdir()] == ["notes.txt"]
    (run.path / "notes.txt").unlink()
    remove_start(run)
    assert not run.path.exists()
