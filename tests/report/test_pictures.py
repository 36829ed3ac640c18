from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from frostline.report.pictures import encoded


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_are_pixels_only_and_small(channels):
    text = encoded(np.full((300, 200, channels), 77, np.uint8), 100)
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert (image.size, dict(image.getexif())) == ((67, 100), {})
