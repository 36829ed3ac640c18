"""What one client, and all of them together, may take of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    body: of a request. held: bodies of all requests together. pixels: of an image. images: in a request.
    url, headers: characters. text: of the remarks in a PNG. waiting: images of all requests that are not answered yet.
    batch: images that the network takes at once; the first waits at most `gathering` for others that are being decoded.
    head, sending: from the first byte of a request to its last header, and to its last byte. idle: between requests of
        a connection. answering: from the last byte of a request to its answer. reading: without taking any of an
        answer. decoding: of one image. starting: of a process that decodes. memory: that such a process may take.
    connections: open ones. incomplete: those among them whose request is not complete, or who do not read; more are
        only kept until they are `patience` old. pause: an idle one that is older is closed if it is one too many.
    draining: for the requests that are being answered when the server stops. discarding: for reading what is left of a
        refused request, because a client that is still sending would not read the answer.
    """

    body: int = 20 << 20
    held: int = 200 << 20
    pixels: int = 50_000_000
    images: int = 32
    url: int = 8_000
    headers: int = 32_000
    text: int = 8 << 20
    waiting: int = 256
    batch: int = 32
    gathering: float = 0.005
    head: float = 5
    sending: float = 20
    idle: float = 5
    answering: float = 30
    reading: float = 5
    decoding: float = 10
    starting: float = 60
    memory: int = 1 << 30
    connections: int = 100
    incomplete: int = 20
    patience: float = 0.5
    pause: float = 0.02
    draining: float = 20
    discarding: float = 2
