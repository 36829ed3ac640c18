"""A shard of a bucket that travels to another machine, where the files of the first one are not."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from buckets import served
from conftest import SIZE, draw_images, small_model
from frostline.data.views import Views
from frostline.errors import WeightsError
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store import sharing
from frostline.store.activations import computed_once
from frostline.store.reading import SomeRows, StoredRows, bring
from frostline.store.shards import cache_at

pytest.importorskip("obstore", reason="the extra remote is not installed")
NUMBERS = torch.arange(24)


@pytest.fixture
def bucket(monkeypatch):
    with served(monkeypatch) as own:
        yield own


@pytest.fixture
def rows(bucket, tmp_path, monkeypatch) -> StoredRows:
    """Rows in a bucket, and in the folder of this machine."""
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "here"))
    lower, _ = Network(small_model(), Preprocessing(size=SIZE, resize=36)).cut("block2")
    machine = find_machine("cpu", "fp32", 1)
    store = cache_at("s3://bucket/team")
    computed_once(lower, draw_images(12), Views(2), machine=machine, cache=store)
    found = computed_once(lower, draw_images(12), Views(2), machine=machine, cache=store)
    assert (found.filled.kept, found.filled.computed) == ("stored", 0)
    return found.fetch


@pytest.fixture
def elsewhere(rows, tmp_path, monkeypatch) -> Path:
    """The folder of another machine, which does not see that of the first."""
    (tmp_path / "here").rename(tmp_path / "hidden")
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "there"))
    return tmp_path / "there"


def sent(rows: StoredRows) -> StoredRows:
    return pickle.loads(pickle.dumps(rows))


def test_on_the_same_machine_it_is_the_same_file(rows, tmp_path, monkeypatch):
    travelled = sent(rows)
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "there"))
    torch.testing.assert_close(travelled(NUMBERS), rows(NUMBERS), rtol=0, atol=0)
    assert not list((tmp_path / "there").rglob("*.shard"))


def test_elsewhere_it_is_fetched_once(rows, elsewhere, bucket):
    travelled, again = sent(rows), sent(rows)
    expected = rows(NUMBERS)  # its file is open
    bring(SomeRows(travelled, NUMBERS))
    assert len(list(elsewhere.rglob("*.shard"))) == len(rows.shards) or not rows.shards
    torch.testing.assert_close(travelled(NUMBERS), expected, rtol=0, atol=0)
    asked = len(bucket.asked)
    torch.testing.assert_close(again(NUMBERS), expected, rtol=0, atol=0)
    assert len(bucket.asked) == asked


def test_a_damaged_copy_is_not_used(rows, elsewhere):
    travelled, again = sent(rows), sent(rows)
    expected = rows(NUMBERS)
    bring(travelled)
    (file,) = elsewhere.rglob("*.shard")
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    torch.testing.assert_close(again(NUMBERS), expected, rtol=0, atol=0)


def test_without_room_it_is_read_from_the_bucket(rows, elsewhere, monkeypatch):
    travelled = sent(rows)
    expected = rows(NUMBERS)
    monkeypatch.setattr(sharing, "make_room", lambda *_: False)
    torch.testing.assert_close(travelled(NUMBERS), expected, rtol=0, atol=0)
    assert not list(elsewhere.rglob("*.shard"))


def test_a_shard_that_is_lost_everywhere_is_told(rows, elsewhere, bucket):
    travelled = sent(rows)
    for name in [name for name in bucket.files if name.endswith(".shard")]:
        del bucket.files[name]
    with pytest.raises(WeightsError, match="stored activations were lost or damaged meanwhile"):
        travelled(torch.from_numpy(np.arange(3)))
