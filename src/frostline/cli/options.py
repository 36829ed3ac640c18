"""Command-line flags from the one definition of the options: names, types, choices, defaults and help texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from frostline import completion
from frostline.settings import Setting, settings_of
from frostline.values import finite

KINDS: dict[str, Any] = {"int": int, "float": float}
OTHER_NAMES = {"store": ("--cache-dir",)}  # flags that mean the same
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def offering(names: Callable[[str], list[str]] = lambda _: [], paths: str = "", named_first: bool = True) -> Complete:
    """Shell completion for an argument: names with the same beginning, and paths.

    paths: "file" or "dir", which bash offers only without names. named_first: whether names are offered
        before anything is typed.
    """

    def complete(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem[str]]:
        items = [CompletionItem(begun, type=paths)] if paths else []  # before the names: click's bash would drop them
        return items + [CompletionItem(name) for name in (names(begun) if begun or named_first else [])]

    return complete


complete_run = offering(completion.runs, "dir")
complete_data = offering(completion.datasets, "file", named_first=False)
COMPLETE = {"backbone": offering(completion.backbones), "plan": offering(completion.plans, "file")}


def flags_of(owner: type, *, only: tuple[str, ...] = (), skip: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """A decorator that adds a flag for each setting of `owner`, or for some of them."""
    settings = [s for name, s in settings_of(owner).items() if name not in skip and (not only or name in only)]

    def decorate(command: Any) -> Any:
        for setting in reversed(settings):
            command = _flag(setting)(command)
        return command

    return decorate


def _flag(setting: Setting) -> Callable[[Any], Any]:
    flag = f"--{setting.name.replace('_', '-')}"
    shown = setting.default not in (None, False, True)
    if "bool" in setting.kinds:
        switch = flag if setting.default is False else f"{flag}/--no-{flag[2:]}"
        return click.option(switch, setting.name, is_flag=True, default=setting.default, help=setting.text)
    number = next((KINDS[kind] for kind in KINDS if kind in setting.kinds), str)
    kind = click.Choice(setting.choices) if setting.choices else number
    complete = COMPLETE.get(setting.name) or (offering(paths="file") if "Path" in setting.kinds else None)
    if "tuple" in setting.kinds:  # the flag may come several times
        return click.option(flag, setting.name, type=kind, multiple=True, default=setting.default, help=setting.text)
    about: dict[str, Any] = {"show_default": shown, "help": setting.text, "shell_complete": complete}
    flags = (flag, *OTHER_NAMES.get(setting.name, ()))
    return click.option(*flags, setting.name, type=kind, default=setting.default, **about)


def print_json(value: Any) -> None:
    """Print one JSON document on standard output and nothing else; null for numbers that are not finite."""
    click.echo(json.dumps(finite(value), indent=2, allow_nan=False, default=str))


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
