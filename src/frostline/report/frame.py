"""The common parts of all pages: a frame, a style and one script, in one file that loads nothing else.

Names of classes, files and runs are untrusted: Jinja2 escapes all of them, control and bidirectional characters are
written out, and the page's Content-Security-Policy allows one script, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from frostline.report.sentences import SENTENCES
from frostline.terminal import printable

HERE = Path(__file__).parent


def rendered(template: str, context: Mapping[str, Any]) -> str:
    """A page as text.

    template: a file of this folder that extends frame.html. context: the variables of both.
    """
    style, script = _own("page.css"), _own("page.js")
    loader = Environment(loader=PackageLoader("frostline.report", ""), autoescape=True, finalize=_visible)
    return loader.get_template(template).render(
        **context,
        text=SENTENCES,
        style=Markup(style),  # noqa: S704  # both are our own files
        script=Markup(script),  # noqa: S704
        script_hash=_hash(script),
    )


def _visible(value: Any) -> Any:
    """Text with control and bidirectional characters written out; our own HTML as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
