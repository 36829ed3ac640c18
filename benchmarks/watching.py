"""One process, watched: its seconds from start to end, and the highest memory of it and all its descendants.

Memory is the sum of their PSS, in which a page that several processes share is counted once. The sum of their resident
sizes would count the libraries once for every data loader.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHARE = 0.02  # of one core that watching may take
LEAST_PAUSE = 0.05  # seconds


@dataclass(frozen=True)
class Watched:
    code: int
    seconds: float
    peak_bytes: int


def watch(command: Sequence[str], stdout: Path, stderr: Path, environment: Mapping[str, str] | None = None) -> Watched:
    """Run a command to its end; what it prints goes to the two files."""
    with stdout.open("wb") as out, stderr.open("wb") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True)
        peak = Peak(process.pid)
        try:
            code = process.wait()
            seconds = time.perf_counter() - started
        except BaseException:  # Ctrl-C: the data loaders go with it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            peak.stop()
    return Watched(code, seconds, peak.bytes)


class Peak:
    """Looks at a tree of processes again and again, in a thread, so that the end of the process is seen at once."""

    def __init__(self, root: int) -> None:
        self.bytes = 0
        self._root = root
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        pause = LEAST_PAUSE
        while not self._ended.wait(pause):
            began = time.thread_time()
            self.bytes = max(self.bytes, sum(memory(pid) for pid in tree(self._root)))
            pause = max(LEAST_PAUSE, (time.thread_time() - began) / SHARE)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


def tree(root: int) -> list[int]:
    """A process and its descendants; those that end meanwhile are left out."""
    found = [root]
    for pid in found:
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (thread / "children").read_text().split()]
        except OSError:
            continue
    return found


def memory(pid: int) -> int:
    """Bytes of a process's PSS; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
