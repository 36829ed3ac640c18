"""Strings and paths in arrays: what goes in comes out, and no object per string stays."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.data.texts import Paths, Texts

strings = st.lists(st.text(st.characters(), max_size=9) | st.just("\udcff.jpg"), max_size=12)
names = st.text(st.sampled_from("ab./ü"), min_size=1, max_size=8).map(lambda text: str(Path(text)))


@given(strings)
def test_strings_come_back_as_they_were(some: list[str]) -> None:
    texts = Texts.of(some)
    assert list(texts) == some
    assert texts == some
    assert len(texts) == len(some)
    assert [texts[-i - 1] for i in range(len(some))] == some[::-1]
    assert pickle.loads(pickle.dumps(texts)) == some


@given(strings, st.data())
def test_some_of_them_are_taken_by_numbers_or_slices(some: list[str], data: st.DataObject) -> None:
    texts = Texts.of(some)
    chosen = data.draw(st.lists(st.integers(0, len(some) - 1))) if some else []
    assert texts[np.array(chosen, np.int64)] == [some[i] for i in chosen]
    assert texts[1:-1] == some[1:-1]
    assert Texts.of(texts[::2]) == some[::2]


@given(st.lists(names, max_size=8), st.booleans())
def test_paths_come_back_as_they_were(some: list[str], absolute: bool) -> None:
    given_paths = [Path("/data" if absolute else "") / name for name in some]
    paths = Paths.of(given_paths)
    assert list(paths) == given_paths
    assert paths == given_paths
    assert paths[::-1] == given_paths[::-1]
    assert pickle.loads(pickle.dumps(paths)) == given_paths


def test_paths_share_what_they_have_in_front() -> None:
    paths = Paths.of([Path("/data/photos/cat/1.jpg"), Path("/data/photos/cats/2.jpg"), Path("/data/photos/dog/1.jpg")])
    assert paths.root == "/data/photos/"
    assert list(paths.names) == ["cat/1.jpg", "cats/2.jpg", "dog/1.jpg"]
    assert Paths.of([]) == []


def test_beyond_the_end_there_is_nothing() -> None:
    for some in (Texts.of(["a", "b"]), Paths.of([Path("a"), Path("b")])):
        with pytest.raises(IndexError):
            some[2]
        assert some != ["a"]
        assert some != "ab"


def test_a_hundred_thousand_paths_take_no_object_each() -> None:
    tracemalloc.start()
    try:
        paths = Paths.of(f"/data/photos/train/{i % 100:03}/{i:08}.jpg" for i in range(100_000))
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert left < 40 * len(paths)
