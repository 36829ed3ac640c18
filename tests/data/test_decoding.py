from __future__ import annotations

import contextlib
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from frostline.data import decoding
from frostline.data.decoding import (
    MOST_PIXELS,
    SUFFIXES,
    Item,
    Picture,
    UnreadableImageError,
    as_uint8,
    open_image,
    refuse_address,
)
from frostline.errors import UsageError

ORIENTATION = 0x0112
IGNORING_PILLOWS_REMARKS = pytest.mark.filterwarnings("ignore:::PIL")  # as the loader does
# What a camera held that way stores, for each value of the EXIF orientation: the upright picture, undone.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(np.swapaxes(upright, 0, 1), 2),
    8: lambda upright: np.rot90(upright, -1),
}


def photo(width: int = 24, height: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def quadrants() -> np.ndarray:
    """Four flat colours, each whole JPEG blocks, so that a JPEG keeps them in whichever way it lies."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32], picture[:16, 32:] = (200, 40, 40), (40, 200, 40)
    picture[16:, :32], picture[16:, 32:] = (40, 40, 200), (220, 220, 220)
    return picture


def ramp(levels: int = 256) -> np.ndarray:
    return np.tile(np.arange(levels, dtype=np.uint8), (4, 1))


def saved(image: Image.Image, file: Path, **options: object) -> Path:
    image.save(file, **options)
    return file


def decoded(picture: Picture) -> np.ndarray:
    image = open_image(picture)
    assert image.mode == "RGB"
    return np.asarray(image)


def is_grey(picture: Picture) -> bool:
    return decoding.is_grey(open_image(picture))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(width: int, height: int, file: Path, before_pixels: bytes = b"") -> Path:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\x00"))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before_pixels + pixels + chunk(b"IEND", b""))
    return file


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp"])
def test_lossless_formats_keep_every_pixel(suffix: str, tmp_path: Path) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    file = saved(Image.fromarray(photo()), tmp_path / f"a{suffix}", **options)
    assert suffix in SUFFIXES
    assert np.array_equal(decoded(file), photo())
    assert not is_grey(file)


def test_jpeg_is_close(tmp_path: Path) -> None:
    file = saved(Image.fromarray(quadrants()), tmp_path / "a.jpg", quality=95, subsampling=0)
    assert np.abs(decoded(file).astype(int) - quadrants()).max() <= 3
    assert not is_grey(file)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".pgm"])
def test_grey_has_three_equal_channels_and_shows_no_colours(suffix: str, tmp_path: Path) -> None:
    file = saved(Image.fromarray(ramp()), tmp_path / f"a{suffix}")
    assert np.array_equal(decoded(file), np.stack([ramp()] * 3, 2))
    assert is_grey(file)


def test_arrays_decode_as_they_are() -> None:
    assert np.array_equal(decoded(photo()), photo())
    assert not is_grey(photo())
    assert np.array_equal(decoded(ramp()), np.stack([ramp()] * 3, 2))
    assert is_grey(ramp())


@pytest.mark.parametrize("value", [-1, 256])
def test_a_level_next_to_those_there_are_is_refused(value: int) -> None:
    with pytest.raises(UnreadableImageError):
        decoded(as_uint8(np.array([[value, 7]] * 2)))  # as the classifier and data sets in memory take it


def test_palette(tmp_path: Path) -> None:
    file = saved(Image.fromarray(quadrants()).quantize(4), tmp_path / "a.png")
    with Image.open(file) as stored:
        assert stored.mode == "P"
    assert np.array_equal(decoded(file), quadrants())
    assert not is_grey(file)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_transparent_palette_entry_is_white(suffix: str, tmp_path: Path) -> None:
    image = Image.new("P", (4, 2))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 0, 1, 1] * 2)
    file = saved(image, tmp_path / f"a{suffix}", transparency=0)
    expected = np.array([[[255] * 3, [255] * 3, [40, 50, 60], [40, 50, 60]]] * 2)
    assert np.array_equal(decoded(file), expected)


def test_palette_with_partial_transparency_is_mixed_with_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    file = saved(image, tmp_path / "a.png", transparency=bytes([128, 255]))
    mixed, opaque = decoded(file)[0]
    assert np.allclose(mixed, np.array([10, 20, 30]) * 128 / 255 + 127, atol=1)
    assert opaque.tolist() == [40, 50, 60]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_rgba_lies_on_white(suffix: str, tmp_path: Path) -> None:
    levels = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    file = saved(Image.fromarray(levels), tmp_path / f"a{suffix}", **options)
    assert np.abs(decoded(file).astype(int) - [[[200, 100, 0], [255, 255, 255], [244, 224, 204]]]).max() <= 1
    assert not is_grey(file)


def test_grey_with_transparency_lies_on_white(tmp_path: Path) -> None:
    levels = np.array([[[100, 255], [100, 0], [100, 51]]], np.uint8)
    file = saved(Image.merge("LA", bands(levels)), tmp_path / "a.png")
    assert np.abs(decoded(file).astype(int) - [[[100] * 3, [255] * 3, [224] * 3]]).max() <= 1
    assert is_grey(file)


def bands(levels: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(np.ascontiguousarray(levels[..., band])) for band in range(levels.shape[2])]


def test_transparent_level_of_a_grey_png_is_white(tmp_path: Path) -> None:
    file = saved(Image.fromarray(np.array([[0, 90]], np.uint8)), tmp_path / "a.png", transparency=0)
    assert decoded(file)[0, :, 0].tolist() == [255, 90]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_keeps_its_colours(suffix: str, tmp_path: Path) -> None:
    options = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    file = saved(Image.fromarray(quadrants()).convert("CMYK"), tmp_path / f"a{suffix}", **options)
    with Image.open(file) as stored:
        assert stored.mode == "CMYK"
    assert np.abs(decoded(file).astype(int) - quadrants()).max() <= 6
    assert not is_grey(file)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bit_grey_keeps_its_levels(suffix: str, tmp_path: Path) -> None:
    deep = (ramp().astype(np.uint16) << 8) + 130
    file = saved(Image.fromarray(deep), tmp_path / f"a{suffix}")
    assert np.array_equal(decoded(file), np.stack([ramp()] * 3, 2))
    assert is_grey(file)


def test_sixteen_bit_big_endian_tiff_keeps_its_levels(tmp_path: Path) -> None:
    deep = (ramp().astype(">u2") << 8) + 7
    image = Image.frombytes("I;16B", (256, 4), deep.astype(">u2").tobytes())
    file = saved(image, tmp_path / "a.tif")
    assert np.array_equal(decoded(file)[..., 0], ramp())
    assert is_grey(file)


@pytest.mark.parametrize(("shift", "mode"), [(8, "I"), (0, "I")])
def test_grey_in_32_bits_keeps_its_levels(shift: int, mode: str, tmp_path: Path) -> None:
    file = saved(Image.fromarray(ramp().astype(np.int32) << shift), tmp_path / "a.tif")
    with Image.open(file) as stored:
        assert stored.mode == mode
    assert np.array_equal(decoded(file)[..., 0], ramp())


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_fewer_bits_than_its_file_is_seen(bits: int, suffix: str, tmp_path: Path) -> None:
    """As a camera of 12 bits saves it: all of its levels are there, the lightest near white."""
    levels = np.linspace(0, 2**bits - 1, 1024).astype(np.uint16).reshape(4, 256)
    shown = decoded(saved(Image.fromarray(levels), tmp_path / f"a{suffix}"))[..., 0]
    assert shown.max() == (127 if bits == 9 else 255)
    assert len(np.unique(shown)) == int(shown.max()) + 1
    assert np.array_equal(decoded(Item([(levels,)], 0, 0))[..., 0], shown)


def test_a_file_that_says_how_many_bits_it_has_is_believed(tmp_path: Path) -> None:
    """A dark picture of 16 bits stays dark where the file tells that it is one."""
    dark = np.linspace(0, 2000, 1024).astype(np.uint16).reshape(4, 256)
    told = saved(Image.fromarray(dark), tmp_path / "told.tif", tiffinfo={281: 65_535})
    assert np.array_equal(decoded(told)[..., 0], dark >> 8)
    (tmp_path / "told.pgm").write_bytes(b"P5\n256 4\n4095\n" + dark.astype(">u2").tobytes())
    assert np.abs(decoded(tmp_path / "told.pgm")[..., 0].astype(int) - (dark >> 4)).max() <= 1
    silent = saved(Image.fromarray(dark), tmp_path / "silent.tif")
    assert np.array_equal(decoded(silent)[..., 0], dark >> 4)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([-1024, 3071], r"grey values from -1,024 to 3,071 of unknown meaning; save"),
        ([0, 2**20], "from 0 to 1,048,576 "),
    ],
)
def test_grey_of_unknown_meaning_is_refused(values: list[int], told: str, tmp_path: Path) -> None:
    refused(saved(Image.fromarray(np.array([values], np.int32)), tmp_path / "a.tif"), told)


@given(st.integers(8, 16), st.integers(0, 2**16 - 1))
def test_grey_levels_keep_their_order_and_what_is_scaled_is_never_darker_than_16_bits(bits: int, seed: int) -> None:
    values = np.sort(np.random.default_rng(seed).integers(0, 2**bits, (1, 50)).astype(np.uint16))
    shown = decoded(Item([(np.vstack([values] * 2),)], 0, 0))[0, :, 0].astype(int)
    assert (np.diff(shown) >= 0).all()
    assert (shown >= values[0] >> 8).all()


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    file = saved(Image.fromarray(ramp()).convert("1", dither=Image.Dither.NONE), tmp_path / "a.png")
    assert np.array_equal(decoded(file)[..., 0], np.where(ramp() > 127, 255, 0))
    assert is_grey(file)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_decodes_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {".jpg": {"quality": 98, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quadrants())))
    upright = decoded(saved(stored, tmp_path / f"a{suffix}", exif=exif, **options))
    assert upright.shape == quadrants().shape
    assert np.abs(upright.astype(int) - quadrants()).max() <= (2 if suffix == ".jpg" else 0)


def test_the_stored_orientations_are_those_of_pillow() -> None:
    for orientation, store in STORED.items():
        image = Image.fromarray(np.ascontiguousarray(store(photo())))
        image.getexif()[ORIENTATION] = orientation
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), photo())


@IGNORING_PILLOWS_REMARKS
@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00"])
def test_broken_exif_is_ignored(exif: bytes, tmp_path: Path) -> None:
    file = saved(Image.fromarray(quadrants()), tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    assert np.abs(decoded(file).astype(int) - quadrants()).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_content_counts_not_the_ending(kind: str, tmp_path: Path) -> None:
    saved(Image.fromarray(quadrants()), tmp_path / "a.png", format=kind, lossless=True)
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(decoded(tmp_path / "a.jpg"), quadrants())


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_many(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    file = saved(frames[0], tmp_path / "a.tif", format=kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(file) as stored:
        assert stored.n_frames == 3
    assert (decoded(file) == [255, 0, 0]).all()


def refused(picture: Picture, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        open_image(picture)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.5, 0.9])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_truncated_file_is_refused(suffix: str, kept: float, tmp_path: Path) -> None:
    file = saved(Image.fromarray(photo(200, 200)), tmp_path / f"a{suffix}")
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    refused(file, "truncated|not an image of a known format")


def test_half_a_jpeg_is_called_truncated(tmp_path: Path) -> None:
    file = saved(Image.fromarray(photo(200, 200)), tmp_path / "a.jpg")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(file, "truncated")


def test_header_alone_is_no_image(tmp_path: Path) -> None:
    file = saved(Image.fromarray(photo()), tmp_path / "a.jpg")
    file.write_bytes(file.read_bytes()[:20])
    refused(file, "known format|truncated")


def test_damaged_png_is_refused(tmp_path: Path) -> None:
    file = saved(Image.fromarray(photo(64, 64)), tmp_path / "a.png")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    refused(file, ".")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    refused(tmp_path / "a.jpg", "empty file")


@pytest.mark.parametrize(
    "content",
    [
        b"just text",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        b"8BPS\x00\x01" + bytes(26),
        b"SIMPLE  =                    T" + bytes(2850),
        bytes(1000),
    ],
    ids=["text", "html", "svg", "pdf", "eps", "psd", "fits", "zeros"],
)
def test_other_content_is_no_image(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    refused(tmp_path / "a.jpg", "not an image of a known format")


def test_a_web_page_is_called_one_from_a_file_and_from_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"<html>404</html>")
    refused(tmp_path / "a.jpg", "it looks like a web page; was it a failed download?")
    with pytest.raises(UnreadableImageError, match="it looks like a web page"):
        open_image(b"<html>404</html>")


def test_missing_file(tmp_path: Path) -> None:
    """Stumble 28."""
    refused(tmp_path / "a.jpg", "no such file")


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    refused(tmp_path / "a.jpg", "no such file")


def test_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "a.jpg")
    refused(tmp_path / "a.jpg", "symbolic links")


def test_directory(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    refused(tmp_path / "a.jpg", "not a regular file")


def finishes(call, fifo: Path) -> bool:
    """Whether a call ends although nobody writes into the FIFO; a call that waits is released."""
    thread = threading.Thread(target=call, args=(fifo,), daemon=True)
    thread.start()
    thread.join(1)
    waited = thread.is_alive()
    if waited:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        thread.join(10)
    return not waited


def test_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert finishes(lambda fifo: refused(fifo, "not a regular file"), tmp_path / "a.jpg")
    refused(tmp_path / "a.jpg", "not a regular file")


@IGNORING_PILLOWS_REMARKS
@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (100_000_001, 1), (10_001, 10_000)])
def test_header_that_claims_too_many_pixels_is_refused(width: int, height: int, tmp_path: Path) -> None:
    file = png_claiming(width, height, tmp_path / "a.png")
    refused(file, f"^{width} × {height} pixels, more than 100,000,000$")


def test_header_that_claims_a_bomb_is_refused(tmp_path: Path) -> None:
    refused(png_claiming(100_000, 100_000, tmp_path / "a.png"), "more than 100,000,000 pixels")


@IGNORING_PILLOWS_REMARKS
def test_as_many_pixels_as_allowed_are_not_refused_for_their_number(tmp_path: Path) -> None:
    assert MOST_PIXELS == 10_000 * 10_000
    refused(png_claiming(10_000, 10_000, tmp_path / "a.png"), "truncated")


def test_text_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(5_000_000)))
    refused(png_claiming(8, 8, tmp_path / "a.png", before_pixels=text), "too large")


def test_floating_point_tiff_is_refused(tmp_path: Path) -> None:
    file = saved(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), tmp_path / "a.tif")
    refused(file, "floating-point pixels of unknown range")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((3, 5, 6), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
    ids=["float", "uint16", "bool", "five channels", "channels first", "batch", "flat"],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    refused(array, rf"an array .* of {array.dtype}; give \(H, W\) or \(H, W, 3\) of uint8")


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0)])
def test_array_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    refused(np.zeros(shape, np.uint8), ".")


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([np.float16, np.float32, np.float64]))
def test_floats_are_the_levels_that_they_were_made_of(height: int, width: int, kind: type) -> None:
    levels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(as_uint8((levels / 255).astype(kind)), levels)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize(
    ("laid", "wanted"),
    [
        (lambda image: image, (16, 24, 3)),
        (lambda image: image.transpose(2, 0, 1), (16, 24, 3)),
        (lambda image: image[..., 0], (16, 24)),
        (lambda image: image[..., :1], (16, 24)),
        (lambda image: image[None, ..., 0], (16, 24)),
    ],
    ids=["HWC", "CHW", "HW", "HW1", "1HW"],
)
def test_channels_may_come_first_last_or_not_at_all(laid, wanted: tuple[int, ...], tensor: bool) -> None:
    given = np.ascontiguousarray(laid(photo()))
    levels = as_uint8(torch.from_numpy(given) if tensor else given)
    assert (levels.dtype, levels.shape) == (np.uint8, wanted)
    assert np.array_equal(levels, photo() if len(wanted) == 3 else photo()[..., 0])


def test_truth_is_black_and_white() -> None:
    assert as_uint8(np.array([[True, False]])).tolist() == [[255, 0]]


@pytest.mark.parametrize("values", [[-0.1, 1], [0, 1.01], [0, 254.5], [0, 256], [-1, 255], [0, np.nan], [-np.inf, 0]])
def test_floats_of_another_range_are_refused(values: list[float]) -> None:
    with pytest.raises(UnreadableImageError, match=r"floats from .* to .*; give 0 … 1 before normalisation"):
        as_uint8(np.array([values], float))


@given(
    st.lists(st.integers(0, 255), min_size=1).filter(lambda some: max(some) > 1), st.sampled_from(["f2", "f4", "f8"])
)
def test_floats_that_are_whole_numbers_to_255_are_these_levels(some: list[int], kind: str) -> None:
    """Stumble 39."""
    levels = np.array([some], kind)
    assert as_uint8(levels).tolist() == [some]
    with pytest.raises(UnreadableImageError, match="or whole numbers 0 … 255"):
        as_uint8(levels + 0.25)


def items() -> list[object]:
    """A grey palette, a transparent, an upside-down and a plain picture, and arrays of two kinds."""
    turned = Image.fromarray(photo())
    turned.getexif()[ORIENTATION] = 3
    see_through = Image.fromarray(np.dstack([photo(), np.full((16, 24), 99, np.uint8)]))
    plain = Image.fromarray(photo())
    return [plain.quantize(8), see_through, turned, plain, ramp(), photo().transpose(2, 0, 1) / np.float32(255)]


def test_items_are_read_where_they_lie() -> None:
    source = [{"label": 7, "image": picture} for picture in items()]
    shown = [decoded(Item(source, i, "image")) for i in range(len(source))]
    assert np.array_equal(shown[2], photo()[::-1, ::-1])
    assert np.array_equal(shown[3], photo())
    assert np.array_equal(shown[4], np.stack([ramp()] * 3, 2))
    assert np.array_equal(shown[5], photo())
    assert np.array_equal(decoded(Item([(0, photo())], 0, 1)), photo())


@pytest.mark.parametrize("found", [None, "a.jpg", np.full((4, 4), 300), np.full((3, 4, 4), 2.5), {"bytes": b""}])
def test_items_that_are_no_images_are_refused(found: object) -> None:
    refused(Item([(found,)], 0, 0), "an array .* of uint8|floats from 2.5 to 2.5")


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint16])
def test_whole_numbers_from_0_to_255_are_pixels_whatever_their_type(kind: type) -> None:
    grey = (ramp() // 2).astype(kind)
    assert np.array_equal(decoded(Item([(grey,)], 0, 0)), decoded(ramp() // 2))


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint16, bool])
def test_zeros_and_ones_are_black_and_white(kind: type) -> None:
    ones = (ramp() > 99).astype(kind)
    assert np.array_equal(as_uint8(ones), np.where(ramp() > 99, 255, 0))
    assert as_uint8(np.zeros((4, 4), kind)).max() == 0


def test_items_that_are_not_there_are_refused() -> None:
    refused(Item([], 0, 0), "list index out of range")
    refused(Item([{"image": photo()}], 0, "picture"), "picture")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "RGB", "RGBA", "P"])
def test_no_colours_are_seen_in_grey_files_of_any_mode(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(ramp())
    if mode == "I;16":
        image = Image.fromarray(ramp().astype(np.uint16) << 8)
    saved(image if mode == "I;16" else image.convert(mode), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == mode
    assert is_grey(tmp_path / "a.png")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_decode_or_are_refused_but_never_crash(tmp_path_factory, data: st.DataObject) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.png"
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]))
    saved(Image.fromarray(photo()), file, format=kind)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    with contextlib.suppress(UnreadableImageError):
        assert open_image(file).mode == "RGB"


def test_four_channels_are_colours_and_how_opaque_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "file.png")
    assert np.array_equal(np.asarray(open_image(pixels)), np.asarray(open_image(tmp_path / "file.png")))


def test_files_of_phones_say_what_reads_them(tmp_path, monkeypatch):
    """Stumble 15."""
    from frostline.data import decoding

    monkeypatch.setattr(decoding, "READ", ())
    file = tmp_path / "IMG_1.HEIC"
    file.write_bytes(b"\0\0\0\x18ftypheic" + b"x" * 50)
    with pytest.raises(UnreadableImageError, match="looks like HEIF; pip install pillow-heif adds support"):
        open_image(file)
    file.write_bytes(b"something else")
    with pytest.raises(UnreadableImageError, match="known format; pip install pillow-heif adds support"):
        open_image(file)
    assert decoding.hint_for("a.avif") == "a newer Pillow adds support"
    monkeypatch.setattr(decoding, "READ", ("HEIF", "AVIF"))
    assert decoding.hint_for("IMG_1.HEIC") == ""


@pytest.mark.skipif("AVIF" not in decoding.READ, reason="this Pillow reads no AVIF")
def test_avif_is_read_where_pillow_does(tmp_path):
    pixels = np.full((20, 30, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.avif")
    assert np.abs(np.asarray(open_image(tmp_path / "a.avif")).astype(int) - 90).max() <= 3
    assert ".avif" in SUFFIXES


def test_exif_that_pillow_cannot_read_says_nothing_about_the_pixels(monkeypatch):
    def broken(_: Image.Image) -> None:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    image = Image.new("RGB", (4, 3))
    assert decoding.upright(image) is image


def test_the_size_of_an_array_is_its_width_and_height():
    assert decoding.size_of(np.zeros((3, 5, 3), np.uint8)) == (5, 3)


def test_a_web_address_is_refused_without_its_password_or_signature():
    with pytest.raises(UsageError) as told:
        refuse_address("https://me:PASSWORD@host/x.csv?X-Amz-Signature=SIGNED")
    assert "https://host/x.csv is a web address" in str(told.value)
    assert "PASSWORD" not in str(told.value)
    assert "SIGNED" not in str(told.value)
