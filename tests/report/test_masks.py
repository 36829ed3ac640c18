from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from frostline.errors import MachineError
from frostline.report.colours import palette
from frostline.report.masks import write_mask


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)), st.text(max_size=3))
def test_a_mask_comes_back_as_it_was(tmp_path_factory, mask: np.ndarray, text: str) -> None:
    name = "".join(c for c in text if c.isalnum())
    file = write_mask(tmp_path_factory.mktemp("masks"), f"{name}.jpg", mask, palette(256))
    with Image.open(file) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        assert np.array_equal(np.asarray(image), mask)


@pytest.mark.parametrize("classes", [2, 21, 256])
def test_every_class_is_shown_in_its_colour(classes: int, tmp_path: Path) -> None:
    mask = np.arange(classes).astype(np.uint8).reshape(1, -1)
    with Image.open(write_mask(tmp_path, "cat.png", mask, palette(classes))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB"))[0], palette(classes))


def test_files_are_named_after_their_images(tmp_path: Path) -> None:
    mask = np.zeros((2, 3), np.uint8)
    names = ("sea/cat.1.jpg", "land/cat.1.png", "cat.1", "image 7", "..", "")
    files = [write_mask(tmp_path / "new" / "folder", name, mask, palette(2)).name for name in names]
    assert files == ["cat.1.png", "cat.1-2.png", "cat.png", "image 7.png", "...png", "mask.png"]
    assert {file.name for file in (tmp_path / "new" / "folder").iterdir()} == set(files)


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"mine")
    for name in ("cat-2.png", "cat-3.png"):
        assert write_mask(tmp_path, "cat.jpg", np.zeros((2, 3), np.uint8), palette(2)).name == name
    assert (tmp_path / "cat.png").read_bytes() == b"mine"


def test_a_folder_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(MachineError, match=r"cannot write masks to .*taken: "):
        write_mask(tmp_path / "taken", "cat.jpg", np.zeros((2, 3), np.uint8), palette(2))
