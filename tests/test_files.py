"""How files are written, and the sizes and folders that people name."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.errors import UsageError
from frostline.files import default_folder, parse_bytes, write_atomically


def test_write_atomically_replaces(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for text in (b"old", b"", b"new"):
        write_atomically(file, text)
        assert file.read_bytes() == text
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o644


def test_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(file, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interrupted_write_leaves_the_old_content_and_nothing_else(
    interruption: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(interruption):
            write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("123", 123),
        (123, 123),
        ("5b", 5),
        ("20GB", 20_000_000_000),
        ("20 GB", 20_000_000_000),
        (" 20 gb ", 20_000_000_000),
        ("20g", 20_000_000_000),
        ("500MB", 500_000_000),
        ("1.5k", 1500),
        ("1.5 kB", 1500),
        ("2T", 2_000_000_000_000),
        (".5GB", 500_000_000),
        ("1e3", 1000),
    ],
)
def test_sizes_as_people_write_them(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    ["", " ", "GB", "twenty", "20 XB", "20GiB", "20kk", "1 0GB", "20 G B", "nan", "inf", "1e999", "-5GB", "1,5GB"],
)
def test_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is no size; write it as in 20GB or 500MB"):
        parse_bytes(text)


@given(st.text(max_size=8) | st.from_regex(r"-?[0-9.]{1,4} ?[kmgtb]{0,2}"))
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(parse_bytes(text), int)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FROSTLINE_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/frostline"),
        ({"HOME": "/home/me"}, "/home/me/.cache/frostline"),
        ({"FROSTLINE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/frostline"),
    ],
)
def test_default_folder(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FROSTLINE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_folder() == Path(expected)
