"""The command line as people type it: output, exit codes, bad input."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from conftest import write_photos
from frostline.cli import main

TINY = ["--backbone", "torchvision:resnet18", "--weights", "none", "--image-size", "32", "--plan", "probe"]


@pytest.fixture
def run(capsys):
    """Run the command line; gives (exit code, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(end.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Path, Path]:
    """A run, and the photographs that it was made from."""
    folder = tmp_path_factory.mktemp("fitted")
    photos = write_photos(folder / "photos", 20)
    os.environ["FROSTLINE_CACHE"] = str(folder / "cache")
    with pytest.raises(SystemExit) as end:
        main(["fit", str(photos), *TINY, "--out", str(folder / "run"), "--quiet"])
    assert not end.value.code
    return folder / "run", photos


def test_fit_prints_one_json_document(run, photos, tmp_path):
    code, out, err = run("fit", photos, *TINY, "--out", tmp_path / "run", "--json")
    assert code == 0
    result = json.loads(out)
    assert {"run", "classes", "phases", "valid", "test", "seconds"} <= result.keys()
    assert {"frostline", "epochs", "seconds", "fill_seconds", "cached_bytes", "valid"} <= result["phases"][0].keys()
    assert {"accuracy", "loss"} <= result["phases"][0]["valid"].keys()
    assert result["test"] is None
    assert "phase 1/1: training head" in err


def test_fit_says_where_the_result_lies_and_how_to_go_on(run, photos, tmp_path):
    code, out, err = run("fit", photos, *TINY, "--out", tmp_path / "run")
    assert code == 0
    assert out == f"predict with: frostline predict {tmp_path / 'run'} IMAGES…\n"
    assert "photos: 32 train · 8 valid images · 2 classes: flat, tall" in err


def test_train_is_fit_and_val_is_evaluate(run, photos, tmp_path):
    assert run("train", photos, *TINY, "--out", tmp_path / "run", "--quiet")[0] == 0
    assert run("val", tmp_path / "run", photos, "--quiet")[0] == 0


def test_R23_too_little_memory_is_the_machines_fault(run, photos, tmp_path, monkeypatch):
    def short(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", short)
    code, _, said = run("fit", photos, *TINY, "--out", tmp_path / "run")
    assert code == 7
    assert said.splitlines()[-1].startswith("frostline: too little memory (can't start new thread); end other programs")


def test_the_default_folder_counts_up(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        code, out, _ = run("fit", photos, *TINY, "--json", "--quiet")
        assert (code, json.loads(out)["run"]) == (0, f"runs/photos-resnet18-{number}")


@pytest.mark.long
def test_config_repeats_a_run(run, fitted, tmp_path):
    first, _ = fitted
    assert run("fit", "--config", first / "config.yaml", "--out", tmp_path / "again", "--quiet")[0] == 0
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (first, tmp_path / "again")]
    assert weights[0] == weights[1]


@pytest.mark.long
def test_a_plan_file(run, photos, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("phases:\n  - {frostline: head, epochs: 0}\n  - {frostline: layer4.1, epochs: 1, lr: 1e-4}\n")
    code, out, _ = run("fit", photos, *TINY[:-2], "--plan", plan, "--views", 2, "--out", tmp_path / "run", "--json")
    assert code == 0
    assert [phase["frostline"] for phase in json.loads(out)["phases"]] == ["head", "layer4.1"]


def test_evaluate_prints_json(run, fitted):
    code, out, _ = run("evaluate", *fitted, "--json")
    result = json.loads(out)
    assert code == 0
    assert {"accuracy", "loss", "n", "interval", "per_class"} <= result.keys()
    assert result["n"] == 40
    assert result["interval"][0] <= result["accuracy"] <= result["interval"][1]


def test_evaluate_prints_a_table(run, fitted):
    code, out, _ = run("evaluate", *fitted)
    assert code == 0
    assert out.startswith("all: accuracy ")
    assert "flat " in out


def test_evaluate_matches_classes_by_name(run, fitted, tmp_path):
    folder, photos = fitted
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "tall").symlink_to(photos / "tall")
    code, out, _ = run("evaluate", folder, tmp_path / "some", "--json")
    assert code == 0
    assert json.loads(out)["per_class"]["tall"]["n"] == 20
    assert json.loads(out)["accuracy"] > 0.8


def test_evaluate_refuses_a_class_that_the_run_does_not_know(run, fitted, tmp_path):
    write_photos(tmp_path / "other", 3, ("flat", "wide"))
    code, _, err = run("evaluate", fitted[0], tmp_path / "other")
    assert code == 3
    assert "not in the training data: wide" in err


def test_predict_prints_json_csv_and_a_table(run, fitted):
    folder, photos = fitted
    files = sorted(photos.rglob("*.png"))[:3]
    code, out, _ = run("predict", folder, *files, "--json")
    answers = json.loads(out)
    assert code == 0
    assert [answer["path"] for answer in answers] == [str(file) for file in files]
    assert answers[0].keys() == {"path", "label", "probability", "top"}
    assert answers[0]["top"][0] == [answers[0]["label"], answers[0]["probability"]]
    rows = list(csv.DictReader(io.StringIO(run("predict", folder, *files, "--format", "csv")[1])))
    assert [row["label"] for row in rows] == [answer["label"] for answer in answers]
    table = run("predict", folder, *files)[1].splitlines()
    assert len(table) == 3
    assert table[0].startswith(str(files[0]))


def test_predict_takes_folders(run, fitted):
    code, out, _ = run("predict", fitted[0], fitted[1] / "flat", "--json")
    assert code == 0
    assert len(json.loads(out)) == 20


def test_predict_writes_a_file_by_its_ending(run, fitted, tmp_path):
    """Stumble 30."""
    folder, photos = fitted
    files = sorted(photos.rglob("*.png"))[:3]
    expected = json.loads(run("predict", folder, *files, "--json", "--top", "1")[1])
    assert [len(answer["top"]) for answer in expected] == [1, 1, 1]
    code, out, _ = run("predict", folder, *files, "--top", "1", "--out", tmp_path / "a.jsonl")
    assert (code, out) == (0, "")
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == expected
    assert run("predict", folder, *files, "--out", tmp_path / "a.csv", "--top", "2", "--probabilities")[0] == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text(encoding="utf-8"))))
    classes = [name.removeprefix("p_") for name in rows[0] if name.startswith("p_")]
    for row, answer in zip(rows, expected, strict=True):
        assert row["label"] == answer["label"] == max(classes, key=lambda name: float(row[f"p_{name}"]))
        assert row["label_2"] in classes
    code, _, err = run("predict", folder, files[0], "--out", tmp_path / "a.csv")
    assert (code, "already exists and is not overwritten" in err) == (2, True)
    code, _, err = run("predict", folder, files[0], "--out", tmp_path / "a.xlsx")
    assert (code, "does not end in .csv, .json, .jsonl" in err) == (2, True)


def test_predict_takes_names_from_standard_input(run, fitted, monkeypatch):
    folder, photos = fitted
    files = [str(file) for file in sorted(photos.rglob("*.png"))[:3]]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{files[1]}\n\n{files[2]}".encode())))
    code, out, _ = run("predict", folder, files[0], "-", "--json")
    assert (code, [answer["path"] for answer in json.loads(out)]) == (0, files)


def test_predict_goes_on_past_a_bad_image(run, fitted, tmp_path):
    folder, photos = fitted
    (tmp_path / "bad.jpg").write_text("no")
    code, out, err = run("predict", folder, tmp_path / "bad.jpg", photos / "flat" / "001.png", "--json")
    bad, good = json.loads(out)
    assert code == 6
    assert bad == {"path": str(tmp_path / "bad.jpg"), "error": "not an image of a known format"}
    assert good["label"] == "flat"
    assert "1 of 2 images could not be read" in err


def test_inspect_shows_the_stages(run):
    code, out, _ = run("inspect", "torchvision:resnet18", "--json")
    stages = {stage["name"]: stage for stage in json.loads(out)["stages"]}
    assert code == 0
    assert list(stages) == ["stem", "layer1", "layer2", "layer3", "layer4", "pool", "head"]
    assert stages["layer4"]["stored_bytes"] == 256 * 14 * 14 * 2
    assert stages["stem"]["trains"] == 11_689_512
    assert "layer3" in run("inspect", "torchvision:resnet18")[1]


def test_backbones_lists(run):
    assert run("backbones", "timm:vit_tiny*")[1].splitlines()[0].startswith("timm:vit_tiny")
    assert "bundled:efficientnet-lite0" in run("backbones")[1].splitlines()
    code, _, err = run("backbones", "nothing-like-it")
    assert (code, "no backbone matches" in err) == (2, True)


def test_cache_verify_finds_what_is_damaged(run, photos, tmp_path, own_cache):
    assert run("cache", "verify")[0] == 0
    run("fit", photos, *TINY, "--out", tmp_path / "run")
    assert "shards are intact" in run("cache", "verify")[1]
    shard = next(own_cache.rglob("*.shard"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(bytes(content))
    code, out, _ = run("cache", "verify", "--json")
    assert code == 4
    assert json.loads(out)["damaged"] == [{"file": str(shard), "reason": "rows changed"}]
    code, out, err = run("cache", "verify")
    assert (code, shard.exists()) == (4, True)
    assert f"damaged: {shard} (rows changed)" in out
    assert "frostline cache verify --remove" in err
    assert run("cache", "verify", "--remove")[0] == 4
    assert not shard.exists()
    assert run("cache", "verify")[0] == 0


def test_cache_shows_prunes_and_clears(run, photos, tmp_path, own_cache):
    assert "0 B in 0 stores" in run("cache", "ls")[1]
    run("fit", photos, *TINY, "--out", tmp_path / "run")
    (entry,) = json.loads(run("cache", "ls", "--json")[1])
    assert (entry["label"], entry["shape"]) == ("below head", [512])
    assert "below head  512" in run("cache", "ls")[1]
    entry_folder = next(own_cache.glob("activations/*"))
    left = [own_cache / ".engines.json.0123.tmp", entry_folder / ".shard.0123.tmp"]  # R22
    for file in left:
        file.write_bytes(bytes(5_000_000))
    assert json.loads(run("cache", "ls", "--json")[1])[0]["leftover"] == 5_000_000
    assert "5.0 MB left by a killed process" in run("cache", "ls")[1]
    assert run("cache", "prune", "--to", "1GB")[1].startswith("removed 0 stores")
    assert not any(file.exists() for file in left)
    assert run("cache", "prune", "--to", "1B")[1].startswith("removed 1 store,")
    assert "0 B in 0 stores" in run("cache", "ls")[1]
    (own_cache / "digests.sqlite").touch()
    run("cache", "clear")
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"shape": 5}',
        '{"label": "\\u001b[2J\\ud800", "shape": ["\\n"]}',
        '{"a": ' * 600 + "1" + "}" * 600,
        "[" * 5000,
    ],
    ids=["empty", "no shape", "no text", "deep", "too deep"],
)
def test_a_damaged_entry_is_listed(content, run, own_cache):
    (own_cache / "activations" / "entry").mkdir(parents=True)
    (own_cache / "activations" / "entry" / "entry.json").write_text(content)
    code, out, _ = run("cache", "ls")
    assert code == 0
    assert out.splitlines()[-1].startswith(f"{len(content)} B in 1 store ") or len(content) > 999
    assert all(character.isprintable() for line in out.splitlines() for character in line)
    assert json.loads(run("cache", "ls", "--json")[1])[0]["key"] == "entry"


def test_doctor(run):
    about = json.loads(run("doctor", "--json")[1])
    assert about["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert {"processor", "cores", "training_precision"} <= about.keys()
    text = run("doctor")[1]
    assert f"device {about['device']}: frozen parts in {about['precision']}" in text
    assert f"processor {about['processor']}: {about['cores']} cores" in text


def test_doctor_says_which_extras_are_there(run, monkeypatch):
    monkeypatch.setattr("frostline.extras.lacking", lambda: {"export": [], "wandb": ["wandb"], "serve": ["uvicorn"]})
    assert json.loads(run("doctor", "--json")[1])["extras"]["serve"] == ["uvicorn"]
    assert "\nextras export; not installed: wandb, serve (without uvicorn)\n" in run("doctor")[1]
    monkeypatch.setattr("frostline.extras.lacking", dict)
    assert "\nextras none\n" in run("doctor")[1]


def resnet_file(path: Path, name: str = "resnet18") -> Path:
    save_file(torchvision.models.get_model(name, weights=None).state_dict(), path)
    return path


def test_weights_from_a_file(run, photos, tmp_path):
    file = resnet_file(tmp_path / "resnet18.safetensors")
    code, _, err = run("fit", photos, *TINY, "--weights", file, "--out", tmp_path / "run")
    assert code == 0
    assert "100 of 100 tensors of the network matched" in err


def cases(folder: Path) -> dict[str, tuple[list[object], int, str]]:
    """Data and runs that are none: arguments, exit code, and what the message must say."""
    (folder / "empty").mkdir()
    write_photos(folder / "lonely", 5, ("only",))
    (folder / "existing").mkdir()
    (folder / "existing" / "file").write_text("precious")
    out = ["--out", folder / "out"]
    return {
        "no folder": (["fit", folder / "none", *out], 3, "no such folder"),
        "no name": (["fit", "digitz", *out], 3, "nearest: digits"),
        "no images": (["fit", folder / "empty", *out], 3, "expected"),
        "one class": (["fit", folder / "lonely", *out], 3, "only one class, 'only'"),
        "run": (["predict", folder / "none", "x.jpg"], 2, "no run at"),
        "unfinished": (["evaluate", folder / "existing", folder / "lonely"], 2, "not a finished run"),
    }


def test_bad_input_is_answered_in_one_line(run, tmp_path):
    for name, (arguments, code, message) in cases(tmp_path).items():
        got, out, err = run(*arguments)
        assert (name, got) == (name, code), err
        assert message in err, name
        assert out == ""
        assert err.splitlines()[-1].startswith("frostline: ")
        assert not (tmp_path / "out").exists(), name
    assert (tmp_path / "existing" / "file").read_text() == "precious"


def test_hostile_file_names_cannot_steer_the_terminal(run, fitted, tmp_path):
    bad = tmp_path / "a\x1b[31m\nb.png"
    Image.new("RGB", (9, 9)).save(bad)
    code, out, _ = run("predict", fitted[0], bad)
    assert code == 0
    assert "\x1b" not in out
    assert out.count("\n") == 1


def test_debug_shows_where(photos, tmp_path):
    from frostline.errors import FrostlineError

    with pytest.raises(FrostlineError):
        main(["fit", str(tmp_path / "none"), "--debug"])


def frostline(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "frostline", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_help_does_not_import_torch():
    code = """if True:
        import sys, frostline.cli
        try:
            frostline.cli.main(["fit", "--help"])
        finally:
            assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--backbone" in done.stdout


def test_import_does_not_import_torch():
    code = "import sys, frostline; dir(frostline); frostline.fit; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_python_dash_m_is_the_same():
    done = frostline("--version")
    assert done.returncode == 0
    assert "version" in done.stdout


IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.mark.skipif(os.name == "nt", reason="permissions of folders are others on Windows")
@pytest.mark.skipif(IS_ROOT and not Path("/usr/bin/setpriv").exists(), reason="root may write anywhere")
def test_D20_a_read_only_cache_only_costs_the_store(photos, tmp_path):
    cache = tmp_path / "readonly"
    cache.mkdir(mode=0o555)
    tmp_path.chmod(0o777)
    for parent in (photos, *tmp_path.parents[:3]):
        if parent.stat().st_mode & 0o055 != 0o055:  # not of the system's own folder
            parent.chmod(0o755)
    command = [sys.executable, "-m", "frostline", "fit", str(photos), *TINY, "--out", str(tmp_path / "run")]
    if IS_ROOT:
        command = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all", *command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "FROSTLINE_CACHE": str(cache), "HOME": str(tmp_path)},
    )
    if "Permission denied" in done.stderr and "No module named" in done.stderr:
        pytest.skip("another user cannot read this Python")
    assert done.returncode == 0, done.stderr
    assert "cannot store activations in" in done.stderr
    assert "going on without" in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_C16_an_interrupt_keeps_what_was_done(number, code, tmp_path, request):
    photos = write_photos(tmp_path / "photos", 30)
    plan = tmp_path / "plan.yaml"  # one that does not end by itself
    plan.write_text("- {frostline: head, epochs: 0}\n- {frostline: stem, epochs: 100000, patience: 100000}\n")
    arguments = [*TINY[:-1], str(plan), "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "frostline", "fit", str(photos), *arguments]
    # Where the tests run in the background of a shell, SIGINT is ignored, and what they start would ignore it, too.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    request.addfinalizer(process.kill)
    history = tmp_path / "run" / "history.csv"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (history.exists() and "stem" in history.read_text()):
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert "interrupted; to go on: frostline fit --resume" in err
    assert "Traceback" not in err
    assert (tmp_path / "run" / "checkpoints" / "phase-1.safetensors").exists()
