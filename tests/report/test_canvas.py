from __future__ import annotations

import logging
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from frostline.report.canvas import DPI, blank, drawing, save, shown

anything = st.text(st.characters(exclude_categories=()), max_size=60)


def figure_with(text: str) -> Figure:
    with drawing():
        figure = Figure((3, 2), layout="constrained")
        figure.subplots().set(title=text, xticks=[0, 1], xticklabels=[text, text])
        return figure


@given(anything, st.integers(3, 40))
def test_shown_text_fits_and_is_one_line(text: str, most: int) -> None:
    assert len(shown(text, most)) <= most
    assert shown(text, most).isprintable()


@given(st.text("abc →ü$_", max_size=28))
def test_short_ordinary_text_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


def test_long_text_keeps_both_ends() -> None:
    assert shown("features.denseblock4.denselayer16", 13) == "featur…ayer16"


@pytest.mark.parametrize("text", ["\U000e0001", "\U0001fae8", "\uf8ff", "a\x1b[31m\n\tb", "\udcff"])
def test_nothing_that_is_shown_lacks_a_glyph(text: str, tmp_path) -> None:
    save(figure_with(shown(text)), tmp_path, "odd")  # a missing glyph would be a warning, and so an error


@pytest.mark.parametrize("text", ["$5", "$x_1$", "a^b_c$\\frac$", "50 % \\alpha {x"])
def test_text_is_never_taken_for_mathematics(text: str, tmp_path) -> None:
    figure = figure_with(shown(text))
    save(figure, tmp_path, "dollars", ("png", "svg"))
    assert not figure.axes[0].title.get_parse_math()
    assert figure.axes[0].get_title(loc="left") == text


def test_files_open_and_no_others_are_left(tmp_path) -> None:
    save(figure_with("good"), tmp_path, "picture", ("png", "svg"))
    with Image.open(tmp_path / "picture.png") as image:
        assert (image.format, image.size) == ("PNG", (3 * DPI, 2 * DPI))
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert ElementTree.parse(tmp_path / "picture.svg").getroot().tag.endswith("svg")  # noqa: S314
    assert sorted(file.name for file in tmp_path.iterdir()) == ["picture.png", "picture.svg"]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_figure_gives_the_same_bytes(kind: str, tmp_path) -> None:
    for name in ("one", "two"):
        save(figure_with("same"), tmp_path, name, (kind,))
    assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def test_what_a_process_has_set_changes_no_picture_and_stays(tmp_path) -> None:
    save(figure_with("mine"), tmp_path, "before")
    own = {"axes.facecolor": "black", "font.size": 30.0, "savefig.bbox": "tight"}
    with matplotlib.rc_context(own):
        save(figure_with("mine"), tmp_path, "after")
        assert {key: matplotlib.rcParams[key] for key in own} == own
    assert (tmp_path / "before.png").read_bytes() == (tmp_path / "after.png").read_bytes()


def test_threads_can_draw_at_the_same_time(tmp_path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: save(figure_with("same"), tmp_path, str(i)), range(8)))
    assert len({file.read_bytes() for file in tmp_path.glob("*.png")}) == 1


def test_an_unwritable_folder_is_an_oserror(tmp_path) -> None:
    with pytest.raises(OSError, match="missing"):
        save(blank("nothing"), tmp_path / "missing", "picture")


def test_a_blank_figure_says_why(tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        figure = blank("nothing here")
        save(figure, tmp_path, "blank")
    assert [text.get_text() for text in figure.texts] == ["nothing here"]
    assert not caplog.records
