"""`export`: the file, what it is compared with, and what is refused before anything is written."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from PIL import Image

import frostline
from conftest import TINY_FIT, write_photos
from frostline.cli.export import FORMATS as OFFERED
from frostline.cli.export import command
from frostline.errors import MachineError, UsageError
from frostline.export import FORMATS, onnx_format


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE", str(folder / "cache"))
        photos = write_photos(folder / "photos", 10)
        frostline.fit(photos, **TINY_FIT, image_size=64, out=folder / "run", report=False)
    return folder / "run", photos


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


def test_the_file_answers_like_predict(run, trained):
    result = CliRunner().invoke(command, [str(run), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["file"] == str(run / "export" / "model.onnx")
    assert said["bytes"] == (run / "export" / "model.onnx").stat().st_size
    assert said["verified"]["same"] == 1
    assert said["verified"]["images"] > 13  # more than the synthetic pictures
    assert "wrote" in result.stderr
    session = onnxruntime.InferenceSession(said["file"], providers=["CPUExecutionProvider"])
    files = sorted(trained[1].rglob("*.png"))
    for prediction, file in zip(frostline.predict(run, files), files, strict=True):
        with Image.open(file) as image:
            (found,) = session.run(None, {"image": np.asarray(image.convert("RGB"))[None]})
        assert np.abs(found[0] - prediction.probabilities).max() < 1e-4
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["flat", "tall"] == said["classes"]
    model = json.loads((run / "model" / "model.json").read_text())
    assert about["sha256"] == model["files"]["model.safetensors"]


def test_a_file_that_answers_otherwise_is_not_written(run, monkeypatch):
    right = onnx_format.answering

    def swapped(*file):
        answer = right(*file)
        return lambda images: answer(images)[:, ::-1]

    monkeypatch.setattr(onnx_format, "answering", swapped)
    with pytest.raises(MachineError, match="nothing was written"):
        frostline.export_run(run, quiet=True)
    assert list((run / "export").iterdir()) == []


def test_without_the_images_synthetic_pictures_are_compared(run, trained, capsys, monkeypatch):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(trained[1]), "gone"))
    said = frostline.export_run(run, "safetensors")
    assert said["verified"]["images"] == 13
    assert "verifying with synthetic pictures only" in capsys.readouterr().err


def test_a_network_that_no_graph_can_hold_is_refused_with_the_reason(run, monkeypatch):
    monkeypatch.setattr(onnx_format, "write", lambda *_: (_ for _ in ()).throw(RuntimeError("no such operation")))
    with pytest.raises(MachineError, match="this network cannot be exported to onnx: no such operation"):
        frostline.export_run(run, quiet=True)
    assert list((run / "export").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": "model.pt"}, r"model\.pt does not end in \.onnx"),
        ({"format": "tflite"}, "unknown format 'tflite'"),
    ],
)
def test_bad_names_are_refused_at_once(run, options, words):
    with pytest.raises(UsageError, match=words):
        frostline.export_run(run, **options)


def test_a_file_is_never_overwritten(run, tmp_path):
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(UsageError, match="already exists and is not overwritten"):
        frostline.export_run(run, "safetensors", tmp_path / "there.safetensors")


def test_the_command_offers_every_format():
    assert OFFERED == FORMATS
