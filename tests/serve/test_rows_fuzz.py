"""Row S20 of the test matrix: requests that a program thinks of, from /openapi.json and from files that it breaks."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from badfiles import bad_files
from serving import Address, form, picture, running

LEFT_OUT = {
    "positive_data_acceptance": "the schema says that an image is bytes; most bytes are no image, and 422 says so",
}


def found_by_schemathesis(address: Address, folder: Path, examples: int) -> str:
    command = [sys.executable, "-c", "import schemathesis.cli; schemathesis.cli.schemathesis()"]
    command += ["run", f"http://127.0.0.1:{address.port}/openapi.json"]
    command += ["--checks", "all", "--exclude-checks", ",".join(LEFT_OUT), "--max-examples", str(examples)]
    command += ["--seed", "14", "--generation-database", "none", "--no-color", "--continue-on-failure"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=500)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


@pytest.mark.long
def test_S20_what_the_page_of_openapi_says(tmp_path):
    pytest.importorskip("schemathesis", reason="pip install schemathesis")
    with running() as address:
        assert found_by_schemathesis(address, tmp_path, 10) == ""
        assert address.predict(picture()).status == 200


@pytest.mark.long
def test_S20_what_the_page_of_openapi_says_at_length(tmp_path):
    pytest.importorskip("schemathesis", reason="pip install schemathesis")
    with running() as address:
        assert found_by_schemathesis(address, tmp_path, 400) == ""


def broken(content: bytes, chance: random.Random) -> bytes:
    """Content with a few bytes changed, left out, doubled, or made extreme."""
    found = bytearray(content[:100_000])
    for _ in range(chance.choice((1, 2, 5, 20))):
        place = chance.randrange(len(found) + 1)
        length = chance.choice((1, 2, 4, 50))
        found[place : place + chance.choice((0, length))] = chance.choice(
            (chance.randbytes(length), b"\xff" * length, bytes(length), bytes(found[:length]), b"", b"\r\n--the-border")
        )
    return bytes(found)


def fuzz(address: Address, seconds: float) -> dict[int, int]:
    """How often each status was answered to broken images and broken forms."""
    chance = random.Random(14)  # noqa: S311
    kinds = [picture(1, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    kinds += [content for _, content in bad_files().values() if content]
    found: dict[int, int] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        content = broken(chance.choice(kinds), chance)
        body, headers = form([("a.png", content), ("b.png", picture())])
        whole = address.ask("/predict", broken(body, chance), headers)
        for answered in (address.predict(content), whole):
            found[answered.status] = found.get(answered.status, 0) + 1
            if answered.status not in (200, 207):
                assert answered.json.keys() == {"error", "detail", "request_id"}
    return found


# Starlette does not close the file of a part that has no end
UNCLOSED = pytest.mark.filterwarnings("ignore:Exception ignored in. .function SpooledTemporaryFile")


def fuzzed(seconds: float) -> dict[int, int]:
    with running() as address:
        found = fuzz(address, seconds)
        assert "frostline_decoder_crashes_total 0.0" in address.ask("/metrics").body.decode()
        assert address.predict(picture()).status == 200
    print(found)
    return found


@UNCLOSED
def test_S20_broken_files_and_forms():
    assert fuzzed(3).keys() <= {200, 207, 400, 413, 422}


@UNCLOSED
@pytest.mark.long
def test_S20_broken_files_and_forms_for_10_minutes():
    assert fuzzed(590).keys() <= {200, 207, 400, 413, 422}
