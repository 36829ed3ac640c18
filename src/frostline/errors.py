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
from collections.abc import Iterable


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
    exit_code = 7


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a table, with the nearest names that are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[:12]
    return UsageError(f"unknown {kind} {name!r}; nearest: {', '.join(near)}")


def reason(error: BaseException) -> str:
    """Why something failed, in one line: what a library said first, else what kind of error it was."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
