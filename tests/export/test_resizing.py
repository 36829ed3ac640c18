"""The resize of an exported graph gives the pixels that `predict` sees, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.data.views import PLAIN, pixels
from frostline.export.resizing import FILTERS, resized
from frostline.preprocessing import Preprocessing

filters = st.sampled_from(sorted(FILTERS))
sides = st.integers(1, 300)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(sides, sides, st.integers(1, 60), st.integers(-6, 40), filters, st.booleans(), st.data())
def test_the_pixels_are_those_of_every_prediction(height, width, size, spare, interpolation, squash, data):
    """Large and small images, crops that reach beyond the image, one and three channels."""
    crop = "squash" if squash else "center"
    mean = data.draw(st.sampled_from([(0.5,), (0.4, 0.5, 0.6)]))
    how = Preprocessing(size, max(1, size + spare), interpolation, crop, mean, mean)
    image = picture(height, width, data.draw(st.integers(0, 9)))
    expected = pixels(image, b"", [0], PLAIN, how)[0]
    assert np.array_equal(resized(torch.from_numpy(image)[None], how)[0].numpy(), expected)


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (224, 224), (640, 1000)])
def test_usual_sizes(shape):
    how, image = Preprocessing(), picture(*shape, seed=1)
    assert np.array_equal(resized(torch.from_numpy(image)[None], how)[0], pixels(image, b"", [0], PLAIN, how)[0])


def test_images_of_a_batch_do_not_touch_each_other():
    how, images = Preprocessing(32, 40), torch.from_numpy(np.stack([picture(50, 70, seed) for seed in range(3)]))
    alone = torch.cat([resized(image[None], how) for image in images])
    assert torch.equal(resized(images, how), alone)
