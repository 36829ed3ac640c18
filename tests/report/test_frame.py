from __future__ import annotations

import base64
import hashlib
import re

import pytest

from frostline.report.frame import rendered

NAME = "<script>alert(1)</script>"
FRAME = {
    "title": NAME,
    "run": NAME,
    "headline": {"text": NAME, "interval": NAME, "note": NAME},
    "facts": [(NAME, NAME)],
    "finding": {"level": "fine", "text": NAME, "advice": NAME},
    "sections": [("one", NAME)],
}


@pytest.fixture(scope="module")
def page():
    return rendered("frame.html", FRAME)


def test_the_policy_allows_the_one_script_by_its_hash(page):
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_whatever_is_said_is_text(page):
    assert page.count("&lt;script&gt;alert(1)") == 10
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)", "", page)


@pytest.mark.parametrize("character", ["\u202e", "\x1b", "\n", "\r", "\t", "\x00", "\u2066", "\ufeff"])
def test_what_steers_a_reader_is_written_out(character):
    page = rendered("frame.html", {**FRAME, "title": f"a{character}b", "facts": [("c", f"a{character}b")]})
    assert page.count("a" + character.encode("unicode_escape").decode() + "b") == 2
    assert f"a{character}b" not in page
