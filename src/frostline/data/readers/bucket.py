"""Images at a URL: a folder of class folders in a bucket, a manifest there, or tars of WebDataset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from frostline.data.decoding import SUFFIXES
from frostline.data.parts import Bucket, Parts, mark_of
from frostline.data.readers.listed import Listed, by_folders
from frostline.data.readers.table import ENDINGS, Table, table_in
from frostline.data.readers.webdataset import COMPRESSED, RANGE, TAR, expanded, local_tars, read_tars
from frostline.data.texts import Texts
from frostline.errors import DataError, MachineError, UsageError, several
from frostline.remote import Remote, at, is_address

LISTED_PER_RECORD, LISTED = 4, 10_000  # files of a bucket that are listed at most for a manifest of so many records
Found = tuple[str, int, str]  # name, size and tag


def elsewhere(data: Any) -> Listed | Table | None:
    """The images of a URL or of tars, or the table at a URL; None for any other data.

    Raises DataError without images, UsageError for a URL that is none, MachineError for a bucket that cannot be listed.
    """
    if not isinstance(data, (str, Path)):
        return None
    if not is_address(data):
        places = local_tars(data)
        path = Path(data).absolute()
        title = path.name if path.is_dir() else path.parent.name
        return read_tars(places, str(data), title or "data") if places else None
    url = str(data).rstrip("/")
    if url.lower().endswith(ENDINGS):
        return table_at(url)
    if url.lower().endswith(TAR):
        return _tars_at(url)
    if url.lower().endswith(COMPRESSED):
        raise DataError(f"{url} is compressed; give what gunzip makes of it if it is a WebDataset, else extract it")
    if url.lower().endswith((".json", ".yaml", ".yml")):
        raise UsageError(f"{url}: COCO's and YOLO's files are read from a local folder only; copy it first")
    remote = at(url)
    found = _without_marks(_listed(remote))
    tars = [each for each in found if each[0].lower().endswith(TAR) and "/" not in each[0]]
    if tars and not any(name.lower().endswith(SUFFIXES) for name, _, _ in found):
        return _read_tars(remote, tars, url)
    return _folders(remote, found)


def image_at(url: str) -> Parts | None:
    """One image at a URL, by its extension; None for anything else."""
    root, _, name = url.rpartition("/")
    if not name.lower().endswith(SUFFIXES):
        return None
    return Bucket(at(root).url, None).pictures(Texts.of([name]))


def table_at(url: str) -> Table:
    """The manifest at a URL, whose paths are relative to its own place.

    The files there are listed, so that missing ones are known and digests can be remembered; but not those of a place
    that has many more files than the manifest.
    """
    root, _, name = url.rpartition("/")
    remote = at(root)
    try:
        content = remote.get(name)
    except FileNotFoundError:
        raise DataError(f"no manifest {url}") from None
    table = table_in(url, content, remote.url)
    most = LISTED + LISTED_PER_RECORD * len(table.lines)
    found = _listed(remote, most + 1)
    files = {name: (size, _mark(url, tag)) for name, size, tag in found} if len(found) <= most else None
    return table.below(Bucket(remote.url, files))


def _listed(remote: Remote, most: int | None = None) -> list[Found]:
    try:
        return list(remote.tagged(most))
    except FileNotFoundError:
        raise MachineError(f"cannot list {remote}: there is no such bucket") from None


def _without_marks(found: list[Found]) -> list[Found]:
    """The files without those that mark a folder: consoles write an empty one with its name."""
    empty = {name for name, size, _ in found if size == 0}
    folders = {name[: match.start()] for name, _, _ in found for match in re.finditer("/", name)} if empty else set()
    return [each for each in found if each[1] or each[0] not in folders]


def _mark(url: str, tag: str) -> int:
    """The mark of a file; none in the memory of a process, where tags are numbers that come again."""
    return 0 if url.startswith("memory://") else mark_of(tag)


def _folders(remote: Remote, found: list[Found]) -> Listed:
    found = sorted(found)  # in the order in which a local folder is read
    chosen, labels, classes, splits, notes = by_folders((name for name, _, _ in found), remote.url)
    if not len(chosen):
        raise DataError(f"no images under {remote}; expected {remote}/CLASS/*.jpg or {remote}/train/CLASS/*.jpg")
    names = Texts.of(name for name, _, _ in found)[chosen]
    sizes = np.array([size for _, size, _ in found], np.int64)[chosen]
    marks = np.array([_mark(remote.url, tag) for _, _, tag in found], np.int64)[chosen]
    pictures = Parts(f"{remote}/", names, np.full(len(names), -1, np.int64), sizes, marks)
    return Listed(remote.url, _title(remote), pictures, names, labels, classes, splits, tuple(notes))


def _title(remote: Remote) -> str:
    return remote.url.rpartition("/")[2] or "data"


def _tars_at(url: str) -> Listed:
    root, _, name = url.rpartition("/")
    if RANGE.search(root):
        raise DataError(f"{url} has braces in a folder; only those in the name of a tar are read")
    remote, wanted = at(root), expanded(name)
    there = {each[0]: each for each in _listed(remote)}
    if missing := [each for each in wanted if each not in there]:
        raise DataError(f"{len(missing)} of {len(wanted)} tars of {url} do not exist: {several(missing)}")
    return _read_tars(remote, [there[each] for each in wanted], url)


def _read_tars(remote: Remote, tars: list[Found], url: str) -> Listed:
    places = [(f"{remote}/{name}", size, _mark(remote.url, tag)) for name, size, tag in sorted(tars)]
    return read_tars(places, url, _title(remote))
