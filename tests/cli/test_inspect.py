"""The model summary as people read it."""

from __future__ import annotations

import json

import pytest

import frostline
from frostline.cli import main
from frostline.plan import Phase

RESNET = ["torchvision:resnet18", "--image-size", "64"]


@pytest.fixture
def inspect(capsys):
    """Run `frostline inspect`; gives (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["inspect", *arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


def test_one_table_and_what_it_comes_to(inspect):
    code, out, err = inspect(*RESNET, "--frostline", "layer4.1")
    title, header, *rows, trains, stored = out.splitlines()
    assert (code, err) == (0, "")
    assert title.startswith("torchvision:resnet18 · 64 × 64 pixels · ")
    assert " ".join(header.split()) == "stage output parameters size frozen MACs trains from here stored per image"
    cells = {row.split("  ")[0]: row.split() for row in rows}
    assert list(cells) == ["stem", "layer1", "layer2", "layer3", "layer4", "pool", "head"]
    frozen = ["yes", "yes", "yes", "yes", "part", "no", "no"]
    assert [next(c for c in row if c in ("yes", "no", "part")) for row in cells.values()] == frozen
    assert len({len(line) for line in (header, *rows)}) == 1
    assert max(map(len, out.splitlines())) <= 100
    assert trains == "trainable: layer4.1 … head, 5.2 M of 11.7 M parameters (47 MB), 19.4 M of 148.6 M MACs per image"
    assert stored == "the rest runs once: 4.1 kB are cached per image"


def test_the_head_is_the_frostline_unless_another_is_named(inspect):
    _, out, _ = inspect(*RESNET)
    assert "trainable: head, 513.0 k of 11.7 M parameters (47 MB), 512.0 k of 148.6 M MACs per image" in out
    _, out, _ = inspect(*RESNET, "--frostline", "stem")
    assert out.splitlines()[-2].startswith("trainable: stem … head, 11.7 M of 11.7 M parameters")
    assert out.splitlines()[-1] == "nothing is frozen"


def test_json_is_one_document_with_plain_keys(inspect):
    code, out, _ = inspect(*RESNET, "--frostline", "layer4", "--json")
    about = json.loads(out)
    assert code == 0
    assert about["frostline"] == "layer4"
    totals = {"total_parameters", "trained_parameters", "frozen_parameters", "total_macs", "trained_macs"}
    assert totals <= about.keys()
    of_each = {"name", "output_shape", "parameters", "parameter_bytes", "trained_parameters", "frozen", "macs"}
    of_each |= {"trains", "stored_bytes"}
    assert all(stage.keys() == of_each for stage in about["stages"])


def test_macs_that_cannot_be_told_are_a_question_mark(inspect, monkeypatch):
    monkeypatch.setattr("frostline.verbs.inspect.macs_by_position", lambda _: None)
    code, out, _ = inspect(*RESNET)
    assert code == 0
    assert all(" ? " in row for row in out.splitlines()[2:-2])
    assert out.splitlines()[-2] == "trainable: head, 513.0 k of 11.7 M parameters (47 MB)"
    assert json.loads(inspect(*RESNET, "--json")[1])["total_macs"] is None


def test_layers_are_a_second_table_that_adds_up(inspect):
    code, out, _ = inspect(*RESNET, "--frostline", "layer4.1", "--layers")
    assert code == 0
    _, layers, _ = out.split("\n\n")
    header, *lines = layers.splitlines()
    assert " ".join(header.split()) == "layer kind output parameters size output size MACs trains"
    assert lines[0].split() == [
        "conv1",
        "Conv2d",
        "64",
        "×",
        "32",
        "×",
        "32",
        "9.4",
        "k",
        "38",
        "kB",
        "262",
        "kB",
        "9.6",
        "M",
        "no",
    ]
    assert " ".join(lines[-1].split()) == "fc Linear 1000 513.0 k 2.1 MB 4.0 kB 512.0 k yes"
    about = json.loads(inspect(*RESNET, "--frostline", "layer4.1", "--layers", "--json")[1])
    assert len(about["layers"]) == len(lines)
    for key, total in (("parameters", "total_parameters"), ("trained_parameters", "trained_parameters")):
        assert sum(layer[key] for layer in about["layers"]) == about[total]
    assert sum(layer["macs"] for layer in about["layers"]) == about["total_macs"]
    assert sum(stage["parameter_bytes"] for stage in about["stages"]) == about["parameter_bytes"] == 4 * 11_689_512


def test_a_run_is_shown_with_its_head_and_its_frostline(inspect, photos, tmp_path, no_pictures):
    plan = [Phase("head", epochs=0), Phase("layer3", epochs=1)]
    options = {"backbone": "timm:test_resnet", "weights": "none", "image_size": 64, "plan": plan, "quiet": True}
    run = frostline.fit(photos, out=tmp_path / "run", **options)
    code, out, _ = inspect(str(run.path), "--json")
    about = json.loads(out)
    assert code == 0
    assert (about["backbone"], about["run"], about["image_size"]) == ("timm:test_resnet", str(run.path), 64)
    assert about["frostline"] == run.config["plan"]["phases"][-1]["frostline"]
    assert about["stages"][-1]["output_shape"] == [2]
    assert about["parameter_bytes"] == pytest.approx((run.path / "model" / "model.safetensors").stat().st_size, rel=0.1)
    assert json.loads(inspect(str(run.path), "--frostline", "head", "--json")[1])["frostline"] == "head"
    code, _, err = inspect(str(run.path), "--data", str(photos))
    assert code == 2
    assert "give the name of a backbone instead" in err


def test_an_unknown_frostline_is_a_usage_error(inspect):
    code, out, err = inspect(*RESNET, "--frostline", "layer5")
    assert (code, out) == (2, "")
    assert "unknown stage 'layer5'; nearest: layer" in err


def test_with_data_a_table_for_each_phase_marks_the_choice(inspect, photos, tmp_path):
    arguments = ["--data", str(photos), "--plan", "gradual", "--store", str(tmp_path / "cache")]
    code, out, _ = inspect(*RESNET, *arguments)
    assert code == 0
    blocks = out.split("\n\n")[1:]
    assert [block.split(":")[0] for block in blocks] == ["phase head", "phase layer4", "phase layer3"]
    for block in blocks:
        title, header, *rows = block.strip().splitlines()
        assert "images/s decoded" in title
        assert header.split()[0] == "stored"
        assert sum(row.endswith("chosen") for row in rows) == 1
        assert rows[-1].startswith("nowhere")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_data_that_is_not_there_is_refused(inspect, tmp_path):
    code, out, err = inspect(*RESNET, "--data", str(tmp_path / "none"))
    assert (code, out) == (3, "")
    assert "none" in err
