"""Filling the store: every row once, whatever happens in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SIZE, draw_images, small_model
from frostline.data.views import PLAIN, Views
from frostline.engines.choice import EngineError, engine_of, plain_engine
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.preprocessing import Preprocessing
from frostline.store import filling as module
from frostline.store.activations import read
from frostline.store.filling import FeatureExtraction, extract
from frostline.store.inventory import Inventory, take_inventory
from frostline.store.rows import Rows
from frostline.store.shard_file import ShardWriter, open_shard
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize("views", [1, 11])
@pytest.mark.parametrize("frostline", ["stem", "block2", "head"])
def test_every_view_of_every_image_gets_its_row(frostline, views, tmp_path):
    machine, images = find_machine("cpu", "fp32", 2), draw_images(7)
    lower, _ = Network(small_model(), HOW).cut(frostline)
    rows = Rows(lower, Views(views), machine)
    extraction = FeatureExtraction(take_inventory(rows, images, tmp_path), Cache(tmp_path))
    assert extraction.inventory.missing == 7 * views
    assert extract([extraction], lower, "")
    filled = extraction.finished()
    assert extraction.computed == 7 * views == sum(map(len, filled.shards))
    assert sorted(filled.places.ravel()) == list(range(7 * views))
    again = take_inventory(rows, images, tmp_path)
    assert (again.missing, again.found) == (0, 7 * views)


def test_without_a_store_rows_stay_in_memory(tmp_path):
    machine, images = find_machine("cpu", "fp32", 2), draw_images(5)
    lower, _ = Network(small_model(), HOW).cut("head")
    extraction = FeatureExtraction(take_inventory(Rows(lower, PLAIN, machine), images, None), None)
    assert extract([extraction], lower, "")
    assert torch.cat([shard.rows for shard in extraction.shards]).shape == (5, *lower.output_shape)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_steps")
def test_rows_in_memory_are_one_tensor_and_not_one_per_batch(tmp_path):
    lower, _ = Network(small_model(), HOW).cut("head")
    inventory = take_inventory(Rows(lower, PLAIN, find_machine("cpu", "fp32", 2)), draw_images(30), None)
    extraction = FeatureExtraction(inventory, None)
    assert extract([extraction], lower, "")
    assert [len(shard) for shard in extraction.shards] == [30]


def extraction_of(folder, count: int = 30, frostline: str = "head") -> tuple[FeatureExtraction, Part]:
    lower, _ = Network(small_model(), HOW).cut(frostline)
    rows = Rows(lower, PLAIN, find_machine("cpu", "fp32", 2))
    return FeatureExtraction(take_inventory(rows, draw_images(count), folder), Cache(folder)), lower


def values(inventory: Inventory) -> torch.Tensor:
    return torch.cat([x for x, _ in read(inventory).batches()])


def fails_after(calls: int, error: BaseException, original):
    """A function that does as the original, so many times."""
    left = [calls]

    def call(*args, **more):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return original(*args, **more)

    return call


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr("frostline.engines.eager.MOST_IMAGES", 4)
    monkeypatch.setattr("frostline.engines.choice._latest", {}, raising=False)
    monkeypatch.setattr(module, "SHARD_BYTES", 800)  # of rows of 96 bytes: a shard every two steps or three


@pytest.mark.usefixtures("small_steps")
def test_a_disk_that_fills_up_in_the_middle_costs_only_what_was_not_finished(tmp_path, monkeypatch, capsys):
    right, lower = extraction_of(tmp_path / "right")
    assert extract([right], lower, "")
    extraction, lower = extraction_of(tmp_path / "full")
    full = fails_after(5, OSError(28, "No space left on device"), ShardWriter.add)
    monkeypatch.setattr(ShardWriter, "add", full)
    assert extract([extraction], lower, "")
    assert "No space left on device): going on without" in capsys.readouterr().err
    torch.testing.assert_close(values(extraction.finished()), values(right.finished()))
    assert extraction.computed == 30
    monkeypatch.undo()
    assert 0 < extraction_of(tmp_path / "full")[0].inventory.found < 30
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), ValueError("a bug")])
def test_what_an_interrupted_pass_has_is_stored(interruption, tmp_path, monkeypatch):
    """Stumble 16."""
    monkeypatch.setattr(module, "SHARD_BYTES", 10**9)
    extraction, lower = extraction_of(tmp_path)
    monkeypatch.setattr(FeatureExtraction, "add", fails_after(4, interruption, FeatureExtraction.add))
    with pytest.raises(type(interruption)):
        extract([extraction], lower, "")
    monkeypatch.undo()
    again, _ = extraction_of(tmp_path)
    assert again.inventory.found == 16
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.usefixtures("small_steps")
def test_nothing_of_an_engine_that_failed_is_used(tmp_path, monkeypatch, capsys):
    extraction, lower = extraction_of(tmp_path)
    plain = engine_of(lower, extraction.rows.machine)
    wrong = replace(plain, name="wrong", run=fails_after(5, EngineError("no more"), lambda p: [0 * plain.run(p)[0]]))
    monkeypatch.setattr(module, "fastest", lambda *_: wrong)
    assert extract([extraction], lower, "")
    assert "wrong failed (no more); restarting with torch" in capsys.readouterr().err
    assert values(extraction.finished()).abs().sum(1).min() > 0
    shards = [open_shard(file) for file in tmp_path.rglob("*.shard")]
    assert {shard.about["provenance"]["engine"] for shard in shards} == {"plain"}
    assert extraction.computed == sum(map(len, shards)) == 30


def test_rows_say_who_computed_them(tmp_path):
    extraction, lower = extraction_of(tmp_path)
    extract([extraction], lower, "")
    (shard,) = extraction.shards
    assert shard.about["provenance"].keys() == {"engine", "precision", "device", "processor", "torch"}
    assert shard.about["key"] == extraction.rows.key()


def pretend_openvino(monkeypatch, installed: bool = True) -> None:
    """An engine of this name that gives torch's numbers."""

    def build(name, frozen, machine):
        return replace(engine_of(frozen, machine), name=name)

    monkeypatch.setattr("frostline.engines.choice._build", build)
    monkeypatch.setattr("frostline.engines.choice.importlib.util.find_spec", lambda _: installed or None)


def with_openvino(frozen, machine, *_):
    engine = module.engine_named("openvino", frozen, machine)
    assert engine is not None
    return engine


def engines_in(folder: Path) -> list[str]:
    return sorted({open_shard(file).about["provenance"]["engine"] for file in folder.rglob("*.shard")})


@pytest.fixture
def interrupted(small_steps, tmp_path, monkeypatch) -> Path:
    """A store with the first rows of a pass of OpenVINO, which was interrupted."""
    pretend_openvino(monkeypatch)
    extraction, lower = extraction_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "fastest", with_openvino)
        patch.setattr(FeatureExtraction, "add", fails_after(4, KeyboardInterrupt(), FeatureExtraction.add))
        with pytest.raises(KeyboardInterrupt):
            extract([extraction], lower, "")
    assert engines_in(tmp_path) == ["openvino"]
    return tmp_path


@pytest.mark.parametrize("count", [30, 60])
def test_R25_a_pass_that_is_repeated_keeps_to_its_engine(count, interrupted, monkeypatch):
    """Few images are left, or nothing was measured yet: torch would win now."""
    extraction, lower = extraction_of(interrupted, count)
    assert extraction.inventory.found == 16
    monkeypatch.setattr(module, "fastest", lambda *_: pytest.fail("the engine was chosen again"))
    assert extract([extraction], lower, "")
    assert extraction.finished().missing == 0
    assert engines_in(interrupted) == ["openvino"]


def test_R25_an_engine_that_is_gone_is_no_obstacle(interrupted, monkeypatch):
    pretend_openvino(monkeypatch, installed=False)
    extraction, lower = extraction_of(interrupted)
    assert extract([extraction], lower, "")
    assert engines_in(interrupted) == ["openvino", "torch"]


def test_R25_rows_of_another_device_choose_no_engine(tmp_path, monkeypatch):
    pretend_openvino(monkeypatch)
    elsewhere, lower = extraction_of(tmp_path, 7)
    with monkeypatch.context() as patch:
        patch.setattr(module, "provenance", lambda engine, machine: {"engine": "openvino", "device": "cuda"})
        assert extract([elsewhere], lower, "")
    chosen = []
    monkeypatch.setattr(
        module, "fastest", lambda frozen, machine, *_: chosen.append(1) or plain_engine(frozen, machine)
    )
    here, lower = extraction_of(tmp_path)
    assert here.inventory.found == 7
    assert extract([here], lower, "")
    assert chosen == [1]


@pytest.mark.parametrize(("known", "faster"), [(7, False), (0, True)])
def test_R25_rows_of_torch_stay_with_torch_but_other_images_may_be_faster(known, faster, tmp_path, monkeypatch):
    """known: how many of the images have rows already."""
    pretend_openvino(monkeypatch)
    monkeypatch.setattr(module, "FEW", 10)
    first, lower = extraction_of(tmp_path, 7)
    assert extract([first], lower, "")
    monkeypatch.setattr(module, "fastest", with_openvino)
    lower, _ = Network(small_model(), HOW).cut("head")
    images = draw_images(20, seed=0 if known else 5)
    second = FeatureExtraction(
        take_inventory(Rows(lower, PLAIN, first.rows.machine), images, tmp_path), Cache(tmp_path)
    )
    assert second.inventory.found == known
    assert extract([second], lower, "")
    assert engines_in(tmp_path) == (["openvino", "torch"] if faster else ["torch"])


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_filling
from frostline.store import filling
filling.SHARD_BYTES = 800
original = filling.FeatureExtraction.add
def slowly(*args):
    time.sleep(0.02)
    return original(*args)
filling.FeatureExtraction.add = slowly
extraction, lower = test_filling.extraction_of(Path({folder!r}), 200)
print("begins", flush=True)
filling.extract([extraction], lower, "")
"""


@pytest.mark.usefixtures("small_steps")
def test_rows_do_not_wait_long_to_be_stored(tmp_path, monkeypatch):
    """A killed process loses no more than the shard that it was writing. Stumble 16."""
    monkeypatch.setattr(module, "SHARD_BYTES", 10**9)
    whole, lower = extraction_of(tmp_path / "whole")
    assert extract([whole], lower, "")
    monkeypatch.setattr(module, "SHARD_SECONDS", -1)
    extraction, lower = extraction_of(tmp_path / "parts")
    assert extract([extraction], lower, "")
    assert len(extraction.finished().shards) > len(whole.finished().shards) == 1


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.long
def test_a_killed_process_leaves_the_store_readable(times, tmp_path):
    """Stumble 16."""
    right, lower = extraction_of(tmp_path / "right", 200)
    extract([right], lower, "")
    expected, folder, before = values(right.finished()), tmp_path / "killed", 0
    chance = np.random.default_rng(0)
    for _ in range(times):
        code = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "tests", *sys.path])}
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        extraction, lower = extraction_of(folder, 200)
        found = extraction.inventory.places[:, 0] >= 0
        assert found.sum() >= before
        before = int(found.sum())
        assert extraction.inventory.folder == folder / "activations" / extraction.rows.key()
        if found.any():
            torch.testing.assert_close(values(extraction.inventory), expected[torch.from_numpy(found)])
    assert extract([extraction], lower, "")
    torch.testing.assert_close(values(extraction.finished()), expected)


@pytest.mark.usefixtures("small_steps")
def test_rows_in_memory_are_joined_piece_by_piece(monkeypatch):
    """Joined at the end, they would take twice their memory for a moment."""
    monkeypatch.setattr(module, "PIECE_BYTES", 800)
    lower, _ = Network(small_model(), HOW).cut("head")
    inventory = take_inventory(Rows(lower, PLAIN, find_machine("cpu", "fp32", 2)), draw_images(30), None)
    extraction = FeatureExtraction(inventory, None)
    assert extract([extraction], lower, "")
    lengths = [len(shard) for shard in extraction.shards]
    assert sum(lengths) == 30
    assert 1 < len(lengths) < 8  # a step has four rows of 96 bytes


@pytest.mark.usefixtures("small_steps")
def test_a_disk_that_is_full_and_memory_that_is_too_small_leave_nothing(tmp_path, monkeypatch):
    extraction, lower = extraction_of(tmp_path)
    monkeypatch.setattr(module, "MEMORY_BYTES", 100)
    monkeypatch.setattr(module, "PIECE_BYTES", 100)
    full = fails_after(5, OSError(28, "No space left on device"), ShardWriter.add)
    monkeypatch.setattr(ShardWriter, "add", full)
    assert extract([extraction], lower, "") is False
