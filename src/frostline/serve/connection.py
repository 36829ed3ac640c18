"""HTTP connections that cannot be held open for nothing.

uvicorn waits for the rest of a request for ever, so that a few hundred clients which send a byte per minute keep all
others out. Here every stage of a connection has a deadline, and where too many have sent no complete request or do not
read their answer, the one that has tried longest is closed. So is an idle one where all connections are in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from frostline.serve.guard import problem
from frostline.serve.limits import Limits

PIECE = 1 << 14  # bytes that are read without a look at what they are
MOST_REFUSED = 800  # connections that are being told that there are too many; more are closed at once
BUSY = 503, "the server has too many connections; try again"
SLOW = 408, "the request was not complete in time"


class Connection(H11Protocol):
    """One connection. Each stage has a limit of its name.

    head: of a request. sending: the client, the body. answering: the server. reading: the client, after the buffer for
    it is full. idle: after an answer.
    """

    refused: set[Connection] = set()  # noqa: RUF012  # of all connections

    def __init__(self, *args: Any, limits: Limits, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.timeout_keep_alive = 24 * 3600  # `idle` here is stricter
        self.limits = limits
        self.stage, self.since = "", 0.0
        self.entered: object = None  # the request of that stage
        self.sent = self.useful = 0  # bytes of the body as it is sent, and without the frames of its chunks
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._enter("head")
        crowded = len(self.connections) > self.limits.connections
        slow = self._in(("head", "sending", "reading"), self.limits.patience)
        idle = self._in(("idle",), self.limits.pause) if crowded else []
        if slow and (crowded or len(slow) > self.limits.incomplete):
            slow[0]._end(*BUSY)
        elif idle:
            idle[0]._end(*BUSY)
        elif crowded:
            self._refuse(*BUSY)

    def _in(self, stages: tuple[str, ...], seconds: float) -> list[Connection]:
        """The connections that have been in one of these stages for so long, the longest first."""
        since = self.loop.time() - seconds
        found = [c for c in self.connections if isinstance(c, Connection) and c.stage in stages and c.since < since]
        return sorted(found, key=lambda each: each.since)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            if self in self.refused or self.transport.is_closing():
                return
            cycle, held = self.cycle, len(self.cycle.body) if self.cycle is not None else 0
            piece = data[start : start + PIECE]
            super().data_received(piece)
            self._look()
            if self.cycle is cycle and self.stage == "sending":
                self._refuse_crumbs(len(piece), len(self.cycle.body) - held)
            else:
                self.sent = self.useful = 0

    def _refuse_crumbs(self, sent: int, useful: int) -> None:
        """Refuse a body in chunks of a few bytes, which take a thousand times as long to read."""
        self.sent, self.useful = self.sent + sent, self.useful + useful
        if self.sent >= 2 * PIECE and self.useful < self.sent / 4:
            self._refuse(400, "the chunks of the body are too small")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """What is no HTTP is refused in the form of all other errors."""
        self._refuse(400, "this is no valid HTTP request")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.refused.discard(self)
        if self.timer is not None:
            self.timer.cancel()

    def _look(self) -> None:
        """Note the stage that the connection is in now."""
        if self.transport.is_closing() or self in self.refused:
            return
        if self.flow.write_paused:
            self._enter("reading")
        elif self.cycle is not None and not self.cycle.response_complete:
            self._enter("sending" if self.cycle.more_body else "answering")
        else:
            begun = bool(self.conn.trailing_data[0]) or self.cycle is None
            self._enter("head" if begun else "idle")

    def _enter(self, stage: str) -> None:
        if stage == self.stage and self.entered is self.cycle:
            return
        self.stage, self.entered, self.since = stage, self.cycle, self.loop.time()
        if self.timer is not None:
            self.timer.cancel()
        seconds: float = getattr(self.limits, stage)
        if stage == "answering":
            seconds += self.limits.discarding + 1  # the application answers before; this is for who does not read it
        self.timer = self.loop.call_later(seconds, self._end, *SLOW)

    def _end(self, status: int, why: str) -> None:
        if self.stage in ("head", "sending"):
            self._refuse(status, why)
        else:  # to close would wait until the client has read all
            self.connections.discard(self)
            self.transport.abort()

    def _refuse(self, status: int, why: str) -> None:
        """Answer outside HTTP's turns, and close; what the client still sends is discarded for a moment."""
        self.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if len(self.refused) >= MOST_REFUSED or answering:
            self.transport.abort()
            return
        self.refused.add(self)
        if self.cycle is not None:  # the application hears that nobody waits
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = json.dumps(problem(status, why, "")).encode()
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"content-length: {len(body)}",
            "content-type: application/json",
            *(["retry-after: 1"] if status == BUSY[0] else []),
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        with contextlib.suppress(OSError):  # the client may be gone
            if self.transport.can_write_eof():
                self.transport.write_eof()
        self.transport.resume_reading()
        self.timer = self.loop.call_later(1, self.transport.abort)

    def eof_received(self) -> None:
        if self in self.refused:
            self.transport.close()
