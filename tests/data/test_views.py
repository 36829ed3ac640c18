from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frostline.data import views as module
from frostline.data.augment import PRESETS, Augmentation
from frostline.data.decoding import Item, Picture, UnreadableImageError
from frostline.data.digests import digest
from frostline.data.masks import NOTHING, Masks
from frostline.data.views import PLAIN, Views, mask_pixels, pixels, resampled, suited
from frostline.errors import UsageError
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=16, resize=18)
MANY = Views(count=40, augment="light")
BANDS = 8  # classes of the masks below
digests = st.binary(min_size=16, max_size=16)
numbers = st.integers(0, 1000)
sides = st.integers(1, 60)
presets = st.sampled_from(sorted(PRESETS))


def noise(width: int = 40, height: int = 30, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def slopes(width: int, height: int) -> np.ndarray:
    """A picture that tells of every pixel where it was: red rises to the right, green downwards, blue is full."""
    across, down = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return np.rint(np.stack([across, down, np.ones_like(down)], 2) * 255).astype(np.uint8)


def bands(levels: np.ndarray) -> np.ndarray:
    return (levels.astype(int) * BANDS // 256).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    width=sides,
    height=sides,
    name=digests,
    seed=st.integers(),
    view=numbers,
    others=st.lists(numbers, max_size=4),
    preset=presets,
)
def test_view_is_decided_by_seed_image_and_number_alone(
    width: int, height: int, name: bytes, seed: int, view: int, others: list[int], preset: str
) -> None:
    picture, views = noise(width, height), Views(2000, seed, preset)
    (alone,) = pixels(picture, name, [view], views, HOW)
    among = pixels(picture, name, [*others, view, *others], replace(views, count=7), HOW)
    assert np.array_equal(among[len(others)], alone)


def test_view_of_a_file_is_that_of_its_pixels(tmp_path: Path) -> None:
    picture = noise()
    file = tmp_path / "noise.png"
    Image.fromarray(picture).save(file)
    name, wanted = digest(file), list(range(5))
    expected = pixels(picture, name, wanted, MANY, HOW)
    assert np.array_equal(pixels(file, name, wanted, MANY, HOW), expected)
    assert np.array_equal(pixels(Item([(picture, 1)], 0, 0), name, wanted, MANY, HOW), expected)


@settings(deadline=None)
@given(name=digests, seed=st.integers(), preset=presets)
def test_view_zero_is_the_evaluation_crop(name: bytes, seed: int, preset: str) -> None:
    picture = noise()
    expected = Image.fromarray(picture).resize((16, 16), Image.Resampling.BILINEAR, HOW.box(40, 30))
    (ours,) = pixels(picture, name, [0], Views(9, seed, preset), HOW)
    assert np.array_equal(ours, np.asarray(expected))


@settings(max_examples=40, deadline=None)
@given(
    width=sides, height=sides, name=digests, preprocessing=st.sampled_from([HOW, replace(HOW, size=20), HOW.at_size(8)])
)
def test_without_augmentation_every_view_is_view_zero(
    width: int, height: int, name: bytes, preprocessing: Preprocessing
) -> None:
    zero, *others = pixels(noise(width, height), name, [0, 1, 2, 77], Views(100, augment="none"), preprocessing)
    assert all(np.array_equal(other, zero) for other in others)


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"none", "crop"}))
@pytest.mark.parametrize("channels", [1, 3])
def test_views_differ_from_each_other(channels: int, preset: str) -> None:
    made = pixels(noise(channels=channels), b"image", list(range(40)), Views(40, augment=preset), HOW)
    assert len({view.tobytes() for view in made}) == 40


def test_views_differ_between_seeds_and_between_images() -> None:
    first = pixels(noise(), b"image", [1, 2, 3], Views(4, seed=0), HOW)
    other_seed = pixels(noise(), b"image", [1, 2, 3], Views(4, seed=1), HOW)
    other_image = pixels(noise(), b"other", [1, 2, 3], Views(4, seed=0), HOW)
    for view in range(3):
        assert not np.array_equal(first[view], other_seed[view])
        assert not np.array_equal(first[view], other_image[view])


@settings(max_examples=60, deadline=None)
@given(width=sides, height=sides, level=st.integers(1, 255), grey=st.booleans(), name=digests)
def test_views_show_nothing_but_the_image(width: int, height: int, level: int, grey: bool, name: bytes) -> None:
    picture = np.full((height, width) if grey else (height, width, 3), level, np.uint8)
    assert (pixels(picture, name, list(range(12)), MANY, HOW) == level).all()


@pytest.mark.parametrize(("preset", "least"), [("light", 0.5), ("standard", 0.35), ("digits", 0.8)])
def test_views_show_at_least_the_promised_area(preset: str, least: float) -> None:
    """The spread of the slopes, between pixel centres, tells how wide and how high a view's part is."""
    preprocessing = Preprocessing(size=64, resize=64)
    unturned = Views(100, augment=replace(PRESETS[preset], degrees=0, colour=0))
    made = pixels(slopes(240, 240), b"image", list(range(1, 100)), unturned, preprocessing)
    width, height = (np.ptp(made[..., channel], (1, 2)) / 255 * 64 / 63 for channel in (0, 1))
    assert (width * height).min() > least - 0.02
    assert (width * height).max() > 0.9


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(40, 120), st.integers(40, 120)),
    name=digests,
    preset=presets,
    preprocessing=st.sampled_from(
        [Preprocessing(48, 54), Preprocessing(48, 40), Preprocessing(48, 48, "bicubic", "squash")]
    ),
    direction=st.sampled_from([0, 1]),
)
def test_a_mask_moves_with_its_image(
    size: tuple[int, int], name: bytes, preset: str, preprocessing: Preprocessing, direction: int
) -> None:
    picture = slopes(*size)
    masks = Masks([bands(picture[..., direction])], np.arange(256, dtype=np.uint8))
    views, wanted = Views(9, augment=replace(PRESETS[preset], colour=0)), list(range(6))
    shown = pixels(picture, name, wanted, views, preprocessing).astype(int)
    found = mask_pixels(masks, 0, name, wanted, views, preprocessing)
    assert (found.shape, found.dtype) == (shown.shape[:3], np.uint8)
    level, slack, inside = shown[..., direction], 10, found != NOTHING
    low, high = bands((level - slack).clip(0, 255)), bands((level + slack).clip(0, 255))
    assert ((low <= found) & (found <= high))[inside & (shown[..., 2] == 255)].all()
    blue = shown[..., 2] > 127  # what lies beyond the image is black; a pixel of its edge may be rounded away
    assert (blue == inside).mean((1, 2)).min() > 0.99
    assert inside.mean() > 0.5


def test_colours_do_not_move_a_mask() -> None:
    """Black and white stay apart whatever happens to the colours."""
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[20:45, 30:60] = 255
    masks = Masks([picture[..., 0]], np.where(np.arange(256) > 0, 1, 0).astype(np.uint8))
    views, preprocessing, wanted = Views(40, augment="standard"), Preprocessing(48, 54), list(range(40))
    shown = pixels(picture, b"image", wanted, views, preprocessing)[..., 0].astype(float)
    found = mask_pixels(masks, 0, b"image", wanted, views, preprocessing)
    middle = (shown.max((1, 2), keepdims=True) + shown.min((1, 2), keepdims=True)) / 2
    inside = found != NOTHING
    assert ((shown > middle) == (found == 1))[inside].mean() > 0.98
    assert 0.05 < (found == 1).mean() < 0.6


def test_corners_that_a_turn_brings_in_are_nothing() -> None:
    masks = Masks([np.full((50, 50), 3, np.uint8)], np.arange(256, dtype=np.uint8))
    turning = Views(20, augment=Augmentation(degrees=30))
    plain, *turned = mask_pixels(masks, 0, b"image", list(range(20)), turning, Preprocessing(32, 32))
    assert (plain == 3).all()
    corners = np.stack(turned)[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == NOTHING).mean() > 0.8
    assert set(np.unique(turned)) == {3, NOTHING}


def test_what_lies_beyond_the_image_is_nothing() -> None:
    masks = Masks([np.zeros((20, 20), np.uint8)], np.arange(256, dtype=np.uint8))
    (found,) = mask_pixels(masks, 0, b"image", [0], PLAIN, Preprocessing(size=24, resize=16))
    assert (found[4:-4, 4:-4] == 0).all()
    assert (found != NOTHING).sum() == 16 * 16


def test_a_function_cannot_move_a_mask() -> None:
    masks = Masks([np.zeros((20, 20), np.uint8)], np.arange(256, dtype=np.uint8))
    views = Views(3, augment=lambda image: image)
    assert mask_pixels(masks, 0, b"image", [0], views, HOW).shape == (1, 16, 16)
    with pytest.raises(UsageError, match=r"one of none, light, crop, standard, digits, or an Augmentation"):
        mask_pixels(masks, 0, b"image", [0, 1], views, HOW)


@given(name=digests, seed=st.integers(), preset=presets)
def test_name_of_view_zero_is_the_images_own(name: bytes, seed: int, preset: str) -> None:
    assert Views(seed=seed, augment=preset).name(name, 0) == name
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


def test_names_change_with_the_recipe() -> None:
    light = PRESETS["light"]
    changes = [{"area": 0.6}, {"stretch": 1.5}, {"mirror": False}, {"degrees": 5.0}, {"colour": 0.1}]
    recipes = [*PRESETS.values(), *(replace(light, **change) for change in changes), lambda image: image]
    assert len({Views(augment=recipe).name(b"image", 1) for recipe in recipes}) == len(recipes)
    assert {Views(augment=recipe).name(b"image", 0) for recipe in recipes} == {b"image"}


def test_a_preset_and_its_augmentation_are_the_same() -> None:
    assert Views(augment="light").name(b"image", 1) == Views(augment=PRESETS["light"]).name(b"image", 1)


def test_name_does_not_depend_on_how_many_views_there_are() -> None:
    assert Views(count=2).name(b"image", 1) == Views(count=9).name(b"image", 1)


def test_what_a_function_makes_is_not_repeatable_from_run_to_run() -> None:
    assert Views(5, augment="standard").repeatable
    assert not Views(5, augment=lambda image: image).repeatable
    assert Views(1, augment=lambda image: image).repeatable  # view 0 alone


def test_unreadable_image_has_no_views(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UnreadableImageError, match="known format"):
        pixels(tmp_path / "text.jpg", b"image", [0, 1], MANY, HOW)


def test_pictures_without_colours_suit_digits_others_light() -> None:
    grey, colour = noise(channels=1), noise()
    assert suited([grey] * 40) == "digits"
    assert suited([colour] * 40) == "light"
    assert suited([grey] * 35 + [colour] * 5) == "light"
    assert suited([colour]) == "light"
    assert suited([np.stack([grey] * 3, 2)]) == "digits"


def test_what_is_unreadable_says_nothing_of_what_suits(tmp_path: Path) -> None:
    missing: Picture = tmp_path / "missing.png"
    assert suited([missing, noise(), missing]) == "light"
    assert suited([missing, noise(channels=1), missing]) == "digits"


def test_at_most_16_pictures_are_looked_at() -> None:
    class Counted(list[tuple[np.ndarray]]):
        def __getitem__(self, index):
            looked.append(index)
            return super().__getitem__(index)

    looked: list[int] = []
    source = Counted([(noise(channels=1),)] * 1000)
    assert suited([Item(source, i, 0) for i in range(1000)]) == "digits"
    assert len(looked) == 16
    assert (min(looked), max(looked)) == (0, 999)


def large_jpeg(folder: Path, orientation: int = 1) -> Path:
    """Eight to ten times what the network sees, smooth as photographs are."""
    image = Image.fromarray(np.concatenate([slopes(180, 80), slopes(180, 80)[::-1, ::-1]]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(folder / "large.jpg", quality=95, exif=exif)
    return folder / "large.jpg"


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("preset", ["none", "light", "standard"])
@pytest.mark.parametrize("crop", ["center", "squash"])
def test_large_photographs_are_decoded_small_and_look_the_same(
    orientation, preset, crop, tmp_path, monkeypatch
) -> None:
    file, preprocessing = large_jpeg(tmp_path, orientation), replace(HOW, crop=crop)
    wanted, views = list(range(6)), Views(6, 0, preset)
    sizes, original = [], module._resized
    monkeypatch.setattr(
        module, "_resized", lambda image, *others: (sizes.append(image.size), original(image, *others))[1]
    )
    small = pixels(file, b"x" * 16, wanted, views, preprocessing)
    assert all(max(size) <= 90 for size in sizes)
    monkeypatch.setattr(module, "GAP", 100)
    whole = pixels(file, b"x" * 16, wanted, views, preprocessing)
    assert max(sizes[-1]) == 180
    difference = np.abs(small.astype(int) - whole)
    assert difference.mean() < 1
    assert difference.max() <= 12


def test_a_view_of_a_large_photograph_does_not_depend_on_the_others(tmp_path) -> None:
    file, views = large_jpeg(tmp_path), Views(6, 0, "standard")
    together = pixels(file, b"x" * 16, [0, 1, 2], views, HOW)
    for number in range(3):
        assert np.array_equal(pixels(file, b"x" * 16, [number], views, HOW)[0], together[number])


def test_a_function_is_given_the_whole_of_a_large_photograph(tmp_path) -> None:
    sizes = []
    pixels(large_jpeg(tmp_path), b"x" * 16, [0, 1], Views(2, 0, lambda x: (sizes.append(x.size), x)[1]), HOW)
    assert sizes == [(180, 160)]


def test_rows_come_before_columns_in_every_version_of_pillow():
    """Pillow 13 begins with the columns of tall images, which rounds to other pixels."""
    chance = np.random.default_rng(0)
    image = Image.fromarray(chance.integers(0, 256, (200, 100, 3)).astype(np.uint8))
    smooth, box = Image.Resampling.BICUBIC, (3.5, 20.25, 93.5, 110.25)
    rows = image.resize((30, 200), smooth, (3.5, 0, 93.5, 200))
    expected = rows.resize((30, 30), smooth, (0, 20.25, 30, 110.25))
    assert np.array_equal(np.asarray(resampled(image, (30, 30), smooth, box)), np.asarray(expected))
