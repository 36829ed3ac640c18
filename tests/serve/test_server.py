"""What a server refuses to begin with; tests/serve/test_rows_process.py starts, reloads and stops one in a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from frostline.errors import UsageError
from frostline.serve.batches import Served
from frostline.serve.listening import listen
from frostline.serve.server import make_server
from serving import classifier_of


def test_a_port_in_use_is_said_before_the_run_is_loaded(tmp_path: Path):
    """S13: torch takes seconds to import."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-X", "importtime", "-m", "frostline", "serve", str(tmp_path), "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 7
    assert f"cannot listen on port {port} of 127.0.0.1: address already in use" in ended.stderr
    assert "| frostline.serve.listening\n" in ended.stderr.replace(" ", "").replace("|", "| ")
    assert "| torch\n" not in ended.stderr.replace(" ", "").replace("|", "| ")


def test_masks_are_not_served():
    segmentation = classifier_of()
    object.__setattr__(segmentation, "task", "segmentation")
    with pytest.raises(UsageError, match="frostline predict --masks"):
        make_server(lambda: Served(segmentation), "127.0.0.1")
