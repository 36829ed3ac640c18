from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.data.masks import NOTHING
from frostline.data.readers.palette import (
    VOC,
    VOC_EDGE,
    known_palette,
    named_colours,
    read_palette,
    values_of,
    voc_colour,
    what_is_wanted,
)
from frostline.errors import DataError

WORDS = st.text("abcxyzé -", min_size=1).map(str.strip).filter(bool)
COLOURS = st.integers(0, 0xFFFFFF)


@given(st.lists(st.tuples(WORDS, COLOURS, st.sampled_from(["{n} #{c:06x}", "{n} {r} {g} {b}", "{r} {g} {b}\t{n}"]))))
def test_every_way_of_writing_a_colour_says_the_same(given):
    lines = [
        form.format(n=name, c=colour, r=colour >> 16, g=colour >> 8 & 255, b=colour & 255)
        for name, colour, form in given
    ]
    assert named_colours(lines) == [(name, colour) for name, colour, _ in given]


@pytest.mark.parametrize("line", ["sky", "sky #12345", "sky 1 2", "sky 256 0 0", "1 2 3", "#ff0000"])
def test_one_line_without_a_colour_makes_no_palette(line):
    assert named_colours(["sea #0000ff", line]) == []


def test_voc_has_a_colour_for_each_of_its_classes():
    assert len({voc_colour(number) for number in range(256)}) == 256
    assert len(VOC) == 21
    assert voc_colour(255) == VOC_EDGE
    assert known_palette({0, VOC_EDGE, voc_colour(20)}) == {0: "background", voc_colour(20): "tvmonitor"}
    assert known_palette({0, 1}) is None
    assert values_of({0: "a", 7: "b"}) == {0: 0, 7: 1, VOC_EDGE: NOTHING}


@given(st.sets(COLOURS, min_size=1, max_size=20))
def test_what_is_wanted_is_a_palette_once_the_names_are_written(colours):
    lines = re.findall('"(.*?)"', what_is_wanted(colours, "x"))
    assert sorted(colour for _, colour in named_colours(lines)) == sorted(colours)


def test_a_colour_or_a_class_twice(tmp_path: Path):
    for text in ("sky #ff0000\nsea #ff0000\n", "sky #ff0000\nsky #00ff00\n"):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=r"classes.txt has a colour or a class twice"):
            read_palette([tmp_path])
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    assert read_palette([tmp_path]) is None
