"""From raw numbers to what readers see: a Markdown table for each work unit, and a picture.

    python benchmarks/report.py docs/performance.json docs/

Writes FOLDER/performance.png and replaces what lies between the two marks in FOLDER/performance.md; the rest of that
page is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import picture
from rows import Panel, Row, panels

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
INTRODUCTION = f"""# Performance

This page compares Frostline with the libraries that people use for the same work: the same images, weights, resolution
(224) and batch size (32). `benchmarks/compare_peers.py` measures them, each library in its own virtual environment, and
`benchmarks/report.py` writes the following tables.

{BEGIN}
{END}
"""
TOLD = ("python", "torch", "torchvision", "timm", "fastai", "lightning", "transformers", "scikit-learn", "frostline")


def report(document: dict[str, Any], folder: Path) -> None:
    found = panels(document["runs"])
    if not found:
        raise SystemExit("the file holds no runs")
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(found, folder / "performance.png")
    page = folder / "performance.md"
    before = page.read_text(encoding="utf-8") if page.is_file() else INTRODUCTION
    page.write_text(replaced(before, measured(document, found)), encoding="utf-8")


def replaced(page: str, text: str) -> str:
    """The page with `text` between its marks."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise SystemExit(f"the page needs one {BEGIN} and, below it, one {END}")
    return f"{page[: page.index(BEGIN)]}{BEGIN}\n\n{text}\n{page[page.index(END) :]}"


def measured(document: dict[str, Any], found: Sequence[Panel]) -> str:
    parts = ["![Time and accuracy of the same work](performance.png)\n", preface(document, found)]
    for panel in found:
        parts.append(f"### {panel.name}: {panel.title}\n\n{table(panel)}")
    parts.append(versions(document["versions"]))
    return "\n".join(parts)


def preface(document: dict[str, Any], found: Sequence[Panel]) -> str:
    machine = document["machine"]
    dates = sorted(run["date"][:10] for run in document["runs"])
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    counts = sorted({row.count for panel in found for row in panel.rows if row.known})
    runs = " to ".join(dict.fromkeys(str(count) for count in (counts[:1] + counts[-1:])))
    lines = [
        f"Measured on {when}: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, no GPU. Times "
        "are those of whole processes, including start-up: the median (least … most) of "
        f"{runs} run{'' if runs == '1' else 's'}. Memory is the highest sum of PSS over a process and its children. "
        "Accuracy is on the validation images after the last epoch; for Frostline it is that of the model that it "
        "keeps. "
        "“× Frostline” is the time as a multiple of Frostline's, which starts from an empty store and trains as many "
        "epochs. "
        "A second fit has other settings above the frostline and uses the store of the first one.\n"
    ]
    if any(row.measured for panel in found for row in panel.rows):
        lines.append(
            "*Figures in italics were not run in full*: they are extrapolated from two short runs, because all epochs "
            "cost the same: t(a) + (E − a) · (t(b) − t(a)) / (b − a) for E epochs. Their memory and accuracy are those "
            "of the longer of the two.\n"
        )
    return "\n".join(lines)


def table(panel: Panel) -> str:
    stores = any(row.store_bytes for row in panel.rows)
    header = ["", "time", "× Frostline", "highest memory", "accuracy", *(["store"] if stores else [])]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *(cells(row, stores) for row in panel.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(row: Row, stores: bool) -> list[str]:
    name = f"**{row.label}**" if row.ours else row.label
    if not row.known:
        return [name, f"none: {escaped(row.failed)}", *["–"] * (4 if stores else 3)]
    time = picture.short_time(row.seconds[0])
    if row.count > 1:
        time += f" ({spread(row.seconds)})"
    accuracy = f"{row.accuracy:.4f}"
    factor = "–" if row.factor is None else f"{row.factor:.2f}" if row.factor < 10 else f"{row.factor:.0f}"
    if row.measured:
        few, more = row.measured
        time = f"*{time}*, from {few} and {more} measured epochs"
        factor, accuracy = f"*{factor}*", f"*{accuracy}* after {more} epochs"
    if row.failures:
        time += f"; {row.failures} run{'' if row.failures == 1 else 's'} failed"
    cells = [name, time, factor, f"{row.peak_bytes / 1e9:.2f} GB", accuracy]
    return [*cells, f"{row.store_bytes / 1e6:.1f} MB" if row.store_bytes else "–"] if stores else cells


def spread(seconds: tuple[float, float, float]) -> str:
    """The least and the most, with the unit once where both have it."""
    least, most = (picture.short_time(second) for second in seconds[1:])
    return f"{least.partition(' ')[0]} … {most}" if least.split()[1] == most.split()[1] else f"{least} … {most}"


def escaped(text: str) -> str:
    """An error's last line inside a table."""
    short = text if len(text) <= 120 else text[:119] + "…"
    return "`" + short.replace("`", "'").replace("|", "\\|") + "`"


def versions(packages: dict[str, dict[str, str]]) -> str:
    lines = []
    for name, found in packages.items():
        told = ", ".join(f"{package} {found[package]}" for package in TOLD if package in found)
        lines.append(f"- {name}: {told}")
    return "Versions:\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("usage: python benchmarks/report.py docs/performance.json docs/")
    report(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
