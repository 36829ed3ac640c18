"""One process at a time adds rows to an entry; nobody waits for ever, and a dead one holds nothing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from frostline import terminal
from frostline.store import claims
from frostline.store.claims import claimed, is_claimed

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")

HOLDER = """
import sys, time
from pathlib import Path
from frostline.store.claims import claimed
with claimed([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that has the claim of an entry."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "a")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_F15_a_dead_holders_claim_is_free_at_once(holder, tmp_path, capsys):
    assert is_claimed(tmp_path / "a")
    threading.Timer(0.3, holder.kill).start()
    started = time.perf_counter()
    with claimed([tmp_path / "a"]):
        assert time.perf_counter() - started < 5
        assert is_claimed(tmp_path / "a")
    assert not is_claimed(tmp_path / "a")
    assert f"waiting for process {holder.pid}, which computes activations for a" in capsys.readouterr().err


def test_who_waits_can_be_interrupted(holder, tmp_path, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), claimed([tmp_path / "a"]):
        pytest.fail("it is taken")
    assert holder.poll() is None


def test_claims_of_several_entries_never_wait_in_a_circle(tmp_path):
    entries, inside, most = [tmp_path / name for name in "abc"], [0], [0]

    def work(first: int) -> None:
        with terminal.quiet(True):
            for _ in range(20):
                with claimed([entries[first], entries[(first + 1) % 3], entries[(first + 2) % 3]]):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1

    threads = [threading.Thread(target=work, args=(first,), daemon=True) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert most == [1]


def test_an_entry_that_is_removed_while_one_waits_is_claimed_anew(tmp_path):
    held, waiting = claimed([tmp_path / "a"]), []

    def wait() -> None:
        with terminal.quiet(True), claimed([tmp_path / "a"]):
            waiting.append(is_claimed(tmp_path / "a"))

    with held:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        shutil.rmtree(tmp_path / "a")
    thread.join(10)
    assert waiting == [True]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ESTALE])
def test_F26_a_disk_without_locks_is_used_and_told_once(number, tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(number, os.strerror(number))

    claims._say_no_locks.cache_clear()
    monkeypatch.setattr("fcntl.flock", none)
    for _ in range(2):
        with claimed([tmp_path / "a", tmp_path / "b"]):
            assert not is_claimed(tmp_path / "a")
    assert capsys.readouterr().err.count("has no file locks") == 1


def test_where_nothing_can_be_written_nothing_is_claimed(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with claimed([tmp_path / "file" / "a"]):
        assert not is_claimed(tmp_path / "file" / "a")


def test_claims_are_taken_in_one_order_for_all(tmp_path, monkeypatch):
    """Else two fits could wait for each other for ever."""
    taken = []
    monkeypatch.setattr(claims, "_claim", taken.append)
    folders = [tmp_path / name for name in "dbfaec"]
    with claimed(folders), claimed(reversed(folders)):
        assert taken == 2 * sorted(folders)
