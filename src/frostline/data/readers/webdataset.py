"""WebDataset: tars of samples, read in place.

A sample is the consecutive members with the same name up to the first dot: `0001.jpg` with `0001.cls`, `0001.json` or
`0001.txt`. The members are found by their headers; an image is read from its place in the tar when it is needed, and
nothing is unpacked.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import reprlib
import tarfile
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from frostline.data.decoding import SUFFIXES
from frostline.data.parts import Parts, mark_of
from frostline.data.readers.folder import SPLIT_OF
from frostline.data.readers.listed import Listed
from frostline.data.texts import Texts
from frostline.errors import DataError, reason, several
from frostline.remote import Remote, is_address

TAR, COMPRESSED = ".tar", (".tar.gz", ".tgz")
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_TARS = 100_000
LABELS = (".cls", ".json", ".txt")  # the first of them that has a label
IN_JSON = ("label", "class", "cls")
MOST_LABEL = 1_000_000  # bytes
AHEAD = 1 << 20  # bytes that are read of a remote tar at once, so that small members cost no request each
AT_ONCE = 8  # tars whose headers are read at the same time
SETTLED = 2  # seconds that a tar must be unchanged for its digests to be remembered
Place = tuple[str, int, int]  # the path or URL of a tar, its size, and a mark of its content


@dataclass(frozen=True, eq=False)
class _Index:
    """The samples of one tar; `left_out` counts what is none, by the reason."""

    names: list[str] = field(default_factory=list)
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    labels: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def expanded(pattern: str) -> list[str]:
    """The files of a pattern with numbers in braces.

    Raises DataError for an empty range, and for more than a hundred thousand.

    >>> expanded("train-{008..010}.tar")
    ['train-008.tar', 'train-009.tar', 'train-010.tar']
    """
    pieces = RANGE.split(pattern)
    ranges = [(pieces[i], pieces[i + 1]) for i in range(1, len(pieces), 3)]
    counts = [int(last) - int(first) + 1 for first, last in ranges]
    if min(counts, default=1) < 1 or np.prod(np.array(counts, float)) > MOST_TARS:
        raise DataError(f"{pattern} names no files, or more than {MOST_TARS:,}; write it as in train-{{000..063}}.tar")
    numbers = [[f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)] for first, last in ranges]
    texts = pieces[::3]
    return ["".join(itertools.chain(*zip(texts, (*chosen, ""), strict=True))) for chosen in itertools.product(*numbers)]


def local_tars(data: str | Path) -> list[Place] | None:
    """The tars that a path, a folder of them, or a pattern names; None for anything else.

    Raises DataError for files of a pattern that do not exist.
    """
    path = Path(data)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise DataError(f"{reprlib.repr(str(data))} cannot be read: {error.strerror}") from None
    if is_folder:
        files = _tars_in(path)
    elif path.suffix.lower() != TAR or not (path.is_file() or RANGE.search(str(data))):
        return None
    else:
        files = [path] if path.is_file() else [Path(each) for each in expanded(str(data))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise DataError(f"{len(missing)} of {len(files)} tars of {data} do not exist: {several(missing)}")
    return [_place(file) for file in files] or None


def _tars_in(folder: Path) -> list[Path]:
    """The tars of a folder that has nothing else to read: none beside other folders, which have the images."""
    try:
        inside = [each for each in folder.iterdir() if not each.name.startswith(".")]
    except OSError:  # which the reader of folders tells
        return []
    tars = sorted(each for each in inside if each.suffix.lower() == TAR)
    return tars if tars and not any(each.is_dir() for each in inside) else []


def _place(file: Path) -> Place:
    status = file.stat()
    changed = max(status.st_mtime, status.st_ctime)
    mark = f"{status.st_mtime_ns} {status.st_ctime_ns}" if changed < time.time() - SETTLED else ""
    return str(file.absolute()), status.st_size, mark_of(mark)


def read_tars(places: Sequence[Place], where: str, title: str) -> Listed:
    """The samples of some tars, by splits if the names of all tars begin with train, val or test.

    Raises DataError for a tar that is damaged, cut off or compressed, without images that have a label, and for tars of
    which only some name a split.
    """
    with ThreadPoolExecutor(min(AT_ONCE, len(places))) as pool:
        found = list(pool.map(_indexed, places))
    left_out = sum((index.left_out for index in found), Counter[str]())
    notes = [f"left out {count:,} × {why}" for why, count in sorted(left_out.items())]
    counts = [len(index.names) for index in found]
    if not sum(counts):
        raise DataError(
            f"no images with labels in {where}{_told(notes)}; a sample is 0001.jpg with 0001.cls; if its folders are "
            "the classes, extract it"
        )
    root, of = _common([place for place, _, _ in places]), np.repeat(np.arange(len(places)), counts)
    offsets, sizes = (
        np.concatenate([np.frombuffer(getattr(index, what), np.int64) for index in found if index.names])
        for what in ("offsets", "sizes")
    )
    marks = np.array([mark for _, _, mark in places], np.int64)[of]
    pictures = Parts(root, Texts.of(place[len(root) :] for place, _, _ in places)[of], offsets, sizes, marks)
    names = [name for index in found for name in index.names]
    if len(set(names)) < len(names):  # several tars number their samples alike
        names = [
            f"{place[len(root) :]}/{name}"
            for (place, _, _), index in zip(places, found, strict=True)
            for name in index.names
        ]
    classes, labels = np.unique(
        np.array([label for index in found for label in index.labels], object).astype(str), return_inverse=True
    )
    splits = np.array(_splits([place for place, _, _ in places], where))[of]
    return Listed(where, title, pictures, Texts.of(names), labels, tuple(map(str, classes)), splits, tuple(notes))


def _told(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def _common(places: Sequence[str]) -> str:
    """What the places of all tars begin with, up to a folder."""
    first, last = min(places), max(places)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: max(first.rfind("/", 0, same), first.rfind("\\", 0, same)) + 1]


def _splits(places: Sequence[str], where: str) -> list[str]:
    """The split of each tar by its name; all "" if no name has one."""
    words = [re.match(r"[a-z]*", re.split(r"[/\\]", place.lower())[-1]) for place in places]
    splits = [SPLIT_OF.get(word[0], "") if word else "" for word in words]
    if any(splits) and not all(splits):
        other = next(place for place, split in zip(places, splits, strict=True) if not split)
        name = re.split(r"[/\\]", other)[-1]
        raise DataError(f"{where}: some tars name a split, but {name} does not; begin it with train, val or test")
    return splits


def _indexed(place: Place) -> _Index:
    """The samples of a tar, by the headers of its members; bodies are read of labels only."""
    where, size, _ = place
    index = _Index()
    try:
        with _opened(where, size) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for _, members in itertools.groupby(_members(tar, index), key=lambda member: _key(member.name)):
                _add(index, tar, list(members), where)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        why = reason(error)
        if "unexpected end" not in why:
            raise DataError(f"{where} is damaged, or is no uncompressed tar ({why})") from error
        raise DataError(f"{where} is cut off after {len(index.names)} images; fetch it again") from error
    except FileNotFoundError as error:
        raise DataError(f"{where} is not there") from error
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror or reason(error)}") from error
    return index


def _opened(where: str, size: int) -> io.BufferedIOBase | io.RawIOBase:
    if is_address(where):
        root, _, name = where.rpartition("/")
        return io.BufferedReader(_Ranges(Remote(root), name, size), AHEAD)
    return Path(where).open("rb")


class _Ranges(io.RawIOBase):
    """A file in a bucket that is read by ranges."""

    def __init__(self, remote: Remote, name: str, size: int) -> None:
        self.remote, self.name, self.size, self.position = remote, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self.size - self.position))
        content = self.remote.get_range(self.name, self.position, count) if count else b""
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def _members(tar: tarfile.TarFile, index: _Index) -> Iterator[tarfile.TarInfo]:
    """The plain files in a tar. Links would lead elsewhere, and sparse files are not in it as they are."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it keeps all of them
        if member.name.rpartition("/")[2].startswith("."):  # what macOS adds
            continue
        if member.isreg() and not member.issparse():
            yield member
        elif not member.isdir():
            index.left_out["link, sparse or special file in a tar"] += 1
    _refuse_early_end(tar)


def _refuse_early_end(tar: tarfile.TarFile) -> None:
    """Raises tarfile.ReadError where a tar does not end with a block of zeros, as every program writes it.

    The library takes the end of the file, or a broken header, for the end of the tar.
    """
    stream = tar.fileobj
    assert stream is not None  # noqa: S101  # it is open
    stream.seek(tar.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data")
    if any(block):
        raise tarfile.ReadError(f"bad header at byte {tar.offset:,}")


def _key(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def _add(index: _Index, tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo], where: str) -> None:
    """Add a sample to the index: its image and its label."""
    endings = {"." + member.name.rpartition("/")[2].partition(".")[2].lower(): member for member in members}
    images = sorted((ending for ending in endings if ending.endswith(SUFFIXES)), key=_plainness)
    if not images:
        index.left_out["sample without an image"] += 1
        return
    if len(images) > 1:
        index.left_out["further image of a sample (its name ends at the first dot)"] += len(images) - 1
    told = (_label(tar, endings[ending], ending, where) for ending in LABELS if ending in endings)
    label = next((each for each in told if each != ""), "")
    if not label:
        index.left_out["image without a label" if label == "" else "label that is no text or whole number"] += 1
        return
    image = endings[images[0]]
    index.names.append(image.name.removeprefix("./"))
    index.offsets.append(image.offset_data)
    index.sizes.append(image.size)
    index.labels.append(label)


def _plainness(ending: str) -> tuple[bool, int]:
    """A key by which `.jpg` comes before `.png`, and both before `.seg.png`, which may be a mask."""
    return (False, SUFFIXES.index(ending)) if ending in SUFFIXES else (True, 0)


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, kind: str, where: str) -> str | None:
    """The label in a member: "" without one, None for a number that is none, such as 1.5 or True."""
    if member.size > MOST_LABEL:
        raise DataError(f"{where}: {member.name} has {member.size:,} bytes, too many for a label")
    stream = tar.fileobj
    assert stream is not None  # noqa: S101  # it is open
    stream.seek(member.offset_data)
    content = stream.read(member.size)
    try:
        text = content.decode("utf-8-sig").strip()
        if kind != ".json":
            return text
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: the label in {member.name} cannot be read: {reason(error)}") from error
    value = told
    if isinstance(told, dict):
        value = next((told[name] for name in IN_JSON if told.get(name) is not None), None)
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, (int, float)):
        whole = not isinstance(value, bool) and value == value // 1
        return str(int(value)) if whole else None
    raise DataError(f"{where}: the label in {member.name} is {value!r}; it must be one text or whole number")
