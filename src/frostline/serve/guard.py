"""What is refused before the application sees it: wrong addresses, strangers, too much, too slow.

A web page anywhere can make a browser send requests to this machine, under any host name whose address it controls.
So without a token only the names of this machine are taken as Host, and a request that a page of another origin caused
is refused (https://owasp.org/www-community/attacks/DNS_rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from frostline import terminal
from frostline.errors import reason
from frostline.serve.counters import Counters
from frostline.serve.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

IDENTITY = "frostline.request_id"  # in the scope of a request
OPEN = ("/", "/health", "/ready")  # what needs no token: the page holds no secrets
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::\d+)?", re.ASCII)
LOCAL = ("localhost", "127.0.0.1", "::1")
PIECE = 1 << 16  # bytes
FOREIGN = ("cross-site", "same-site")
AGAIN = {"retry-after": "1"}
FAILED = "the server failed; its log has the reason under this request_id"
STOPPING = "the server is stopping"
ALWAYS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


class RefusedError(Exception):
    """A request that is not answered, with the status, the reason, and further headers of the answer."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}


def problem(status: int, detail: str, identity: str) -> dict[str, str]:
    """The body of every answer that is an error."""
    return {"error": HTTPStatus(status).phrase.lower(), "detail": detail, "request_id": identity}


@dataclass(eq=False)
class Guard:
    """An ASGI application around another one, which gets complete requests of allowed clients only.

    names: hosts that may be asked for; None for any. token: what clients must show, None for nothing.
    """

    application: Application
    limits: Limits
    counters: Counters
    names: frozenset[str] | None
    token: str | None = None
    draining: bool = False
    held: int = 0  # bytes of the bodies of all requests

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        answer = _Answer(self, scope, receive, send)
        with self.counters.request(scope) as answer.note:
            try:
                await answer.given()
            except RefusedError as refused:
                await answer.refuse(refused.status, refused.detail, refused.headers)
            except asyncio.CancelledError:  # the server has waited long enough, or a second signal says not to
                await answer.refuse(503, STOPPING, AGAIN)
            except Exception as error:
                terminal.say(f"request {answer.identity} failed: {type(error).__name__}: {reason(error)}")
                await answer.refuse(500, FAILED, {})


class _GoneError(Exception):
    """The client has closed the connection."""


class _Answer:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Message, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self.receive, self.send = guard, scope, receive, send
        self.limits = guard.limits
        self.identity = scope[IDENTITY] = uuid.uuid4().hex[:12]
        self.headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self.headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        self.complete = self.begun = False
        self.held = 0  # bytes
        self.note: Callable[[int], object] = int  # counts the status

    async def given(self) -> None:
        """Check the request, read it whole, and let the application answer."""
        self._check()
        try:
            self._refuse_large()
            await self._answered(await self._body())
        except _GoneError:
            return
        finally:
            self.guard.held -= self.held

    def _check(self) -> None:
        guard, length = self.guard, len(self.scope["raw_path"]) + len(self.scope["query_string"])
        if "content-length" in self.headers and "transfer-encoding" in self.headers:
            raise RefusedError(400, "a request has either a Content-Length or a Transfer-Encoding")
        if length > self.limits.url:
            raise RefusedError(414, f"the address has {length} characters; at most {self.limits.url} are taken")
        if sum(len(name) + len(value) for name, value in self.scope["headers"]) > self.limits.headers:
            raise RefusedError(400, f"the headers have more than {self.limits.headers:,} characters")
        host = _name(self.headers.get("host", []))
        if host is None or (guard.names is not None and host not in guard.names):
            raise RefusedError(400, "this server does not have the name in the Host header")
        foreign = any(_place(origin) != self.headers["host"][0].lower() for origin in self.headers.get("origin", []))
        if self.scope["path"] != "/":  # which a link on another page may open
            foreign = foreign or any(site in FOREIGN for site in self.headers.get("sec-fetch-site", []))
        if foreign:
            raise RefusedError(403, "requests of web pages of another origin are not answered")
        if guard.token is not None and self.scope["path"] not in OPEN and not self._knows(guard.token):
            raise RefusedError(401, "send the token: Authorization: Bearer …", {"www-authenticate": "Bearer"})
        if guard.draining and self.scope["path"] != "/health":
            raise RefusedError(503, STOPPING, AGAIN)

    def _knows(self, token: str) -> bool:
        shown = self.headers.get("authorization", [])
        return len(shown) == 1 and hmac.compare_digest(shown[0].encode(), f"Bearer {token}".encode())

    def _refuse_large(self) -> None:
        """Refuse a body by the length that the client states. No memory is kept for it: it may never arrive."""
        length = int(self.headers.get("content-length", ["0"])[0])
        if length > self.limits.body:
            raise RefusedError(413, f"the request has {length:,} bytes; at most {self.limits.body:,} are taken")

    def _hold(self, more: int) -> None:
        """Count that many bytes as held; raises RefusedError if all requests together hold too many."""
        if self.guard.held + more > self.limits.held:
            raise RefusedError(503, "the server is busy; try again", AGAIN)
        self.guard.held += more
        self.held += more

    async def _body(self) -> bytes:
        pieces: list[bytes] = []
        while not self.complete:
            piece = await self._next()
            if self.held + len(piece) > self.limits.body:
                raise RefusedError(413, f"the request has more than the {self.limits.body:,} bytes that are taken")
            self._hold(len(piece))
            pieces.append(piece)
        return b"".join(pieces)

    async def _next(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        self.complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def _answered(self, body: bytes) -> None:
        """The answer of the application, unless it takes too long or the client leaves."""
        starts = iter(range(0, max(1, len(body)), PIECE))

        async def receive() -> Message:
            await asyncio.sleep(0)  # others are answered between the pieces of a form, which take time to parse
            for start in starts:
                end = start + PIECE
                return {"type": "http.request", "body": body[start:end], "more_body": end < len(body)}
            await asyncio.Event().wait()  # for the end of the connection, which is noticed below
            raise AssertionError

        method = {"HEAD": "GET"}.get(self.scope["method"], self.scope["method"])  # uvicorn sends no body to HEAD
        scope = {**self.scope, "method": method}
        answering = asyncio.ensure_future(self.guard.application(scope, receive, self._send))
        leaving = asyncio.ensure_future(self.receive())
        try:
            await asyncio.wait({answering, leaving}, timeout=self.limits.answering, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            elif not leaving.done():
                raise RefusedError(503, f"no answer within {self.limits.answering:g} s; try again", AGAIN)
        finally:
            for task in (answering, leaving):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, RefusedError, Exception):
                    await task

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.note(message["status"])
            extra = {**ALWAYS, "x-request-id": self.identity}
            message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in extra.items())]
        await self.send(message)

    async def refuse(self, status: int, detail: str, headers: dict[str, str]) -> None:
        """Answer with an error. What the client is still sending is discarded for a moment, because it reads later."""
        if self.begun:
            return
        body = json.dumps(problem(status, detail, self.identity)).encode()
        said = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        if not self.complete:
            said["connection"] = "close"
        start = {"type": "http.response.start", "status": status}
        await self._send({**start, "headers": [(k.encode(), v.encode()) for k, v in said.items()]})
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        with contextlib.suppress(_GoneError, TimeoutError):
            async with asyncio.timeout(self.limits.discarding):
                while not self.complete:
                    await self._next()
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def _place(origin: str) -> str | None:
    """The name and port in an Origin header, None if there are none."""
    with contextlib.suppress(ValueError):
        return urlsplit(origin).netloc.lower()
    return None


def _name(hosts: list[str]) -> str | None:
    """The name in a Host header without its port, None if there is not exactly one."""
    found = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    return (found[1] or found[2]).lower() if found else None
