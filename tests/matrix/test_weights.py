"""Rows D01 to D26 of the test matrix: weights, classifiers and stores that are broken, foreign or hostile."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

import frostline
from commands import command
from conftest import write_photos
from frostline.errors import DivergedError
from frostline.files import sha256_of
from frostline.plan import Phase
from refusing import refused

BACKBONE = ["--backbone", "timm:test_resnet", "--image-size", "32", "--precision", "fp32"]
PROBE = [*BACKBONE, "--plan", "probe"]
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 12)


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    """A run that nobody may change."""
    folder = tmp_path_factory.mktemp("runs")
    os.environ["FROSTLINE_CACHE"] = str(folder / "cache")
    assert command("fit", photos, *PROBE, "--weights", "none", "--quiet", "--out", folder / "run").code == 0
    return folder / "run"


@pytest.fixture
def copied(run, tmp_path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def picture(photos) -> Path:
    return photos / "flat" / "001.png"


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return dict(timm.create_model("test_resnet", num_classes=7).state_dict())


@pytest.fixture
def fit(photos, tmp_path) -> Callable[..., list[object]]:
    """The words of a fit that starts from a weights file."""
    return lambda file: ["fit", photos, *PROBE, "--weights", file, "--out", tmp_path / "out"]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


class Building:
    """The same when its state is set."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __setstate__(self, state: Any) -> None:
        Path(state["marker"]).touch()


def evil(kind: str, file: Path, marker: Path) -> None:
    if kind == "plain pickle":
        file.write_bytes(pickle.dumps({"state_dict": Touch(marker)}))
    elif kind == "protocol 0":
        file.write_bytes(pickle.dumps(Touch(marker), 0))
    elif kind == "__setstate__":
        torch.save({"fc.weight": torch.zeros(1), "x": Building(marker)}, file)
    elif kind == "legacy":
        torch.save({"x": Touch(marker)}, file, _use_new_zipfile_serialization=False)
    elif kind == "eval":
        file.write_bytes(b"cbuiltins\neval\n(S'open(%r, \"w\")'\ntR." % str(marker).encode())
    elif kind == "import":
        file.write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(marker).encode())
    else:
        torch.save({"fc.weight": torch.zeros(1), "x": Touch(marker)}, file)


EVIL = ["zip", "plain pickle", "protocol 0", "__setstate__", "legacy", "eval", "import"]


@pytest.mark.parametrize("kind", EVIL)
def test_D01_code_in_weights_is_never_run(kind, fit, tmp_path):
    marker = tmp_path / "marker"
    evil(kind, tmp_path / "evil.pth", marker)
    answer = refused(4, "a pickle can run code, so nothing in it was run", *fit(tmp_path / "evil.pth"))
    assert "torch.save(model.state_dict(), …)" in answer.error
    assert not marker.exists()


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".ckpt"])
def test_D01_the_name_of_what_would_run_is_told(ending, fit, tmp_path):
    evil("zip", tmp_path / f"evil{ending}", tmp_path / "marker")
    answer = refused(4, "Found: posix.system" if os.name == "posix" else "Found:", *fit(tmp_path / f"evil{ending}"))
    assert "weights_only" not in answer.error  # torch's advice is to load it all the same


@pytest.mark.parametrize("words", [["predict"], ["evaluate"], ["export", "--format", "onnx"], ["serve"], ["report"]])
def test_D01_nor_in_a_file_in_place_of_a_run(words, photos, tmp_path):
    marker, folder = tmp_path / "marker", tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    for name in ("model.safetensors", "golden.safetensors", "model.json"):
        evil("plain pickle", folder / "model" / name, marker)
    (folder / "config.yaml").write_text("!!python/object/apply:os.system ['touch marker']\n")
    (folder / "metrics.json").write_bytes(pickle.dumps(Touch(marker)))
    answer = command(words[0], folder, *([photos] if words[0] in ("predict", "evaluate") else []), *words[1:])
    assert answer.code in (2, 4), answer
    assert not marker.exists()


def test_D02_a_whole_module(fit, tmp_path):
    torch.save(timm.create_model("test_resnet"), tmp_path / "module.pth")
    answer = refused(4, "holds more than tensors", *fit(tmp_path / "module.pth"))
    assert "torch.save(model.state_dict(), …)" in answer.error


@pytest.mark.parametrize("ending", [".pt2", ".pkl", ".joblib", ".keras", ".h5", ".mar", ".PKL"])
def test_D03_kinds_of_files_that_hold_code(ending, fit, tmp_path):
    marker = tmp_path / "marker"
    evil("plain pickle", tmp_path / f"x{ending}", marker)
    refused(4, "is of a kind that can run code, and is not opened", *fit(tmp_path / f"x{ending}"))
    assert not marker.exists()


def test_D03_a_torchscript_program(fit, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "program.pt"))
    answer = refused(4, "Found: a TorchScript program", *fit(tmp_path / "program.pt"))
    assert "weights_only" not in answer.error


def test_D03_other_files_and_what_is_no_file(fit, tmp_path):
    (tmp_path / "x.txt").write_text("garbage")
    refused(2, "has no known extension of a weights file", *fit(tmp_path / "x.txt"))
    refused(2, "there is no weights file", *fit(tmp_path / "none.pth"))
    refused(2, "there is no weights file", *fit("https://example.com/weights.pth"))
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(2, "there is no weights file", *fit(tmp_path / "pipe.safetensors"))


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda content: content[: len(content) // 2],
    "one byte less": lambda content: content[:-1],
    "nothing": lambda _: b"",
    "a header only": lambda content: content[:20],
    "a header of 2^63 bytes": lambda _: b"\xff" * 7 + b"\x7f{}",
    "a header of a terabyte": lambda content: (2**40).to_bytes(8, "little") + content[8:],
    "a header that lies": lambda content: content.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
    "text": lambda _: b"<!DOCTYPE html>" * 9,
}


@pytest.mark.parametrize("how", BROKEN)
def test_D04_broken_safetensors(how, state, fit, tmp_path):
    save_file(state, tmp_path / "whole.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(BROKEN[how]((tmp_path / "whole.safetensors").read_bytes()))
    answer = refused(4, "is corrupt or not a safetensors file", *fit(tmp_path / "broken.safetensors"))
    assert answer.grown < 50


@pytest.mark.parametrize("name", ["model.safetensors", "golden.safetensors"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_D05_files_of_a_classifier_that_changed(how, name, copied, picture):
    file = copied / "model" / name
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content if how == "flip" else content[:-100])
    text = f"{name} differs from the file that was written"
    if how == "gone":
        file.unlink()
        text = f"{name} cannot be read"
    answer = refused(4, text, "predict", copied, picture)
    assert "copy it again" in answer.error


def test_D06_numbers_that_are_none_in_weights(state, fit, tmp_path):
    name = next(name for name, value in state.items() if value.ndim == 4)
    for value in (math.nan, math.inf):
        torch.save({**state, name: torch.full_like(state[name], value)}, tmp_path / "w.pth")
        refused(4, f"is damaged: {name} holds values that are not finite", *fit(tmp_path / "w.pth"))


def test_D06_and_in_a_run(copied, picture):
    """Also where the digest has been made to fit (R11): the golden pictures have no outputs."""
    file = copied / "model" / "model.safetensors"
    head = {n: torch.full_like(v, math.nan) if n.startswith("fc.") else v for n, v in load_file(file).items()}
    save_file(head, file)
    described = json.loads((copied / "model" / "model.json").read_text())
    described["files"]["model.safetensors"] = sha256_of(file)
    (copied / "model" / "model.json").write_text(json.dumps(described))
    refused(4, "gives other outputs than when it was written", "predict", copied, picture, "--json")


def test_D07_weights_of_another_architecture(state, fit, tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    answer = refused(4, "is for another architecture: ", *fit(tmp_path / "vit.pth"))
    assert "tensors of the network matched" in answer.error
    assert len(answer.error) < 1_000
    name = next(name for name, value in state.items() if value.ndim == 4)
    torch.save({**state, name: torch.zeros(9, 3, 3, 3)}, tmp_path / "shape.pth")
    answer = refused(4, f"{name} is (9, 3, 3, 3) in the file and ", *fit(tmp_path / "shape.pth"))
    assert "name the file's backbone" in answer.error


def test_D08_other_classes(state, fit, tmp_path, run):
    """A head of seven classes is replaced for training; a classifier meets no class that it does not know."""
    torch.save(state, tmp_path / "seven.pth")
    answer = command(*fit(tmp_path / "seven.pth"))
    assert answer.code == 0, answer.err
    assert "tensors of the network matched" in answer.err
    other = write_photos(tmp_path / "other", 3, ("flat", "tall", "wide"))
    refused(3, "wide", "evaluate", run, other)


WRAPPED: dict[str, Callable[[State], Any]] = {
    "module.": lambda s: {f"module.{name}": value for name, value in s.items()},
    "_orig_mod.module.": lambda s: {f"_orig_mod.module.{name}": value for name, value in s.items()},
    "model. in state_dict": lambda s: {"state_dict": {f"model.{n}": v for n, v in s.items()}, "epoch": 3},
    "model_ema": lambda s: {"model_ema": s},
    "more than the network": lambda s: {**s, "extra": torch.zeros(3)},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_D09_wrappers_are_taken_off(how, state, fit, tmp_path):
    torch.save(WRAPPED[how](state), tmp_path / "w.pth")
    answer = command(*fit(tmp_path / "w.pth"))
    assert answer.code == 0, answer.err
    share = answer.err.partition(" tensors of the network matched")[0].split()[-3:]
    assert share[0] == share[2]


def test_D09_less_than_half_of_a_network_is_refused(state, fit, tmp_path):
    some = dict(list(state.items())[: len(state) // 3])
    torch.save(some, tmp_path / "w.pth")
    refused(4, "is for another architecture: ", *fit(tmp_path / "w.pth"))


def changed(state: State, change: Callable[[torch.Tensor], torch.Tensor]) -> State:
    return {name: change(value) if value.is_floating_point() else value for name, value in state.items()}


CAST = [torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", CAST)
def test_D10_floats_of_other_sizes_are_cast(dtype, state, fit, tmp_path):
    torch.save(changed(state, lambda value: value.to(dtype)), tmp_path / "w.pth")
    answer = command(*fit(tmp_path / "w.pth"))
    assert answer.code == 0, answer.err


ODD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "int8": lambda value: value.to(torch.int8),
    "bool": lambda value: value > 0,
    "complex64": lambda value: value.to(torch.complex64),
    "sparse": lambda value: value.to_sparse(),
    "without numbers": lambda value: value.to("meta"),
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")  # torch announces the end of some kinds
@pytest.mark.parametrize("kind", ODD)
def test_R09_tensors_that_are_no_plain_floats(kind, state, fit, tmp_path):
    torch.save(changed(state, ODD[kind]), tmp_path / "w.pth")
    answer = refused(4, f" is {kind}, and the network has float32", *fit(tmp_path / "w.pth"))
    assert "save the weights as floats, before any quantisation" in answer.error


def test_D10_what_does_not_fit_into_the_networks_numbers(state, fit, tmp_path):
    torch.save(changed(state, lambda value: value.double() * 1e300), tmp_path / "w.pth")
    refused(4, "holds values that are not finite", *fit(tmp_path / "w.pth"))


def test_R11_variances_below_zero(state, fit, tmp_path):
    """They are no question of the learning rate."""
    name = next(name for name in state if name.endswith("running_var"))
    torch.save({**state, name: state[name] - 2}, tmp_path / "w.pth")
    refused(4, f"is damaged: {name} holds variances below 0", *fit(tmp_path / "w.pth"))


def described(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description of a classifier."""
    file = folder / "model" / "model.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_D11_another_format_and_none(copied, picture):
    described(copied, lambda values: values.update(format=99))
    refused(4, "has format 99, but this version of Frostline reads format 4", "predict", copied, picture)
    (copied / "model" / "model.json").write_text("{")
    refused(4, "is corrupt: model.json cannot be used", "predict", copied, picture)
    (copied / "model" / "model.json").unlink()
    refused(2, "is not a finished run: it has no model/model.json", "predict", copied, picture)


def inner(key: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda described: described[key].update(values)


BELIEVED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another mean": inner("preprocessing", mean=[0.1, 0.2, 0.3]),
    "four times the deviation": inner("preprocessing", std=[0.9, 0.9, 0.9]),
    "two classes exchanged": lambda values: values.update(classes=values["classes"][::-1]),
    "classes of letters": lambda values: values.update(classes="ab"),
    "classes of numbers": lambda values: values.update(classes=[1, 2]),
    "twice the same class": lambda values: values.update(classes=["flat", "flat"]),
    "another temperature": lambda values: values.update(temperature=3.0),
    "another size": inner("preprocessing", size=64),
}


@pytest.mark.parametrize("change", BELIEVED)
def test_R03_a_run_is_not_believed(change, copied, picture):
    described(copied, BELIEVED[change])
    refused(4, "", "predict", copied, picture)


def test_R03_the_list_of_classes_beside_the_model_decides_nothing(run, copied, picture):
    (copied / "classes.json").write_text('["tall", "flat"]')
    assert command("predict", copied, picture, "--json").json == command("predict", run, picture, "--json").json


UNCHECKED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "task losses": lambda values: values.update(task="losses"),
    "task ../x": lambda values: values.update(task="../x"),
    "task [1]": lambda values: values.update(task=[1]),
    "no preprocessing": lambda values: values.update(preprocessing=None),
    "an unknown key": inner("preprocessing", colour="red"),
    "std 0": inner("preprocessing", std=[0, 0, 0]),
    "interpolation x": inner("preprocessing", interpolation="x"),
    "backbone 5": lambda values: values.update(backbone=5),
    "backbone nosuch": lambda values: values.update(backbone="timm:nosuch"),
    "heads of nothing": lambda values: values.update(heads={"nosuch": None}),
    "files elsewhere": lambda values: values.update(files={"../../x": "0"}),
    "a size of 10^9": inner("preprocessing", size=10**9),
}


@pytest.mark.parametrize("change", UNCHECKED)
def test_R06_values_of_a_description_are_checked(change, copied, picture):
    described(copied, UNCHECKED[change])
    answer = refused(4, "", "predict", copied, picture)
    assert answer.grown < 50


@pytest.mark.parametrize("content", ["[" * 100_000, "3", "{", "\0", "!!python/name:os.system", "a: 1\n" * 300_000])
def test_R06_a_configuration_of_a_run_that_is_none(content, copied, photos):
    """It says where rows are stored; a classifier answers without it."""
    (copied / "config.yaml").write_text(content)
    answer = command("evaluate", copied, photos)
    assert answer.code in (0, 4), answer


def shards(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.shard"))


def computed(answer: Any) -> int:
    """How many activations a fit has computed, of its 24."""
    return sum(phase["computed"] for phase in answer.json["phases"])


@pytest.fixture
def again(photos, tmp_path) -> Callable[..., Any]:
    """Fits, each time into another folder, and gives the answer."""
    number = iter(range(100))

    def call(*words: object, data: Path = photos) -> Any:
        answer = command(
            "fit", data, *PROBE, "--weights", "none", "--json", *words, "--out", tmp_path / f"{next(number)}"
        )
        assert answer.code == 0, answer.err
        return answer

    return call


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a byte flipped": lambda file: file.write_bytes(file.read_bytes()[:100] + b"?" + file.read_bytes()[101:]),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "empty": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(b"x" * 99),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}


@pytest.fixture
def filled(run, own_cache) -> Path:
    """A store that has the activations of all photographs."""
    shutil.copytree(run.parent / "cache", own_cache, dirs_exist_ok=True)
    return own_cache


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders there")
@pytest.mark.parametrize("how", DAMAGE)
def test_D14_a_damaged_store_is_never_used(how, again, filled, run):
    assert shards(filled)
    for shard in shards(filled):
        DAMAGE[how](shard)
    answer = again()
    assert computed(answer) >= 24  # where none can be stored, both splits are computed, which are the same images here
    assert answer.json["valid"] == frostline.Run(run).metrics["valid"]


def test_D14_what_was_computed_anew_is_used(again, filled):
    assert computed(again()) == 0
    for shard in shards(filled):
        shard.write_bytes(b"x" * 99)
    assert computed(again()) == 24
    assert computed(again()) == 0


def test_D15_the_same_name_with_other_weights(state, again, tmp_path, own_cache):
    for seed in range(2):
        torch.save(changed(state, lambda value, by=1 + 0.01 * seed: value * by), tmp_path / f"{seed}.pth")
        assert computed(again("--weights", tmp_path / f"{seed}.pth")) == 24
    assert len({shard.parent for shard in shards(own_cache)}) == 2
    assert computed(again("--weights", tmp_path / "0.pth")) == 0


@pytest.fixture
def own_photos(photos, tmp_path) -> Path:
    shutil.copytree(photos, tmp_path / "own")
    return tmp_path / "own"


def test_D16_an_image_that_was_edited_in_the_same_size_and_time(again, own_photos):
    file = own_photos / "flat" / "000.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(file, compress_level=0)
    before = file.stat()
    assert computed(again(data=own_photos)) == 24
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(file, compress_level=0)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert computed(again(data=own_photos)) == 1


def test_D17_one_image_more_and_one_less(again, own_photos, filled):
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(own_photos / "flat" / "new.png")
    assert computed(again(data=own_photos)) == 1
    (own_photos / "tall" / "003.png").unlink()
    assert computed(again(data=own_photos)) == 0


def test_D20_a_store_where_there_is_none(again, tmp_path):
    """Something else has its name; tests/cli/ has one that is read only."""
    (tmp_path / "file").write_text("precious")
    answer = again("--store", tmp_path / "file")
    assert computed(answer) >= 24
    assert answer.err.count("cannot store activations in") == 1
    assert "going on without a cache" in answer.err
    assert (tmp_path / "file").read_text() == "precious"


def test_D21_a_fit_that_diverges_ends_with_what_was_good(photos, tmp_path):
    """R11: nothing is undone without a word."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "- {frostline: head, epochs: 0}\n"
        "- {frostline: layer1, epochs: 9, lr: 100, optimizer: sgd, schedule: constant, batchnorm: frozen}\n"
    )
    words = [*BACKBONE, "--weights", "none", "--plan", plan, "--no-cache", "--quiet", "--out", tmp_path / "run"]
    answer = refused(5, "became ", "fit", photos, *words)
    assert ".png" in answer.error
    assert "try a smaller learning rate, as in --lr 10" in answer.error
    assert_kept(tmp_path / "run")
    assert "nan" not in (tmp_path / "run" / "history.csv").read_text()


def assert_kept(run: Path) -> None:
    """The first phase, and nothing of the second."""
    assert not (run / "checkpoints" / "phase-2.safetensors").exists()
    kept = load_file(run / "checkpoints" / "phase-1.safetensors")
    assert all(bool(value.isfinite().all()) for value in kept.values())


def bad_at(step: int, value: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A loss that is that value once, in a step of training; 0 for a loss that is fine and a gradient that is not."""
    steps: list[int] = []

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        steps.extend([1] * logits.requires_grad)
        own = functional.cross_entropy(logits, targets)
        if len(steps) != step or not logits.requires_grad:
            return own
        return own + (logits * 0).sum().sqrt() if value == 0 else own * value

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf, 0])
@pytest.mark.parametrize("step", [1, 3])
def test_D21_a_loss_or_a_gradient_that_is_no_number(step, value, stripes, small, tmp_path):
    plan = [Phase("head", epochs=1, batch_size=16), Phase("block2", epochs=2, batch_size=16)]
    options = {"precision": "fp32", "quiet": True, "out": tmp_path / "run", "loss": bad_at(3 + step, value)}
    what = "gradient of the training loss" if value == 0 else "training loss"
    named = r"\(for picture-\d+, picture-\d+, picture-\d+, picture-\d+, picture-\d+ and 11 more\)"
    with pytest.raises(DivergedError, match=rf"the {what} became .* in epoch 1 above 'block2' {named}"):
        frostline.fit(stripes, backbone=small, plan=plan, **options)
    assert_kept(tmp_path / "run")


def test_D21_an_attempt_that_diverges_loses_and_is_told(stripes, small, tmp_path, capsys):
    """Where several settings are tried, one of them may be too bold."""
    calls: list[int] = []

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.extend([1] * logits.requires_grad)  # three steps train the head; one of the race is the fifth
        spoilt = logits.requires_grad and len(calls) == 5
        return functional.cross_entropy(logits, targets) * (math.nan if spoilt else 1.0)

    plan = [Phase("head", epochs=1, batch_size=16, lr=1e-5), Phase("block2", epochs=20, race=True, batch_size=16)]
    run = frostline.fit(stripes, backbone=small, plan=plan, precision="fp32", out=tmp_path / "run", loss=loss)
    said = capsys.readouterr().err
    assert "this setting is out: the training loss became nan in epoch 1 above 'block2' (for picture-" in said
    tried = run.metrics["decisions"][0]["tried"]
    assert tried[0]["loss"] is None
    assert all(bool(value.isfinite().all()) for value in load_file(run.model / "model.safetensors").values())


def test_D22_a_metric_that_is_no_number_is_never_the_best(stripes, small, tmp_path, monkeypatch):
    from frostline.tasks import classification

    figures = iter([0.1, math.nan, math.nan, 0.5])
    monkeypatch.setitem(classification.TASK.scored_by, "accuracy", lambda _: next(figures, 0.4))
    plan = [Phase("block2", epochs=2)]
    options = {"precision": "fp32", "quiet": True, "out": tmp_path / "run", "metric": "accuracy"}
    with pytest.raises(DivergedError, match="validation figure that decides above .block2. is nan before any training"):
        frostline.fit(stripes, backbone=small, plan=plan, **options)


def test_D26_no_onnx_file_is_read(fit, tmp_path, picture):
    """They are only written, in one piece, with an opset and the classes: tests/export/test_onnx_format.py."""
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    refused(2, "has no known extension of a weights file", *fit(tmp_path / "model.onnx"))
    refused(2, "there is no run at", "predict", tmp_path / "model.onnx", picture)
