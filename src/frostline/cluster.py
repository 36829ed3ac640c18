"""A Ray cluster: joining or starting it, and having blocks of work done on its nodes.

Ray brings retries, node by node resources and elastic clusters; a block that was lost is simply given out again,
because what it should write is named by its content. Ray trusts its network: whoever reaches its ports may run code.
So a cluster that is started here listens on this machine only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from frostline import terminal
from frostline.errors import MachineError, UsageError, reason
from frostline.extras import refuse_missing
from frostline.process import MOST_WORKERS, usable_cores

LOCAL, RAY, CLIENT = "local", "ray", "ray://"
AHEAD = 2  # blocks per slot that are given out, so that no node waits for the next one
WAIT, TRIES = 1.0, 3  # seconds between two looks at the nodes, and looks for free ones
SAID, GIVEN_UP = 20.0, 600.0  # seconds without any node, after which a line says so, and the pass ends
DEATHS = 3  # of the processes that had one image, after which it is left out
REACHED = 10.0  # seconds to reach a cluster's port
ASKED = "if it asks for a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token of the cluster"
FOR_CLIENTS = "ray:// needs the port for clients (10001)"
R = TypeVar("R")


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster. address: "ray" or ray://HOST:PORT. device: for its nodes, as `--device` says it."""

    address: str
    device: str = "auto"


@dataclass(frozen=True)
class Slots:
    """How many blocks the nodes compute at once, and what each of them takes."""

    count: int
    cpus: int
    gpus: int


def cluster_of(on: str, device: str = "auto") -> Cluster | None:
    """The cluster that `on` names, connected; None for "local".

    "ray": the cluster that RAY_ADDRESS names, else one that starts on this machine and ends with this process.
    "ray://HOST:PORT": another one, by its port for clients.

    Raises UsageError for another text, MachineError without Ray, for a cluster that cannot be reached, and one with
    another version of Python or Ray.
    """
    if on == LOCAL:
        return None
    refuse_other(on)
    refuse_missing(f"--on {on}", ["ray"], ["ray"])
    _connect(on)
    return Cluster(on, device)


def refuse_other(on: str) -> None:
    """Raises UsageError for anything but "local", "ray" and ray://HOST:PORT."""
    place = urlsplit(on)
    if "@" in on:
        raise UsageError("on names a cluster without a user or password: ray://HOST:PORT")
    with contextlib.suppress(ValueError):  # of a port that is no number
        if on in (LOCAL, RAY) or (place.scheme == "ray" and place.hostname and place.port):
            return
    raise UsageError(f"on is {on!r}; it must be local, ray, or ray://HOST:PORT such as ray://head.example:10001")


def _connect(on: str) -> None:
    named = on if on.startswith(CLIENT) else os.environ.get("RAY_ADDRESS", "")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not named:
        _keep_to_this_machine()
    import ray

    if ray.is_initialized():
        return
    own = {} if named else {"num_cpus": usable_cores(), "include_dashboard": False}
    _refuse_unreachable(named)
    try:
        with _own_signals(), warnings.catch_warnings(action="ignore"):
            ray.init(named or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except Exception as error:  # Ray has kinds of its own
        if not named:
            raise MachineError(f"cannot start a Ray cluster on this machine: {reason(error)}") from error
        hints = [FOR_CLIENTS, ASKED] if named.startswith(CLIENT) else [ASKED]
        said = [reason(error), *(hints if isinstance(error, ConnectionError) else [])]
        raise MachineError(f"cannot join the Ray cluster {named}: {'; '.join(said)}") from error


def _keep_to_this_machine() -> None:
    """Let a new cluster listen on the loopback address, and ask a token of whoever comes from there.

    Ray binds to the loopback address where clusters of several machines are switched off, as on macOS and Windows. It
    reads all of this once, so nothing is changed in a process that has used Ray before.
    """
    if "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _refuse_unreachable(address: str) -> None:
    """Raises MachineError if nothing listens there: Ray itself would try for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), REACHED).close()
    except (OSError, ValueError) as error:
        hint = FOR_CLIENTS if address.startswith(CLIENT) else "RAY_ADDRESS needs the port of the cluster (6379)"
        raise MachineError(
            f"cannot reach the Ray cluster {address} ({reason(error)}); is it running? {hint}"
        ) from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handlers of signals, which Ray replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def slots_of(cluster: Cluster) -> Slots:
    """What the nodes have now: a block takes a GPU and its share of the cores, else the cores of the smallest node."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    with_gpu = [(cpus, gpus) for cpus, gpus in cores if gpus]
    if with_gpu and cluster.device != "cpu":
        each = min(MOST_WORKERS, *(max(1, cpus // gpus) for cpus, gpus in with_gpu))
        return Slots(sum(gpus for _, gpus in with_gpu), each, 1)
    each = min([MOST_WORKERS, *(cpus for cpus, _ in cores if cpus)])
    return Slots(sum(cpus // each for cpus, _ in cores), each, 0)


def nodes_of_cluster() -> int:
    """The number of nodes that the cluster has now."""
    import ray

    return sum(node["Alive"] for node in ray.nodes())


def is_outside() -> bool:
    """Whether this process is a client of the cluster, which the nodes cannot reach."""
    import ray

    return bool(ray.util.client.ray.is_connected())


def on_nodes(
    cluster: Cluster,
    work: Callable[[Any, Any], R],
    common: Any,
    blocks: Iterable[np.ndarray],
    argument: Callable[[np.ndarray, Slots], Any],
) -> Iterator[tuple[np.ndarray, R | None]]:
    """Each block with what `work(common, argument(block, slots))` returned on some node, as they get done.

    blocks: numbers of images, (B,) each. common: sent once to each node. A block whose process or node died is given
    out again. One that ends its processes again and again is halved, down to the image that does it: that one comes
    with None. What is given out is cancelled if the caller stops.

    Raises MachineError if there is no node for ten minutes, and for a node that lacks Frostline.
    """
    import ray

    reference = ray.put(common)
    waiting = deque((block, 0) for block in blocks)  # and the number of processes that died of it
    running: dict[Any, tuple[np.ndarray, int]] = {}
    empty = _Empty()
    try:
        while waiting or running:
            slots = slots_of(cluster)
            task = _task(work, slots)
            while waiting and len(running) < AHEAD * slots.count:
                block, deaths = waiting.popleft()
                running[task.remote(reference, argument(block, slots))] = block, deaths
            empty.seen(slots)
            done, _ = ray.wait(list(running), timeout=WAIT) if running else ([], None)
            for one in done:
                block, deaths = running.pop(one)
                try:
                    result = _result(one)
                except _DiedError:
                    again = _again(block, deaths + 1)
                    waiting.extend(again)
                    if not again:
                        yield block, None
                else:
                    yield block, result
    finally:
        for one in running:
            ray.cancel(one, force=True)


@contextlib.contextmanager
def at_work(work: Callable[[int, int, str], None], slots: Slots, most: int) -> Iterator[tuple[int, str] | None]:
    """Processes on several nodes that do `work(rank, size, address)` while the context lasts.

    slots: what each process takes. most: of them, with this one, which is rank 0.
    Gives the size, with this process, and an address host:port for this process to listen at; None if no node is free.
    """
    import ray

    others = _free(slots, min(slots.count, most - 1))
    if others < 1:
        yield None
        return
    address = _free_address(ray.util.get_node_ip_address())
    task = _task(work, slots)
    running = [task.remote(rank, others + 1, address) for rank in range(1, others + 1)]
    try:
        yield others + 1, address
    finally:
        ray.wait(running, num_returns=len(running), timeout=REACHED)
        for one in running:
            ray.cancel(one, force=True)


def _task(work: Callable[..., Any], slots: Slots) -> Any:
    """A function as Ray runs it on any node with a free slot; what dies is not tried again by Ray itself."""
    import ray

    needs = {"num_cpus": slots.cpus, "num_gpus": slots.gpus}
    return ray.remote(work).options(max_retries=0, scheduling_strategy="SPREAD", **needs)


def _free(slots: Slots, most: int) -> int:
    """How many slots are free, at most that many; what has just ended is counted as busy for a moment."""
    import ray

    for _ in range(TRIES):
        free = int(ray.available_resources().get("GPU" if slots.gpus else "CPU", 0)) // (slots.gpus or slots.cpus)
        if free >= most:
            break
        time.sleep(WAIT)
    return min(free, most)


def _free_address(host: str) -> str:
    with socket.socket() as free:
        free.bind((host, 0))
        return f"{host}:{free.getsockname()[1]}"


class _DiedError(Exception):
    """The process or the node that had a block died."""


def _result(one: Any) -> Any:
    import ray
    from ray import exceptions

    died = (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,  # its node died when the block was done
    )
    try:
        return ray.get(one)
    except exceptions.RayTaskError as error:
        if "No module named" in str(error.cause):
            raise MachineError(f"a node of the cluster lacks a package: {error.cause}; install it there") from error
        if isinstance(error.cause, exceptions.RayError):
            lost = type(error.cause).__name__
            raise MachineError(
                f"the cluster lost what was sent to its nodes ({lost}); give the same command again"
            ) from error
        raise error.as_instanceof_cause() from error
    except died as error:
        raise _DiedError from error


def _again(block: np.ndarray, deaths: int) -> list[tuple[np.ndarray, int]]:
    """How a block is given out again: as it is, or in halves if two processes died of it; not at all after three."""
    if len(block) > 1 and deaths > 1:
        return [(half, 1) for half in np.array_split(block, 2)]
    return [(block, deaths)] if deaths < DEATHS else []


class _Empty:
    """How long a cluster has had no node that computes; waits while it is so."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.said = False

    def seen(self, slots: Slots) -> None:
        """Look at the nodes; raises MachineError if there has been none for ten minutes."""
        now = time.monotonic()
        if slots.count:
            self.since, self.said = None, False
            return
        self.since = now if self.since is None else self.since
        if now - self.since > GIVEN_UP:
            raise MachineError(
                f"the cluster has had no node for {GIVEN_UP / 60:.0f} minutes; what is stored stays: start nodes, and "
                "give the same command again"
            )
        if now - self.since > SAID and not self.said:
            self.said = True
            terminal.say("the cluster has no node with a free core; waiting for one")
        time.sleep(WAIT)
