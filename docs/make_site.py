"""Gather the pages of the documentation site in build/pages, then build it: python docs/make_site.py

Written pages are copied from here. Generated are: the flags of every command, in place of `<!-- flags: VERB -->` and
the line after it, which is for those who read the page here; the page of changes; the notebooks of examples/, run now.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

from frostline.cli import frostline

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
WRITTEN = {".md", ".png", ".svg", ".css", ".js"}
FLAGS = re.compile(r"^<!-- flags: (\w+) -->\n`frostline \1 --help` prints them\.$", re.M)


def main() -> int:
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    for file in sorted((ROOT / "docs").rglob("*")):
        if file.suffix in WRITTEN:
            copy = PAGES / file.relative_to(ROOT / "docs")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(_generated(file.read_text("utf-8")) if file.suffix == ".md" else file.read_bytes())
    (PAGES / "changelog.md").write_bytes((ROOT / "CHANGELOG.md").read_bytes())
    shutil.copytree(ROOT / "examples", PAGES / "examples", ignore=shutil.ignore_patterns("*.ipynb"))
    with ThreadPoolExecutor() as pool:  # each notebook has a process of its own, which takes seconds to start
        list(pool.map(_write_notebook, sorted((ROOT / "examples").glob("*.ipynb"))))
    return subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=ROOT, check=False).returncode


def _generated(page: str) -> bytes:
    text = FLAGS.sub(lambda found: flags_of(found[1]), page)
    text = re.sub(r"\]\(\.\./((?:\.\./)*)examples/(\w+)\.ipynb", r"](\1notebooks/\2.md", text)
    text = re.sub(r"\]\(\.\./((?:\.\./)*)examples/(\w+\.py)", r"](\1examples/\2", text)
    text = re.sub(r"\]\(\.\./((?:\.\./)*)CHANGELOG.md", r"](\1changelog.md", text)
    return text.encode("utf-8")


def flags_of(verb: str) -> str:
    """How a command is called and what its flags do, as the program itself says it, in Markdown."""
    context = click.Context(frostline, info_name="frostline")
    command = frostline.get_command(context, verb)
    if isinstance(command, click.Group):
        return "\n\n".join(_described(command.commands[name], f"{verb} {name}") for name in command.commands)
    return _described(command, verb)


def _described(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=f"frostline {name}")
    usage = " ".join(command.get_usage(context).split()).removeprefix("Usage: ")
    rows = [_row(option, context) for option in command.params if isinstance(option, click.Option)]
    table = ["| flag | what it does |", "|---|---|", *rows] if rows else []
    return "\n".join([f"```text\n{usage}\n```", "", *table])


def _row(option: click.Option, context: click.Context) -> str:
    """A flag with its kind of value, its text, the words of a closed set where the text lacks some, and its default."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    text = " ".join((option.help or "").split())
    words = option.type.choices if isinstance(option.type, click.Choice) else ()
    value = "" if option.is_flag or words else f" `{option.make_metavar(context)}`"
    lacking = [word for word in words if word not in text]
    said = [text, f"One of {', '.join(f'`{word}`' for word in words)}." if lacking else ""]
    said += [f"Default `{option.default}`." if option.show_default and option.default is not None else ""]
    return f"| {names}{value} | {' '.join(filter(None, said)).replace('|', '&#124;')} |"


def _write_notebook(file: Path) -> None:
    """A notebook, run in an empty folder, as a page with its outputs and pictures."""
    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": file.stem})
    folder = PAGES / "notebooks"
    (folder / file.stem).mkdir(parents=True)
    (folder / f"{file.stem}.md").write_text(text, encoding="utf-8")
    for name, content in resources["outputs"].items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
