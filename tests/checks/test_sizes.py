from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.checks.samples import samples_of
from frostline.checks.sizes import findings
from frostline.data.images import Images


def samples(folder: Path, sizes):
    files = []
    for number, size in enumerate(sizes):
        files.append(folder / f"{number:02}.png")
        Image.new("RGB", size).save(files[-1])
    images = Images(files, np.arange(len(files)) % 2, [file.name for file in files])
    return samples_of({"train": images}, ("a", "b"))


USUAL = [(300, 200), (200, 300), (250, 250)] * 5


def test_what_is_tiny_or_huge_beside_the_others_is_found(tmp_path):
    found = list(findings(samples(tmp_path, [*USUAL, (16, 16), (2400, 2400)])))
    assert [finding.paths for finding in found] == [("15.png",), ("16.png",)]
    assert {finding.kind for finding in found} == {"outlier"}
    assert found[0].detail == "tiny: 16 × 16 pixels; 245 × 245 is usual"
    assert found[1].detail.startswith("huge: 2400 × 2400 pixels")
    assert found[1].score == pytest.approx(2400 / np.sqrt(60_000), rel=0.01)


def test_images_that_are_all_tiny_are_usual(tmp_path):
    assert list(findings(samples(tmp_path, [(8, 8)] * 12))) == []


def test_of_few_images_nothing_is_usual(tmp_path):
    assert list(findings(samples(tmp_path, [(300, 300)] * 8 + [(4, 4)]))) == []


def test_arrays_have_sizes_and_broken_files_have_none(tmp_path):
    (tmp_path / "broken.png").write_text("no")
    pictures = [*[np.zeros((200, 100, 3), np.uint8)] * 10, np.zeros((9, 9, 3), np.uint8), tmp_path / "broken.png"]
    images = Images(pictures, np.zeros(12, np.int64), [str(i) for i in range(12)])
    (found,) = findings(samples_of({"train": images}, ("a",)))
    assert found.paths == ("10",)
