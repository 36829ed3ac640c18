"""HTML that a notebook shows for a value: facts, a table and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from frostline.terminal import printable

CELL = "padding:2px 14px 2px 0;text-align:left;vertical-align:top"
KINDS = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg"}
HIGHEST = 360  # pixels of a picture, at most


def fragment(
    title: str,
    facts: Mapping[str, str] | None = None,
    table: Sequence[Sequence[object]] = (),
    pictures: Sequence[tuple[str, bytes]] = (),
) -> str:
    """HTML in the colours of the page around it; all names are escaped.

    table: the header comes first. pictures: the caption and the PNG or JPEG of each.

    >>> fragment("pets & co")
    '<div><p><b>pets &amp; co</b></p></div>'
    """
    parts = [f"<p><b>{_text(title)}</b></p>"]
    if facts:
        parts.append(_table([[_cell("th", name) + _cell("td", value)] for name, value in facts.items()]))
    if table:
        head, *rows = table
        lines = [[_cell("th", value) for value in head], *([_cell("td", value) for value in row] for row in rows)]
        parts.append(_table(lines))
    if pictures:
        shown = "".join(_picture(words, content) for words, content in pictures)
        parts.append(f'<div style="display:flex;flex-wrap:wrap;gap:8px">{shown}</div>')
    return f"<div>{''.join(parts)}</div>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return f"<table>{''.join('<tr>' + ''.join(row) + '</tr>' for row in rows)}</table>"


def _cell(kind: str, value: object) -> str:
    return f'<{kind} style="{CELL}">{_text(value)}</{kind}>'


def _picture(words: str, content: bytes) -> str:
    kind = next(kind for start, kind in KINDS.items() if content.startswith(start))
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    image = f'<img src="{source}" alt="{_text(words)}" style="max-height:{HIGHEST}px;max-width:100%">'
    return f'<figure style="margin:0">{image}<figcaption><small>{_text(words)}</small></figcaption></figure>'


def _text(value: object) -> str:
    return html.escape(printable(str(value)))
