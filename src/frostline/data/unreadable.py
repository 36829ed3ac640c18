"""Images that cannot be read: how many are too many, and how they are named."""

from __future__ import annotations

from frostline.errors import DataError

MOST_UNREADABLE = 0.01


def refuse_too_many(unreadable: list[tuple[str, str]], total: int) -> None:
    """Some bad files are a fact of life; over 1 % of them is a broken data set: raises DataError.

    A single one ends no run, however few images there are beside it.
    """
    if len(unreadable) > max(1, MOST_UNREADABLE * total) or (unreadable and len(unreadable) == total):
        raise DataError(
            f"{len(unreadable)} of {total} images cannot be read, more than {MOST_UNREADABLE:.0%}: "
            f"{named(unreadable)}; repair or remove them, or let frostline check DATA --fix good.csv "
            "write a manifest without them"
        )


def named(unreadable: list[tuple[str, str]], most: int = 5) -> str:
    """The first few unreadable files with their reasons."""
    shown = "; ".join(f"{name} ({reason})" for name, reason in unreadable[:most])
    return shown + (f" and {len(unreadable) - most} more" if len(unreadable) > most else "")
