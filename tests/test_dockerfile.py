"""The container, without an engine: its file is sound, and its steps and its command work outside one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import frostline
from conftest import TINY_FIT, write_photos
from frostline.serve.listening import listen

ROOT = Path(__file__).parent.parent
FILE = ROOT / "Dockerfile"


def steps() -> Iterator[tuple[str, str]]:
    """Each instruction and its arguments, with continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE))
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, arguments = line.partition(" ")
        yield instruction, arguments.strip()


def last(instruction: str) -> str:
    return [arguments for name, arguments in steps() if name == instruction][-1]


def test_the_container_is_small_and_has_no_rights():
    found = list(steps())
    assert last("USER").partition(":")[0].isdecimal()  # Kubernetes can tell that it is not root only by number
    assert last("USER").partition(":")[0] != "0"
    assert all(
        re.search(r":[\w.-]+", arguments) and ":latest" not in arguments for name, arguments in found if name == "FROM"
    )
    assert "slim" in last("FROM")
    assert "ADD" not in {name for name, _ in found}  # it unpacks and downloads
    for name, arguments in found:
        if name == "RUN" and "pip install" in arguments:
            assert arguments.count("pip install") == arguments.count("--no-cache-dir")
    assert "whl/cpu" in FILE.read_text()


def test_what_is_copied_is_there_and_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, arguments in steps():
        if name == "COPY" and "--from" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists()
                assert source in kept
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")


@pytest.mark.skipif(shutil.which("hadolint", path=Path(sys.executable).parent) is None, reason="no hadolint here")
def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert hadolint
    ended = subprocess.run([hadolint, str(FILE)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.long
def test_its_command_answers_to_its_health_check(tmp_path):
    """The entry point and the health check as the file has them, with the run and the port of this test."""
    run = frostline.fit(write_photos(tmp_path / "photos", 8), out=tmp_path / "run", **TINY_FIT).path
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    entry = json.loads(last("ENTRYPOINT"))
    assert entry == ["frostline", "serve", "/run/model", "--host", "0.0.0.0"]  # noqa: S104
    check = json.loads(last("HEALTHCHECK").partition("CMD")[2])
    assert check[0] == "python"
    probe = check[2].replace(":8000/", f":{port}/")
    assert probe != check[2]
    secret = os.urandom(16).hex()
    command = [sys.executable, "-m", "frostline", "serve", str(run / "model"), *entry[3:], "--port", str(port)]
    environment = {**os.environ, "FROSTLINE_TOKEN": secret, "FROSTLINE_OFFLINE": "1"}
    refused = subprocess.run(command, env={**environment, "FROSTLINE_TOKEN": ""}, capture_output=True, text=True)
    assert (refused.returncode, "set FROSTLINE_TOKEN" in refused.stderr) == (2, True)
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as server:
        try:
            end = time.monotonic() + 60
            while (code := subprocess.run([sys.executable, *check[1:2], probe], capture_output=True).returncode) != 0:
                assert time.monotonic() < end
                assert server.poll() is None
            assert code == 0
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/info", headers={"Authorization": f"Bearer {secret}"}
            )
            with urllib.request.urlopen(asked) as answer:  # noqa: S310
                assert json.load(answer)["coverage"] is None  # only model/ is in the container
        finally:
            server.terminate()
        assert server.wait(30) == 0
