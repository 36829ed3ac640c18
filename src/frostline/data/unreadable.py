"""Images that cannot be read: how many are too many, and how they are named."""

from __future__ import annotations

from pathlib import Path

from frostline.data.images import Images
from frostline.data.texts import Paths
from frostline.errors import DataError

MOST_UNREADABLE = 0.01
OF_FEW, A_TENTH = 3, 0.1  # of fewer images so many at most, but no more than that share


def refuse_too_many(unreadable: list[tuple[str, str]], total: int, *, skip: bool = False) -> None:
    """Some bad files are a fact of life; many are a broken data set: raises DataError.

    Many are over 1 %, but one ends no run, nor do three of thirty images. skip: however many there are, if not all.
    """
    most = max(1, min(OF_FEW, int(A_TENTH * total)), int(MOST_UNREADABLE * total))
    if unreadable and (len(unreadable) == total or (len(unreadable) > most and not skip)):
        raise DataError(
            f"{len(unreadable)} of {total} images cannot be read, and {most} are borne: {named(unreadable)}; repair or "
            "remove them, go on without them (--skip-unreadable), or let frostline check DATA --fix good.csv write a "
            "manifest without them"
        )


def empty_files(images: Images) -> list[tuple[str, str]]:
    """The files of no bytes, with the reason: that is known before anything is read."""
    if not isinstance(images.pictures, Paths):  # whatever else it is may be read when it is asked for
        return []
    files = zip(images.names, images.pictures, strict=True)
    return [(name, "empty file") for name, file in files if _is_empty(file)]


def _is_empty(file: Path) -> bool:
    try:
        return file.stat().st_size == 0
    except OSError:  # it may be gone
        return False


def named(unreadable: list[tuple[str, str]], most: int = 5) -> str:
    """The first few unreadable files with their reasons."""
    shown = "; ".join(f"{name} ({reason})" for name, reason in unreadable[:most])
    return shown + (f" and {len(unreadable) - most} more" if len(unreadable) > most else "")
