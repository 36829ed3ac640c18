"""The code and the commands of every page run as they are printed, on small images that are drawn here.

A block that cannot run has `<!-- not run: WHY -->` above it; its commands still have to be commands. `NOT_RUN` counts
such blocks, so that none is skipped unnoticed. `<!-- given: CODE -->` makes what a block takes for granted.
"""

from __future__ import annotations

import io
import linecache
import logging
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import sklearn.datasets
from sklearn.utils import Bunch
from yaml import safe_load

from conftest import write_photos
from frostline.cli import frostline, main
from frostline.plan import phase_from

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?(?:<!-- given: (?P<given>[^\n]+) -->\n)?"
    r"(?P<indent> *)```(?P<kind>\w+)\n(?P<text>.*?)\n(?P=indent)```$",
    re.M | re.S,
)
NOT_RUN = {  # blocks that cannot run, by page
    "README.md": 2,
    "docs/index.md": 1,
    "docs/install.md": 3,
    "docs/logging.md": 2,
    "docs/commands/data.md": 1,
    "docs/features.md": 1,
    "docs/commands/fit.md": 1,
    "docs/commands/serve.md": 3,
    "docs/how-to/deploy.md": 5,
    "docs/commands/export.md": 4,
    "docs/how-to/csv.md": 1,
    "docs/how-to/folder.md": 1,
    "docs/how-to/offline.md": 1,
    "docs/how-to/shared-store.md": 1,
    "docs/how-to/own-network.md": 1,
    "docs/how-to/several-processes.md": 3,
    "docs/scale.md": 3,
    "docs/tutorials.md": 2,
}
MEASURED_AGAIN = "expect lower accuracy on new"  # no page measures a run on images that it was trained on
# a block of other programs is not run
ELSEWHERE = ("hf", "make", "pip", "pipx", "uv", "uvx", "python", "git", "cd", "curl", "docker")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. why: why it is not run; "" where it is. given: Python to run before it."""

    page: Path
    line: int
    kind: str
    text: str
    why: str
    given: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("kind")) + 1
        yield Block(page, line, found["kind"], textwrap.dedent(found["text"]), found["why"] or "", found["given"] or "")


def commands(block: Block) -> list[str]:
    """The commands of a block: of a transcript the lines that start with "$ "."""
    text = block.text.replace("\\\n", "")
    lines = [line.partition("  #")[0].strip() for line in text.splitlines()]
    if block.kind == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


def with_blocks(*kinds: str) -> list[Path]:
    return [page for page in PAGES if any(block.kind in kinds for block in blocks(page))]


def arguments_of(command: str) -> list[str]:
    """What a command gives Frostline, its patterns expanded as a shell does."""
    words = shlex.split(re.sub(r"^(torchrun --nproc-per-node \d+ -m|srun) ", "", command).partition(" > ")[0])
    assert words.pop(0) == "frostline", command
    return [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def ids(page: Path) -> str:
    return name_of(page).replace("/", "-").removesuffix(".md")


class Shell:
    """Runs the commands of a page in this process, so that torch is imported once."""

    def __init__(self, monkeypatch, capsys) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def run(self, command: str) -> str:
        """What a command prints on both streams; it has to end well."""
        if command.startswith("export "):
            self.monkeypatch.setenv(*command.removeprefix("export ").split("=", 1))
            return ""
        before, piped, command = command.rpartition(" | ")
        if piped:
            names = subprocess.run(before, shell=True, capture_output=True, text=True, check=True).stdout  # noqa: S602
            self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names.encode())))
        with pytest.raises(SystemExit) as end:
            main(arguments_of(command))
        printed = self.capsys.readouterr()
        assert end.value.code == 0, f"{command}: {printed.err[-2000:]}"
        if " > " in command:
            Path(command.partition(" > ")[2].strip()).write_text(printed.out, encoding="utf-8")
        return printed.err + printed.out


def shown_after(block: Block, command: str) -> list[str]:
    """What a transcript shows of a command; "…" stands for lines that are left out."""
    if block.kind != "console":
        return []
    lines = block.text.partition(f"$ {command}\n")[2].splitlines()
    ends = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    return [line for line in lines[: ends[0] if ends else None] if line.strip() not in ("", "…")]


def without_numbers(text: str) -> str:
    """The text with every number as one sign: figures depend on the machine, and on how many images there are."""
    return re.sub(r"\d[\d,.]*", "#", text)


def run_python(block: Block, names: dict[str, object]) -> None:
    file = f"<{name_of(block.page)}:{block.line}>"
    linecache.cache[file] = (len(block.text), None, block.text.splitlines(keepends=True), file)
    log = logging.getLogger("frostline")
    handlers, propagate, level = log.handlers[:], log.propagate, log.level
    try:
        exec(block.given, names)  # noqa: S102
        exec(compile(block.text, file, "exec"), names)  # noqa: S102
    finally:  # a page shows how a program takes the lines over
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """An empty folder with what the pages speak of: photographs of cats and dogs, tables of them, and new ones."""
    monkeypatch.chdir(tmp_path)
    full = sklearn.datasets.load_digits()
    few = Bunch(
        images=full.images[:220], target=full.target[:220], data=full.data[:220], target_names=full.target_names
    )
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: few)
    photos = write_photos(tmp_path / "photos", 12, ("cat", "dog"))
    write_photos(tmp_path / "more_photos", 6, ("cat", "dog"), seed=4)
    (tmp_path / "new").mkdir()
    for number, file in enumerate([photos / "cat" / "003.png", photos / "dog" / "004.png"]):
        shutil.copy(file, tmp_path / "new" / f"{number:03}.png")
    files = [file.relative_to(tmp_path) for file in sorted(photos.rglob("*.png"))]
    rows = {
        "labels.csv": ["path,label", *(f"{file},{file.parent.name}" for file in files)],
        "export.csv": ["file,kind", *(f"{file.parent.name}/{file.stem},{file.parent.name}" for file in files)],
        "tags.csv": [
            "path,label",
            *(f"{f},{f.parent.name}{'|cat' * (f.stem < '006' and 'dog' in f.parts)}" for f in files),
        ],
        "plan.yaml": ["phases:", "  - {frostline: head, epochs: 0}"],
    }
    for name, lines in rows.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> dict[str, Path]:
    """The run that pages of a classifier start from, once there is one."""
    return {"folder": tmp_path_factory.mktemp("kept")}


def with_a_run(kept: dict[str, Path], page: Path, shell: Shell) -> None:
    """runs/pets is there, unless the page makes it itself."""
    text = page.read_text("utf-8")
    if "runs/pets" not in text or re.search(r"out[ =]\"?runs/pets\b(?!-)", text):
        return
    if "run" not in kept:
        shell.run("frostline fit photos/ --out runs/pets")
        kept["run"] = Path(shutil.copytree("runs/pets", kept["folder"] / "pets"))
        return
    shutil.copytree(kept["run"], "runs/pets")


SLOW = (  # many fits
    "README.md",
    "docs/how-to/compare.md",
    "docs/how-to/csv.md",
    "docs/how-to/deploy.md",
    "docs/how-to/folder.md",
    "docs/how-to/notebook.md",
    "docs/how-to/offline.md",
    "docs/how-to/own-loop.md",
    "docs/how-to/own-network.md",
    "docs/how-to/reproduce.md",
    "docs/python/data.md",
    "docs/python/training.md",
    "docs/python/with-scikit-learn.md",
)
RUN = [
    pytest.param(page, marks=[pytest.mark.long] if name_of(page) in SLOW else [])
    for page in with_blocks("python", "sh", "console")
]


@pytest.mark.parametrize("page", RUN, ids=ids)
def test_what_a_page_shows_runs(page, world, kept, monkeypatch, capsys, no_pictures):
    shell, names = Shell(monkeypatch, capsys), {"__name__": "__main__"}
    shown = [block for block in blocks(page) if not block.why]
    if any("import pandas" in block.text for block in shown):
        pytest.importorskip("pandas", reason="pandas is not here: pip install '.[dev]'")
    with_a_run(kept, page, shell)
    for block in shown:
        if block.kind == "python":
            run_python(block, names)
            assert MEASURED_AGAIN not in capsys.readouterr().err, f"{name_of(page)}:{block.line}"
        elif block.kind in ("sh", "console"):
            for command in commands(block):
                printed = without_numbers(shell.run(command))
                assert MEASURED_AGAIN not in printed, f"{name_of(page)}: {command}"
                for line in shown_after(block, command):
                    assert without_numbers(line) in printed, f"{name_of(page)}: {command} no longer prints {line!r}"


@pytest.mark.parametrize("page", with_blocks("sh", "console"), ids=ids)
def test_commands_are_commands(page):
    """Also those that are not run: the verb, every flag and every word of a closed set are the program's own."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for block in blocks(page):
        for line in commands(block) if block.kind in ("sh", "console") else ():
            command = line.rpartition(" | ")[2]
            if command.split()[0] in (*ELSEWHERE, "export"):
                assert block.why or command.startswith("export"), f"{line} cannot run in the tests"
                assert not command.startswith("make") or command.split()[1] in targets, line
                continue
            parse(arguments_of(command.replace("…", "")))


def parse(arguments: list[str]) -> None:
    with click.Context(frostline, info_name="frostline") as context:
        command = frostline.get_command(context, arguments[0])
        arguments = arguments[1:]
        if isinstance(command, click.Group):
            command, arguments = command.commands[arguments[0]], arguments[1:]
        with click.Context(command, parent=context, info_name="frostline") as inner:
            values, _, _ = command.make_parser(inner).parse_args(list(arguments))
            for parameter in command.params:
                if isinstance(parameter.type, click.Choice) and parameter.name in values:
                    value = values[parameter.name]
                    for word in value if isinstance(value, list) else [value]:
                        parameter.type.convert(word, parameter, inner)


def test_what_is_not_run_is_known():
    found = {name_of(page): sum(bool(block.why) for block in blocks(page)) for page in PAGES}
    assert {name: count for name, count in found.items() if count} == NOT_RUN


def test_plans_are_plans(world):
    """Every YAML block is read as a plan, but for those of other programs."""
    plans = [block for page in PAGES for block in blocks(page) if block.kind == "yaml" and not block.why]
    assert plans
    for block in plans:
        content = safe_load(block.text)
        for phase in content["phases"]:
            phase_from(phase, f"{name_of(block.page)}:{block.line}")
