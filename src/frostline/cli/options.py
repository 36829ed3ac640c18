"""Flags made from the signature and the docstring of a library function: one definition for both."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import click

from frostline.files import finite

KINDS: dict[str, Any] = {"int": int, "float": float, "bool": bool}


def flags_of(function: Callable[..., Any], skip: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """A decorator that adds one flag for each keyword-only parameter of `function`, with its type, default and text."""
    texts = described(function)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def decorate(command: Any) -> Any:
        for parameter in reversed([p for p in parameters if p.name not in skip]):
            command = _flag(parameter, texts[parameter.name])(command)
        return command

    return decorate


def _flag(parameter: inspect.Parameter, text: str) -> Callable[[Any], Any]:
    kind = KINDS.get(str(parameter.annotation).partition(" ")[0], str)
    flag = f"--{parameter.name.replace('_', '-')}"
    shown = parameter.default not in (None, False, True)
    if kind is bool:
        switch = flag if parameter.default is False else f"{flag}/--no-{flag[2:]}"
        return click.option(switch, parameter.name, is_flag=True, default=parameter.default, help=text)
    return click.option(flag, parameter.name, type=kind, default=parameter.default, show_default=shown, help=text)


def described(function: Callable[..., Any]) -> dict[str, str]:
    """What the "Args:" of a docstring say of each parameter."""
    text = inspect.getdoc(function) or ""
    block = text.partition("Args:\n")[2].partition("\n\n")[0]
    return {name: " ".join(words.split()) for name, words in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", block, re.M)}


def print_json(value: Any) -> None:
    """One JSON document on standard output and nothing else; null for what is no finite number."""
    click.echo(json.dumps(finite(value), indent=2, allow_nan=False, default=str))


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
