"""Bytes as a file of the store: rows that are used are those that were stored, and damage is told, never believed."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from commands import command
from conftest import SIZE, draw_images, small_model
from frostline.data.digests import MEMORY
from frostline.data.images import Images
from frostline.data.texts import Paths
from frostline.data.views import Views
from frostline.engines import choice
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store import net
from frostline.store.activations import computed_once
from frostline.store.inventory import take_inventory
from frostline.store.rows import Rows
from frostline.store.shard_file import MAGIC, TAIL, DamagedError, open_shard, verify
from frostline.store.shards import DESCRIPTION, VERIFIED, Cache, check

MOST = 3_000
COUNT = 3
WORDS = tuple(map(str.encode, ('"key"', '"shape"', '"dtype"', '"count"', '"provenance"', '"sketch"', '"label"')))
WORDS += (b"null", b"NaN", b"Infinity", b"1e999", b"-1", b"99999999999999999999", b"[[", b"[]", b"{}", b'"float32"')
WORDS += (MAGIC, b"SQLite format 3\0", b"\xff" * 8, b"\0" * 8, b"\\ud800", b'"precision"', b'"torch"', b"true")


@functools.cache
def _rows() -> Rows:
    network = Network(small_model(), Preprocessing(size=SIZE, resize=36))
    part = network.cut("head")[0]
    part.fingerprint = functools.cache(part.fingerprint)  # the network stays, and this takes longer than all else here
    return Rows(part, Views(1), find_machine("cpu", "fp32", 1))


@functools.cache
def _images() -> Images:
    return draw_images(COUNT)


@functools.cache
def _stored() -> tuple[dict[str, bytes], torch.Tensor]:
    """The files of a filled store, and its rows."""
    with tempfile.TemporaryDirectory() as folder:
        rows = computed_once(_rows().lower, _images(), machine=_rows().machine, cache=Cache(Path(folder)))
        values = rows.fetch(torch.arange(COUNT))
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}, values


def _parts() -> tuple[str, bytes, bytes]:
    """The name of the shard, its bytes up to its description, and its description."""
    (name,) = (name for name in _stored()[0] if name.endswith(".shard"))
    content = _stored()[0][name]
    length, _, _ = TAIL.unpack(content[-TAIL.size :])
    end = len(content) - TAIL.size
    return name, content[: end - length], content[end - length : end]


def seeds() -> list[bytes]:
    """The files of a store; the first byte says which."""
    name, _, about = _parts()
    entry = str(Path(name).parent)
    files = _stored()[0]
    verified = json.dumps({Path(name).name: [len(files[name]), 1, 1, 1]}).encode()
    engines = json.dumps({"key": {"torch": {"seconds": 1.0, "error": 0.0}}}).encode()
    contents = [files[name], about, verified, files[f"{entry}/{DESCRIPTION}"], b"SQLite format 3\0", engines]
    return [bytes([number]) + content for number, content in enumerate(contents)]


def attempt(content: bytes, folder: Path) -> None:
    kind, content = content[0] % 6 if content else 0, content[1:]
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    for name, intact in _stored()[0].items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(intact)
    shard = store / _parts()[0]
    if kind == 0:
        shard.write_bytes(content)
    elif kind == 1:
        shard.unlink()
        _described(content, shard.parent)
    elif kind in (2, 3):
        (shard.parent / (VERIFIED if kind == 2 else DESCRIPTION)).write_bytes(content)
    else:
        (store / (MEMORY if kind == 4 else choice.REMEMBERED)).write_bytes(content)
        _beside(kind, content, store)
    if kind == 3:
        _listed(store)
    elif kind < 4:
        assert _looked_up(store) == COUNT or kind < 2


def _described(about: bytes, folder: Path) -> None:
    """A shard of the same rows whose description is these bytes, with the digests that make it look intact."""
    start = _parts()[1]
    begin = start[: 64 + COUNT * _rows().row_bytes()]
    digest = hashlib.blake2b(start[len(begin) :] + about, digest_size=16)
    content = start + about + TAIL.pack(len(about), digest.digest(), MAGIC)
    file = folder / f"{digest.hexdigest()}.shard"
    file.write_bytes(content)
    try:
        shard = open_shard(file, stays_open=False)
    except DamagedError:
        return
    if (
        shard.form == _rows().form
    ):  # lines that only such a description reaches, so that the fuzzer keeps and changes it
        verify(shard)
        assert len(shard.provenance) >= 0


def _beside(kind: int, content: bytes, store: Path) -> None:
    if kind == 4:
        file = store / "picture.png"
        file.write_bytes(content)
        Images(Paths.of([file]), np.zeros(1, np.int64), ["picture"]).digests.all(store)
    else:
        assert isinstance(choice._read(store, "key"), dict)
        choice._write(store, "key", {})


def _listed(store: Path) -> None:
    """What people see of it."""
    for arguments in (["ls"], ["ls", "--json"]):
        answer = command("cache", *arguments, "--store", store)
        assert answer.code == 0
        assert all(character.isprintable() or character == "\n" for character in answer.out)
    health = check(store / _parts()[0].rpartition("/")[0])
    assert health.intact + len(health.damaged) + len(health.ignored) == 1


def _looked_up(store: Path) -> int:
    """The number of rows that are used; each is the right one."""
    net._agreed.clear()
    inventory = take_inventory(_rows(), _images(), store)
    for shard in inventory.shards:
        shard.read(np.arange(len(shard)))
    found = np.flatnonzero(inventory.places[:, 0] >= 0)
    if len(found):
        (shard,) = inventory.shards
        values = shard.read(inventory.places[found, 0])
        assert torch.equal(values, _stored()[1][found].reshape(values.shape))
    return len(found)
