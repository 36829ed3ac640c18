"""Weights that are here are used without a network; what is not here is fetched only where that is allowed."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import NoReturn

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file

from conftest import assert_same_state, state_of
from frostline.backbones import load_backbone, on_this_machine
from frostline.backbones.fetching import cached_only, hub_offline, refuse_offline, refuse_unreachable
from frostline.backbones.provenance import NOT_STATED
from frostline.errors import MachineError, WeightsError

TINY = "test_resnet.r160_in1k"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def lookups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Empty caches and no network: gives the hosts whose addresses were asked for."""
    hosts: list[str] = []

    def no_address(host: str, *_: object, **__: object) -> NoReturn:
        hosts.append(host)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    def no_connection(*_: object) -> NoReturn:
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    monkeypatch.setattr(socket.socket, "connect", no_connection)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("FROSTLINE_OFFLINE", "HF_HUB_OFFLINE", *PROXIES, *map(str.upper, PROXIES)):
        monkeypatch.delenv(name, raising=False)
    return hosts


def cache_tiny(root: Path) -> dict[str, torch.Tensor]:
    """Put weights of the tiny model where the hub's client keeps them."""
    folder = root / "hub" / f"models--timm--{TINY}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    state = state_of(timm.create_model(TINY))
    save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    return state


@pytest.mark.parametrize("variable", ["", "FROSTLINE_OFFLINE", "HF_HUB_OFFLINE"])
def test_timms_cached_weights_are_used_without_a_lookup(variable, tmp_path, monkeypatch, lookups):
    state = cache_tiny(tmp_path)
    if variable:
        monkeypatch.setenv(variable, "1")
    backbone = load_backbone(f"timm:{TINY}")
    assert_same_state(state, backbone.model)
    (file,) = tmp_path.glob("hub/*/snapshots/*/model.safetensors")
    stated = timm.models.get_pretrained_cfg(TINY).license or NOT_STATED  # older releases of timm state fewer
    assert (backbone.licence, backbone.sha256) == (stated, hashlib.sha256(file.read_bytes()).hexdigest())
    assert on_this_machine()[-1] == f"timm:{TINY}"
    assert lookups == []


def test_a_failed_lookup_changes_nothing_for_the_rest_of_the_process(tmp_path, lookups):
    variables = dict(os.environ)
    with pytest.raises(
        MachineError, match=r"could not be downloaded \(found no address for huggingface.co: Temporary failure"
    ):
        load_backbone(f"timm:{TINY}")
    assert lookups == ["huggingface.co"]
    assert not constants.HF_HUB_OFFLINE
    assert dict(os.environ) == variables


def test_behind_a_proxy_nobody_asks_for_addresses(tmp_path, monkeypatch, lookups):
    """Only the proxy can resolve names there: it is what the client connects to."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    refuse_unreachable("https://huggingface.co")
    assert lookups == []
    monkeypatch.setenv("no_proxy", "huggingface.co")
    with pytest.raises(OSError, match=r"found no address for huggingface.co"):
        refuse_unreachable("https://huggingface.co")


@pytest.mark.parametrize("name", [f"timm:{TINY}", "torchvision:squeezenet1_1", "timm:legacy_seresnet18"])
def test_offline_asks_no_network_for_anything(name, monkeypatch, lookups):
    """Set long after the libraries were imported."""
    monkeypatch.setenv("FROSTLINE_OFFLINE", "1")
    with pytest.raises(
        MachineError, match=r"not be downloaded \(FROSTLINE_OFFLINE=1 forbids downloads\); give --weights"
    ):
        load_backbone(name)
    assert lookups == []
    assert not constants.HF_HUB_OFFLINE


def test_the_hubs_own_variable_forbids_the_hub_only(monkeypatch, lookups):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MachineError, match=r"HF_HUB_OFFLINE=1 forbids downloads"):
        load_backbone(f"timm:{TINY}")
    assert lookups == []
    with pytest.raises(MachineError, match="give --weights FILE, --weights none"):
        load_backbone("torchvision:squeezenet1_1")
    assert lookups


@pytest.mark.parametrize("offline", [False, True])
def test_torchvisions_cached_weights_are_used_without_a_lookup(offline, tmp_path, monkeypatch, lookups):
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = state_of(torchvision.models.squeezenet1_1())
    torch.save(state, folder / weights.url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "HASH_REGEX", torch.hub.re.compile("nothing"))
    if offline:
        monkeypatch.setenv("FROSTLINE_OFFLINE", "1")
    backbone = load_backbone("torchvision:squeezenet1_1")
    assert_same_state(state, backbone.model)
    file = folder / weights.url.rpartition("/")[2]
    assert (backbone.licence, backbone.sha256) == ("unknown", hashlib.sha256(file.read_bytes()).hexdigest())
    assert "torchvision:squeezenet1_1" in on_this_machine()
    assert lookups == []


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_cached_file_of_torchvision_is_not_run(tmp_path, lookups):
    """Torch's own function would unpickle all of it."""
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    file = tmp_path / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save({"x": Attack(tmp_path / "marker")}, file)
    with pytest.raises(WeightsError, match="is corrupt, or holds code, which was not run; remove it and try again"):
        load_backbone("torchvision:squeezenet1_1")
    assert not (tmp_path / "marker").exists()


def test_with_empty_caches_only_what_came_with_pip_is_here(lookups):
    assert on_this_machine() == ["bundled:efficientnet-lite0"]
    assert lookups == []


@pytest.mark.parametrize("name", [f"timm:{TINY}", "torchvision:squeezenet1_1"])
def test_only_what_is_cached_is_used_where_that_is_asked_for(name, lookups):
    with cached_only(), pytest.raises(MachineError, match="only weights on this machine are tried"):
        load_backbone(name)
    assert lookups == []
    with pytest.raises(MachineError, match="could not be downloaded"):
        load_backbone(name)
    assert lookups  # afterwards it is as it was


@pytest.mark.parametrize("before", [False, True])
def test_the_hubs_client_is_as_it_was_whatever_happens(before, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before)

    def failing() -> NoReturn:
        with hub_offline():
            assert constants.HF_HUB_OFFLINE
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        failing()
    assert before == constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("value", ["1", "true", "0", "", "no"])
def test_which_values_forbid(value, monkeypatch):
    monkeypatch.setenv("FROSTLINE_OFFLINE", value)
    if value in ("1", "true"):
        with pytest.raises(OSError, match=f"FROSTLINE_OFFLINE={value} forbids"):
            refuse_offline()
    else:
        refuse_offline()
