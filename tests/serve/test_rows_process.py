"""Rows S12, S13 and S14 of the test matrix: signals, ports, and a classifier that is replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import frostline
from attacking import Process, connect, serving, until
from frostline.backbones import load_backbone
from frostline.errors import MachineError
from frostline.serve.batches import Served
from frostline.serve.listening import listen
from frostline.serve.server import make_server
from serving import Answered, classifier_of, picture

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of other classes."""
    folder = tmp_path_factory.mktemp("runs")
    for name, classes in (("old", ["flat", "tall"]), ("new", ["cat", "dog", "fox"])):
        network = load_backbone("timm:test_resnet", weights="none").network(classes=len(classes))
        frostline.save_run(network, classes, folder / name)
    return folder


@contextlib.contextmanager
def in_flight(server: Process, count: int) -> Iterator[list[Future[Answered]]]:
    """Requests that are being answered; their images are not decoded until the end of the block."""
    stopped = server.decoders()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(count) as clients:
        asked = [clients.submit(server.predict, picture(seed)) for seed in range(count)]
        until(lambda: f"frostline_waiting_images {count:.1f}" in server.ask("/metrics").body.decode())
        try:
            yield asked
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@pytest.mark.long
def test_S12_sigterm_with_20_in_flight(runs, tmp_path):
    with serving(runs / "old", tmp_path / "log") as server:
        children = server.decoders()
        with in_flight(server, 20) as asked, connect(server.port) as begun:
            begun.sendall(b"GET /rea")
            server.process.terminate()
            until(lambda: refuses(server.port))
            begun.settimeout(5)
            with contextlib.suppress(OSError):
                begun.sendall(b"dy HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
                assert begun.recv(100)[:12] in (b"", b"HTTP/1.1 503")
            assert not any(each.done() for each in asked)
        assert [each.result().status for each in asked] == [200] * 20
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.said
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def refuses(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.long
def test_S12_S13_killed_started_again_at_the_same_port_and_stopped_at_once(runs, tmp_path):
    """A second signal does not wait for what is being answered."""
    with serving(runs / "old", tmp_path / "log") as server:
        before, children = server.predict(picture()).json, server.decoders()
        with in_flight(server, 2):
            server.process.kill()
            server.process.wait(10)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
        with serving(runs / "old", tmp_path / "again", port=server.port) as again:
            assert again.predict(picture()).json == before
            assert taken(runs, again.port) < 10
            children = again.decoders()
            with in_flight(again, 3) as asked:
                again.process.send_signal(signal.SIGINT)
                until(lambda: refuses(again.port))
                started = time.monotonic()
                assert again.end(signal.SIGINT) == 0
                assert time.monotonic() - started < 5
            assert all(each.exception() is not None or each.result().status == 503 for each in asked)
            assert "Traceback" not in again.said
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def taken(runs: Path, port: int) -> float:
    """How long it takes to say that a port is in use."""
    started = time.monotonic()
    command = [sys.executable, "-m", "frostline", "serve", str(runs / "old"), "--port", str(port)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 7
    assert found.stderr.startswith(f"frostline: cannot listen on port {port} of 127.0.0.1: address already in use")
    assert found.stdout == ""
    return time.monotonic() - started


@pytest.mark.long
def test_S13_a_taken_port_is_said_within_a_second(runs):
    with socket.create_server(("127.0.0.1", 0)) as other:
        times = sorted(taken(runs, other.getsockname()[1]) for _ in range(7))
    print(f"a taken port: {times[3]:.2f} s")
    assert times[3] < 1


def test_S13_a_port_for_the_system_only(runs):
    free = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if os.geteuid() != 0 or shutil.which("setpriv") is None or int(free.read_text()) <= 1:
        pytest.skip("needs root, setpriv and ports that need rights")
    code = "from frostline.serve.listening import listen; listen('127.0.0.1', 1)"
    drop = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps", "-all", "--bounding-set", "-all"]
    found = subprocess.run([*drop, sys.executable, "-c", code], capture_output=True, text=True)
    if "Permission denied" in found.stderr and "frostline" not in found.stderr:
        pytest.skip("nobody may read Python here")
    assert "MachineError: cannot listen on port 1 of 127.0.0.1: permission denied; give another --port" in found.stderr


def test_S13_version_6():
    try:
        taken = listen("::1", 0)
    except MachineError:
        pytest.skip("no IPv6 loopback here")
    with taken:
        port = taken.getsockname()[1]
        server = make_server(lambda: Served(classifier_of()), "::1")
        thread = threading.Thread(target=server.run, args=([taken],))
        thread.start()
        try:
            with socket.create_connection(("::1", port), timeout=60) as client:
                client.sendall(f"GET /health HTTP/1.1\r\nhost: [::1]:{port}\r\nconnection: close\r\n\r\n".encode())
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        finally:
            server.should_exit = True
            thread.join(30)


def break_weights(model: Path) -> None:
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (model / "model.safetensors").write_bytes(weights)


BROKEN = {
    "a flipped bit": break_weights,
    "half the weights": lambda model: os.truncate(model / "model.safetensors", 1000),
    "no weights": lambda model: (model / "model.safetensors").unlink(),
    "no description": lambda model: (model / "model.json").unlink(),
    "a list as description": lambda model: (model / "model.json").write_text("[]"),
    "text as description": lambda model: (model / "model.json").write_bytes(b"\xff\xfe"),
    "a folder as description": lambda model: ((model / "model.json").unlink(), (model / "model.json").mkdir()),
}


@pytest.mark.long
def test_S14_a_classifier_that_is_replaced(runs, tmp_path):
    """Until SIGHUP the old one answers, then the new one, and never one that is broken; no request fails meanwhile."""
    run = tmp_path / "run"
    shutil.copytree(runs / "old", run)
    with serving(run, tmp_path / "log") as server, ThreadPoolExecutor(2) as clients:
        ended: list[int] = []
        asked = [clients.submit(ask_until, server, ended) for _ in range(2)]
        for kind, broken in BROKEN.items():
            said = len(server.said)
            broken(replaced(run, runs / "new") / "model")
            server.process.send_signal(signal.SIGHUP)
            until(lambda said=said: "not loaded anew, the old one goes on" in server.said[said:], 60)
            assert server.ask("/info").json["classes"] == ["flat", "tall"], kind
        replaced(run, runs / "new")
        time.sleep(0.2)
        assert server.predict(picture()).json[0]["label"] in ("flat", "tall")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.ask("/info").json["classes"] == ["cat", "dog", "fox"], 60)
        assert server.predict(picture()).json[0]["label"] in ("cat", "dog", "fox")
        ended.append(1)
        found = [answered for each in asked for answered in each.result()]
        assert {answered.status for answered in found} == {200}
        until(lambda: len(server.decoders()) == max(2, os.cpu_count() or 2), 20)  # those of the old one have ended
        assert "Traceback" not in server.said
        assert server.end() == 0


def replaced(run: Path, other: Path) -> Path:
    """Put a copy of another run in the place of one."""
    fresh = run.with_name("fresh")
    shutil.copytree(other, fresh)
    run.rename(run.with_name(f"gone-{time.monotonic_ns()}"))
    fresh.rename(run)
    return run


def ask_until(server: Process, ended: list[int]) -> list[Answered]:
    found = []
    while not ended:
        found.append(server.predict(picture()))
        time.sleep(0.02)
    return found
