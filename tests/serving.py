"""A server for tests: a small classifier behind HTTP, in a thread of the tests."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from conftest import SIZE, small_model
from frostline.classifier.classifier import Classifier
from frostline.machine import find_machine
from frostline.preprocessing import Preprocessing
from frostline.serve.batches import Served
from frostline.serve.limits import Limits
from frostline.serve.listening import listen
from frostline.serve.server import make_server

CLASSES = ("flat", "tall", "wide", "deep", "long")
PREPROCESSING = Preprocessing(size=SIZE, resize=36)


def classifier_of(seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Classifier:
    """A network without training; its answers are as repeatable as those of a good one."""
    return Classifier(small_model(seed).eval(), classes, PREPROCESSING, find_machine("cpu", "fp32"))


def picture(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (60, 50)) -> bytes:
    """The content of an image file; no two seeds look alike."""
    content = io.BytesIO()
    chance = np.random.default_rng(seed)
    Image.fromarray(chance.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(content, kind)
    return content.getvalue()


def form(files: list[tuple[str, bytes]], field: str = "image") -> tuple[bytes, dict[str, str]]:
    """A form with files, and its headers."""
    border = b"--the-border"
    parts = [
        border
        + f'\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join([*parts, border + b"--\r\n"]), {"content-type": "multipart/form-data; boundary=the-border"}


@dataclass(frozen=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Address:
    port: int

    def ask(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str = ""
    ) -> Answered:
        """One request in a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, named, response.read())
        finally:
            connection.close()

    def predict(self, content: bytes, query: str = "") -> Answered:
        return self.ask(f"/predict{query}", content, {"content-type": "image/png"})


@contextlib.contextmanager
def running(served: Served | None = None, token: str | None = None, limits: Limits | None = None) -> Iterator[Address]:
    """A server in a thread."""
    found = served or Served(classifier_of())
    with listen("127.0.0.1", 0) as taken:
        server = make_server(lambda: found, "127.0.0.1", token, limits)
        thread = threading.Thread(target=server.run, args=([taken],))
        thread.start()
        try:
            yield Address(taken.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
