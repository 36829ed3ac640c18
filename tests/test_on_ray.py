"""Passes on real Ray nodes: each node is some processes on this machine, and they are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import frostline
from buckets import served
from conftest import write_photos
from frostline.cli import main
from frostline.errors import MachineError
from frostline.plan import Phase
from frostline.store.shard_file import open_shard
from frostline.store.shards import entries, shard_files
from frostline.training import summing
from on_ray import behind_a_port, kill_one, nodes

pytest.importorskip("ray", reason="Ray is not installed")
MODEL = {"backbone": "timm:test_resnet", "weights": "none", "image_size": 32, "precision": "fp32", "quiet": True}
FLAGS = "--backbone timm:test_resnet --weights none --image-size 32 --precision fp32"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 100)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with nodes(2) as found:
        yield found


def rows_in(store: Path) -> dict[bytes, bytes]:
    """All rows of a store by name; fails if one is there twice."""
    found: dict[bytes, bytes] = {}
    for entry in entries(store):
        for file in shard_files(entry.folder):
            shard = open_shard(file)
            rows = shard.read(np.arange(len(shard)))
            for name, row in zip(shard.names(), rows, strict=True):
                assert name.tobytes() not in found
                found[name.tobytes()] = row.numpy().tobytes()
    return found


def test_two_nodes_store_the_rows_of_one_process(cluster, photos, tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    one = frostline.features(photos, store=tmp_path / "one", **MODEL)
    two = frostline.features(photos, store=tmp_path / "two", on="ray", **MODEL)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers  # not Ray's own
    assert (two.images, two.rows, two.computed) == (one.images, one.rows, one.computed)
    assert rows_in(tmp_path / "two") == rows_in(tmp_path / "one")
    assert len(list((tmp_path / "two").rglob("*.shard"))) > len(list((tmp_path / "one").rglob("*.shard")))


@pytest.mark.long
@pytest.mark.usefixtures("no_pictures")
def test_fit_check_and_compare_compute_on_the_cluster(cluster, photos, tmp_path, capsys):
    plain = frostline.fit(photos, plan="probe", out=tmp_path / "plain", store=tmp_path / "one", **MODEL)
    run = frostline.fit(photos, plan="probe", out=tmp_path / "run", store=tmp_path / "two", on="ray", **MODEL)
    assert rows_in(tmp_path / "two") == rows_in(tmp_path / "one")
    assert (run.path / "model/model.safetensors").read_bytes() == (plain.path / "model/model.safetensors").read_bytes()
    assert run.metrics["valid"] == plain.metrics["valid"]
    found = frostline.check(photos, store=tmp_path / "three", on="ray", **MODEL)
    assert found.counts == frostline.check(photos, store=tmp_path / "one", **MODEL).counts
    assert rows_in(tmp_path / "three")
    with pytest.raises(SystemExit) as ended:
        main(
            f"compare {photos} --backbone timm:test_resnet --backbone timm:test_vit --weights none --image-size 32 "
            f"--plan probe --on ray --out {tmp_path / 'compared'} --store {tmp_path / 'four'} --quiet".split()
        )
    assert ended.value.code in (None, 0)
    assert len(entries(tmp_path / "four")) == 2


@pytest.mark.long
@pytest.mark.usefixtures("no_pictures")
def test_a_head_of_very_many_rows_is_solved_on_all_nodes(cluster, photos, tmp_path, monkeypatch, caplog):
    """A few rows count as very many here; the nodes do not know that, and need not."""
    monkeypatch.setattr(summing, "MANY", 1_000)
    plain = frostline.fit(photos, plan="probe", out=tmp_path / "plain", store=tmp_path / "one", **MODEL)
    monkeypatch.setattr(summing, "ENOUGH", 4 * 1_000)
    monkeypatch.setattr(summing, "TURN", 4 * 10_000)
    with caplog.at_level("INFO"):
        options = {**MODEL, "quiet": False}
        run = frostline.fit(photos, plan="probe", out=tmp_path / "run", store=tmp_path / "two", on="ray", **options)
    assert "solving the head in 3 processes" in caplog.text
    heads = [load_file(each.path / "model/model.safetensors") for each in (plain, run)]
    for name, value in heads[0].items():
        torch.testing.assert_close(heads[1][name], value, rtol=1e-3, atol=1e-4)
    assert run.metrics["valid"]["accuracy"] == plain.metrics["valid"]["accuracy"]


@pytest.mark.long
def test_a_cluster_behind_a_port_computes_for_whoever_has_its_token(photos, tmp_path):
    one = frostline.features(photos, store=tmp_path / "one", **MODEL)
    token = "5" * 64
    with behind_a_port(token) as address:
        command = [sys.executable, "-m", "frostline", "features", str(photos), *FLAGS.split(), "--json", "--quiet"]
        command += ["--on", address, "--store", str(tmp_path / "two")]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        refused = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=120)
        assert refused.returncode == 7
        assert "set RAY_AUTH_MODE=token" in refused.stderr
        assert token not in refused.stderr
        with_token = {**plain, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        done = subprocess.run(command, env=with_token, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout)["computed"] == one.rows
    assert rows_in(tmp_path / "two") == rows_in(tmp_path / "one")


@pytest.mark.long
def test_a_node_that_dies_costs_the_blocks_in_flight(photos, tmp_path):
    many = write_photos(tmp_path / "many", 1_500)
    one = frostline.features(many, store=tmp_path / "one", **MODEL)
    with nodes(2) as cluster:
        done = threading.Event()

        def kill() -> None:
            while not done.is_set():
                if len(list((tmp_path / "two").rglob("*.shard"))) >= 3:
                    kill_one(cluster)
                    return
                time.sleep(0.05)

        killer = threading.Thread(target=kill)
        killer.start()
        two = frostline.features(many, store=tmp_path / "two", on="ray", **MODEL)
        done.set()
        killer.join()
        assert len(cluster.worker_nodes) == 1
    assert two.rows == one.rows
    shards = [open_shard(file) for file in (tmp_path / "two").rglob("*.shard")]
    again = sum(map(len, shards)) - one.rows
    assert 0 <= again <= 2 * max(map(len, shards))
    names = {name.tobytes() for shard in shards for name in shard.names()}
    assert names == set(rows_in(tmp_path / "one"))


@pytest.mark.long
def test_a_killed_driver_goes_on_and_computes_nothing_twice(tmp_path):
    many = write_photos(tmp_path / "many", 1_500)
    store = tmp_path / "store"
    command = [sys.executable, "-m", "frostline", "features", str(many), *FLAGS.split(), "--on", "ray", "--json"]
    command += ["--store", str(store)]
    with nodes(2):
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list(store.rglob("*.shard"))) < 3:
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.kill()
        first.wait()
        time.sleep(3)  # the tasks of a dead driver end
        before = sum(len(open_shard(file)) for file in store.rglob("*.shard"))
        second = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    result = json.loads(second.stdout)
    assert 0 < before < result["rows"] == 3_000
    assert result["computed"] == 3_000 - before
    assert len(rows_in(store)) == 3_000


@pytest.mark.long
def test_nodes_read_images_from_a_bucket_and_write_rows_to_one(photos, tmp_path, monkeypatch):
    """A node has nothing of the images or of the store on its own disk, and the credentials in its environment."""
    pytest.importorskip("obstore", reason="the extra remote is not installed")
    one = frostline.features(photos, store=tmp_path / "one", **MODEL)
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "here"))
    with served(monkeypatch) as bucket:
        for file in photos.rglob("*.png"):
            bucket.files[f"photos/{file.relative_to(photos)}"] = file.read_bytes()
        monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "node"))
        with nodes(2):
            monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "here"))
            two = frostline.features("s3://bucket/photos", store="s3://bucket/team", on="ray", **MODEL)
        assert (two.rows, two.computed) == (one.rows, one.rows)
        assert any(name.startswith("team/activations/") for name in bucket.files)
        again = frostline.features("s3://bucket/photos", store="s3://bucket/team", **MODEL)
        assert (again.rows, again.computed) == (one.rows, 0)
        assert frostline.features(photos, store="s3://bucket/team", **MODEL).computed == 0


@pytest.mark.long
def test_the_command_line_starts_a_cluster_on_this_machine_and_ends_it(photos, tmp_path):
    command = [sys.executable, "-m", "frostline", "features", str(photos), *FLAGS.split(), "--on", "ray"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [*command, "--store", str(tmp_path)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "200 computed" in done.stdout
    lines = [line for line in done.stderr.splitlines() if "computing" not in line]
    assert len(lines) <= 2, lines


@pytest.mark.long
@pytest.mark.usefixtures("no_pictures")
def test_nodes_take_part_in_what_trains(cluster, photos, tmp_path, caplog):
    plan = [Phase("head", epochs=0), Phase("layer4", epochs=2, views=2), Phase("layer3", epochs=2, views=2)]
    options = {**MODEL, "quiet": False, "plan": plan, "batch_size": 32, "store": tmp_path / "store"}
    one = frostline.fit(photos, out=tmp_path / "one", **options)
    with caplog.at_level("INFO"):
        two = frostline.fit(photos, out=tmp_path / "two", on="ray", **options)
    assert caplog.text.count("training in 3 processes") == 2
    losses = [[epoch["train_loss"] for epoch in run.history if epoch["train_loss"] is not None] for run in (one, two)]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert two.metrics["valid"]["accuracy"] == pytest.approx(one.metrics["valid"]["accuracy"], abs=0.03)
    assert frostline.load(two).classes == ("flat", "tall")


@pytest.mark.long
@pytest.mark.usefixtures("no_pictures")
def test_a_node_that_dies_in_a_training_ends_it_resumably(photos, tmp_path):
    plan = [Phase("head", epochs=0), Phase("layer4", epochs=400, views=1, patience=400)]
    options = {**MODEL, "plan": plan, "batch_size": 32, "store": tmp_path / "store", "out": tmp_path / "run"}
    with nodes(2) as found:

        def kill() -> None:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and not _epochs(tmp_path / "run" / "log.txt"):
                time.sleep(0.1)
            died.append(time.monotonic())
            kill_one(found)

        died: list[float] = []
        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(MachineError, match="of 3 "):
            frostline.fit(photos, on="ray", **options)
        ended = time.monotonic()
        killer.join()
    assert ended - died[0] < 30
    run = frostline.resume(tmp_path / "run", stop_here=True, on="local", quiet=True)
    assert frostline.load(run).classes == ("flat", "tall")


def _epochs(log: Path) -> bool:
    return log.is_file() and "epoch" in log.read_text()
