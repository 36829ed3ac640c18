"""Answer requests over HTTP with the classifier of a run."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.errors import WeightsError
from frostline.extras import refuse_missing
from frostline.serve.listening import TOKEN, listen, refuse_without_token

if TYPE_CHECKING:
    from torch import nn

    from frostline.runs.run import Run

NEEDS = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve_run(
    run: str | Path | Run,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token: str | None = None,
    device: str = "auto",
    model: nn.Module | None = None,
    quiet: bool = False,
) -> None:
    """Answer requests with the classifier of a run until SIGINT (Ctrl-C) or SIGTERM.

    `POST /predict` takes an image as its body, or several as a form, and answers what `frostline predict --json`
    prints. `/` is a page to try images on. /health, /ready, /info, /metrics and /openapi.json are for programs. SIGHUP
    loads the run anew.

    host, port: the address; port 0 takes a free one. token: what clients must send as `Authorization: Bearer TOKEN`, 16
        characters or more; by default the value of FROSTLINE_TOKEN. model: as in `load`.

    Raises UsageError for an address that others can reach without a token, and for a segmentation; MachineError if the
    port is in use or the packages are missing: pip install 'frostline[serve]'.

    In a script the call has to be below `if __name__ == "__main__":`, because the processes that decode images read it.

    >>> serve_run("runs/pets")  # doctest: +SKIP
    """
    token = token or os.environ.get(TOKEN) or None
    refuse_without_token(host, token)
    with _no_reload_yet(), listen(host, port) as taken:  # before torch is imported, which takes seconds
        refuse_missing("serve", NEEDS, ["serve"])
        from frostline import terminal
        from frostline.classifier.artifact import load
        from frostline.classifier.reference import reference_of
        from frostline.machine import find_machine
        from frostline.runs.run import Run, load_run
        from frostline.serve.batches import Served
        from frostline.serve.server import make_server

        found = run if isinstance(run, Run) else load_run(run)
        address = f"[{host}]" if ":" in host else host

        def loaded() -> Served:
            classifier = load(found, model, find_machine(device, "fp32"))
            return Served(classifier, reference_of(found.path), _images(found))

        gc.set_threshold(700, 10, 10)  # the command line sets more; here a body of megabytes may wait to be collected
        with terminal.quiet(quiet):
            terminal.say(f"{found.path} answers at http://{address}:{taken.getsockname()[1]}; Ctrl-C stops it")
            make_server(loaded, host, token).run([taken])


@contextlib.contextmanager
def _no_reload_yet() -> Iterator[None]:
    """SIGHUP does not end a server that is still loading its classifier, as it would end any other process."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _images(run: Run) -> Path | None:
    """The folder of the training images, if they are still there."""
    try:
        data = run.config.get("data")  # absent after `save_run` without data
    except WeightsError:  # only model/ of the run was copied
        return None
    if not isinstance(data, str) or not Path(data).exists():
        return None
    return Path(data) if Path(data).is_dir() else Path(data).parent
