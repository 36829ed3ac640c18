from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.terminal import Passage, human_bytes, human_count, logged, logger, printable, progress, quiet, say

anything = st.text(st.characters(exclude_categories=()))


class Screen(io.StringIO):
    """A standard error that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("grün 日本 😀 …", "grün 日本 😀 …"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("back\x08\rover\t", "back\\x08\\rover\\t"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        ("\u200b\ufeff\u2028", "\\u200b\\ufeff\\u2028"),
        (b"\xff.jpg".decode("utf-8", "surrogateescape"), "\\udcff.jpg"),
    ],
)
def test_printable_escapes_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(anything)
def test_printable_text_can_be_printed_anywhere(text: str) -> None:
    safe = printable(text)
    assert all(c.isprintable() for c in safe)
    assert safe.encode("utf-8").decode("utf-8") == safe
    assert printable(safe) == safe


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_printable_leaves_ordinary_text_alone(text: str) -> None:
    assert printable(text) == text


def test_say_writes_a_line_to_standard_error(capsys) -> None:
    say("hello \x1b[2J")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "hello \\x1b[2J\n")


@given(anything)
def test_say_says_anything(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        screen = Screen()
        patch.setattr(sys, "stderr", screen)
        say(text)
    assert screen.getvalue() == printable(text) + "\n"


def test_say_on_a_terminal_that_knows_only_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    say("8 × 8 …")
    assert raw.getvalue() == b"8 ? 8 ?\n"


def test_say_survives_a_closed_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    screen.close()
    monkeypatch.setattr(sys, "stderr", screen)
    say("nobody listens")


def test_quiet_shows_nothing_inside(capsys) -> None:
    with quiet():
        say("inside")
        with quiet(False):
            say("still inside")
    say("outside")
    assert capsys.readouterr().err == "outside\n"


def test_quiet_may_be_off(capsys) -> None:
    with quiet(False):
        say("heard")
    assert capsys.readouterr().err == "heard\n"


def test_quiet_ends_with_an_error(capsys) -> None:
    with pytest.raises(KeyError), quiet():
        raise KeyError
    say("outside")
    assert capsys.readouterr().err == "outside\n"


def test_lines_are_logged_even_when_quiet(tmp_path: Path, capsys) -> None:
    log = tmp_path / "log.txt"
    with logged(log):
        say("one …")
        with quiet():
            say("two \x1b")
    say("three")
    assert log.read_text(encoding="utf-8") == "one …\ntwo \\x1b\n"
    assert capsys.readouterr().err == "one …\nthree\n"


def test_log_that_cannot_be_written_is_no_error(tmp_path: Path, capsys) -> None:
    with logged(tmp_path / "gone" / "log.txt"):
        say("anyway")
    assert capsys.readouterr().err == "anyway\n"


@pytest.mark.parametrize("silent", [True, False])
def test_threads_of_a_pool_say_what_their_owner_says(silent: bool, tmp_path: Path, capsys) -> None:
    log = tmp_path / "log.txt"
    with quiet(silent), logged(log), ThreadPoolExecutor(2) as pool:
        list(pool.map(say, ["one", "two"]))
    assert sorted(log.read_text().splitlines()) == ["one", "two"]
    assert sorted(capsys.readouterr().err.splitlines()) == ([] if silent else ["one", "two"])


def test_two_that_run_beside_each_other_keep_their_lines_apart(tmp_path: Path, capsys) -> None:
    both = threading.Barrier(2)

    def work(name: str) -> None:
        with quiet(name == "quiet"), logged(tmp_path / name):
            both.wait(10)
            say(name)
            both.wait(10)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ["quiet", "loud"]))
    assert capsys.readouterr().err == "loud\n"
    for name in ("quiet", "loud"):
        assert (tmp_path / name).read_text() == f"{name}\n"
    say("after")
    assert capsys.readouterr().err == "after\n"


def test_a_program_may_take_the_lines_for_its_own_logs(capsys, caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO):
        say("100 % \x1b")
        with quiet():
            say("unheard")
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("frostline", "INFO", "100 % \\x1b")
    ]
    assert capsys.readouterr().err == ""


def test_a_level_silences_the_lines(capsys) -> None:
    logger.setLevel(logging.WARNING)
    try:
        say("nothing")
    finally:
        logger.setLevel(logging.INFO)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("setup", "shown"),
    [
        ("", "a line\n"),
        ("logging.basicConfig(level=logging.INFO)", "a line\n"),
        ("logging.getLogger('frostline').addHandler(logging.NullHandler())", ""),
        ("sys.stderr = None", ""),
    ],
)
def test_lines_are_shown_once_unless_the_program_has_decided(setup: str, shown: str) -> None:
    code = f"import logging, sys\n{setup}\nfrom frostline.terminal import say, progress\nsay('a line')\n"
    code += "with progress('x', 1, 'y') as advance: advance(1)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", shown)


def run_to_the_end() -> None:
    with progress("computing [red]rows[/x]", 10, "images") as advance:
        for _ in range(10):
            advance(1)


def test_what_is_short_is_silent_without_a_terminal(capsys) -> None:
    run_to_the_end()
    assert tuple(capsys.readouterr()) == ("", "")


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_long_is_a_line_every_ten_seconds_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:
    """Stumbles 19 and 27."""
    clock = Clock()
    monkeypatch.setattr("frostline.terminal.time.monotonic", clock)
    with logged(tmp_path / "log.txt"), progress("computing \x1b rows", 2_000, "images") as advance:
        for _ in range(50):
            clock.now += 0.5
            advance(40)
    assert capsys.readouterr().err.splitlines() == [
        "computing \\x1b rows: 800 of 2,000 images, 80/s, 15 s left",
        "computing \\x1b rows: 1,600 of 2,000 images, 80/s, 5 s left",
    ]
    assert not (tmp_path / "log.txt").exists()  # what passes is no record


def test_no_rate_is_told_before_a_second_has_shown_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stumble 40."""
    clock = Clock()
    monkeypatch.setattr("frostline.terminal.time.monotonic", clock)
    passage = Passage("rows", 10, "images", 9, started=clock())
    clock.now += 0.9
    assert str(passage) == "rows: 9 of 10 images"
    clock.now += 0.1
    assert str(passage) == "rows: 9 of 10 images, 9/s, 0 s left"


def test_a_notebook_has_a_bar_and_lines_in_the_output_of_its_cell() -> None:
    """Stumble 27."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    code = """
import time
from frostline.terminal import progress, say
say("a line")
with progress("computing <b>", 10, "images") as advance:
    for _ in range(10):
        time.sleep(0.05)
        advance(1)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=60).execute()
    line, bar = notebook.cells[0].outputs
    assert (line["name"], line["text"]) == ("stdout", "a line\n")
    assert '<progress value="10" max="10">' in bar["data"]["text/html"]
    assert "computing &lt;b&gt;: 10 of 10 images" in bar["data"]["text/html"]


def test_progress_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    run_to_the_end()
    assert "computing [red]rows[/x]" in screen.getvalue()
    assert "10/10 images" in screen.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("term", "silent"), [("dumb", False), ("xterm", True)])
def test_no_bar_is_drawn_on_a_dumb_terminal_or_when_quiet(
    term: str, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", term)
    with quiet(silent):
        run_to_the_end()
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (7, "7 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (10_000, "10 kB"),
        (98_000_000, "98 MB"),
        (2_500_000_000, "2.5 GB"),
        (20_000_000_000, "20 GB"),
        (5_000_000_000_000, "5.0 TB"),
        (999_600, "1.0 MB"),
    ],
)
def test_human_bytes(count: int, shown: str) -> None:
    assert human_bytes(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0 k"),
        (8_400_000, "8.4 M"),
        (25_557_032, "25.6 M"),
        (2_000_000_000, "2.0 G"),
        (999_999, "1.0 M"),
    ],
)
def test_human_count(count: int, shown: str) -> None:
    assert human_count(count) == shown
