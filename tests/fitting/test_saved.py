from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from frostline.errors import WeightsError
from frostline.fitting import saved
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.fitting.saved import checkpoint, read_checked, read_saved, write_checked
from frostline.runs.run import PROGRESS

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(3), "empty": torch.empty(0, 4, dtype=torch.bfloat16)}


def test_what_is_written_is_read_back(tmp_path):
    file = tmp_path / "checkpoints" / "x.safetensors"
    write_checked(file, TENSORS, {"epochs": [1, 0.1, math.inf]})
    tensors, about = read_checked(file)
    assert about == {"epochs": [1, 0.1, math.inf]}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in TENSORS.items())
    assert load_file(file).keys() == TENSORS.keys()  # anyone else reads it, too


def test_every_flipped_bit_is_noticed(tmp_path):
    file = tmp_path / "x.safetensors"
    write_checked(file, TENSORS, {"epochs": [1, 2]})
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(WeightsError, match=r"x\.safetensors (is damaged|cannot be read)"):
            read_checked(file)


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_file_that_was_cut_is_noticed(left, tmp_path):
    file = tmp_path / "x.safetensors"
    write_checked(file, TENSORS)
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checked(file)


def test_a_file_of_others_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="is damaged: its content is not what the fit wrote"):
        read_checked(tmp_path / "x.safetensors")


def test_damaged_progress_says_how_to_begin_again(job_of):
    job = job_of(plan="probe")
    assert read_saved(job.run) is None
    run_phase(job, Progress(job.images), job.plan[0])
    assert read_saved(job.run).weights == job.backbone.sha256
    assert checkpoint(job.run, 1).is_file()
    file = job.run.path / PROGRESS
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(WeightsError, match=r"begin it again with: frostline fit --config .*config\.yaml"):
        read_saved(job.run)


def test_another_format_is_refused_and_another_version_is_told(job_of, monkeypatch, capsys):
    job = job_of(plan="probe")
    run_phase(job, Progress(job.images), job.plan[0])
    monkeypatch.setattr(saved, "versions", lambda: {"frostline": "9.9", "torch": "9.9"})
    assert read_saved(job.run).seconds > 0
    assert "note: the fit began with torch" in capsys.readouterr().err
    monkeypatch.setattr(saved, "FORMAT", 2)
    with pytest.raises(WeightsError, match="another version of Frostline began the fit in .*; go on with that one, or"):
        read_saved(job.run)


def test_a_file_that_is_gone_is_said(tmp_path):
    with pytest.raises(WeightsError, match=r"x\.safetensors cannot be read: (?!None).*[Nn]o such file"):
        read_checked(tmp_path / "x.safetensors")
