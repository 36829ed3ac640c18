from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import frostline
from conftest import TINY_FIT, write_photos
from frostline.errors import UsageError
from frostline.serve.batches import Served
from frostline.serve.server import make_server
from serving import Address, classifier_of, picture, running

SOON = 30  # seconds; a fraction of one on a quiet machine


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    return frostline.fit(write_photos(folder / "photos", 8), out=folder / "run", **TINY_FIT).path


@contextlib.contextmanager
def started(run: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """`frostline serve` in a process of its own, ready to answer."""
    command = [sys.executable, "-m", "frostline", "serve", str(run), "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"at http://127\.0\.0\.1:(\d+);", line)
            assert found, line + process.stderr.read()
            address = Address(int(found[1]))
            assert address.ask("/ready").status == 200  # the socket is there from the start, and waits
            yield process, address
        finally:
            process.kill()


def waiting(address: Address) -> int:
    """How many images the server has and has not answered."""
    found = re.search(rb"frostline_waiting_images (\d+)", address.ask("/metrics").body)
    return int(found[1]) if found else 0


def test_it_answers_as_predict_does_and_ends_well_what_it_has_begun(run):
    """S12: all that is being answered ends, nothing new begins, and the processes that decode end too."""
    with started(run) as (process, address):
        (expected,) = frostline.load(run).predictions([picture(5)])
        (found,) = address.predict(picture(5)).json
        assert found["label"] == expected.label
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-5)

        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        connections = [http.client.HTTPConnection("127.0.0.1", address.port, timeout=SOON) for _ in range(20)]
        for i, connection in enumerate(connections):
            content = picture(i, size=(600, 600))
            connection.request("POST", "/predict", content, {"content-type": "image/png"})
        seen = waiting(address)
        process.send_signal(signal.SIGTERM)
        answered = [connection.getresponse().status for connection in connections]
        for connection in connections:
            connection.close()
        assert process.wait(SOON) == 0
        assert seen == 0 or answered.count(200) >= seen
        assert set(answered) <= {200, 503}
        with pytest.raises(OSError):
            address.ask("/health")
        end = time.monotonic() + 5
        while any(Path("/proc", child).exists() for child in children) and time.monotonic() < end:
            time.sleep(0.05)
        assert children
        assert not any(Path("/proc", child).exists() for child in children)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_a_hangup_loads_the_run_anew_or_keeps_the_old_one(run, tmp_path):
    """S14: a file that is replaced changes nothing before; a bad one is refused."""
    served = shutil.copytree(run, tmp_path / "run")
    with started(served) as (process, address):
        assert process.stderr is not None
        before = address.predict(picture()).json
        weights = served / "model" / "model.safetensors"
        whole = weights.read_bytes()
        shutil.copy(Path(__file__), tmp_path / "other").replace(weights)
        assert address.predict(picture()).json == before
        process.send_signal(signal.SIGHUP)
        assert "the old one goes on: the classifier in" in process.stderr.readline()
        assert address.predict(picture()).json == before
        weights.write_bytes(whole)
        process.send_signal(signal.SIGHUP)
        assert "is loaded anew" in process.stderr.readline()
        assert address.predict(picture()).json == before


def test_a_port_in_use_is_said_before_the_run_is_loaded(run):
    """S13."""
    with running() as address:
        command = [sys.executable, "-m", "frostline", "serve", str(run), "--port", str(address.port)]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 7
        assert f"cannot listen on port {address.port} of 127.0.0.1: address already in use" in ended.stderr
        command = [sys.executable, "-X", "importtime", *command[1:]]
        assert "| torch\n" not in subprocess.run(command, capture_output=True, text=True).stderr


def test_a_killed_server_starts_again_on_its_port_and_ends_at_ctrl_c(run):
    """S13."""
    with started(run) as (process, address):
        process.kill()
        process.wait()
    with started(run, "--port", str(address.port)) as (process, again):
        assert again == address
        process.send_signal(signal.SIGINT)
        assert process.wait(SOON) == 0


def test_masks_are_not_served():
    segmentation = classifier_of()
    object.__setattr__(segmentation, "task", "segmentation")
    with pytest.raises(UsageError, match="frostline predict --masks"):
        make_server(lambda: Served(segmentation), "127.0.0.1")
