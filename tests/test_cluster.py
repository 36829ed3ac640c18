"""Work on a Ray cluster: what is lost is given out again, what cannot be done is told."""

from __future__ import annotations

import builtins
import os
import signal
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from frostline import cluster
from frostline.cli import main
from frostline.cluster import Cluster, cluster_of, on_nodes, refuse_other
from frostline.errors import MachineError, UsageError


@pytest.mark.parametrize("on", ["local", "ray", "ray://head:10001", "ray://127.0.0.1:10001"])
def test_what_names_a_cluster(on):
    refuse_other(on)


@pytest.mark.parametrize(
    "on", ["", "Ray", "slurm", "ray://", "ray://head", "ray://head:port", "http://head:10001", "ray:/x:1"]
)
def test_what_names_none_is_told(on, tmp_path, capsys):
    with pytest.raises(UsageError, match="it must be local, ray, or ray://HOST:PORT"):
        refuse_other(on)
    with pytest.raises(SystemExit) as ended:
        main(["features", str(tmp_path), "--on", on])
    assert ended.value.code == UsageError.exit_code
    assert "it must be local, ray, or ray://HOST:PORT" in capsys.readouterr().err


def test_a_password_in_an_address_is_not_repeated():
    with pytest.raises(UsageError, match="without a user or password") as told:
        refuse_other("ray://me:PASSWORD@head:10001")
    assert "PASSWORD" not in str(told.value)


def test_local_needs_no_ray(monkeypatch):
    def refuse(name: str, *rest: object) -> object:
        assert not name.startswith("ray")
        return imported(name, *rest)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert cluster_of("local") is None


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"--on ray needs ray: pip install 'frostline\[ray\]'"):
        cluster_of("ray")


def test_a_cluster_that_is_not_there_is_told_at_once():
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(MachineError, match=f"cannot reach the Ray cluster {address} .*refused"):
        cluster_of(address)


@pytest.mark.parametrize(
    ("address", "hint"), [("ray://127.0.0.1:1", "port for clients"), ("127.0.0.1:1", "the port of the cluster")]
)
def test_a_wrong_port_is_told_by_the_kind_of_address(address, hint):
    with pytest.raises(MachineError, match=f"cannot reach the Ray cluster {address} .*{hint}"):
        cluster._refuse_unreachable(address)


def test_a_block_is_halved_after_two_deaths_and_an_image_given_up_after_three():
    block = np.arange(5)
    assert cluster._again(block, 1) == [(block, 1)]
    (first, _), (second, deaths) = cluster._again(block, 2)
    assert (first.tolist(), second.tolist(), deaths) == ([0, 1, 2], [3, 4], 1)
    assert [len(cluster._again(block[:1], deaths)) for deaths in (1, 2, 3)] == [1, 1, 0]


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    """A cluster of two nodes with one core each, in processes of their own on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from on_ray import nodes

    with nodes(2):
        found = cluster_of("ray")
        assert found is not None
        yield found


def _worked(common: str, numbers: np.ndarray) -> str:
    """Ends its process if 13 is among the numbers."""
    if 13 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{common} {numbers.sum()}"


@pytest.mark.long
def test_one_image_that_kills_its_process_costs_itself(two_nodes):
    assert cluster.slots_of(two_nodes) == cluster.Slots(2, 1, 0)
    blocks = np.array_split(np.arange(24), 3)
    done = list(on_nodes(two_nodes, _worked, "sum", blocks, lambda numbers, slots: numbers))
    assert sorted(number for numbers, _ in done for number in numbers.tolist()) == list(range(24))
    assert [numbers.tolist() for numbers, result in done if result is None] == [[13]]
    assert all(result == f"sum {numbers.sum()}" for numbers, result in done if result is not None)


def _fails(common: str, numbers: np.ndarray) -> str:
    raise ValueError(f"{common} of {len(numbers)}")


def _lacks(common: str, numbers: np.ndarray) -> str:
    raise ModuleNotFoundError("No module named 'frostline'")


@pytest.mark.long
def test_a_fault_of_the_work_is_raised_here(two_nodes):
    with pytest.raises(ValueError, match="a fault of 2"):
        list(on_nodes(two_nodes, _fails, "a fault", [np.arange(2)], lambda numbers, slots: numbers))
    with pytest.raises(MachineError, match="lacks a package: No module named 'frostline'; install it there"):
        list(on_nodes(two_nodes, _lacks, "", [np.arange(2)], lambda numbers, slots: numbers))


def test_a_cluster_without_nodes_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr(cluster, "slots_of", lambda _: cluster.Slots(0, 1, 0))
    monkeypatch.setattr(cluster, "WAIT", 0.01)
    monkeypatch.setattr(cluster, "SAID", 0.02)
    monkeypatch.setattr(cluster, "GIVEN_UP", 0.1)
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(ray, "put", lambda value: value)
    with caplog.at_level("INFO"), pytest.raises(MachineError, match="no node for .* minutes; what is stored stays"):
        list(on_nodes(Cluster("ray"), _worked, "", [np.arange(2)], lambda numbers, slots: numbers))
    assert "waiting for one" in caplog.text
