from __future__ import annotations

import shutil
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import frostline
from conftest import TINY_FIT, write_photos
from frostline.cli.serve import command
from frostline.errors import MachineError, UsageError
from frostline.serve.listening import listen
from frostline.verbs.serve import serve_run

if TYPE_CHECKING:
    from frostline.serve.batches import Served


def test_an_address_that_others_reach_needs_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv("FROSTLINE_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1"):  # noqa: S104
        with pytest.raises(UsageError, match="set FROSTLINE_TOKEN"):
            serve_run(tmp_path, host)
    monkeypatch.setenv("FROSTLINE_TOKEN", "short")
    with pytest.raises(UsageError, match="16 letters"):
        serve_run(tmp_path)
    with pytest.raises(UsageError, match="16 letters"):
        CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    pytest.importorskip("fastapi", reason="no fastapi: pip install 'frostline[serve]'")
    with pytest.raises(UsageError, match="is not a finished run"):
        serve_run(tmp_path, port=0)
    with pytest.raises(UsageError, match="no run at"):
        serve_run(tmp_path / "nothing", port=0)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MachineError, match=r"serve needs uvicorn: pip install 'frostline\[serve\]'"):
        serve_run(tmp_path, port=0)


def test_a_port_in_use(tmp_path):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            MachineError, match=f"port {port} of 127.0.0.1: address already in use; give another --port"
        ):
            serve_run(tmp_path, port=port)


def test_what_a_run_serves(tmp_path, monkeypatch):
    """The folder of the training images if it is there; a copied classifier and a saved network do without."""
    pytest.importorskip("fastapi", reason="no fastapi: pip install 'frostline[serve]'")
    served: list[Served] = []
    stand_in = SimpleNamespace(run=lambda sockets: None)
    monkeypatch.setattr(
        "frostline.serve.server.make_server", lambda load, host, token: served.append(load()) or stand_in
    )
    photos = write_photos(tmp_path / "photos", 12)
    run = frostline.fit(photos, out=tmp_path / "run", **TINY_FIT)
    network = frostline.load_backbone("timm:test_resnet", "none", image_size=64).network(2)
    saved = frostline.save_run(network, ["a", "b"], tmp_path / "saved")
    for each in (run, shutil.copytree(run.path / "model", tmp_path / "alone"), saved.path):
        serve_run(each, port=0, quiet=True)
    assert [each.images for each in served] == [photos, None, None]
    assert [each.reference is None for each in served] == [False, True, True]
    shutil.move(photos, tmp_path / "elsewhere")
    serve_run(run, port=0, quiet=True)
    assert served[-1].images is None


def test_it_is_public():
    assert frostline.serve_run is serve_run
