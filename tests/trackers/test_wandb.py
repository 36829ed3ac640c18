"""What a fit tells W&B: to a stand-in that records it, and to the real package, offline, where it is installed."""

from __future__ import annotations

import struct
import sys
from types import SimpleNamespace

import pytest

BLOCK, HEAD = 32768, 7  # bytes: the file is a log as LevelDB writes it
FULL, FIRST = 1, 2


def records(content: bytes) -> list[bytes]:
    """The records of a .wandb file."""
    assert content.startswith(b":W&B")
    found, place = [], HEAD
    while place < len(content):
        if BLOCK - place % BLOCK < HEAD:  # the rest of a block that is too short for a record
            place += BLOCK - place % BLOCK
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + HEAD])
        piece = content[place + HEAD : place + HEAD + size]
        if kind in (FULL, FIRST):
            found.append(piece)
        else:
            found[-1] += piece
        place += HEAD + size
    return found


def key_of(item) -> str:
    return "/".join(item.nested_key) or item.key


class Recorded:
    """A run of W&B that keeps what it gets."""

    def __init__(self, folder, url=None):
        self.logged, self.summary, self.config, self.finished = [], {}, {}, []
        self.dir, self.url, self.log = str(folder / "files"), url, self.logged.append
        self.config = SimpleNamespace(given={}, update=lambda new, **_: self.config.given.update(new))

    def finish(self, exit_code):
        self.finished.append(exit_code)


@pytest.fixture
def wandb(stand_in, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    module = stand_in("wandb", run=None, begun=[], Settings=dict, Image=lambda file: f"image of {file}")
    module.own = Recorded(tmp_path / "wandb" / "offline-run-1")

    def init(**how):
        module.begun.append(how)
        return module.own

    module.init = init
    return module


def test_a_run_is_begun_offline_and_told_everything(wandb, fitted, capsys):
    run = fitted(log_to="wandb")
    begun = wandb.begun[0]
    assert {key: begun[key] for key in ("project", "name", "dir", "mode")} == {
        "project": "frostline", "name": "run", "dir": "run", "mode": "offline"
    }  # fmt: skip
    assert begun["config"]["plan"]["phases"][1]["frostline"] == "block2"
    assert "logged to wandb: offline; wandb sync " in capsys.readouterr().err
    epochs = wandb.own.logged[:-1]
    assert [each["valid/loss"] for each in epochs] == [entry["valid_loss"] for entry in run.history]
    assert wandb.own.logged[-1]["plots/curves"].endswith("plots/curves.png")
    assert wandb.own.summary["final/valid/accuracy"] == run.metrics["valid"]["accuracy"]
    assert wandb.own.finished == [0]


def test_the_environment_decides_mode_and_project(wandb, fitted, monkeypatch, no_pictures, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "pets")
    wandb.own.url = "https://example.org/run"
    fitted(log_to="wandb")
    assert (wandb.begun[0]["mode"], wandb.begun[0]["project"]) == ("online", "pets")
    assert "logged to wandb: https://example.org/run" in capsys.readouterr().err


def test_a_run_that_the_program_has_open_is_used_and_stays_open(wandb, fitted, tmp_path, no_pictures):
    wandb.run = Recorded(tmp_path)
    fitted(log_to="wandb")
    assert (wandb.begun, wandb.run.finished) == ([], [])
    assert wandb.run.config.given["backbone"] == "Small"
    assert "final/valid/accuracy" in wandb.run.summary


def test_the_real_package_writes_an_offline_run(fitted, monkeypatch, capsys):
    pytest.importorskip("wandb", reason="no wandb: pip install 'frostline[wandb]'")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = fitted(log_to="wandb")
    assert f"wandb sync {run.path / 'wandb'}" in capsys.readouterr().err
    assert sys.modules["wandb"].run is None
    folder = next(path for path in (run.path / "wandb").glob("offline-run-*"))
    assert {file.name.split("_")[0] for file in (folder / "files" / "media" / "images" / "plots").iterdir()} >= {
        "curves"
    }
    losses, final, name = [], {}, ""
    for data in records(next(folder.glob("*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        name = record.run.display_name or name
        losses += [float(item.value_json) for item in record.history.item if key_of(item) == "valid/loss"]
        final |= {key_of(item): item.value_json for item in record.summary.update}
    assert name == "run"
    assert losses == pytest.approx([entry["valid_loss"] for entry in run.history])
    assert float(final["final/valid/accuracy"]) == pytest.approx(run.metrics["valid"]["accuracy"])
