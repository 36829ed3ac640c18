"""Code as text: the package of a function, the names it uses, and its source."""

from __future__ import annotations

import functools
import inspect
import sys
import sysconfig
import tokenize
import types
from collections.abc import Iterator
from pathlib import Path


def home(function: types.FunctionType) -> str:
    """The module that a function was written in, whatever its `__module__` says (`functools.wraps` copies that)."""
    return str(function.__globals__.get("__name__", ""))


def is_foreign(value: object) -> bool:
    """Whether other code put this value into a module or class of a known package."""
    function = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
    return isinstance(function, types.FunctionType) and not is_known(home(function))


@functools.cache
def is_known(module: str) -> bool:
    """Whether a module's code is identified by its name. Versions are not distinguished."""
    package = module.partition(".")[0]
    return package in ("torch", "numpy") or is_stdlib(package)


@functools.cache
def is_stdlib(package: str) -> bool:
    """Whether a package belongs to Python's standard library and is not a file of the same name."""
    file = getattr(sys.modules.get(package), "__file__", None)
    folders = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return package in sys.stdlib_module_names and (file is None or file.startswith(folders))


def names_in(code: types.CodeType) -> Iterator[str]:
    """The globals and attributes that code names, including the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_in(constant)


def source(code: types.CodeType) -> str | None:
    """The text of a function; None if it cannot be read or is not what runs, as after an edit of the file."""
    if code.co_name == "<lambda>":  # several may be on one line
        return None
    try:
        lines, compiled = _file(code.co_filename, Path(code.co_filename).stat().st_mtime_ns)
        return "".join(inspect.getblock(lines[code.co_firstlineno - 1 :])) if code in compiled else None
    except (OSError, SyntaxError, ValueError, UnicodeDecodeError):
        return None


@functools.lru_cache(maxsize=256)
def _file(file: str, _modified: int) -> tuple[list[str], frozenset[types.CodeType]]:
    """The lines of a file, and all code compiled from it."""
    with tokenize.open(file) as opened:
        text = opened.read()
    return text.splitlines(keepends=True), frozenset(_inner(compile(text, file, "exec", dont_inherit=True)))


def _inner(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _inner(constant)
