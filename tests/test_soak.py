"""Fits, again and again in one process: what one of them leaves behind shows in memory, open files or threads."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

import frostline
from conftest import TINY_FIT, write_photos
from frostline.plan import Phase
from frostline.training.training import Training

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
WARM_UP = 0.25  # of the time: caches fill, libraries start their threads
MOST_GROWTH = 0.05
PLAN = [Phase("head", epochs=0), Phase("layer4", epochs=2, batch_size=8)]

pytestmark = [pytest.mark.long, pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")]


class Killed(BaseException):
    """As abrupt as a signal that cannot be caught."""


def memory() -> float:
    """Megabytes of this process, without what the allocator keeps although nobody uses it."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def counted(folder: str) -> int:
    return len(list(Path("/proc/self", folder).iterdir()))


def interrupted(photos: Path, folder: Path) -> None:
    """A fit that ends in the middle of its second phase."""
    step, steps = Training._step, 0

    def stopping(self: Training, *batch: object) -> tuple[float, float]:
        nonlocal steps
        steps += 1
        if steps > 3:
            raise Killed
        return step(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_step", stopping)
        with pytest.raises(Killed):
            frostline.fit(photos, **{**TINY_FIT, "plan": PLAN}, image_size=32, out=folder)


def rounds(photos: Path, place: Path, minutes: float) -> Iterator[tuple[float, int, int]]:
    """Fit, resume, predict and evaluate for so long; after each round memory, numbers of files and of threads."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        store = place / "store"
        frostline.fit(photos, **{**TINY_FIT, "plan": PLAN}, image_size=32, out=place / "one", store=store)
        interrupted(photos, place / "two")
        frostline.resume(place / "two", photos, quiet=True)
        images = sorted(photos.rglob("*.png"))
        assert len(frostline.predict(place / "two", images)) == len(images)
        frostline.evaluate(place / "one", photos)
        for folder in list(place.iterdir()):
            shutil.rmtree(folder)
        yield memory(), counted("fd"), counted("task")


def test_neither_memory_nor_files_nor_threads_grow(tmp_path: Path, reports: None) -> None:
    photos = write_photos(tmp_path / "photos", 20)
    place = tmp_path / "place"
    place.mkdir()
    found = list(rounds(photos, place, MINUTES))
    found = found[int(WARM_UP * len(found)) :]
    megabytes, files, threads = zip(*found, strict=True)
    print(
        f"{len(found)} rounds, {megabytes[0]:.0f} to {megabytes[-1]:.0f} MB, {files[-1]} files, {threads[-1]} threads"
    )
    tenth = max(1, len(found) // 10)
    assert median(megabytes[-tenth:]) < (1 + MOST_GROWTH) * median(megabytes[:tenth])
    assert set(files) == {files[0]}
    assert set(threads) == {threads[0]}
