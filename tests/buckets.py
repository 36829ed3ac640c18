"""A bucket as S3 serves it over HTTP on loopback, whose answers can be made to fail.

`Bucket.fault` is asked before every request and may return a status, bytes to send instead of the content, "cut" for a
body that ends early, or seconds to wait first.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

import pytest

SECRETS = ("AKIDOFNOBODY", "SECRETOFNOBODY", "TOKENOFNOBODY")
Fault = int | float | bytes | str | None


@dataclass
class Bucket:
    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # method and name
    fault: Callable[[str, str, bytes], Fault] = lambda method, name, content: None

    def counted(self, method: str, ending: str = "") -> int:
        return sum(each == method and name.endswith(ending) for each, name in self.asked)


def handler(bucket: Bucket) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one packet

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            name = urllib.parse.unquote(parts.path).partition("/bucket")[2].lstrip("/")
            query = dict(urllib.parse.parse_qsl(parts.query))
            if "list-type" in query:
                return self.answer("LIST", query.get("prefix", ""), 200, listed(bucket, query.get("prefix", "")))
            content = bucket.files.get(name)
            if content is None:
                return self.answer("GET", name, 404, b"<Error><Code>NoSuchKey</Code></Error>")
            asked = self.headers.get("Range")
            if asked is None:
                return self.answer("GET", name, 200, content)
            start, end = asked.removeprefix("bytes=").split("-")
            piece = content[int(start) : int(end) + 1]
            about = {"Content-Range": f"bytes {start}-{int(start) + len(piece) - 1}/{len(content)}"}
            return self.answer("GET", name, 206, piece, about)

        def do_PUT(self) -> None:
            name = urllib.parse.unquote(self.path.partition("?")[0]).partition("/bucket/")[2]
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer("PUT", name, 200, content)

        def answer(self, method: str, name: str, status: int, content: bytes, about: dict[str, str] = {}) -> int:  # noqa: B006
            bucket.asked.append((method, name))
            fault = bucket.fault(method, name, content)
            if isinstance(fault, int):
                status, content, about = fault, f"<Error><Code>{' '.join(SECRETS)}</Code></Error>".encode(), {}
            if isinstance(fault, float):
                time.sleep(fault)
            if method == "PUT" and status == 200:
                bucket.files[name], content = content, b""
            sent = fault if isinstance(fault, bytes) else content
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                for word, value in {
                    "Content-Length": str(len(sent)),
                    "ETag": '"x"',
                    "Last-Modified": "Sat, 28 Nov 2026 00:00:00 GMT",
                    **about,
                }.items():
                    self.send_header(word, value)
                self.end_headers()
                self.wfile.write(sent[: len(sent) // 2] if fault == "cut" else sent)
                self.wfile.flush()
                if fault == "cut":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
            return status

    return Handler


def listed(bucket: Bucket, prefix: str) -> bytes:
    rows = "".join(
        f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size><ETag>{hash(content)}</ETag>"
        "<LastModified>2026-11-28T00:00:00.000Z</LastModified></Contents>"
        for name, content in sorted(bucket.files.items())
        if name.startswith(prefix)
    )
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()


@contextlib.contextmanager
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket at s3://bucket of this process's environment; requests are tried again within two seconds."""
    from datetime import timedelta

    bucket = Bucket()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(bucket))
    server.daemon_threads = True
    bucket.port = server.server_port
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    for name, secret in zip(names, SECRETS, strict=True):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket.port}")
    backoff = {"init_backoff": timedelta(seconds=0.02), "max_backoff": timedelta(seconds=0.1), "base": 2}
    retries = {"max_retries": 4, "retry_timeout": timedelta(seconds=2), "backoff": backoff}
    monkeypatch.setattr("frostline.remote.RETRIES", retries)
    monkeypatch.setattr("frostline.remote.PATIENCE", 0.5)
    monkeypatch.setattr("frostline.remote.PAUSE", 0.05)
    monkeypatch.setattr("frostline.remote.REQUEST", "2s")
    monkeypatch.setattr("frostline.remote.STALL", "200ms")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
