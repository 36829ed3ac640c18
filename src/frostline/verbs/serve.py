"""Answer requests over HTTP with the classifier of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.errors import MachineError, WeightsError
from frostline.serve.listening import TOKEN, listen, refuse_without_token

if TYPE_CHECKING:
    from torch import nn

    from frostline.runs.run import Run


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

    >>> serve_run("runs/pets")  # doctest: +SKIP
    """
    token = token or os.environ.get(TOKEN) or None
    refuse_without_token(host, token)
    with listen(host, port) as taken:  # torch takes seconds to import, and a port in use is said before
        try:
            import fastapi  # noqa: F401
            import prometheus_client  # noqa: F401
            import python_multipart  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise MachineError(f"{error.name} is missing; run: pip install 'frostline[serve]'") from error
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

        with terminal.quiet(quiet):
            terminal.say(f"{found.path} answers at http://{address}:{taken.getsockname()[1]}; Ctrl-C stops it")
            make_server(loaded, host, token).run([taken])


def _images(run: Run) -> Path | None:
    """The folder of the training images, if they are still there."""
    try:
        data = Path(str(run.config["data"]))
    except (WeightsError, KeyError):  # only model/ of the run was copied; or `save_run` wrote it
        return None
    folder = data if data.is_dir() else data.parent
    return folder if data.exists() else None
