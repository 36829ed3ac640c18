"""The extras of the package, `pip install 'frostline[serve]'`: which are installed, and what a feature lacks."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from importlib import metadata

from frostline.errors import MachineError

NEED = re.compile(r'([\w.-]+)(?:\[([\w,-]+)\])?[^;]*; extra == [\'"]([\w-]+)[\'"]')  # not one that few systems have


def refuse_missing(what: str, packages: Sequence[str], extras: Sequence[str]) -> None:
    """Raises MachineError if a package that `what` imports is not installed. extras: those that install them all."""
    missing = [package for package in packages if not _is_there(package)]
    if missing:
        raise MachineError(f"{what} needs {', '.join(missing)}: pip install 'frostline[{','.join(extras)}]'")


def _is_there(package: str) -> bool:
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None  # a folder ./wandb of old records has no origin


def lacking() -> dict[str, list[str]]:
    """By extra, the packages that are not installed, by the metadata of Frostline; empty without metadata."""
    try:
        needs = metadata.requires("frostline") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    inside: list[tuple[str, str]] = []  # an extra, and another one that it installs
    for package, others, extra in (match.groups() for need in needs if (match := NEED.fullmatch(need))):
        own = found.setdefault(extra, [])
        inside += [(extra, other) for other in (others or "").split(",") if other]
        if not _is_installed(package):
            own.append(package)
    for extra, other in inside:
        found[extra] += [package for package in found.get(other, []) if package not in found[extra]]
    return found


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
