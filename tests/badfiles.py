"""Files that are hard to read, by the rows A01 … A35 of the test matrix, as bytes; made anew in a second.

What a row says about the place of a file (links, pipes, names, rights) is not here.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

GOOD, BAD, ANY = "good", "bad", "any"  # it is read; it is refused; either, depending on the libraries here


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, pixels: bytes = b"\x00", before: bytes = b"") -> bytes:
    """A grey PNG of one bit that claims a size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def photo(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise: what a photograph is to a decoder."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    noisy = np.asarray(coarse, np.int16) + chance.integers(-8, 9, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def many_frames(count: int) -> bytes:
    """A GIF of that many frames of one pixel."""
    head = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
    return head + b"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00" * count + b";"


def many_pages(count: int) -> bytes:
    """A TIFF of that many pages, all of the same pixel."""
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size = len(page) + 4
    following = [*range(12 + size, 12 + count * size, size), 0]
    return b"II*\x00\x0c\0\0\0\x7f\0\0\0" + b"".join(page + struct.pack("<I", each) for each in following)


def _flipped(content: bytes, count: int, seed: int = 0) -> bytes:
    flipped = bytearray(content)
    for place in np.random.default_rng(seed).integers(len(content) // 3, len(content) - 2, count):
        flipped[place] ^= 1 << int(place) % 8
    return bytes(flipped)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _broken(jpeg: bytes) -> dict[str, tuple[str, bytes]]:
    """Rows A01 to A09: what a download or a disk does to files, and what is no image at all."""
    broken = bytearray(saved(photo()))
    broken[len(broken) // 2] ^= 0xFF
    return {
        "A01 half a JPEG": (BAD, jpeg[: len(jpeg) // 2]),
        "A02 no end": (ANY, jpeg[:-2]),
        "A03 head of a JPEG": (BAD, jpeg[:20]),
        "A04 nothing": (BAD, b""),
        "A05 page": (BAD, b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        "A05 text": (BAD, "kein Bild, nur Wörter".encode()),
        "A07 SVG": (BAD, b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        "A07 PDF": (BAD, b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n"),
        "A07 HEIC": (ANY, b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200)),
        "A07 RAW": (ANY, b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(400)),
        "A08 flipped bits": (ANY, _flipped(jpeg, 200)),
        "A09 wrong checksum": (BAD, bytes(broken)),
        "A09 half a PNG": (BAD, saved(photo())[:3000]),
        "zeros": (BAD, bytes(100_000)),
    }


def _large() -> dict[str, tuple[str, bytes]]:
    """Rows that claim more than they hold, or hold more than it looks."""
    text = chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(1_000_000), 9))
    international = chunk(b"iTXt", b"k\x00\x01\x00\x00\x00" + zlib.compress(bytes(1_000_000), 9))
    return {
        "A10 100,000 squared": (BAD, png(100_000, 100_000)),
        "A11 12,000 squared": (BAD, png(12_000, 12_000)),
        "A12 13,000 squared, real": (BAD, saved(Image.new("1", (13_000, 13_000)))),
        "A13 no pixels": (BAD, png(0, 10)),
        "A13 one pixel": (GOOD, saved(Image.new("RGB", (1, 1)))),
        "A13 a line": (GOOD, saved(Image.new("RGB", (20_000, 1), "red"))),
        "A25 100 MB of zTXt": (BAD, png(8, 8, bytes(16), text * 100)),
        "A25 100 MB of iTXt": (BAD, png(8, 8, bytes(16), international * 100)),
        "A25 100 MB in one": (BAD, png(8, 8, bytes(16), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000))))),
        "A26 GIF of 100,000 frames": (GOOD, many_frames(100_000)),
        "A26 TIFF of 100,000 pages": (GOOD, many_pages(100_000)),
    }


def _modes(jpeg: bytes) -> dict[str, tuple[str, bytes]]:
    """Rows of odd but honest files."""
    levels = np.arange(120 * 160, dtype=np.uint16).reshape(120, 160)
    frames = [photo(seed=seed) for seed in range(3)]
    rgba = photo().convert("RGBA")
    rgba.putalpha(128)
    return {
        "A06 PNG": (GOOD, saved(photo())),
        "A14 CMYK": (GOOD, saved(photo().convert("CMYK"), "JPEG")),
        "A14 YCCK": (ANY, saved(photo().convert("CMYK"), "JPEG").replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")),
        "A15 16 bits": (GOOD, saved(Image.fromarray(levels))),
        "A15 16 bits, big-endian TIFF": (GOOD, saved(Image.frombytes("I;16B", (160, 120), levels.tobytes()), "TIFF")),
        "A15 32 bits": (ANY, saved(Image.fromarray(levels.astype(np.int32) * 70_000), "TIFF")),
        "A16 floats": (BAD, saved(Image.fromarray(np.linspace(0, 1, 900, np.float32).reshape(30, 30)), "TIFF")),
        "A17 RGBA": (GOOD, saved(rgba)),
        "A17 PA": (GOOD, saved(photo().quantize(16), transparency=3)),
        **{f"A17 {mode}": (GOOD, saved(photo().convert(mode))) for mode in ("1", "L", "LA", "P")},
        **{f"A18 {way}": (GOOD, saved(photo(), "JPEG", exif=_exif(way))) for way in range(1, 9)},
        "A19 broken EXIF": (GOOD, saved(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")),
        "A19 EXIF that points to itself": (GOOD, saved(photo(), "JPEG", exif=_looping())),
        "A19 10 MB of EXIF": (ANY, jpeg[:2] + (b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65_527)) * 160 + jpeg[2:]),
        "A19 XMP": (ANY, saved(photo(), xmp=b"<!DOCTYPE x [<!ENTITY a 'aa'><!ENTITY b '&a;&a;'>]><x>&b;</x>" * 100)),
        **{f"A20 {kind}": (GOOD, _animated(frames, kind)) for kind in ("GIF", "WEBP", "PNG", "TIFF")},
        "A21 ICC of wide colours": (GOOD, saved(photo(), "JPEG", icc_profile=_profile())),
        "A21 broken ICC": (GOOD, saved(photo(), "JPEG", icc_profile=b"no profile" * 100)),
        "A22 progressive": (GOOD, saved(photo(), "JPEG", progressive=True)),
        "A22 MPO": (ANY, _animated(frames, "MPO")),
        "A22 arithmetic": (ANY, jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1)),
        "A22 12 bits": (ANY, jpeg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c", 1)),
        "A35 BMP": (GOOD, saved(photo(), "BMP")),
        "A35 PPM": (GOOD, saved(photo(), "PPM")),
    }


def _animated(frames: list[Image.Image], kind: str) -> bytes:
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def _profile() -> bytes:
    """A colour profile of another space than sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _looping() -> bytes:
    """EXIF whose directory follows itself, with a sub-directory that is itself."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)


def _foreign() -> dict[str, tuple[str, bytes]]:
    """Rows of formats whose parsers must not run, or need a package."""
    return {
        "A23 JPEG XL": (BAD, b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(100)),
        "A23 AVIF": (ANY, b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1" + bytes(200)),
        "A23 JP2": (BAD, b"\x00\x00\x00\x0cjP  \r\n\x87\n\x00\x00\x00\x14ftypjp2 \x00\x00\x00\x00jp2 " + bytes(200)),
        "A24 EPS": (BAD, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"),
        "A24 PSD": (BAD, b"8BPS\x00\x01" + bytes(6) + struct.pack(">HIIHH", 3, 10, 10, 8, 3) + bytes(100)),
        "A24 FITS": (BAD, b"SIMPLE  =                    T" + bytes(2850)),
        "A24 FPX": (BAD, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)),
        "A24 GD": (BAD, b"\xff\xfe\x00\x10\x00\x10" + bytes(600)),
        "A24 ICO": (BAD, b"\x00\x00\x01\x00\x01\x00\x10\x10" + bytes(300)),
        "A24 TGA": (BAD, bytes((0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 16, 0, 24, 0)) + bytes(768)),
        "A24 ZIP": (BAD, b"PK\x03\x04" + bytes(200)),
        "pickle": (BAD, b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."),
        "numpy": (BAD, b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + bytes(60)),
        "address": (BAD, b"http://127.0.0.1:1/cat.jpg"),
        "path": (BAD, b"/etc/passwd"),
    }


@functools.cache
def bad_files() -> dict[str, tuple[str, bytes]]:
    """By row and name: what is to be expected of a file (GOOD, BAD or ANY), and its content."""
    jpeg = saved(photo(), "JPEG", quality=90)
    rows: list[Callable[[], dict[str, tuple[str, bytes]]]] = [lambda: _broken(jpeg), _large, lambda: _modes(jpeg)]
    return {name: row for part in [*rows, _foreign] for name, row in part().items()}
