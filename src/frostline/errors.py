"""Everything that Frostline raises on purpose.

FrostlineError            exit code 1
├── UsageError            2    a flag, option, plan, name or configuration is wrong
├── DataError             3    the images or their labels cannot be used
├── WeightsError          4    weights, checkpoint, run or store incompatible or corrupt
├── DivergedError         5    the training loss is no longer a number
├── InputsFailedError     6    some of the given images could not be read
└── MachineError          7    the machine lacks something: disk, memory, device, network

A message says what was found, what would be right and, where it helps, what to type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MOST, ALIKE = 5, 0.55  # names that are near, and how alike they are at least
SHORT_OF_MEMORY = (  # what Python, torch and the loader of libraries say, beside MemoryError
    "can't start new thread",
    "can't allocate memory",
    "Cannot allocate memory",
    "out of memory",
    "failed to map segment from shared object",
)
SHORT = 24  # names, all of which are told where none is near


class FrostlineError(Exception):
    """The root of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(FrostlineError):
    exit_code = 2


class DataError(FrostlineError):
    exit_code = 3


class WeightsError(FrostlineError):
    exit_code = 4


class DivergedError(FrostlineError):
    exit_code = 5


class InputsFailedError(FrostlineError):
    exit_code = 6


class MachineError(FrostlineError):
    """of_one: why a single file fails, where others need not; "" where the machine or the service does."""

    exit_code = 7
    of_one = ""


def unknown(kind: str, name: str, known: Iterable[str], usual: Sequence[str] = ()) -> UsageError:
    """The error for a name that is not in a table, with the nearest names that are; of a short table with all of them.

    usual: what is told of a long table where nothing is near.

    >>> str(unknown("backbone", "vit_tiny", ["gcvit_tiny", "vit_tiny_patch16_224"]))
    "unknown backbone 'vit_tiny'; nearest: vit_tiny_patch16_224, gcvit_tiny"
    """
    names = list(dict.fromkeys(known))
    if near := nearest(name, names):
        return UsageError(f"unknown {kind} {name!r}; nearest: {', '.join(near)}")
    told = names if len(names) <= SHORT else usual
    return UsageError(f"unknown {kind} {name!r}" + (f"; there are {', '.join(told)}" if told else ""))


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """At most five of the names that one may have been meant for, whatever its case: first those that begin with it."""
    written: dict[str, list[str]] = {}  # without the source of a backbone where none is asked for
    for each in names:
        written.setdefault((each if ":" in name else each.rpartition(":")[2]).lower(), []).append(each)
    begins = sorted((each for each in written if each.startswith(name.lower())), key=len)
    close = difflib.get_close_matches(name.lower(), written, n=MOST, cutoff=ALIKE)
    inside = sorted((each for each in written if len(name) > 2 and name.lower() in each), key=len)
    return [one for each in dict.fromkeys([*begins, *close, *inside]) for one in written[each]][:MOST]


def reason(error: BaseException) -> str:
    """Why something failed, in one line: what a library said first, else what kind of error it was.

    >>> reason(OSError("the server said:\\n  no room\\n  (code 5)")), reason(KeyError())
    ('the server said: no room', 'KeyError')
    """
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if others and first.endswith(":") else first


def several(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """The first names, and how many more there are.

    >>> several(["a", "b", "c", "d"], 3)
    'a, b, c and 1 more'
    """
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def lacks_memory(error: BaseException) -> bool:
    """Whether something failed because memory is short: a thread, a tensor or a library needs some."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in SHORT_OF_MEMORY)
