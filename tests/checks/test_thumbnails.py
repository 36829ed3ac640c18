from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from frostline.checks.thumbnails import correlation, telling, thumbnail
from frostline.data.decoding import UnreadableImageError


def picture(seed: int = 0, size: tuple[int, int] = (320, 240)) -> Image.Image:
    chance = np.random.default_rng(seed)
    return Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("seed", range(5))
def test_a_picture_that_is_resized_and_saved_again_looks_the_same(tmp_path, seed):
    whole, content = picture(seed), io.BytesIO()
    whole.resize((200, 150)).save(content, "JPEG", quality=60)
    (tmp_path / "again.jpg").write_bytes(content.getvalue())
    brighter = np.clip(np.asarray(whole) * 0.7 + 60, 0, 255).astype(np.uint8)
    first = thumbnail(np.asarray(whole))
    assert correlation(first, thumbnail(tmp_path / "again.jpg")) > 0.99
    assert correlation(first, thumbnail(brighter)) > 0.99
    assert abs(correlation(first, thumbnail(np.asarray(picture(seed + 100))))) < 0.7


def test_what_cannot_be_read_raises(tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"no picture")
    with pytest.raises(UnreadableImageError):
        thumbnail(tmp_path / "no.jpg")


def test_what_tells_nothing_is_like_nothing(tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"no picture")
    small, large = (np.asarray(picture(size=size)) for size in ((40, 31), (40, 32)))
    for nothing in (telling(small), telling(tmp_path / "no.jpg")):
        assert correlation(nothing, nothing) == 0
    assert (telling(large) == thumbnail(large)).all()
