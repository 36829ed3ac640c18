from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from frostline.serve.connection import Connection
from frostline.serve.limits import Limits
from serving import Address, picture, running

QUICK = Limits(head=0.4, sending=0.6, idle=0.4, answering=5, patience=0.2, connections=12, incomplete=6)


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with running(limits=QUICK) as found:
        yield found


@contextmanager
def connected(address: Address, first: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", address.port), timeout=5) as made:
        made.sendall(first)
        yield made


def everything(made: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    pieces = []
    try:
        while piece := made.recv(65_536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def answer(made: socket.socket) -> bytes:
    """The answer to GET."""
    said = b""
    while not said.endswith(b"}"):
        said += made.recv(65_536)
    return said


def post(length: int) -> bytes:
    return (
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n" % length
    )


GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.mark.parametrize("first", [b"", b"GET /health HTTP/1.1\r\n", post(1000), post(1000) + b"some"])
def test_a_request_that_is_not_completed_ends(address, first):
    started = time.monotonic()
    with connected(address, first) as made:
        said = everything(made)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"] == "request timeout"
    assert time.monotonic() - started < 4
    assert address.ask("/health").status == 200


def test_a_byte_now_and_then_does_not_help(address):
    with connected(address, b"GET /health HTTP/1.1\r\nhost: localhost\r\n") as made:
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 5:
                made.sendall(b"x: y\r\n")
                time.sleep(0.1)
    assert time.monotonic() - started < 4


def test_a_connection_is_used_again_and_closed_when_idle(address):
    with connected(address) as made:
        for _ in range(3):
            made.sendall(GET)
            assert answer(made).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.1)
        assert everything(made) == b""  # after idle seconds, without a word


def test_requests_after_one_another_are_answered_in_turn(address):
    with connected(address, GET * 5) as made:
        assert everything(made).count(b"HTTP/1.1 200 ") == 5


def test_those_that_complete_no_request_give_way(address):
    with ExitStack() as stack:
        for _ in range(QUICK.incomplete + 2):
            stack.enter_context(connected(address, b"GET /"))
        time.sleep(QUICK.patience + 0.05)
        for _ in range(4):
            assert address.ask("/health").status == 200


def test_too_many_connections_are_told_so(address):
    time.sleep(QUICK.idle + 0.2)
    with ExitStack() as stack:
        made = [stack.enter_context(connected(address)) for _ in range(QUICK.connections)]
        for each in made:
            each.sendall(GET)
        assert all(answer(each).startswith(b"HTTP/1.1 200 ") for each in made)  # and now they are idle
        found = address.ask("/health")
        assert found.status == 503
        assert found.headers["retry-after"] == "1"
        assert "too many connections" in found.json["detail"]
    time.sleep(0.2)
    assert address.predict(picture()).status == 200


def test_a_body_in_crumbs_is_refused(address):
    """Chunks of one byte take a thousand times as long to read as a body."""
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    with connected(address, head) as made:
        with contextlib.suppress(OSError):
            made.sendall(b"1\r\nx\r\n" * 20_000)
        assert b"the chunks of the body are too small" in everything(made)
    with connected(address, head) as made:
        content = picture(size=(300, 300))
        chunks = [content[start : start + 500] for start in range(0, len(content), 500)]
        made.sendall(b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n")
        assert everything(made).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_is_dropped(monkeypatch):
    """Answers of megabytes fill all buffers. The client may not notice: the kernel keeps what it did not take."""
    ended: list[str] = []
    end = Connection._end
    monkeypatch.setattr(Connection, "_end", lambda self, *why: ended.append(self.stage) or end(self, *why))
    with running(limits=Limits(reading=0.5)) as address, connected(address) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        made.settimeout(0.2)
        started = time.monotonic()
        while not ended and time.monotonic() - started < 60:
            with contextlib.suppress(OSError):
                made.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 50)
        assert ended == ["reading"]
        assert address.ask("/health").status == 200
