"""Names for files that are not images, by their first bytes: a failed download, a format that is not read."""

from __future__ import annotations

HEAD = 512  # bytes that tell it
WEB_PAGE = "a web page; was it a failed download?"
BEGINNINGS = {  # what a file begins with, and what it then is
    b"\xff\xd8\xff": "a JPEG with a broken header",
    b"\x89PNG\r\n\x1a\n": "a PNG with a broken header",
    b"<!doctype html": WEB_PAGE,
    b"<html": WEB_PAGE,
    b"<svg": "SVG, a drawing; save it as PNG",
    b"%pdf": "PDF; save its pages as PNG",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file with git lfs pull",
    b"\x00\x00\x00\x0cjxl ": "JPEG XL; convert it to PNG or JPEG",
    b"\xff\x0a": "JPEG XL; convert it to PNG or JPEG",
    b"\x00\x00\x00\x0cjp  ": "JPEG 2000; convert it to PNG or JPEG",
    b"%!ps": "PostScript; convert it to PNG",
    b"8bps": "a Photoshop file; export it as PNG",
    b"ii*\x00\x10\x00\x00\x00cr": "a camera's raw file; export it as JPEG",
    b"pk\x03\x04": "an archive; extract it",
    b"\x1f\x8b": "an archive; extract it",
}
PHONES = (b"heic", b"heix", b"mif1", b"msf1", b"heif")  # brands behind "ftyp"


def kind_of(head: bytes, advice: str = "") -> str:
    """What the first bytes of a file that is no image of a known format look like; "" if they tell nothing.

    advice: how to make HEIF files of phones readable.

    >>> kind_of(b"<!DOCTYPE html><title>404</title>")
    'a web page; was it a failed download?'
    """
    if head and not any(head):
        return "zeros only, as a broken copy leaves"
    if head[4:8] == b"ftyp" and head[8:12] in PHONES:
        return "HEIF" + (f"; {advice}" if advice else "")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = (kind for start, kind in BEGINNINGS.items() if text.startswith(start.lower()))
    return next(found, "SVG, a drawing; save it as PNG" if text.startswith(b"<?xml") and b"<svg" in text else "")
