from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from frostline.serve.counters import Counters
from frostline.serve.guard import Guard
from frostline.serve.limits import Limits

SECRET = "0123456789abcdef"  # noqa: S105
HOST = [(b"host", b"localhost:8000")]
LOCAL = frozenset(["localhost", "127.0.0.1", "::1"])


@dataclass
class Client:
    """One request to a guard: pieces of its body, then silence or the end of the connection."""

    pieces: list[bytes] = field(default_factory=lambda: [b""])
    leaves: bool = False
    sent: list[dict[str, Any]] = field(default_factory=list)

    async def receive(self) -> dict[str, Any]:
        if self.pieces:
            return {"type": "http.request", "body": self.pieces.pop(0), "more_body": bool(self.pieces)}
        if not self.leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def said(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(b"".join(message.get("body", b"") for message in self.sent[1:]))
        return found


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers the length of the body."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % len(body)})


def guard_of(application: Any = echo, token: str | None = None, limits: Limits | None = None, **more: Any) -> Guard:
    return Guard(application, limits or Limits(), Counters(("/predict",)), None if token else LOCAL, token, **more)


def ask(
    guard: Guard, headers: list[tuple[bytes, bytes]] = HOST, path: str = "/predict", client: Client | None = None
) -> Client:
    client = client or Client()
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope["headers"] = headers
    asyncio.run(guard(scope, client.receive, client.send))
    return client


def refused(client: Client, status: int, why: str) -> None:
    assert client.status == status
    assert why in client.said["detail"]
    assert client.said.keys() == {"error", "detail", "request_id"}
    assert client.said["request_id"] == client.headers["x-request-id"]


def test_a_request_is_answered_and_marked():
    found = ask(guard_of(), client=Client([b"abc", b"defg"]))
    assert (found.status, found.sent[1]["body"]) == (200, b"7")
    assert found.headers["x-content-type-options"] == "nosniff"
    assert len(found.headers["x-request-id"]) == 12


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:1", b"127.0.0.1:8000", b"[::1]:8000"])
def test_the_names_of_this_machine(host):
    assert ask(guard_of(), [(b"host", host)]).status == 200


@pytest.mark.parametrize(
    "headers",
    [[], [(b"host", b"evil.example")], [(b"host", b"localhost.evil.example")], [(b"host", b"localhost@evil.example")]]
    + [[(b"host", b"")], [(b"host", b"[")], [*HOST, (b"host", b"evil.example")], [(b"host", b"0x7f.1")]]
    + [[(b"host", host)] for host in (b"localhost#.evil", b"localhost/evil", b"evil@localhost", b"localhost:evil")],
)
def test_other_names_are_refused(headers):
    refused(ask(guard_of(), headers), 400, "Host")


@pytest.mark.parametrize("origin", [b"https://evil.example", b"null", b"http://localhost:9000", b"http://localhost"])
def test_pages_of_other_origins_are_refused(origin):
    refused(ask(guard_of(), [*HOST, (b"origin", origin)]), 403, "another origin")


@pytest.mark.parametrize("site", [b"cross-site", b"same-site"])
def test_pages_of_other_origins_cannot_show_or_ask_either(site):
    """A picture of another page is asked for without an Origin; a link on it may open the page."""
    headers = [*HOST, (b"sec-fetch-site", site)]
    refused(ask(guard_of(), headers, "/training-image"), 403, "another origin")
    assert ask(guard_of(), headers, "/").status == 200
    own = ask(guard_of(), [*HOST, (b"sec-fetch-site", b"same-origin")])
    assert (own.status, own.headers["cross-origin-resource-policy"]) == (200, "same-origin")


def test_the_own_page_is_answered():
    assert ask(guard_of(), [*HOST, (b"origin", b"http://localhost:8000")]).status == 200


@pytest.mark.parametrize(
    "shown", [None, b"", b"Bearer", b"Bearer wrong", b"bearer 0123456789abcdef", b"Basic 0123456789abcdef", b"\xff"]
)
def test_without_the_token_nothing_is_told(shown):
    guard = guard_of(token=SECRET)
    headers = [(b"host", b"example.com")] + ([(b"authorization", shown)] if shown is not None else [])
    for path in ("/predict", "/info", "/metrics", "/openapi.json", "/training-image", "/health/", "//"):
        found = ask(guard, headers, path)
        refused(found, 401, "Bearer")
        assert found.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/health", "/ready"):
        assert ask(guard, headers, path).status == 200


def test_with_the_token_any_name_will_do():
    guard = guard_of(token=SECRET)
    known = (b"authorization", b"Bearer 0123456789abcdef")
    assert ask(guard, [(b"host", b"example.com"), known]).status == 200
    refused(ask(guard, [(b"host", b"example.com"), known, (b"origin", b"http://evil.example")]), 403, "origin")


def test_two_lengths_are_refused():
    both = [*HOST, (b"content-length", b"3"), (b"transfer-encoding", b"chunked")]
    refused(ask(guard_of(), both), 400, "either a Content-Length or a Transfer-Encoding")


def test_a_long_address_is_refused():
    refused(ask(guard_of(), path="/" + "a" * 9000), 414, "9001 characters")


def test_a_large_body_is_refused_by_its_announcement():
    guard = guard_of(limits=Limits(body=100))
    refused(ask(guard, [*HOST, (b"content-length", b"101")], client=Client([b"a" * 101])), 413, "101 bytes")
    assert ask(guard, [*HOST, (b"content-length", b"100")], client=Client([b"a" * 100])).status == 200


def test_a_large_body_is_refused_while_it_comes():
    guard = guard_of(limits=Limits(body=100))
    client = Client([b"a" * 60] * 5)
    refused(ask(guard, client=client), 413, "more than the 100 bytes")
    assert not client.pieces  # the rest was discarded, so that the client could read the answer
    assert guard.held == 0


def test_all_bodies_together_are_bounded():
    guard = guard_of(limits=Limits(body=100, held=150))
    guard.held = 100
    found = ask(guard, client=Client([b"a" * 60]))
    refused(found, 503, "busy")
    assert found.headers["retry-after"] == "1"
    assert ask(guard, [*HOST, (b"content-length", b"50")], client=Client([b"a" * 50])).status == 200
    refused(ask(guard, client=Client([b"a" * 30, b"a" * 30])), 503, "busy")
    assert guard.held == 100


async def slow(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(10)


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise ZeroDivisionError("a secret path")


def test_an_answer_that_takes_too_long():
    found = ask(guard_of(slow, limits=Limits(answering=0.05)))
    refused(found, 503, "no answer within 0.05 s")
    assert found.headers["retry-after"] == "1"


def test_a_client_that_leaves_is_not_answered():
    guard = guard_of(slow)
    assert not ask(guard, client=Client([b"abc"], leaves=True)).sent
    assert not ask(guard, client=Client([], leaves=True)).sent
    assert guard.held == 0
    assert b'status="gone"' in guard.counters.text()


def test_a_fault_of_the_application_is_a_problem_without_its_text():
    found = ask(guard_of(broken))
    refused(found, 500, "its log has the reason")
    assert "secret" not in str(found.said)


def test_a_server_that_stops_says_so():
    guard = guard_of(draining=True)
    refused(ask(guard), 503, "stopping")
    refused(ask(guard, path="/ready"), 503, "stopping")
    assert ask(guard, path="/health").status == 200
