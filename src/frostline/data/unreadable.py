"""Unreadable images: how many a run tolerates, and how messages list them."""

from __future__ import annotations

from pathlib import Path

from frostline.data.images import Images
from frostline.data.texts import Paths
from frostline.errors import DataError

MOST_UNREADABLE = 0.01
OF_FEW, A_TENTH = 3, 0.1  # of a small data set three are tolerated, but no more than a tenth


def refuse_too_many(unreadable: list[tuple[str, str]], total: int, *, skip: bool = False) -> None:
    """Raises DataError if too many images are unreadable, which means a broken data set.

    Too many are more than 1 %, but one image, or three of thirty, never ends a run. skip: tolerate any number but all.
    """
    most = max(1, min(OF_FEW, int(A_TENTH * total)), int(MOST_UNREADABLE * total))
    if unreadable and (len(unreadable) == total or (len(unreadable) > most and not skip)):
        raise DataError(
            f"{len(unreadable)} of {total} images cannot be read; at most {most} may be: {named(unreadable)}; repair "
            "or remove them, go on without them (--skip-unreadable), or let frostline check DATA --fix good.csv write "
            "a manifest without them"
        )


def empty_files(images: Images) -> list[tuple[str, str]]:
    """The empty files, with the reason; they are known before anything is read."""
    if not isinstance(images.pictures, Paths):  # other pictures have no size before they are read
        return []
    files = zip(images.names, images.pictures, strict=True)
    return [(name, "empty file") for name, file in files if _is_empty(file)]


def _is_empty(file: Path) -> bool:
    try:
        return file.stat().st_size == 0
    except OSError:  # the file may be gone
        return False


def named(unreadable: list[tuple[str, str]], most: int = 5) -> str:
    """The first few unreadable files with their reasons."""
    shown = "; ".join(f"{name} ({reason})" for name, reason in unreadable[:most])
    return shown + (f" and {len(unreadable) - most} more" if len(unreadable) > most else "")
