"""Settings: a frozen dataclass is the one definition of all options.

Its annotations define the possible values, its fields the defaults, its docstring the meaning of each setting. Checks,
flags, files and documentation derive from it, so they cannot disagree.

    @dataclass(frozen=True)
    class Options:
        \"\"\"…

        Args:
            seed: decides the split.
        \"\"\"
        seed: int = 0

        def __post_init__(self) -> None:
            settings.check(self)
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import reprlib
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

import yaml

from frostline.errors import UsageError, unknown

P = ParamSpec("P")
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")
SHORT = reprlib.Repr()  # a value from a file may be very long, or contain itself
SHORT.maxlevel = 2
SHORT.maxstring = 60
PLAIN = ("bool", "int", "float", "str", "Path", "tuple", "list", "dict", "None", "Any")
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True)
class Setting:
    """One setting, as its class defines it.

    kinds: the plain types that its annotation allows, by name; "object" for all others.
    choices: the allowed words; empty if any word is possible.
    """

    name: str
    kinds: frozenset[str]
    choices: tuple[str, ...]
    default: Any
    text: str


@functools.cache
def settings_of(owner: type[Any]) -> dict[str, Setting]:
    """The settings of a dataclass, by name, in the order of its fields."""
    texts, names = described(owner), vars(sys.modules[owner.__module__])
    result = {}
    for field in dataclasses.fields(owner):
        kinds, choices = _read(ast.parse(str(field.type), mode="eval").body, names)
        result[field.name] = Setting(field.name, kinds, choices, field.default, texts.get(field.name, ""))
    return result


def _read(annotation: ast.expr, names: Mapping[str, Any]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The kinds and words that an annotation allows. It is read as text, because resolving it would import torch."""
    if isinstance(annotation, ast.BinOp):
        left, right = _read(annotation.left, names), _read(annotation.right, names)
        return left[0] | right[0], tuple(dict.fromkeys(left[1] + right[1]))
    text = ast.unparse(annotation)
    alias = names.get(text)
    if get_origin(alias) is Literal:
        return frozenset({"choice"}), get_args(alias)
    word = text.partition("[")[0]
    if word == "Sequence" and isinstance(annotation, ast.Subscript):  # several words, as a tuple
        return frozenset({"tuple"}), _read(annotation.slice, names)[1]
    return frozenset({word if word in PLAIN else "object"}), ()


def check(owner: Any) -> None:
    """Check all values against their settings; whole numbers may be 5.0, numbers may be text (YAML's 1e-3).

    Raises UsageError, which names the nearest allowed word if there is a list.
    """
    for name, setting in settings_of(type(owner)).items():  # type: ignore[arg-type]
        value = getattr(owner, name)
        object.__setattr__(owner, name, checked(setting, value))


def checked(setting: Setting, value: Any) -> Any:
    """A value converted to the type of its setting; raises UsageError if that is impossible."""
    kinds = setting.kinds
    if value is None and "None" in kinds:
        return None
    if "Any" in kinds:
        return value
    if isinstance(value, str):
        if "\0" in value:
            raise UsageError(f"{setting.name} is {SHORT.repr(value)}; a name cannot hold a zero byte")
        if "tuple" in kinds:
            value = (value,)
        elif value in setting.choices or kinds & {"str", "Path"}:
            return value
        elif setting.choices:
            raise unknown(setting.name.replace("_", " "), value, setting.choices)
    if isinstance(value, Path) and kinds & {"str", "Path"}:
        return value
    if "tuple" in kinds:
        return _names(setting, value)
    if kinds & {"int", "float"} and (number := _number(value, whole="float" not in kinds)) is not None:
        return number
    if isinstance(value, bool) and "bool" in kinds:
        return value
    if (isinstance(value, list) and "list" in kinds) or (isinstance(value, Mapping) and "dict" in kinds):
        return value
    if ("object" in kinds and type(value).__module__ != "builtins") or ("object" in kinds and callable(value)):
        return value
    raise UsageError(f"{setting.name} is {SHORT.repr(value)}; it must be {_described(setting)}")


def _names(setting: Setting, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        of = f"of {', '.join(setting.choices)}" if setting.choices else "of names or globs"
        raise UsageError(f"{setting.name} is {SHORT.repr(value)}; it must be a list {of}")
    for item in value if setting.choices else ():
        if item not in setting.choices:
            raise unknown(setting.name.replace("_", " "), item, setting.choices)
    return tuple(value)


def _number(value: Any, *, whole: bool) -> float | None:
    """A number, also one written as text; None for truth values, bytes, and a fraction where it must be whole."""
    if isinstance(value, (bool, bytes, bytearray)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not whole:
        return number
    if not number.is_integer():
        return None
    try:
        return int(value)  # exactly: a float has 53 bits
    except ValueError:  # text such as 1e3
        return int(number)


def _described(setting: Setting) -> str:
    if setting.choices:
        return f"one of {', '.join(setting.choices)}"
    for kind, text in {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a name"}.items():
        if kind in setting.kinds:
            return text
    return "something else"


def described(owner: Any) -> dict[str, str]:
    """The text of each setting in the "Args:" of a docstring."""
    text = inspect.getdoc(owner) or ""
    block = text.partition("Args:\n")[2].partition("\n\n")[0]
    return {name: " ".join(words.split()) for name, words in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", block, re.M)}


def as_flags(owner: type, given: Mapping[str, Any]) -> list[list[str]] | None:
    """The command-line words of each given setting that differs from its default.

    None if a value is an object, which no words can express.
    """
    flags = []
    for name, setting in settings_of(owner).items():
        value, flag = given.get(name, setting.default), name.replace("_", "-")
        if value is None or value == setting.default:
            continue
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            flags += [[f"--{flag}", item] for item in value]
            continue
        if not isinstance(value, (bool, int, float, str, Path)):
            return None
        switch = [f"--{flag}" if value else f"--no-{flag}"]
        flags.append(switch if isinstance(value, bool) else [f"--{flag}", str(value)])
    return flags


def as_yaml(owner: type, given: Mapping[str, Any]) -> str:
    """All settings as YAML, each below its text; settings that `given` lacks are commented out, at their defaults.

    given: plain values by name of the setting.
    """
    blocks = []
    for name, setting in settings_of(owner).items():
        default = None if setting.default is dataclasses.MISSING else setting.default
        default = list(default) if isinstance(default, tuple) else default
        line = yaml.safe_dump({name: given.get(name, default)}, allow_unicode=True, width=10_000).rstrip("\n")
        comment = textwrap.indent(textwrap.fill(setting.text, 100), "# ")
        blocks.append(f"{comment}\n{line if name in given else textwrap.indent(line, '# ')}\n")
    return "\n".join(blocks)


def takes(options: Callable[P, O]) -> Callable[[Callable[[O], R]], Callable[P, R]]:
    """Turn a function of an options object into one that takes the options as arguments, with defaults and texts.

    A type checker sees the signature of the class; so do `help()`, editors and notebooks.
    """

    def decorate(function: Callable[[O], R]) -> Callable[P, R]:
        signature = inspect.signature(options)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            signature.bind(*args, **kwargs)  # raises a TypeError that names the function's own argument
            return function(options(*args, **kwargs))

        returns = inspect.signature(function).return_annotation
        call.__signature__ = signature.replace(return_annotation=returns)  # type: ignore[attr-defined]
        arguments = (inspect.getdoc(options) or "").partition("Args:\n")[2].partition("\n\n")[0]
        call.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{arguments}"
        return call

    return decorate


def parse_seconds(text: str) -> float:
    """Seconds from "10m", "1h30m", "90s" or a plain number of seconds; raises UsageError.

    >>> parse_seconds("1h30m"), parse_seconds("90")
    (5400.0, 90.0)
    """
    number = r"(\d+(?:\.\d+)?)"
    parts = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip().lower())
    counts = zip(parts.groups(), UNITS.values(), strict=True) if parts else ()
    seconds = sum(float(count) * unit for count, unit in counts if count)
    if seconds <= 0:
        raise UsageError(f"{text!r} is not a time; write it as in 10m, 90s or 1h30m")
    return seconds
