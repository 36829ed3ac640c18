"""How the API reference reads the docstrings: for griffe, which mkdocstrings takes its pages from.

`name: what it is` at the start of a line is an entry of a list, and so is what stands below `Args:`. A function that
`settings.takes` wraps has the signature of its options, as `help()` shows it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe

ENTRY = re.compile(r"^(?P<names>`?[a-z_]\w*`?(?:, `?[a-z_]\w*`?)*): (?=\S)")
FURTHER = re.compile(r"(?<=[.;]) (?P<names>[a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)")


def as_markdown(text: str) -> str:
    """A docstring of ours as Markdown."""
    lines: list[str] = []
    inside, code = False, False  # in a list of entries; in a block of code
    for line in inspect.cleandoc(text).splitlines():
        if line == "Args:":
            lines += ["", "**Parameters**", ""]
            continue
        prompt = line.lstrip().startswith((">>> ", "... "))
        if prompt != code and (prompt or not line.strip()):
            lines += ["", "```pycon"] if prompt else ["```", ""]
            inside, code = False, prompt
        bare = line[4:] if re.match(r"    [a-z_]\w*: ", line) and "**Parameters**" in lines else line
        if not code and (entry := ENTRY.match(bare)) and bare == bare.lstrip():
            first = not inside
            lines += [""] * first
            lines += _entries(bare, entry)
            inside = True
            continue
        if not line.strip():
            inside = inside and "**Parameters**" in lines
        if inside and line.strip():
            lines.append("    " + line.strip())
            continue
        lines.append(line.split("  # doctest:")[0] if code else line)
    return "\n".join([*lines, "```"] if code else lines)


def _entries(line: str, entry: re.Match[str]) -> list[str]:
    """A line of entries, `a: this. b: that`, as the beginnings of list entries."""
    named = f"- **{entry['names']}**: {line[entry.end() :]}"
    return FURTHER.sub(lambda found: f"\n- **{found['names']}**: ", named).split("\n")


class Frostline(griffe.Extension):
    """Docstrings as Markdown, and signatures as they are at run time."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        if any("settings.takes" in str(decorator.value) for decorator in func.decorators):
            home, _, name = func.path.rpartition(".")
            function = getattr(importlib.import_module(home), name)
            func.parameters = griffe.Parameters(*map(_parameter, inspect.signature(function).parameters.values()))
            func.decorators = []
            if func.docstring is not None:
                func.docstring.value = as_markdown(inspect.getdoc(function) or "")


def _parameter(parameter: inspect.Parameter) -> griffe.Parameter:
    """A parameter as griffe has it; its kind is named alike there."""
    kind = griffe.ParameterKind[parameter.kind.name.lower()]
    default = None if parameter.default is parameter.empty else repr(parameter.default)
    return griffe.Parameter(parameter.name, annotation=str(parameter.annotation), kind=kind, default=default)
