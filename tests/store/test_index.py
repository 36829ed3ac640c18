"""The index: every name finds its row, however many begin alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from frostline.store.index import index_names

few = st.integers(0, 3).map(lambda n: n.to_bytes(16, "little"))
alike = st.integers(0, 9).map(lambda n: b"\xff" * 15 + bytes([n]))
name = st.binary(min_size=16, max_size=16) | few | alike


def array(names: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(names), np.uint8).reshape(-1, 16)


@given(st.lists(name, max_size=40), st.lists(name, max_size=20))
def test_names_find_their_rows_and_others_none(there: list[bytes], others: list[bytes]) -> None:
    index = index_names(array(there))
    found = index.find(array(there + others))
    assert len(index) == len(there)
    for each, row in zip(there + others, found.tolist(), strict=True):
        assert (row >= 0) == (each in there)
        assert row < 0 or there[row] == each


def test_many_names() -> None:
    names = np.random.default_rng(0).integers(0, 256, (200_000, 16), np.uint8)
    index = index_names(names)
    order = np.random.default_rng(1).permutation(len(names))
    assert np.array_equal(index.find(names[order]), order)
    assert (index.find(names[:1000] ^ 1) == -1).all()
