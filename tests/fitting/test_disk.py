"""What a fit will write is known before it trains."""

from __future__ import annotations

import shutil

import pytest

import frostline
from conftest import SIZE, TINY_FIT, small_model
from frostline.errors import MachineError
from frostline.fitting.disk import refuse_full_disk, weights_bytes
from frostline.network.network import Network
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing

HEAD, ALL = Phase("head", epochs=0), Phase("stem", epochs=1)


def network() -> Network:
    return Network(small_model(), Preprocessing(size=SIZE, resize=36))


def bytes_of(model) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def test_classifier_checkpoints_and_the_optimizers_state_count():
    whole, head = bytes_of(small_model()), 4 * (24 * 5 + 5)
    assert weights_bytes(network(), [HEAD]) == whole + head + 4 * head
    assert weights_bytes(network(), [HEAD, ALL]) == whole + head + whole + 4 * whole


def test_R10_F06_C12_a_disk_without_room_is_refused_before_training(tmp_path, photos, monkeypatch):
    needed = weights_bytes(network(), [HEAD, ALL])
    for free, refused in ((needed - 1, True), (needed, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(10**12, 0, free))
        if refused:
            with pytest.raises(MachineError, match=r"the disk of .*new has .* left, .* about .* of weights; free some"):
                refuse_full_disk(tmp_path / "not" / "there" / "new", network(), [HEAD, ALL])
        else:
            refuse_full_disk(tmp_path / "new", network(), [HEAD, ALL])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 1000))
    with pytest.raises(MachineError, match="give --out on another disk"):
        frostline.fit(photos, out=tmp_path / "run", cache=False, **TINY_FIT)
    assert not (tmp_path / "run").exists()
