"""What a file looks like that is no image."""

from __future__ import annotations

import pytest

from frostline.data.signatures import BEGINNINGS, kind_of


@pytest.mark.parametrize("start", BEGINNINGS)
def test_the_beginning_of_a_file_tells_what_it_is(start):
    assert kind_of(start + b" ...") == kind_of(start.upper() + b" ...") == BEGINNINGS[start]


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"", ""),
        (b"kein Bild", ""),
        (bytes(20), "zeros only"),
        (b"\0\0\0\x18ftypheic\0\0", "HEIF; install it"),
        (b"\xef\xbb\xbf\r\n  <HTML>", "a web page"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"<?xml version='1.0'?><x/>", ""),
    ],
)
def test_other_content(head, told):
    assert kind_of(head, "install it").startswith(told)
    assert bool(kind_of(head, "install it")) == bool(told)
