"""Rows C01 to C20 of the test matrix: what is typed, and what configurations say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from commands import command
from conftest import write_photos
from frostline import machine, values
from frostline.machine import find_machine
from refusing import refused

TINY = ["--backbone", "timm:test_resnet", "--weights", "none", "--image-size", "32", "--precision", "fp32", "--quiet"]
PLAIN = "backbone: timm:test_resnet\nweights: none\nimage_size: 32\nprecision: fp32\nplan: probe\n"
NINE = f"[{', '.join(['x'] * 9)}]"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 12)


@pytest.fixture
def fit(photos, tmp_path):
    """The words of a small fit; no refused one leaves a run."""
    out = tmp_path / "out"
    yield ["fit", photos, *TINY, "--plan", "probe", "--out", out]
    assert not out.exists()


@pytest.fixture
def written(tmp_path):
    """Writes a YAML file and gives the words that use it: as a configuration or as a plan."""

    def write(text: str | bytes, flag: str = "--config") -> list[object]:
        (tmp_path / "own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return [flag, tmp_path / "own.yaml"]

    return write


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["fit", "x", "--epohs", "1"], "--epochs"),
        (["predict", "x", "y", "--jsn"], "--json"),
        (["fitt", "x"], "unknown command 'fitt'; nearest: fit"),
        (["fit"], "DATA is missing: give a folder"),
        (["predict"], "Missing argument 'RUN'"),
        (["fit", "x", "--epochs"], "--epochs"),
        (["fit", "x", "--config", "no-such.yaml"], "no-such.yaml"),
    ],
)
def test_C01_unknown_flags_and_verbs(words, text):
    refused(2, text, *words)


UNKNOWN = [
    ("lerning_rate: 3\n", "own.yaml: unknown option 'lerning_rate'"),
    ("epohs: 3\n", "unknown option 'epohs'; nearest: epochs"),
    ("1: 2\n", "unknown option '1'"),
    ("null: 2\n", "unknown option 'None'"),
]


@pytest.mark.parametrize(("line", "text"), UNKNOWN)
def test_C02_unknown_keys_of_a_configuration(line, text, photos, written):
    refused(2, text, "fit", photos, *written(PLAIN + line))


def test_C02_unknown_keys_within_phases(photos, written):
    plan = "plan: {phases: [{frostline: head, epochs: 0}, {frostline: layer4, epohs: 3}]}\n"
    text = "own.yaml, phase 2: unknown key 'epohs'; nearest: epochs"
    refused(2, text, "fit", photos, *written(PLAIN.replace("plan: probe\n", plan)))
    refused(2, text, "fit", photos, *TINY, *written("- head\n- {frostline: layer4, epohs: 3}\n", "--plan"))


@pytest.mark.parametrize("flag", ["--config", "--plan"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("phases: 1\nphases: 2\n", "line 2, column 1: found the key 'phases' a second time"),
        ("phases:\n\t- head\n", "line 2, column 1: found character '\\t' that cannot start any token"),
        (f"a: &a {NINE}\nb: [{', '.join(['*a'] * 101)}]\n", "line 2, column 405: found more than 100 aliases"),
        (b"#" * 1_000_001, "is larger than 1,000,000 bytes"),
        ("", "own.yaml"),
        ("3\n", "own.yaml"),
        ("!!python/object/apply:os.system ['touch marker']\n", "could not determine a constructor for the tag"),
        ("!!python/name:os.system\n", "could not determine a constructor for the tag"),
        ("[" * 100_000, "own.yaml is not valid YAML"),
        ("a: [1\n", "line 2, column 1: expected ',' or ']'"),
        (b"\xff\xfe\x00a", "own.yaml is not valid YAML"),
        ("? [a]\n: 3\n", "found unhashable key"),
    ],
)
def test_C03_hostile_yaml(content, text, flag, photos, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(2, text, "fit", photos, *TINY, *written(content, flag))
    assert not (tmp_path / "marker").exists()


def bomb(depth: int) -> str:
    """Ten lines that unfold to 9 ** depth words."""
    lines = [f"a: &a {NINE}"]
    lines += [f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]" for below, name in zip("abcdefgh", "bcdefghi")]  # noqa: B905
    return "\n".join(lines[:depth]) + "\n"


@pytest.mark.parametrize("depth", [9, 3])
@pytest.mark.parametrize("flag", ["--config", "--plan"])
def test_R07_alias_bomb(flag, depth, photos, written):
    """Few lines take no memory, whether refused for their number of aliases or, below it, for what they are."""
    name = "abcdefghi"[depth - 1]
    last = "phases: *" if flag == "--plan" else "image_size: *"
    called = refused(2, "own.yaml", "fit", photos, *written(bomb(depth) + f"{last}{name}\n", flag))
    assert called.seconds < 2
    assert len(called.err) < 2_000
    assert called.grown < 50


@pytest.mark.parametrize("name", ["backbone", "image_size", "lr", "plan", "class_weights", "augment", "loss", "device"])
def test_R07_a_value_that_unfolds_is_shown_in_short(name, photos, written):
    """81 aliases are allowed; what is wrong with the value is still said in one short line."""
    value = f"&b [{', '.join(['&a ' + NINE] + ['*a'] * 80)}]"
    kept = "\n".join(line for line in PLAIN.splitlines() if not line.startswith(f"{name}:"))
    called = refused(2, "", "fit", photos, *written(f"{kept}\n{name}: {value}\n"))
    assert len(called.err) < 2_000


def test_R07_a_configuration_has_a_size_limit(photos, written):
    called = refused(2, "nobody's settings", "fit", photos, *written("# comment\n" * 1_000_000))
    assert called.seconds < 1
    assert values.MOST_YAML_BYTES == 1_000_000


VALUES = {
    "epochs: many": "epochs is 'many'; it must be a whole number",
    "epochs: 1.5": "epochs is 1.5; it must be a whole number",
    "seed: [1]": "seed is [1]; it must be a whole number",
    "seed: .nan": "seed is nan; it must be a whole number",
    "image_size: big": "image_size is 'big'; it must be a whole number",
    "device: []": "device is []; it must be a name",
    "plan: [1, 2]": "must be a list of phases",
    "plan: 5": "plan is 5; it must be a name",
    "plan: {phases: 3}": "the plan has no list of phases",
    "plan: {phases: [3]}": "phase 1: found 3; a phase must be a mapping",
    "plan: {phases: [{frostline: [head]}]}": "frostline is ['head']; it must be a name",
    "mixup: {}": "mixup is {}; it must be a number",
    "backbone: null": "backbone is None; it must be a name",
    "backbone: !!binary aGVsbG8=": "backbone is b'hello'; it must be a name",
    "weights: []": "weights is []; it must be a name",
    "cache: 'no way'": "cache is 'no way'; it must be true or false",
    "class_weights: balancd": "nearest: balanced",
    "class_weights: {flat: x, tall: 1}": "class_weights",
    "class_weights: {flat: .nan, tall: 1}": "class_weights",
    "class_weights: {1: 2}": "class_weights",
    "loss: 3": "loss is 3; it must be one of",
    "metric: []": "metric is []; it must be one of",
    "log_to: 3": "log_to is 3; it must be a list of",
    "augment: {}": "augment is {}; it must be one of",
    "images: {}": "images is {}; it must be a name",
    "time: 5": "time is 5; it must be a name",
    "time: 2001-01-01": "it must be a name",
    "memory: x": "is no size; write it as in 20GB",
    "cache_budget: []": "cache_budget is []; it must be a name",
    "workers: many": "workers is 'many'; it must be a whole number",
    "quiet: 2": "quiet is 2; it must be true or false",
    "precision: []": "precision is []; it must be one of",
    "views: true": "views is True; it must be a whole number",
    "out: []": "out is []; it must be a name",
}


@pytest.mark.parametrize("line", VALUES)
def test_R06_values_of_a_configuration_are_checked(line, photos, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = line.partition(":")[0]
    kept = "\n".join(each for each in PLAIN.splitlines() if not each.startswith(f"{name}:"))
    refused(2, VALUES[line], "fit", photos, *written(f"{kept}\n{line}\n"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("line", ["data: []", "data: 5", "data: {a: 1}", "data: 2001-01-01"])
def test_R06_data_of_a_configuration_that_is_none(line, written):
    assert command("fit", *written(f"{PLAIN}{line}\n")).code in (2, 3)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9"])
def test_C04_learning_rates_out_of_range(value, fit):
    refused(2, f"lr is {float(value)}; it must be above 0, at most 100", *fit, "--lr", value)
    refused(2, "is not a valid float", *fit, "--lr", "x")


def test_C04_a_learning_rate_may_be_written_in_any_way(photos, written):
    """YAML reads 1e-3, without a point, as text."""
    text = PLAIN.replace("plan: probe", "lr: 1e-3\nplan: {phases: [{frostline: nosuch, lr: 1e-3}]}")
    refused(2, "unknown stage 'nosuch'; there are", "fit", photos, *written(text))


SIZES = {
    ("--epochs", "0"): "epochs is 0; it must be at least 1; use --plan probe",
    ("--epochs", "-1"): "epochs is -1; it must be 0 … 100000",
    ("--epochs", "1.5"): "'1.5' is not a valid integer",
    ("--batch-size", "0"): "batch_size is 0; it must be 1 … 100000",
    ("--workers", "-1"): "workers is -1; it must be 1 … 256",
    ("--workers", "1000"): "workers is 1000; it must be 1 … 256",
    ("--image-size", "0"): "image_size is 0 pixels; it must be 16 … 4096",
    ("--image-size", "7"): "image_size is 7 pixels; it must be 16 … 4096",
    ("--image-size", "100000"): "it must be 16 … 4096",
    ("--views", "0"): "views is 0; it must be 1 … 1000",
    ("--cache-budget", "lots"): "'lots' is no size; write it as in 20GB or 500MB",
    ("--time", "soon"): "'soon' is not a time; write it as in 10m, 90s or 1h30m",
    ("--mixup", "-1"): "mixup is -1.0; it must be 0 … 10",
    ("--folds", "1"): "folds",
}


@pytest.mark.parametrize("flags", SIZES, ids=" ".join)
def test_C05_numbers_out_of_range(flags, fit):
    refused(2, SIZES[flags], *fit, *flags)


def test_C05_a_batch_larger_than_the_data_set_is_all_of_it(photos, tmp_path):
    called = command(
        "fit", photos, *TINY, "--plan", "full", "--epochs", "1", "--batch-size", "5000", "--out", tmp_path / "run"
    )
    assert called.code == 0, called.err


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999", "1.5"])
def test_R15_a_seed_out_of_range(seed, fit):
    refused(2, "seed", *fit, "--seed", seed)


@pytest.mark.parametrize("device", ["meta", "cuda:9", "cuda", "mps", "nosuch", "cpu:x", ""])
def test_R15_devices_that_compute_nothing(device, fit):
    refused(7, f"this machine has no device '{device}'; it has cpu", *fit, "--device", device)


BACKBONES = {
    "torchvision:resnet81": "unknown backbone 'torchvision:resnet81'; nearest: torchvision:resnet18",
    "resnet18": "use torchvision:resnet18 or timm:resnet18",
    "tim:resnet18": "nearest: timm",
    "": "unknown backbone ''",
    "..": "unknown backbone '..'",
    "x" * 500: "unknown backbone",
    "efficientnet": "torchvision:efficientnet_b0",
}


@pytest.mark.parametrize("name", BACKBONES)
def test_C06_unknown_backbones(name, fit):
    called = refused(2, BACKBONES[name], *fit, "--backbone", name)
    assert called.err.count(", ") <= 5


def test_C06_unknown_weights_of_a_backbone(fit):
    text = "torchvision:resnet18 has no weights 'IMAGENET'; it has IMAGENET1K_V1"
    refused(2, text, *fit, "--backbone", "torchvision:resnet18", "--weights", "IMAGENET")


PLANS = {
    "C07": ("- {frostline: head, epochs: 1, freeze: [nosuch*]}\n", "'nosuch*'; there are fc, fc.weight, fc.bias"),
    "C08": ("- {frostline: head, epochs: 1, freeze: ['*']}\n", "freezes the new head too: it would never learn"),
    "C09 rising": ("- {frostline: layer2, epochs: 1}\n- head\n", "phase 2: the frostline rises to 'head' in the plan"),
    "C09 empty": ("phases: []\n", "has no list of phases"),
    "C09 unknown": ("- head\n- nosuch\n", "phase 2: unknown stage 'nosuch'; there are "),
    "C09 near": ("- head\n- layer5\n", "phase 2: unknown stage 'layer5'; nearest: layer4"),
    "C09 of no name": ("- {epochs: 3}\n", "phase 1: found {'epochs': 3}; a phase must be a mapping with at least"),
    "C09 another key": ("phases: [head]\nsed: 1\n", "unknown key 'sed'; there are phases"),
}


def wrong_plan(name: str, fit: list[object], written) -> None:
    content, text = PLANS[name]
    refused(2, text, *fit, *written(content, "--plan"))


def test_C07_a_pattern_that_freezes_nothing(fit, written):
    wrong_plan("C07", fit, written)


def test_C08_nothing_left_to_train(fit, written):
    wrong_plan("C08", fit, written)


@pytest.mark.parametrize("name", [name for name in PLANS if name.startswith("C09")])
def test_C09_phases_that_are_no_plan(name, fit, written):
    wrong_plan(name, fit, written)


@pytest.mark.parametrize("name", ["phases", "frostline"])
def test_R17_keys_that_are_there_twice(name, fit, photos, written):
    twice = "phases: [head]\nphases: [layer4]\n" if name == "phases" else "- {frostline: head, frostline: layer4}\n"
    refused(2, f"found the key '{name}' a second time", *fit, *written(twice, "--plan"))
    refused(
        2, "line 6, column 1: found the key 'weights' a second time", "fit", photos, *written(f"{PLAIN}weights: x\n")
    )


def test_R17_data_of_a_configuration_is_named_as_it_was_there(photos, written, tmp_path, monkeypatch):
    """A run that was fitted in one folder is repeated in another."""
    monkeypatch.chdir(tmp_path)
    words = written(f"{PLAIN}data: {photos.name}\n")
    text = f"{words[1]} names this data; if it lies elsewhere, give it as DATA, too"
    refused(3, text, "fit", *words, "--out", tmp_path / "run")
    assert command("fit", photos, *words, "--out", tmp_path / "run").code == 0


def test_R17_an_unknown_key_of_a_plan(fit, written):
    wrong_plan("C09 another key", fit, written)


@pytest.mark.parametrize("device", ["cuda", "cuda:9", "mps"])
def test_C10_a_device_that_is_not_here(device, fit):
    refused(7, f"this machine has no device '{device}'; it has cpu", *fit, "--device", device)


def test_C11_a_precision_that_is_none(fit):
    refused(2, "'auto', 'bf16', 'fp32'", *fit, "--precision", "fp16")


def test_C11_auto_computes_in_bf16_only_where_the_processor_does(monkeypatch):
    machine._cpu_is_faster_in_bf16.cache_clear()
    monkeypatch.setattr(machine, "bf16_instructions", frozenset)
    assert find_machine("cpu", "auto").precision == find_machine("cpu", "auto").training_precision == "fp32"
    machine._cpu_is_faster_in_bf16.cache_clear()


def test_C12_a_run_is_never_overwritten(fit, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("precious")
    for name in ("taken", "taken/file"):
        refused(2, "already exists, and a run is never overwritten; give another --out", *fit, "--out", tmp_path / name)
    assert (tmp_path / "taken" / "file").read_text() == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="other devices there")
@pytest.mark.parametrize("out", ["/proc/x", "/dev/null/x", "/dev/null"])
def test_C12_where_no_run_can_be_written(out, fit):
    called = refused(2, out, *fit, "--out", out)
    assert called.seconds < 5  # before anything is computed


@pytest.fixture
def no_network(monkeypatch, tmp_path) -> list[str]:
    """Empty caches, and no host has an address; gives the hosts that were asked for."""
    from huggingface_hub import constants

    asked: list[str] = []

    def nowhere(host: str, *_: object, **__: object) -> NoReturn:
        asked.append(host)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("FROSTLINE_OFFLINE", "HF_HUB_OFFLINE", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return asked


@pytest.mark.parametrize("offline", ["", "1", "true"])
@pytest.mark.parametrize("backbone", ["torchvision:resnet18", "timm:resnet18"])
def test_C13_weights_that_are_not_here(backbone, offline, photos, tmp_path, no_network, monkeypatch):
    if offline:
        monkeypatch.setenv("FROSTLINE_OFFLINE", offline)
    words = ["fit", photos, "--backbone", backbone, "--out", tmp_path / "run"]
    called = refused(7, f"the pretrained weights of {backbone} are not on this machine", *words)
    assert "give --weights FILE, --weights none, or use the backbone efficientnet-lite0" in called.err
    assert called.seconds < 5
    assert len(no_network) <= (0 if offline else 2)  # asked once, and not again and again
    assert (f"FROSTLINE_OFFLINE={offline} forbids downloads" in called.err) == bool(offline)


@pytest.mark.parametrize("offline", ["1", "on"])
def test_C13_a_data_set_that_is_not_here(offline, tmp_path, no_network, monkeypatch):
    monkeypatch.setenv("FROSTLINE_OFFLINE", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["fit", "cifar10", "--download", "--out", tmp_path / "run"]
    refused(7, f"cifar10 cannot be fetched: FROSTLINE_OFFLINE={offline} forbids it", *words)
    assert no_network == []


def frostline(*words: object, then: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own; then: what follows it there."""
    line = " ".join([sys.executable, "-m", "frostline", *map(str, words)])
    return subprocess.run(
        ["bash", "-c", f"{line} {then}"],
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "", **environment},
    )


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize("words", ["datasets", "--help", "fit --help", "datasets --json"])
def test_C17_a_reader_that_has_enough_is_no_error(words):
    result = frostline(words, then="| true; exit ${PIPESTATUS[0]}")
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_C17_a_closed_standard_output():
    result = frostline("datasets", then=">&-")
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_C17_output_that_cannot_be_written_is_an_error():
    result = frostline("datasets", then="> /dev/full")
    assert result.returncode == 7
    assert b"No space left on device" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize(
    "environment",
    [
        {"TERM": "dumb"},
        {"COLUMNS": "20"},
        {"COLUMNS": "x", "LINES": "-1"},
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"NO_COLOR": "1"},
    ],
    ids=str,
)
def test_C17_terminals_of_few_abilities(environment):
    table, error = frostline("datasets", **environment), frostline("fït", "x", **environment)
    assert (table.returncode, error.returncode) == (0, 2)
    assert b"cifar10" in table.stdout
    assert b"unknown command" in error.stderr
    assert b"\x1b" not in table.stdout + table.stderr + error.stderr


@pytest.mark.skipif(os.name == "nt", reason="other variables name the home there")
@pytest.mark.parametrize("missing", ["HOME", "TMPDIR", "cwd"])
def test_C18_a_home_a_folder_or_a_place_that_is_not_there(missing, photos, tmp_path, monkeypatch):
    if missing == "HOME":  # rows have no other place than the home
        monkeypatch.delenv("FROSTLINE_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/proc/nowhere")
    elif missing == "TMPDIR":
        monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    else:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    words = [word for word in TINY if word != "--quiet"]
    called = command("fit", photos, *words, "--plan", "probe", "--out", tmp_path / "run")
    assert called.code == 0, called.err
    assert ("not caching" in called.err) == (missing == "HOME")


def test_C18_a_default_folder_where_there_is_none(photos, tmp_path, monkeypatch):
    """Without --out a run lies in the present folder, which may be gone."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    called = command("fit", photos, *TINY, "--plan", "probe")
    assert called.code in (2, 7), called.err
    assert "cannot create the run folder" in called.err or "No such file" in called.err


NAMES = {
    "zero byte": ("a\0b", "a name cannot hold a zero byte"),
    "300 characters": ("x" * 300, "File name too long"),
    "below a file": ("/dev/null/../../x" * 3, "cannot create the run folder"),
}


@pytest.mark.parametrize("name", NAMES)
def test_C19_odd_names_of_runs(name, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, text = NAMES[name]
    refused(2, text, "fit", photos, *TINY, "--plan", "probe", "--out", out)


@pytest.mark.parametrize("flag", ["--weights", "--backbone", "--plan", "--store", "--data", "--images", "--group"])
def test_C19_odd_names_elsewhere(flag, fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a\0b", "x" * 5_000):
        words = ["fit", name, *fit[2:]] if flag == "--data" else [*fit, flag, name]
        if flag in ("--store", "--images", "--group") and "\0" not in name:
            continue
        called = command(*words)
        assert called.code in (2, 3), (flag, called)
        assert "\0" not in called.err


@pytest.mark.skipif(os.name == "nt", reason="names are no bytes there")
def test_C19_a_name_with_spaces_a_newline_and_an_escape(photos, tmp_path, monkeypatch):
    out = tmp_path / "a b" / "c\nd\x1b[31m"
    called = command("fit", photos, *(word for word in TINY if word != "--quiet"), "--plan", "probe", "--out", out)
    assert called.code == 0, called.err
    assert "\x1b" not in called.out + called.err
    assert (out / "model" / "model.json").is_file()


@pytest.mark.parametrize("value", ["maybe", "2", "ja"])
def test_C20_a_word_that_is_neither_on_nor_off(value, photos, tmp_path, no_network, monkeypatch):
    """It may have been meant to forbid what it would not forbid."""
    monkeypatch.setenv("FROSTLINE_OFFLINE", value)
    words = ["fit", photos, "--backbone", "torchvision:resnet18", "--out", tmp_path / "run"]
    refused(2, f"FROSTLINE_OFFLINE is '{value}'; set it to 1 to forbid downloads, to 0 to allow them", *words)
    assert no_network == []


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONIOENCODING", "XDG_CACHE_HOME"])
def test_C20_other_variables_of_no_sense(variable, tmp_path):
    """They are other programs'; what they say must not end ours with a traceback."""
    result = frostline("datasets", "--json", **{variable: "x"}, FROSTLINE_CACHE="")
    if variable != "PYTHONIOENCODING":  # Python itself refuses to start
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are bytes")
def test_C20_a_store_whose_name_is_no_unicode(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("FROSTLINE_CACHE", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    called = command("fit", photos, *TINY, "--plan", "probe", "--out", tmp_path / "run")
    assert called.code in (0, 2), called.err
