from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from frostline.data.decoding import UnreadableImageError
from frostline.data.views import PLAIN, pixels
from frostline.serve.decoders import DECODE, REFUSED, CrashedError, Decoders, _answer
from frostline.serve.limits import Limits
from serving import PREPROCESSING, picture


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    found = Decoders(PREPROCESSING, Limits(pixels=4_000_000, decoding=2), lambda: None)
    yield found
    found.close()


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_pixels_are_those_of_predict(decoders, kind, tmp_path):
    content = picture(3, kind, (900, 640))
    file = tmp_path / "image"
    file.write_bytes(content)
    assert np.array_equal(decoders.decode(content), pixels(file, b"", [0], PLAIN, PREPROCESSING)[0])


def header_of(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    begun = struct.pack(">I", 1000) + b"IDAT" + bytes(8)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + begun


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty file"),
        (b"<html>", "known format"),
        (picture()[:300], "truncated"),
        (header_of(3000, 3000), "pixels"),
    ]
    + [(header_of(100_000, 100_000), "pixels"), (saved(Image.new("1", (9000, 9000))), "9000 × 9000 pixels, more than")],
)
def test_what_cannot_be_read_has_a_reason(decoders, content, why):
    with pytest.raises(UnreadableImageError, match=why):
        decoders.decode(content)
    decoders.decode(picture())


def test_thumbnails_are_small_and_hold_nothing_but_pixels(decoders):
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    small = decoders.thumbnail(saved(Image.new("RGB", (800, 400), "red"), "JPEG", exif=exif))
    assert Image.open(io.BytesIO(small)).size == (224, 112)
    assert b"a secret" not in small


def killing(monkeypatch: pytest.MonkeyPatch, decoders: Decoders, stop: signal.Signals) -> None:
    """The next process gets a signal instead of time to answer."""
    free = decoders._idle.get()
    os.kill(free.process.pid, stop)
    if stop == signal.SIGKILL:
        free.process.join(5)
    for _ in range(decoders.count - 1):
        decoders._idle.put(decoders._idle.get())
    decoders._idle.put(free)


def test_a_process_that_ends_is_replaced(decoders, monkeypatch):
    crashed: list[int] = []
    monkeypatch.setattr(decoders, "crashed", lambda: crashed.append(1))
    killing(monkeypatch, decoders, signal.SIGKILL)
    failed = 0
    started = time.monotonic()
    for seed in range(2 * decoders.count):
        try:
            decoders.decode(picture(seed))
        except CrashedError:
            failed += 1
    assert failed == len(crashed) == 1
    assert time.monotonic() - started < 5


def test_a_process_that_hangs_is_replaced(decoders, monkeypatch):
    crashed: list[int] = []
    monkeypatch.setattr(decoders, "crashed", lambda: crashed.append(1))
    killing(monkeypatch, decoders, signal.SIGSTOP)
    late = []
    for seed in range(decoders.count):
        try:
            decoders.decode(picture(seed))
        except UnreadableImageError as error:
            late.append(str(error))
    assert late == ["decoding takes more than 2 s"]
    assert len(crashed) == 1


def test_many_threads_each_get_their_own_image(decoders):
    expected = [pixels(picture(seed), b"", [0], PLAIN, PREPROCESSING)[0] for seed in range(40)]
    found: dict[int, np.ndarray] = {}

    def work(part: range) -> None:
        for seed in part:
            found[seed] = decoders.decode(picture(seed))

    threads = [threading.Thread(target=work, args=(range(start, 40, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[seed], expected[seed]) for seed in range(40))


def test_processes_end_with_their_server():
    own = Decoders(PREPROCESSING, Limits(), lambda: None)
    processes = [own._idle.get() for _ in range(own.count)]
    for each in processes:
        own._idle.put(each)
    own.close()
    assert not any(each.process.is_alive() for each in processes)


def test_what_a_decoder_raises_is_a_reason_and_no_crash(monkeypatch):
    """Also from the header, and when memory is short."""

    def raising(error: Exception) -> None:
        monkeypatch.setattr("frostline.serve.decoders.pixels", lambda *_: (_ for _ in ()).throw(error))

    monkeypatch.setattr(Image, "open", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no pitm box")))
    assert _answer(DECODE, b"an AVIF", PREPROCESSING, 10**6).startswith(REFUSED)
    for error, said in [(MemoryError(), b"memory"), (ZeroDivisionError(), b"ZeroDivisionError while decoding")]:
        raising(error)
        assert said in _answer(DECODE, b"an image", PREPROCESSING, 10**6)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is bounded on Linux only")
def test_such_a_process_takes_so_much_memory_and_no_more():
    code = "from frostline.serve.decoders import limit_memory; limit_memory(1 << 28); bytes(1 << 27); bytes(1 << 29)"
    assert "MemoryError" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr


def test_such_a_process_is_small():
    """Torch would take seconds to start, and hundreds of megabytes in each."""
    code = "import sys, frostline.serve.decoders; print(sorted({'torch', 'sklearn', 'scipy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
