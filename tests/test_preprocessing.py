from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torchvision.transforms as T  # noqa: N812
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode

from frostline.data.views import PLAIN, Views, pixels
from frostline.preprocessing import Preprocessing, normalised, preprocessing_from

INTERPOLATIONS = ["bilinear", "bicubic"]
sides = st.integers(1, 160)
seeds = st.integers(0, 2**32 - 1)


def waves(width: int, height: int, seed: int) -> np.ndarray:
    """A smooth picture, steep enough that sampling a tenth of a pixel aside shows, never near black or white."""
    chance = np.random.default_rng(seed)
    x_speed, y_speed = chance.uniform(-0.6, 0.6, (2, 3))
    x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    wave = np.sin(x_speed * x + y_speed * y + chance.uniform(0, 2 * np.pi, 3))
    return np.rint(128 + 90 * wave).astype(np.uint8)


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def difference(picture: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """By how many levels our pixels and those of torchvision's Resize and CenterCrop differ."""
    resize = preprocessing.resize if preprocessing.crop == "center" else (preprocessing.resize, preprocessing.resize)
    theirs = T.Compose(
        [T.Resize(resize, InterpolationMode(preprocessing.interpolation)), T.CenterCrop(preprocessing.size)]
    )
    expected = np.asarray(theirs(Image.fromarray(picture))).astype(int)
    (ours,) = pixels(picture, b"", [0], PLAIN, preprocessing).astype(int)
    assert ours.shape == expected.shape == (preprocessing.size, preprocessing.size, 3)
    return np.abs(ours - expected)


def assert_same_but_for_rounding(picture: np.ndarray, preprocessing: Preprocessing) -> None:
    """At most 1 level off; at single pixels 2, as Pillow also rounds between its two passes, in an order it chooses."""
    off = difference(picture, preprocessing)
    assert off.max() <= 2
    assert (off > 1).mean() <= 0.02


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (640, 480), (256, 256), (300, 224), (1000, 333), (32, 32), (28, 40), (1, 1)]
)
def test_view_zero_is_torchvisions_evaluation_transform(size: tuple[int, int], interpolation: str) -> None:
    assert difference(noise(*size), Preprocessing(interpolation=interpolation)).max() <= 1


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@settings(max_examples=100, deadline=None)
@given(width=sides, height=sides, size=st.integers(8, 64), margin=st.integers(0, 24), seed=seeds)
def test_any_image_size_gives_torchvisions_pixels(
    interpolation: str, width: int, height: int, size: int, margin: int, seed: int
) -> None:
    preprocessing = Preprocessing(size=size, resize=size + margin, interpolation=interpolation)
    assert_same_but_for_rounding(waves(width, height, seed), preprocessing)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@settings(max_examples=100, deadline=None)
@given(width=sides, height=sides, size=st.integers(8, 64), resize=st.integers(4, 64), seed=seeds)
@example(width=40, height=40, size=16, resize=10, seed=0)
@example(width=40, height=40, size=17, resize=10, seed=0)
@example(width=40, height=40, size=19, resize=10, seed=0)
@example(width=30, height=90, size=40, resize=20, seed=0)
def test_crop_larger_than_the_resized_image_is_padded_as_torchvision_does(
    interpolation: str, width: int, height: int, size: int, resize: int, seed: int
) -> None:
    preprocessing = Preprocessing(size=size, resize=min(resize, size), interpolation=interpolation)
    assert_same_but_for_rounding(waves(width, height, seed), preprocessing)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@settings(max_examples=50, deadline=None)
@given(width=sides, height=sides, size=st.integers(8, 64), margin=st.integers(0, 24), seed=seeds)
def test_squash_resizes_both_sides(
    interpolation: str, width: int, height: int, size: int, margin: int, seed: int
) -> None:
    preprocessing = Preprocessing(size=size, resize=size + margin, interpolation=interpolation, crop="squash")
    assert_same_but_for_rounding(waves(width, height, seed), preprocessing)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_extreme_aspect_needs_no_extreme_memory(size: tuple[int, int]) -> None:
    picture = np.full((size[1], size[0], 3), 77, np.uint8)
    assert (pixels(picture, b"", [0], PLAIN, Preprocessing()) == 77).all()


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (256, 256, (16, 16, 240, 240)),
        (512, 256, (144, 16, 368, 240)),
        (256, 512, (16, 144, 240, 368)),
        (512, 512, (32, 32, 480, 480)),
    ],
)
def test_box_is_the_part_that_is_seen(width: int, height: int, box: tuple[int, ...]) -> None:
    assert Preprocessing(size=224, resize=256).box(width, height) == box


def test_box_of_a_squash_keeps_the_share_of_each_side() -> None:
    assert Preprocessing(size=128, resize=256, crop="squash").box(512, 1024) == (128, 256, 384, 768)


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (112, 128), (64, 73), (448, 512), (1, 1)])
def test_at_size_keeps_the_cropped_share(size: int, resize: int) -> None:
    preprocessing = Preprocessing(size=224, resize=256, interpolation="bicubic", mean=(0.5, 0.5, 0.5)).at_size(size)
    assert preprocessing == Preprocessing(size=size, resize=resize, interpolation="bicubic", mean=(0.5, 0.5, 0.5))


@given(size=st.integers(1, 600), margin=st.integers(0, 100), wanted=st.integers(1, 600))
def test_at_size_never_crops_beyond_the_resized_image(size: int, margin: int, wanted: int) -> None:
    preprocessing = Preprocessing(size=size, resize=size + margin)
    assert preprocessing.at_size(wanted).resize >= preprocessing.at_size(wanted).size == wanted
    assert preprocessing.at_size(size) == preprocessing


numbers = st.floats(0, 1, allow_subnormal=False)


@given(
    st.builds(
        Preprocessing,
        size=st.integers(1, 1000),
        resize=st.integers(1, 1000),
        interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
        crop=st.sampled_from(["center", "squash"]),
        mean=st.tuples(numbers, numbers, numbers),
        std=st.tuples(numbers, numbers, numbers),
    )
)
def test_stored_preprocessing_comes_back_equal(preprocessing: Preprocessing) -> None:
    assert preprocessing_from(asdict(preprocessing)) == preprocessing
    assert preprocessing_from(json.loads(json.dumps(asdict(preprocessing)))) == preprocessing
    assert hash(preprocessing_from(json.loads(json.dumps(asdict(preprocessing))))) == hash(preprocessing)


def test_by_default_images_have_the_usual_size() -> None:
    assert (Preprocessing().size, Preprocessing().resize) == (224, 256)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_channel_is_normalised_by_its_own_mean_and_deviation(channels: int) -> None:
    mean, std = (0.1, 0.5, 0.9)[:channels], (0.2, 0.3, 0.4)[:channels]
    images = torch.randint(0, 256, (2, channels, 5, 7), dtype=torch.uint8)
    expected = T.Normalize(mean, std)(images.float() / 255)
    torch.testing.assert_close(normalised(images, Preprocessing(mean=mean, std=std)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_grey_pixels_are_the_luma_of_the_same_view(number: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    colour = Preprocessing(size=32, resize=36)
    grey = replace(colour, mean=(0.5,), std=(0.5,))
    views = Views(2, augment="standard")
    (seen,) = pixels(picture, b"digest", [number], views, grey)
    (expected,) = pixels(picture, b"digest", [number], views, colour)
    assert seen.shape == (32, 32, 1)
    assert np.array_equal(seen[..., 0], np.asarray(Image.fromarray(expected).convert("L")))
