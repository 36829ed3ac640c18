from __future__ import annotations

import re
from pathlib import Path

import frostline
from frostline.report.sentences import SENTENCES

PAGE = (Path(frostline.__file__).parent / "report" / "page.html").read_text()


def test_every_sentence_has_its_place_and_every_place_its_sentence():
    asked = set(re.findall(r"text\.(\w+)", PAGE)) | {"mistakes", "unsure", "harmful"}  # of the galleries
    assert asked == set(SENTENCES)
    assert all(sentence.endswith((".", ")")) for sentence in SENTENCES.values())
