"""Start, reload and stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, cast

import uvicorn

from frostline import terminal
from frostline.errors import UsageError
from frostline.serve.app import ROUTES, application
from frostline.serve.batches import Batches, Served
from frostline.serve.connection import Connection
from frostline.serve.counters import Counters
from frostline.serve.guard import LOCAL, Guard
from frostline.serve.limits import Limits
from frostline.serve.listening import WAITING
from frostline.signals import handled_by

ACCEPTED = 32  # connections at once; in a crowd, those that end are seen before more are accepted


class _Server(uvicorn.Server):
    """uvicorn's server, which ends with success after a signal: stopping is what it was asked for."""

    guard: Guard

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with handled_by(self.handle_exit):
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():  # asyncio has one number for how many it accepts at once and how many may wait
            each.listen(WAITING)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The first signal lets requests end, a second one does not wait for them."""
        self.force_exit = self.should_exit
        self.should_exit = self.guard.draining = True


def make_server(
    load: Callable[[], Served], host: str, token: str | None = None, limits: Limits | None = None
) -> uvicorn.Server:
    """A server whose `run([socket])` answers requests until SIGINT or SIGTERM. SIGHUP loads the classifier anew.

    load: gives the classifier; a later call may give another one. host: as `listen` took it.
    Raises UsageError for a segmentation, and what `load` raises.
    """
    limits = limits or Limits()
    counters = Counters(ROUTES)
    serving = _Serving(load, limits, counters)
    app = application(limits, counters, lambda: serving.batches, serving.lifespan)
    names = None if token else frozenset({*LOCAL, host.lower()})
    guard = Guard(app, limits, counters, names, token)
    logging.getLogger("python_multipart").setLevel("ERROR")  # as uvicorn below, and for the same reason
    config = uvicorn.Config(
        guard,
        http=cast(Any, functools.partial(Connection, limits=limits)),
        ws="none",
        log_config=None,
        log_level="error",  # else anybody could fill the log with remarks about what is no HTTP
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=ACCEPTED,
        timeout_graceful_shutdown=int(limits.draining),
    )
    server = _Server(config)
    server.guard = guard
    return server


class _Serving:
    """The classifier that answers now. A new one takes its place between two requests."""

    def __init__(self, load: Callable[[], Served], limits: Limits, counters: Counters) -> None:
        self.load, self.limits, self.counters = load, limits, counters
        self.batches = self._new(load())
        self._tasks: dict[Batches, asyncio.Task[None]] = {}
        self._reloading: asyncio.Task[None] | None = None

    def _new(self, served: Served) -> Batches:
        if served.classifier.task == "segmentation":
            raise UsageError("a segmentation gives masks, which serve does not answer; use frostline predict --masks")
        return Batches(served, self.limits, self.counters)

    @asynccontextmanager
    async def lifespan(self, _: object) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        self._start(self.batches)
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):  # no SIGHUP here
            loop.add_signal_handler(signal.SIGHUP, self._hear)
        with contextlib.suppress(asyncio.CancelledError):  # by a second signal, after which nothing is waited for
            yield
            for batches in [*self._tasks]:
                await self._end(batches)

    def _start(self, batches: Batches) -> None:
        self._tasks[batches] = asyncio.create_task(batches.run())

    async def _end(self, batches: Batches) -> None:
        task = self._tasks.pop(batches)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await batches.close()

    def _hear(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        try:
            served = await asyncio.to_thread(self.load)
            batches = await self.batches.between(lambda: self._new(served))
        except Exception as error:  # whatever is wrong with the new one
            terminal.say(f"the classifier is not loaded anew, the old one goes on: {error}")
            return
        old, self.batches = self.batches, batches
        self._start(batches)
        terminal.say("the classifier is loaded anew")
        await old.emptied()
        await self._end(old)
