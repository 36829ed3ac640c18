"""What the tests attack a server with: a server in a process of its own, raw bytes, and many clients at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from serving import Address, Answered

STARTING = 90  # seconds; much more than a server needs on a busy machine


@dataclass(frozen=True)
class Process(Address):
    """A server in a process of its own. log: the file of its standard error."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return self.log.read_text()

    def decoders(self) -> list[int]:
        """The processes that decode: children of the process that multiprocessing forks from."""
        return [grandchild for child in children(self.pid) for grandchild in children(child)]

    def megabytes(self, peak: bool = False) -> float:
        """Memory of the server and its processes now, or at most since `forget_peaks`."""
        return sum(status_of(pid, "VmHWM" if peak else "VmRSS") for pid in [self.pid, *self.decoders()]) / 1024

    def forget_peaks(self) -> None:
        for pid in [self.pid, *self.decoders()]:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def alive(self) -> None:
        """Fails unless the server answers an image."""
        from serving import picture

        assert self.process.poll() is None, self.said
        assert self.predict(picture()).status == 200
        assert "Traceback" not in self.said

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def status_of(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
        return int(found[1]) if found else 0
    return 0


@contextlib.contextmanager
def serving(run: Path, log: Path, *arguments: str, port: int = 0, **environment: str) -> Iterator[Process]:
    """`frostline serve RUN` as a user starts it, when it is ready. environment: further variables."""
    command = [sys.executable, "-m", "frostline", "serve", str(run), "--port", str(port), *arguments]
    with log.open("wb") as written:
        process = subprocess.Popen(command, stderr=written, stdout=written, env={**os.environ, **environment})
    try:
        found = Process(_port(process, log), process, log)
        if "--host" not in arguments:
            until(lambda: _answers(found), STARTING)
        yield found
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()


def _answers(found: Process) -> bool:
    assert found.process.poll() is None, found.said
    with contextlib.suppress(OSError):
        return found.ask("/health").status == 200
    return False


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    found: list[str] = []

    def look() -> bool:
        assert process.poll() is None, log.read_text()
        found[:] = re.findall(r"answers at http://\S+:(\d+)", log.read_text())
        return bool(found)

    until(look, STARTING)
    return int(found[0])


def until(done, seconds: float = 10) -> None:
    """Wait until something holds; fails if it does not in time."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def connect(port: int, seconds: float = 10) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def raw(port: int, *pieces: bytes, seconds: float = 10) -> tuple[bytes, bool]:
    """Send bytes as they are. All that is answered, and whether the server has closed the connection."""
    with connect(port, seconds) as client:
        with contextlib.suppress(OSError):  # the server may close while more is sent
            for piece in pieces:
                client.sendall(piece)
        return until_closed(client)


def until_closed(client: socket.socket) -> tuple[bytes, bool]:
    """All that a server still sends, and whether it closes before the client's time is up."""
    answered = bytearray()
    try:
        while piece := client.recv(65_536):
            answered += piece
    except TimeoutError:
        return bytes(answered), False
    except OSError:
        pass
    return bytes(answered), True


def answers_in(content: bytes) -> list[Answered]:
    """The answers in the bytes of a connection; each states its length."""
    found = []
    while content:
        head, _, content = content.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        found.append(Answered(int(first.split()[1]), headers, content[:length]))
        content = content[length:]
    return found


def request(path: str, body: bytes = b"", *headers: str, method: str = "") -> bytes:
    """A request to this machine, as bytes."""
    method = method or ("POST" if body else "GET")
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *headers]
    if body:
        lines += [f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@dataclass
class Load:
    """What many clients saw: the seconds of each answer by its status; 0 is none at all."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)  # errors, and refusals that do not say when to come again

    def note(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    @property
    def counts(self) -> dict[int, int]:
        return {status: len(each) for status, each in sorted(self.seconds.items())}

    def quantile(self, share: float, status: int = 200) -> float:
        found = sorted(self.seconds[status])
        return found[min(len(found) - 1, int(share * len(found)))]


async def _client(port: int, body: bytes, until: float, keep: bool, load: Load) -> None:
    """One client: a request after the other, in one connection or each in its own."""
    message = request("/predict", body, "content-type: image/png", f"connection: {'keep-alive' if keep else 'close'}")
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            async with asyncio.timeout(30):
                if reader is None or writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(message)
                answered = answers_in(await _answer(reader))[0]
            load.note(answered.status, time.monotonic() - started)
            if answered.status in (429, 503) and "retry-after" not in answered.headers:
                load.odd.append("no Retry-After")
        except (OSError, EOFError, IndexError, TimeoutError) as error:
            load.note(0, time.monotonic() - started)
            load.odd.append(f"{type(error).__name__}: {error}")
            answered = None
        if writer is not None and (not keep or answered is None or answered.headers.get("connection") == "close"):
            writer.close()
            reader = writer = None
    if writer is not None:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return head + await reader.readexactly(int(length[1]) if length else 0)


def load_of(port: int, bodies: list[bytes], seconds: float, keep: bool = True) -> Load:
    """As many clients as bodies, each of which sends its own as fast as it is answered."""
    load = Load()

    async def all_clients() -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(_client(port, body, until, keep, load) for body in bodies))

    asyncio.run(all_clients())
    return load
