"""A second process for tests of several: it takes part in what this one trains."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from frostline import distributed

WORKER = """
import sys
from frostline import distributed
from frostline.training.parallel import work
rank, size, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sys.exit(work(distributed.join(rank, size, address)))
"""


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def started(rank: int, size: int, address: str) -> subprocess.Popen[str]:
    """A process that works for rank 0. It sees the modules of the tests, which what it is sent may refer to."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(rank), str(size), address]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def group_of_two() -> Iterator[distributed.Group]:
    """A group of this process and another one, which must end without a word."""
    address = free_address()
    with started(1, 2, address) as other:
        yield distributed.join(0, 2, address)
        distributed.leave()
        assert (other.wait(30), other.stderr.read()) == (0, "")
