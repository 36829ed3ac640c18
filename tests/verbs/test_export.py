"""`export`: the file, what it is compared with, and what is refused before anything is written."""

from __future__ import annotations

import ast
import hashlib
import json
import re
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
from frostline.errors import DataError, MachineError, UsageError
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
    assert re.search("^writing .*, which may take a minute\n(.*\n)*wrote", result.stderr)
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


def test_the_program_in_the_card_of_a_hub_folder_gives_the_probabilities_of_the_run(run, trained, monkeypatch, capsys):
    said = frostline.export_run(run, "hub", quiet=True)
    folder = run / "export" / "hub"
    assert said["file"] == str(folder)
    assert said["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert said["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    image = next(trained[1].rglob("*.png"))
    shutil.copy(image, folder / "new.jpg")
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    exec(code, {})  # noqa: S102
    found = ast.literal_eval(capsys.readouterr().out)
    (prediction,) = frostline.predict(run, [image])
    assert list(found) == ["flat", "tall"]
    assert np.abs(np.array(list(found.values())) - prediction.probabilities).max() < 1e-3


@pytest.mark.long
def test_a_file_that_answers_otherwise_is_not_written(run, monkeypatch):
    right = onnx_format.answering

    def swapped(*file):
        answer = right(*file)
        return lambda images: answer(images)[:, ::-1]

    monkeypatch.setattr(onnx_format, "answering", swapped)
    with pytest.raises(MachineError, match="nothing was written"):
        frostline.export_run(run, quiet=True)
    assert list((run / "export").iterdir()) == []


@pytest.mark.long
def test_int8_is_calibrated_and_measured_on_the_images_of_the_run(run, trained, monkeypatch):
    calibrated = []
    write = onnx_format.write_int8
    monkeypatch.setattr(
        onnx_format, "write_int8", lambda program, about, images, file: write(program, about, counted(images), file)
    )

    def counted(images):
        for image in images:
            calibrated.append(image.tobytes())
            yield image

    result = CliRunner().invoke(command, [str(run), "--int8", "--json"])
    assert result.exit_code == 0, result.output
    said, photos = json.loads(result.stdout), sorted(trained[1].rglob("*.png"))
    assert sorted(calibrated) == sorted(Image.open(file).tobytes() for file in photos)  # none were held out
    assert said["int8"] == {**said["int8"], "metric": "accuracy", "n": len(photos)}
    assert said["verified"]["images"] == len(photos)
    assert said["int8"]["fp32"] - said["int8"]["int8"] <= 0.01
    assert said["bytes"] == (run / "export" / "model.onnx").stat().st_size
    assert f"accuracy {100 * said['int8']['int8']:.1f} % in int8 and" in result.stderr
    assert [path.name for path in (run / "export").iterdir()] == ["model.onnx"]


def test_validation_images_that_were_held_out_do_not_calibrate(trained, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    for name in ("train", "val"):
        shutil.copytree(trained[1], photos / name)
    for file in (photos / "val").rglob("*.png"):
        Image.new("RGB", (40, 40), "red" if file.parent.name == "flat" else "green").save(file)
    run = frostline.fit(photos, **TINY_FIT, image_size=64, out=tmp_path / "run", report=False)
    calibrated = []

    def stop(program, about, images, file):
        calibrated.extend(image.tobytes() for image in images)
        raise RuntimeError("enough")

    monkeypatch.setattr(onnx_format, "write_int8", stop)
    with pytest.raises(MachineError, match="enough"):
        frostline.export_run(run, int8=True, quiet=True)
    assert sorted(calibrated) == sorted(Image.open(file).tobytes() for file in (photos / "train").rglob("*.png"))


@pytest.mark.long
def test_int8_that_loses_more_than_a_point_is_not_written(run, monkeypatch):
    right = onnx_format.answering

    def swapped(*file):
        answer = right(*file)
        return lambda images: answer(images)[:, ::-1]

    monkeypatch.setattr(onnx_format, "answering", swapped)
    result = CliRunner().invoke(command, [str(run), "--int8"], standalone_mode=False)
    assert isinstance(result.exception, MachineError)
    assert result.exception.exit_code == 7
    assert "loses more than a point: accuracy" in str(result.exception)
    assert "nothing was written" in str(result.exception)
    assert list((run / "export").iterdir()) == []


def test_int8_needs_the_images_of_the_run(run, trained):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(trained[1]), "gone"))
    with pytest.raises(DataError, match="int8 needs the run's images, and they are not at hand: .*gone"):
        frostline.export_run(run, int8=True)


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
        ({"format": "torch", "int8": True}, "format torch cannot be in int8; use format onnx or openvino"),
        ({"format": "hub", "out": "."}, "already exists and is not overwritten"),
    ],
)
def test_bad_names_are_refused_at_once(run, options, words):
    with pytest.raises(UsageError, match=words):
        frostline.export_run(run, **options)


@pytest.mark.parametrize("name", ["torch", "safetensors", "pth", "hub"])
def test_what_a_format_cannot_be_comes_before_a_file_that_exists(name, run, tmp_path):
    ending = {"torch": ".pt2", "hub": ""}.get(name, f".{name}")
    (tmp_path / f"there{ending}").touch()
    with pytest.raises(UsageError, match=f"format {name} cannot be in int8"):
        frostline.export_run(run, name, tmp_path / f"there{ending}", int8=True)
    with pytest.raises(UsageError, match="already exists and is not overwritten"):
        frostline.export_run(run, name, tmp_path / f"there{ending}")


def test_a_file_is_never_overwritten(run, tmp_path):
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(UsageError, match="already exists and is not overwritten"):
        frostline.export_run(run, "safetensors", tmp_path / "there.safetensors")
    (tmp_path / "pets.bin").write_text("mine")  # where the weights of pets.xml would go
    with pytest.raises(UsageError, match=r"pets\.bin already exists and is not overwritten"):
        frostline.export_run(run, "openvino", tmp_path / "pets.xml")
    assert (tmp_path / "pets.bin").read_text() == "mine"


def test_the_command_offers_every_format():
    assert OFFERED == FORMATS
