"""Tensors as files: whole, each name with its numbers, or an error that says why not."""

from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from frostline.errors import MachineError
from frostline.files import write_tensors


def test_tensors_that_share_their_numbers_are_written_each(tmp_path):
    one = torch.arange(12.0)
    tensors = {"a": one, "again": one, "part": one[3:6], "turned": one.view(3, 4).T, "empty": torch.empty(0)}
    write_tensors(tmp_path / "x.safetensors", tensors, {"made": "here"})
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_tensors_that_cannot_be_written_are_an_error_of_the_machine(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(MachineError, match="cannot write .*x.safetensors: No space left"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == []
