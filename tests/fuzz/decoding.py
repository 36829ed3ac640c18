"""Bytes as an image: they are decoded, or refused with a reason in a few words."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from PIL import Image

from badfiles import bad_files, photo, saved
from frostline.data import decoding, masks
from frostline.data.decoding import UnreadableImageError

Image.init()  # imports all of Pillow's formats now, while the fuzzer watches imports

MOST = 8_000
WORDS = (b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"zTXt", b"fcTL", b"acTL", b"Exif\0\0", b"Adobe")
WORDS += (b"JFIF", b"\xff\xda", b"\xff\xe1", b"II*\0", b"MM\0*", b"GIF89a", b"RIFF", b"WEBP", b"VP8L", b"BM", b"P6")
PIXELS = 1_000_000  # at most, so that an attempt takes little
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO")
MODES = ("1", "L", "P", "LA", "RGBA", "CMYK", "I;16")


def seeds() -> list[bytes]:
    """The short files of the corpus of bad ones, and a small image in every format and mode that Pillow writes."""
    small = photo(24, 16)
    found = [content for _, content in bad_files().values() if 0 < len(content) <= MOST]
    for kind in KINDS:
        for mode in ("RGB", *MODES):
            try:
                found.append(saved(small.convert("L" if mode == "I;16" else mode).convert(mode), kind))
            except (OSError, ValueError):  # that format has no such mode
                continue
    return found


def attempt(content: bytes, folder: Path) -> None:
    with patch.object(decoding, "MOST_PIXELS", PIXELS), patch.object(masks, "MOST_PIXELS", PIXELS):
        for each in {content, with_checksums(content)}:
            size = decoding.size_of(each)
            assert size is None or len(size) == 2
            for shorter in (None, 8):
                _decoded(each, shorter)
            for read in (masks.read_values, masks.read_colours):
                _mask(each, read)


def _decoded(content: bytes, shorter: int | None) -> None:
    try:
        image, full = decoding.open_reduced(content, shorter)
    except UnreadableImageError as error:
        _told(error)
        return
    assert image.mode == "RGB"
    assert min(full) >= 1
    assert full[0] * full[1] <= PIXELS
    assert image.width <= full[0]
    assert image.height <= full[1]
    assert len(image.tobytes()) == 3 * image.width * image.height


def _mask(content: bytes, read: Callable[[bytes], object]) -> None:
    try:
        read(content)
    except UnreadableImageError as error:
        _told(error)


def _told(error: UnreadableImageError) -> None:
    reason = str(error)
    assert reason.strip()
    assert "\n" not in reason
    assert len(reason) < 500, reason


def with_checksums(content: bytes) -> bytes:
    """A PNG with the right checksum of each chunk, without which hardly any change would get past the first."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    mended, place = bytearray(content), 8
    while place + 12 <= len(content):
        end = place + 8 + struct.unpack_from(">I", content, place)[0]
        if end + 4 > len(content):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(content[place + 4 : end]))
        place = end + 4
    return bytes(mended)
