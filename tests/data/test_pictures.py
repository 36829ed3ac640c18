"""Pictures of a network's size: in order, each file read once, and no more than needed."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import SIZE, draw_images
from frostline.data import digests
from frostline.data import pictures as module
from frostline.data.decoding import Item
from frostline.data.images import Images
from frostline.data.pictures import Marked, decoded, pictures_of
from frostline.data.views import PLAIN, Views, pixels
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("batch", [3, 64])
def test_pictures_come_in_order_whoever_decodes_them(workers, batch, monkeypatch):
    monkeypatch.setattr(module, "STEP", 2)
    images, views = draw_images(20), Views(3)
    wanted = {i: [0, 2] if i % 2 else [1] for i in range(20)}
    batches = list(decoded(images, wanted, views, HOW, workers, batch))
    places = [place for part, _, _ in batches for place in part]
    assert places == [(i, v) for i in range(20) for v in wanted[i]]
    assert max(len(part) for part, _, _ in batches) <= batch + 1
    for (i, view), picture in zip(places, np.concatenate([p for _, p, _ in batches]), strict=True):
        assert np.array_equal(picture, pixels(images.pictures[i], images.digests[i], [view], views, HOW)[0])


def test_failures_are_reported_with_their_reason(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").touch()
    images = Images([tmp_path / "bad.png", tmp_path / "good.png", tmp_path / "none.png"], np.zeros(3, np.int64), "abc")
    ((places, pictures, failed),) = decoded(images, {i: [0] for i in range(3)}, PLAIN, HOW, 2)
    assert (places, len(pictures)) == ([(1, 0)], 1)
    assert failed.keys() == {0, 2}
    assert failed[0] == "empty file"


def test_nothing_to_decode():
    assert list(decoded(draw_images(3), {}, PLAIN, HOW, 2)) == []


@pytest.fixture
def files(tmp_path: Path) -> Images:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, picture in zip(paths, draw_images(4).pictures, strict=True):
        Image.fromarray(picture).save(path)
    return Images(paths, np.zeros(4, np.int64), [path.name for path in paths])


def test_marked_views_are_a_mapping_without_an_object_each():
    marks = np.array([[True, False, True], [False, False, False], [False, True, False]])
    marked = Marked(marks)
    assert dict(marked) == {0: [0, 2], 2: [1]}
    assert len(marked) == 2
    assert 1 not in marked


def test_a_plain_view_needs_no_digest(files, monkeypatch):
    monkeypatch.setattr(digests, "_read", lambda _: pytest.fail("read for its digest"))
    ((places, _, _),) = decoded(files, Marked(np.ones((4, 1), bool)), PLAIN, HOW, 2)
    assert len(places) == 4
    assert not files.digests.known.any()


def test_a_file_is_read_once_for_its_digest_and_its_pixels(files, monkeypatch):
    right = pictures_of(files, [(i, [0, 1]) for i in range(4)], Views(2), HOW)[1]
    fresh = Images(files.pictures, files.targets, files.names)
    reads = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path.name), original(path))[1])
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda file, **more: opened(None if isinstance(file, Path) else file, **more))
    asked = []

    def needed(image: int, numbers: list[int]) -> list[int]:
        asked.append((image, fresh.digests.known[image], numbers))
        return [] if image == 2 else numbers

    samples, pictures, failed = pictures_of(fresh, [(i, [0, 1]) for i in range(4)], Views(2), HOW, needed)
    assert reads == ["0.png", "1.png", "2.png", "3.png"]
    assert samples == [(i, v) for i in (0, 1, 3) for v in (0, 1)]
    assert asked == [(i, True, [0, 1]) for i in range(4)]
    assert np.array_equal(pictures, np.delete(right, [4, 5], axis=0))
    assert failed == {}
    assert fresh.digests == files.digests


class OneFile:
    """A data set that reads from one open file, as many do; two readers at once get each other's pictures."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.shape = pictures.shape[1:]
        self.size = pictures[0].nbytes
        self.file = io.BytesIO(pictures.tobytes())

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.file.seek(index * self.size)
        time.sleep(0.0002)  # as a disk makes a thread wait between the two
        return np.frombuffer(self.file.read(self.size), np.uint8).reshape(self.shape), index


def test_somebodys_data_set_is_read_by_one_thread_at_a_time():
    pictures = np.stack([np.full((8, 8, 3), i, np.uint8) for i in range(200)])
    source = OneFile(pictures)
    items = Images([Item(source, i, 0) for i in range(200)], np.zeros(200, np.int64), [str(i) for i in range(200)])
    before = threading.active_count()
    batches = list(decoded(items, Marked(np.ones((200, 1), bool)), PLAIN, HOW, 16))
    shown = {
        i: int(picture[0, 0, 0]) for places, part, _ in batches for (i, _), picture in zip(places, part, strict=True)
    }
    assert shown == {i: i for i in range(200)}
    assert threading.active_count() <= before
