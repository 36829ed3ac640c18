"""Whether weights may, and can, be downloaded: checked for every backbone, without changing the process.

`FROSTLINE_OFFLINE=1` forbids all downloads, `HF_HUB_OFFLINE=1` those from the Hugging Face hub. Files in the caches of
this machine are used in any case, without network access.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

import torch

from frostline.process import offline

_one_at_a_time = threading.Lock()  # the hub's flag is global to the process
_cached_only = ContextVar("_cached_only", default=False)


@contextlib.contextmanager
def cached_only() -> Iterator[None]:
    """Inside, nothing is downloaded, as with `FROSTLINE_OFFLINE=1`."""
    before = _cached_only.set(True)
    try:
        yield
    finally:
        _cached_only.reset(before)


def torch_file(url: str) -> Path:
    """Where torch.hub keeps the file of a URL, whether it exists or not."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)


def something_cached() -> bool:
    """Whether the caches of torch.hub and of the Hugging Face hub hold anything at all.

    Checked first, because looking for the files of each network takes seconds of imports.
    """
    from huggingface_hub import constants

    folders = Path(torch.hub.get_dir(), "checkpoints"), Path(constants.HF_HUB_CACHE)
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def refuse_offline(*variables: str) -> None:
    """Raises OSError if FROSTLINE_OFFLINE or one of these environment variables forbids downloads.

    Also raises inside `cached_only`.
    """
    if _cached_only.get():
        raise OSError("only weights on this machine are tried")
    if forbidding := offline(*variables):
        raise OSError(f"{forbidding} forbids downloads")


def refuse_unless_cached(url: str) -> None:
    """Raises OSError if a file of torch.hub is not on this machine and must not be downloaded."""
    if not torch_file(url).is_file():
        refuse_offline()


def refuse_unreachable(url: str) -> None:
    """Raises OSError if a host name has no address and no proxy would find one.

    The hub's client would retry for most of a minute.
    """
    host = urlsplit(url).hostname or ""
    if "https" in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"found no address for {host}: {error.strerror or error}") from error


@contextlib.contextmanager
def hub_offline() -> Iterator[None]:
    """Inside, the Hugging Face hub's client uses only its cache; its setting is restored afterwards."""
    from huggingface_hub import constants

    with _one_at_a_time:
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before
