"""The examples run as they are printed."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch

from conftest import write_photos
from frostline.backbones import load_backbone

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_loop_of_your_own(tmp_path, monkeypatch, capsys):
    photos = write_photos(tmp_path / "photos", 24)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["own_loop.py", str(photos)])
    runpy.run_path(str(EXAMPLES / "own_loop.py"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert float(lines[-1].split()[-1]) > 0.6
    saved, original = torch.load("classifier.pth"), load_backbone().model.state_dict()
    assert saved.keys() == original.keys()
    for name, value in original.items():
        if name.startswith(("conv_stem", "blocks.0", "blocks.5")):
            assert torch.equal(value, saved[name]), name
