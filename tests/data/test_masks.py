from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from frostline.data.decoding import Item, UnreadableImageError
from frostline.data.masks import NOTHING, Masks, read_colours, read_values

values = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6))
SAME = np.arange(256, dtype=np.uint8)
SOME = np.array([[0, 1, 2], [255, 7, 0]], np.uint8)


@given(values, arrays.arrays(np.uint8, 256))
def test_a_mask_is_read_as_the_numbers_of_its_values(mask: np.ndarray, numbers: np.ndarray) -> None:
    read = Masks([mask], numbers).read(0)
    assert read.mode == "L"
    assert np.array_equal(np.asarray(read), numbers[mask])


@given(st.lists(st.integers(0, 4), max_size=8))
def test_rows_of_masks_are_those_masks_with_the_same_numbers(rows: list[int]) -> None:
    masks = Masks([np.full((1, 1), i, np.uint8) for i in range(5)], np.arange(256, dtype=np.uint8))
    taken = masks[np.array(rows, np.int64)]
    assert len(taken) == len(rows)
    assert [int(picture[0, 0]) for picture in taken.pictures] == rows
    assert taken.numbers is masks.numbers


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "pgm"])
def test_values_of_a_file_are_those_that_were_written(ending: str, tmp_path: Path) -> None:
    Image.fromarray(SOME).save(tmp_path / f"mask.{ending}")
    assert np.array_equal(read_values(tmp_path / f"mask.{ending}"), SOME)


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_of_a_palette_the_indices_count(ending: str, tmp_path: Path) -> None:
    image = Image.fromarray(SOME)
    image.putpalette([channel for i in range(256) for channel in (255 - i, i, 90)])
    assert image.mode == "P"
    image.save(tmp_path / f"mask.{ending}", optimize=False)
    assert np.array_equal(read_values(tmp_path / f"mask.{ending}"), SOME)


def test_two_values_of_one_bit(tmp_path: Path) -> None:
    Image.fromarray(SOME > 1).save(tmp_path / "mask.png")
    assert np.array_equal(read_values(tmp_path / "mask.png"), (SOME > 1).astype(np.uint8))


def test_sixteen_bits_that_hold_small_numbers(tmp_path: Path) -> None:
    Image.fromarray(SOME.astype(np.uint16)).save(tmp_path / "mask.png")
    assert np.array_equal(read_values(tmp_path / "mask.png"), SOME)


@pytest.mark.parametrize("kind", [bool, np.int64, np.uint16, np.uint8])
def test_arrays_of_any_whole_numbers(kind: type) -> None:
    mask = (SOME % 2).astype(kind)
    assert np.array_equal(read_values(mask), SOME % 2)
    assert read_values(mask).dtype == np.uint8


def test_an_item_is_read_from_its_source() -> None:
    source = [{"mask": Image.fromarray(SOME)}, {"mask": SOME.T}]
    assert np.array_equal(read_values(Item(source, 0, "mask")), SOME)
    assert np.array_equal(read_values(Item(source, 1, "mask")), SOME.T)


def test_nothing_is_beyond_all_class_numbers() -> None:
    assert np.iinfo(np.uint8).max == NOTHING


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (np.arange(12, dtype=np.uint8).reshape(2, 2, 3), r"colours; a mask must have one number per pixel"),
        (np.zeros((2, 2, 4), np.uint8), r"transparent pixels have no class"),
        (np.zeros((2, 2, 2), np.uint8), r"shape \(2, 2, 2\); it must have one number per pixel"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.array([[0, 256]]), "from 0 to 256; they must be 0 … 255"),
        (np.array([[-1, 3]]), "from -1 to 3"),
        (np.array([[0.5, 1.0]]), "float64; they must be whole numbers"),
        (np.array([[np.nan]]), "float64"),
        (Item([], 3, 0), "out of range"),
    ],
)
def test_what_is_no_mask(mask: np.ndarray, why: str) -> None:
    with pytest.raises(UnreadableImageError, match=why):
        read_values(mask)


@pytest.mark.parametrize(
    ("mode", "colour", "why"),
    [
        ("RGB", "red", "colours; a mask must have one number per pixel"),
        ("RGBA", "red", "colours; a mask must have one number per pixel"),
        ("RGBA", (9, 9, 9, 7), "transparent pixels have no class; save it without transparency"),
        ("LA", 0, r"shape \(3, 4, 2\); it must have one number per pixel"),
    ],
)
def test_colours_are_no_numbers(mode: str, colour: object, why: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 3), colour).save(tmp_path / "mask.png")  # type: ignore[arg-type]
    with pytest.raises(UnreadableImageError, match=why):
        read_values(tmp_path / "mask.png")


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_colours_that_have_values_are_read_as_these(colours: np.ndarray) -> None:
    packed = read_colours(colours)
    assert [f"{colour:06x}" for colour in packed.ravel().tolist()] == [bytes(c).hex() for c in colours.reshape(-1, 3)]
    known = {colour: number for number, colour in enumerate(np.unique(packed).tolist())}
    masks = Masks([colours], SAME, known)
    assert (np.array(list(known))[np.asarray(masks[[0]].read(0))] == packed).all()
    with pytest.raises(UnreadableImageError, match=r"no class has the colours #[0-9a-f]{6}"):
        Masks([colours], SAME, {}).read(0)


@given(values)
def test_grey_is_the_same_in_colours(mask: np.ndarray) -> None:
    assert np.array_equal(read_values(np.stack([mask] * 3, 2)), mask)


def test_jpeg_does_not_keep_numbers(tmp_path: Path) -> None:
    Image.fromarray(SOME).save(tmp_path / "mask.jpg")
    with pytest.raises(UnreadableImageError, match="not a lossless file \\(PNG, BMP, GIF, TIFF, PPM\\)"):
        read_values(tmp_path / "mask.jpg")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (40, 40)).astype(np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("torn", "empty", "pipe", "none"):
        with pytest.raises(UnreadableImageError):
            read_values(tmp_path / f"{name}.png")
