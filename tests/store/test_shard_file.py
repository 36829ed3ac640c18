"""One file of rows: written in pieces, read by position, damaged in no way that does not show."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.store import shard_file as module
from frostline.store.shard_file import DamagedError, Form, Held, ShardWriter, open_shard, verify


def written(folder: Path, values: torch.Tensor, pieces: int = 1) -> module.Shard:
    form = Form("key", tuple(values.shape[1:]), str(values.dtype).removeprefix("torch."))
    writer = ShardWriter(folder, form, {"engine": "torch"}, [0.5])
    for piece, labels in zip(values.tensor_split(pieces), np.array_split(names(len(values)), pieces), strict=True):
        writer.add(piece, labels)
    return writer.close()


def names(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 16), np.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("pieces", [1, 3])
def test_what_was_written_is_read(dtype: torch.dtype, pieces: int, tmp_path: Path) -> None:
    values = (10 * torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(0))).to(dtype)
    shard = written(tmp_path, values, pieces)
    assert torch.equal(shard.read(np.arange(7)), values)
    assert np.array_equal(shard.names(), names(7))
    again = open_shard(shard.path)
    verify(again)
    assert again == shard
    assert again.about["provenance"] == {"engine": "torch"}
    assert [file.name for file in tmp_path.iterdir()] == [shard.path.name]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    chosen=st.lists(st.integers(0, 8)),
    block=st.integers(1, 99),
)
def test_rows_of_any_shape_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], chosen: list[int], block: int
) -> None:
    values = torch.arange(9 * int(np.prod(shape))).float().view(9, *shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "PIECE", 50)
        shard = written(tmp_path_factory.mktemp("any"), values, 2)
        verify(shard)
        numbers = np.array(chosen, np.int64)
        assert torch.equal(shard.read(numbers), values[torch.from_numpy(numbers)])


def test_rows_that_are_not_contiguous(tmp_path: Path) -> None:
    values = torch.arange(48).float().view(4, 3, 2, 2).permute(0, 3, 1, 2)[::2]
    assert torch.equal(written(tmp_path, values).read(np.arange(2)), values)


def test_neighbours_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = written(tmp_path, torch.arange(20.0).view(10, 2))
    reads = []
    original = module._File.read
    monkeypatch.setattr(module._File, "read", lambda *args: (reads.append(args[1]), original(*args))[1])
    assert shard.read(np.array([7, 2, 3, 4, 8]))[:, 0].tolist() == [14.0, 4.0, 6.0, 8.0, 16.0]
    assert reads == [24, 16]


@pytest.mark.parametrize("values", [torch.zeros(2, 5), torch.zeros(2, 4, dtype=torch.float16)])
def test_rows_of_another_form_are_not_taken(values: torch.Tensor, tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, Form("key", (4,), "float32"), {}, [])
    with pytest.raises(ValueError, match="this store has"):
        writer.add(values, names(2))
    writer.abandon()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_shard_that_could_not_be_ended_leaves_nothing(
    interruption: BaseException | type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", fails)
        with pytest.raises((KeyboardInterrupt, OSError)):
            written(tmp_path, torch.zeros(2, 2))
    assert not list(tmp_path.iterdir())


def test_each_block_has_a_digest_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)
    shard = written(tmp_path, torch.arange(12.0).view(6, 2))
    intact = shard.path.read_bytes()
    for position in range(module.HEAD, module.HEAD + 48, 7):
        damaged = bytearray(intact)
        damaged[position] ^= 1
        shard.path.write_bytes(bytes(damaged))
        with pytest.raises(DamagedError, match="rows changed"):
            verify(open_shard(shard.path))


def test_a_shard_goes_to_another_process(tmp_path: Path) -> None:
    values = torch.arange(12.0).view(6, 2)
    shard = pickle.loads(pickle.dumps(written(tmp_path, values)))
    assert torch.equal(shard.read(np.arange(6)), values)
    assert shard.file.descriptor >= 0


def test_a_shard_is_read_without_an_open_file(tmp_path: Path) -> None:
    values = torch.arange(12.0).view(6, 2)
    shard = open_shard(written(tmp_path, values).path, stays_open=False)
    assert torch.equal(shard.read(np.array([5, 0])), values[[5, 0]])
    os.truncate(shard.path, 70)
    with pytest.raises(DamagedError, match="too short"):
        shard.read(np.arange(6))


def test_rows_in_memory_are_read_alike() -> None:
    values = torch.arange(12.0).view(6, 2)
    assert torch.equal(Held(values).read(np.array([4, 4, 1])), values[[4, 4, 1]])
    assert len(Held(values)) == 6
