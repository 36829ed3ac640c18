"""Parts of files: their bytes, their memory, and what becomes of those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from frostline.data.decoding import UnreadableImageError, open_image, size_of
from frostline.data.digests import Digests, digest
from frostline.data.images import Images, join
from frostline.data.parts import Bucket, Part, Parts, mark_of
from frostline.data.texts import Texts
from frostline.errors import MachineError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abcdefgh" * 100)
    return path


def parts(file: Path, offsets: list[int], sizes: list[int], mark: int = 7) -> Parts:
    names = Texts.of([file.name])[np.zeros(len(offsets), np.int64)]
    return Parts(f"{file.parent}/", names, np.array(offsets), np.array(sizes), np.full(len(offsets), mark))


def test_bytes_are_those_of_the_place(file):
    part = parts(file, [2, 10, -1], [3, 790, 800])
    assert [each.read() for each in part] == [b"cde", file.read_bytes()[10:], file.read_bytes()]
    assert (part[0].read(2), part[2].read(3), str(part[0])) == (b"cd", b"abc", str(file))
    assert digest(part[2]) == digest(file) == digest(file.read_bytes())
    with pytest.raises(OSError, match="is shorter than it was"):
        parts(file, [799], [5])[0].read()
    with pytest.raises(FileNotFoundError):
        Part(f"{file.parent}/", "gone.tar", 0, 5).read()


def test_a_million_take_the_memory_of_four_numbers_each(file):
    many = parts(file, [0] * 1_000_000, [1] * 1_000_000)
    assert len(many.names.letters) == len(file.name)
    half = many[:500_000]
    assert Parts.joined([half, many[500_000:]]) is not many
    together = Parts.joined([half, many[500_000:]])
    assert (len(together), together.names.letters) == (1_000_000, many.names.letters)
    assert together[999_999] == many[999_999]


def test_parts_are_chosen_and_joined_with_their_digests(file):
    images = Images(parts(file, [0, 8, 16, 24], [8] * 4), np.arange(4), list("abcd"))
    images.digests[1]
    again = join([images.take(np.array([1, 0])), images.take(np.array([3]))])
    assert isinstance(again.pictures, Parts)
    assert [each.offset for each in again.pictures] == [8, 0, 24]
    assert again.digests.known.tolist() == [True, False, False]
    other = Images(Parts("s3://b/", Texts.of(["x"]), *np.array([[-1], [3], [0]])), np.array([0]), ["x"])
    assert len(join([images, other]).pictures) == 5
    assert Parts.joined([other.pictures, other.pictures]).names == Texts.of(["x", "x"])


def test_digests_are_remembered_by_size_and_mark(file, tmp_path, monkeypatch):
    def known(mark: int, sizes: tuple[int, ...] = (8, 5)) -> list[bool]:
        found = Digests.of(parts(file, [0, 8], list(sizes), mark))
        found.recall(tmp_path)
        return found.known.tolist()

    first = Digests.of(parts(file, [0, 8], [8, 5]))
    first.all(tmp_path)
    assert known(7) == [True, True]
    assert known(7, (8, 6)) == [True, False]
    assert known(8) == [False, False]
    Digests.of(parts(file, [0, 8], [8, 5], 0)).all(tmp_path)
    assert known(0) == [False, False]  # nothing tells a change
    again = Digests.of(parts(file, [0, 8], [8, 5]))
    monkeypatch.setattr(Part, "read", None)
    assert again.all(tmp_path).tolist() == first.values.tolist()


def test_copies_in_a_bucket_are_told_by_their_tags():
    found = {"a": (5, 1), "b": (5, 1), "c": (5, 2), "d": (6, 1), "e": (5, 0), "f": (5, 0)}
    pictures = Bucket("s3://b", found).pictures(Texts.of("abcdef"))
    assert Digests.of(pictures).contents().tolist() == [0, 0, 2, 3, 4, 5]


def test_copies_in_a_tar_are_told_by_their_bytes(file):
    assert Digests.of(parts(file, [0, 8, 1, 0], [8, 8, 8, 4])).contents().tolist() == [0, 0, 2, 3]


def of_one(why: str) -> MachineError:
    error = MachineError("cannot read s3://b/x.png: because")
    error.of_one = why
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(2, "is not there", "s3://b/x.png"), "no such file: s3://b/x.png"),
        (of_one("it is forbidden (403)"), "it is forbidden"),
        (of_one("it was cut off"), "it was cut off"),
    ],
)
def test_a_file_of_a_bucket_that_cannot_be_read_is_one_image(error, told, monkeypatch):
    def fail(*_: object) -> bytes:
        raise error

    monkeypatch.setattr("frostline.remote.Remote.get", fail)
    picture = Part("s3://b/", "x.png", -1, 10)
    with pytest.raises(UnreadableImageError, match=told):
        open_image(picture)
    assert len(digest(picture)) == 16
    assert size_of(Part("/nowhere/", "x.png", -1, 10)) is None


def test_a_bucket_that_cannot_be_read_ends_it(monkeypatch):
    def fail(*_: object) -> bytes:
        raise MachineError("cannot read s3://b/x.png: it cannot be reached (403), and was cut off")

    monkeypatch.setattr("frostline.remote.Remote.get", fail)
    monkeypatch.setattr("frostline.remote.Remote.get_range", fail)
    picture = Part("s3://b/", "x.png", -1, 10)
    for ask in (open_image, digest, size_of):
        with pytest.raises(MachineError, match="cannot be reached"):
            ask(picture)


def test_marks_are_positive_and_none_for_nothing():
    assert mark_of("") == 0
    assert 0 < mark_of("a") != mark_of("b") > 0
    assert max(mark_of(str(i)) for i in range(200)) <= 2**62
