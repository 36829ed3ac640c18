from __future__ import annotations

import re
from pathlib import Path

import frostline
from frostline.report.sentences import SENTENCES

PAGES = "".join(page.read_text() for page in (Path(frostline.__file__).parent / "report").glob("*.html"))


def test_every_sentence_has_its_place_and_every_place_its_sentence():
    asked = set(re.findall(r"text\.(\w+)", PAGES)) | {"mistakes", "unsure", "harmful"}  # of the galleries
    assert asked == set(SENTENCES)
    assert all(sentence.endswith((".", ")")) for sentence in SENTENCES.values())
