from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frostline.data.decoding import UnreadableImageError, digest
from frostline.data.views import PLAIN, Views, pixels
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=16, resize=18)
MANY = Views(count=40)
digests = st.binary(min_size=16, max_size=16)
numbers = st.integers(0, 1000)
sides = st.integers(1, 60)


def noise(width: int = 40, height: int = 30, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def dark_to_bright(colours: bool) -> np.ndarray:
    """Black on the left, white on the right: any part of it tells whether it was mirrored."""
    ramp = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))
    return np.stack([ramp, ramp // 2, ramp // 3], 2) if colours else ramp


def mirrored(views: np.ndarray) -> np.ndarray:
    half = views.shape[2] // 2
    return views[:, :, :half].mean((1, 2, 3)) > views[:, :, half:].mean((1, 2, 3))


@settings(max_examples=60, deadline=None)
@given(width=sides, height=sides, name=digests, seed=st.integers(), view=numbers, others=st.lists(numbers, max_size=4))
def test_view_is_decided_by_seed_image_and_number_alone(
    width: int, height: int, name: bytes, seed: int, view: int, others: list[int]
) -> None:
    picture, views = noise(width, height), Views(count=2000, seed=seed)
    (alone,) = pixels(picture, name, [view], views, HOW)
    among = pixels(picture, name, [*others, view, *others], replace(views, count=7), HOW)
    assert np.array_equal(among[len(others)], alone)


def test_view_of_a_file_is_that_of_its_pixels(tmp_path) -> None:
    picture = noise()
    file = tmp_path / "noise.png"
    Image.fromarray(picture).save(file)
    name, wanted = digest(file), list(range(5))
    assert np.array_equal(pixels(file, name, wanted, MANY, HOW), pixels(picture, name, wanted, MANY, HOW))


@given(name=digests, seed=st.integers())
def test_view_zero_is_the_evaluation_crop(name: bytes, seed: int) -> None:
    picture = noise()
    left, top, right, bottom = HOW.box(40, 30)
    expected = Image.fromarray(picture).resize((16, 16), Image.Resampling.BILINEAR, (left, top, right, bottom))
    (ours,) = pixels(picture, name, [0], Views(count=9, seed=seed), HOW)
    assert np.array_equal(ours, np.asarray(expected))


@pytest.mark.parametrize("channels", [1, 3])
def test_views_differ_from_each_other(channels: int) -> None:
    made = pixels(noise(channels=channels), b"image", list(range(40)), MANY, HOW)
    assert len({view.tobytes() for view in made}) == 40


def test_views_differ_between_seeds_and_between_images() -> None:
    first = pixels(noise(), b"image", [1, 2, 3], Views(4, seed=0), HOW)
    other_seed = pixels(noise(), b"image", [1, 2, 3], Views(4, seed=1), HOW)
    other_image = pixels(noise(), b"other", [1, 2, 3], Views(4, seed=0), HOW)
    for view in range(3):
        assert not np.array_equal(first[view], other_seed[view])
        assert not np.array_equal(first[view], other_image[view])


def test_grey_images_are_never_mirrored() -> None:
    views = pixels(dark_to_bright(colours=False), b"image", list(range(200)), Views(200), HOW)
    assert not mirrored(views).any()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "RGB", "RGBA", "P"])
def test_grey_files_are_never_mirrored(mode: str, tmp_path) -> None:
    image = Image.fromarray(dark_to_bright(colours=False))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) << 8)
    elif mode == "1":
        image = image.point(lambda level: 255 * (level > 127)).convert("1")
    else:
        image = image.convert(mode)
    image.save(tmp_path / "ramp.png")
    with Image.open(tmp_path / "ramp.png") as stored:
        assert stored.mode == mode
    assert not mirrored(pixels(tmp_path / "ramp.png", b"image", list(range(60)), Views(60), HOW)).any()


def test_colour_images_are_mirrored_about_half_of_the_time_but_not_in_view_zero() -> None:
    flipped = mirrored(pixels(dark_to_bright(colours=True), b"image", list(range(400)), Views(400), HOW))
    assert not flipped[0]
    assert 150 < flipped.sum() < 250


@settings(max_examples=100, deadline=None)
@given(width=sides, height=sides, level=st.integers(1, 255), grey=st.booleans(), name=digests)
def test_views_show_nothing_but_the_image(width: int, height: int, level: int, grey: bool, name: bytes) -> None:
    picture = np.full((height, width) if grey else (height, width, 3), level, np.uint8)
    assert (pixels(picture, name, list(range(12)), MANY, HOW) == level).all()


@pytest.mark.parametrize(("colours", "least"), [(True, 0.5), (False, 0.8)])
def test_views_show_at_least_the_promised_area(colours: bool, least: float) -> None:
    """The ramp's spread of levels, between pixel centres, tells how wide a view's part is, its transpose's how high."""
    ramp = np.tile(np.linspace(0, 255, 240), (240, 1)).astype(np.uint8)
    wide, high = ((np.stack([r] * 3, 2) if colours else r) for r in (ramp, ramp.T.copy()))
    how = Preprocessing(size=64, resize=64)
    numbers = list(range(1, 100))
    views = (pixels(picture, b"image", numbers, MANY, how)[..., 0] for picture in (wide, high))
    width, height = (np.ptp(levels, (1, 2)) / 255 * 64 / 63 for levels in views)
    assert (width * height).min() > least - 0.02
    assert (width * height).max() > 0.9


@given(name=digests, seed=st.integers())
def test_name_of_view_zero_is_the_images_own(name: bytes, seed: int) -> None:
    assert Views(seed=seed).name(name, 0) == name
    assert PLAIN.name(name, 0) == name


@given(
    name=digests,
    seeds=st.lists(st.integers(), min_size=2, max_size=4, unique=True),
    views=st.lists(st.integers(1), min_size=2, max_size=4, unique=True),
)
def test_names_change_with_seed_and_number(name: bytes, seeds: list[int], views: list[int]) -> None:
    names = {Views(seed=seed).name(name, view) for seed in seeds for view in views}
    assert len(names) == len(seeds) * len(views)
    assert all(len(made) == 16 for made in names)
    assert name not in names


def test_digits_of_seed_and_number_do_not_run_together() -> None:
    assert Views(seed=1).name(b"image", 12) != Views(seed=11).name(b"image", 2)


@pytest.mark.parametrize("change", [{"photo_area": 0.6}, {"grey_area": 0.7}, {"most_stretch": 1.5}, {"seed": 1}])
def test_names_change_with_the_recipe(change: dict[str, float]) -> None:
    assert replace(MANY, **change).name(b"image", 1) != MANY.name(b"image", 1)
    assert replace(MANY, **change).name(b"image", 0) == MANY.name(b"image", 0)


def test_name_does_not_depend_on_how_many_views_there_are() -> None:
    assert Views(count=2).name(b"image", 1) == Views(count=9).name(b"image", 1)


def test_unreadable_image_has_no_views(tmp_path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UnreadableImageError, match="known format"):
        pixels(tmp_path / "text.jpg", b"image", [0, 1], MANY, HOW)
