"""The bound of what all threads decode at once (R8)."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from badfiles import saved
from frostline.data import decoding
from frostline.data.decoding import UnreadableImageError, open_image, opened
from frostline.data.room import Room, has_memory
from frostline.errors import MachineError


def test_R08_no_more_pixels_are_inside_than_there_is_room_for():
    room, lock, inside, most = Room(100), threading.Lock(), [0], [0]

    def work(pixels: int) -> None:
        with room.of(pixels):
            with lock:
                inside[0] += pixels
                most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            with lock:
                inside[0] -= pixels

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 70, 1, 100, 50] * 20))
    assert most[0] <= 100
    assert room.used == 0


def test_what_is_larger_than_the_room_goes_alone_and_who_is_inside_never_waits_for_itself():
    room, used = Room(100), []

    def inside() -> None:
        with room.of(150), room.of(90):
            used.append(room.used)

    thread = threading.Thread(target=inside, daemon=True)  # one that waits for itself must not hold up the tests
    thread.start()
    thread.join(10)
    assert used == [240]
    with pytest.raises(ValueError, match="x"), room.of(100):
        raise ValueError("x")
    assert room.used == 0


def test_R08_the_threads_of_a_pass_hold_images_of_a_bounded_size_together(monkeypatch):
    content, most, inside, lock = saved(Image.new("RGBA", (100, 100))), [0], [0], threading.Lock()
    monkeypatch.setattr(decoding, "ROOM", Room(25_000))

    def work(_: int) -> None:
        with opened(content) as (image, _):
            with lock:
                inside[0] += image.width * image.height
                most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            with lock:
                inside[0] -= image.width * image.height

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most[0] == 20_000


def test_R08_too_little_memory_is_no_unreadable_image(monkeypatch):
    content = saved(Image.new("RGB", (100, 100)))

    def fail(_: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UnreadableImageError, match="much more memory than an image of its size"):
        open_image(content)
    monkeypatch.setattr(decoding, "has_memory", lambda size: size < 100 * 100 * 4)
    with pytest.raises(MachineError, match="too little memory to decode .* give --workers 1"):
        open_image(content)


def test_memory_that_is_there_and_not():
    assert has_memory(1_000)
    assert not has_memory(1 << 62)


def test_strips_of_transparency_are_what_the_whole_is():
    pixels = np.random.default_rng(0).integers(0, 256, (2 * decoding.STRIP + 3, 5, 4), np.uint8)
    white = Image.new("RGBA", (5, len(pixels)), "white")
    white.alpha_composite(Image.fromarray(pixels))
    assert np.array_equal(np.asarray(open_image(saved(Image.fromarray(pixels)))), np.asarray(white.convert("RGB")))
