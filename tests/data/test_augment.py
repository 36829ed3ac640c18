from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from frostline.data.augment import PRESETS, Augmentation, drawn, preset
from frostline.data.views import Views, pixels
from frostline.errors import UsageError
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=24, resize=24)
names = st.binary(min_size=1, max_size=16)
sizes = st.tuples(st.integers(1, 500), st.integers(1, 500))
augmentations = st.builds(
    Augmentation,
    area=st.floats(0.05, 1),
    stretch=st.floats(1, 3),
    mirror=st.booleans(),
    degrees=st.floats(0, 90),
    colour=st.floats(0, 1),
)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def dark_to_bright() -> np.ndarray:
    """Dark on the left, bright on the right: any part of it tells whether it was mirrored."""
    ramp = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))
    return np.stack([ramp, ramp // 2, ramp // 3], 2)


def mirrored(augment: str | Augmentation, count: int) -> np.ndarray:
    views = pixels(dark_to_bright(), b"image", list(range(count)), Views(count, augment=augment), HOW)
    return views[:, :, :8].mean((1, 2, 3)) > views[:, :, -8:].mean((1, 2, 3))


def with_numpy_and_random(image: Image.Image) -> Image.Image:
    level = np.random.randint(0, 200) + random.randrange(50)  # noqa: S311
    return Image.fromarray(np.asarray(image) // 2 + np.uint8(level // 2))


FUNCTIONS = {
    "torchvision": v2.Compose([v2.RandomRotation(40), v2.ColorJitter(0.5, 0.5, 0.5, 0.2), v2.RandomResizedCrop(20)]),
    "numpy and random": with_numpy_and_random,
}


@given(augmentation=augmentations, name=names, size=sizes)
def test_what_is_drawn_is_decided_by_the_name(augmentation: Augmentation, name: bytes, size: tuple[int, int]) -> None:
    plain = (0.0, 0.0, *map(float, size))
    assert drawn(augmentation, name, size, plain) == drawn(augmentation, name, size, plain)


@given(augmentation=augmentations, name=names, size=sizes)
def test_what_is_drawn_keeps_within_the_augmentation(
    augmentation: Augmentation, name: bytes, size: tuple[int, int]
) -> None:
    (width, height), whole = size, (0.0, 0.0, *map(float, size))
    variant = drawn(augmentation, name, size, whole)
    left, top, right, bottom = variant.box
    assert -1e-9 <= left < right <= width + 1e-6
    assert -1e-9 <= top < bottom <= height + 1e-6
    assert augmentation.mirror or not variant.mirrored
    assert abs(variant.degrees) <= augmentation.degrees
    assert all(abs(factor - 1) <= augmentation.colour + 1e-9 for factor in variant.colours)


@given(augmentation=augmentations, name=names, size=sizes)
def test_colours_change_nothing_else(augmentation: Augmentation, name: bytes, size: tuple[int, int]) -> None:
    plain = (0.0, 0.0, *map(float, size))
    variant = drawn(augmentation, name, size, plain)
    without = drawn(replace(augmentation, colour=0), name, size, plain)
    assert replace(variant, colours=(1.0, 1.0, 1.0)) == without


@given(name=names, size=sizes, degrees=st.floats(0, 90))
def test_without_crops_the_box_is_that_of_evaluation(name: bytes, size: tuple[int, int], degrees: float) -> None:
    plain = HOW.box(*size)
    assert drawn(Augmentation(degrees=degrees), name, size, plain).box == plain


@pytest.mark.parametrize(
    ("name", "least", "most"), [("none", 0, 0), ("digits", 0, 0), ("crop", 0, 0), ("light", 140, 260)]
)
def test_mirrors(name: str, least: int, most: int) -> None:
    assert least <= mirrored(name, 400).sum() <= most
    assert not mirrored(name, 1)[0]


def test_views_that_name_no_recipe_mirror_nothing() -> None:
    """In one's own loop nobody has looked at the images: a 2 in a mirror is no 2."""
    varied = pixels(dark_to_bright(), b"image", list(range(100)), Views(100), HOW)
    assert len({view.tobytes() for view in varied}) == 100
    assert not (varied[:, :, :8].mean((1, 2, 3)) > varied[:, :, -8:].mean((1, 2, 3))).any()


def test_a_padded_crop_is_torchvisions() -> None:
    """Of an image of the network's size: one of the crops of RandomCrop(32, padding=4), to the last pixel, each one."""
    picture = np.random.default_rng(0).integers(1, 256, (32, 32, 3), dtype=np.uint8)
    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)))
    crops = {padded[i : i + 32, j : j + 32].tobytes() for i in range(9) for j in range(9)}
    views = pixels(picture, b"image", list(range(1, 1000)), Views(1000, augment="crop"), Preprocessing(32, 32))
    assert {view.tobytes() for view in views} == crops


@given(
    augmentation=augmentations,
    padding=st.floats(0.01, 0.5),
    name=names,
    size=sizes,
    preprocessing=st.sampled_from([HOW, Preprocessing(24, 20), Preprocessing(24, 30)]),
)
@settings(deadline=None, max_examples=60)
def test_whatever_is_padded_shows_a_part_of_the_image(augmentation, padding, name, size, preprocessing) -> None:
    picture = np.full((size[1], size[0], 3), 200, np.uint8)
    augmentation = replace(augmentation, padding=padding, degrees=0, colour=0)
    (view,) = pixels(picture, name, [1], Views(2, augment=augmentation), preprocessing)
    assert set(np.unique(view)) <= {0, 200}
    assert view.any()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"area": 0}, "Augmentation has area=0; it must be above 0, at most 1"),
        ({"stretch": 0.5}, "stretch=.* at least 1"),
        ({"colour": -0.1}, "colour=.* 0 … 1"),
        ({"degrees": float("nan")}, "degrees=nan; it must be 0 … 180"),
        ({"padding": 4}, "Augmentation has padding=4; it must be 0 … 0.5"),
    ],
)
def test_values_that_no_view_can_have_are_refused(values, told) -> None:
    with pytest.raises(UsageError, match=told):
        Augmentation(**values)


def test_standard_mirrors_about_half_of_the_views() -> None:
    assert 140 <= mirrored(replace(PRESETS["standard"], colour=0), 400).sum() <= 260


@pytest.mark.parametrize(
    ("name", "changes"), [("none", False), ("light", False), ("crop", False), ("digits", False), ("standard", True)]
)
def test_only_standard_changes_colours(name: str, changes: bool) -> None:
    flat = np.full((40, 40, 3), (120, 60, 180), np.uint8)
    views = pixels(flat, b"image", list(range(20)), Views(20, augment=name), HOW)
    middles = views[1:, 12, 12].astype(int)  # the corners may have been turned in
    assert (np.abs(middles - (120, 60, 180)).max() > 10) == changes
    assert (len(np.unique(middles, axis=0)) > 10) == changes


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_by_name(name: str) -> None:
    assert preset(name) == PRESETS[name]


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown augmentation 'standart'; nearest: standard"):
        preset("standart")
    with pytest.raises(UsageError, match="nearest: digits"):
        pixels(noise(), b"image", [1], Views(2, augment="digit"), HOW)


@pytest.mark.parametrize("augment", [*sorted(PRESETS), *FUNCTIONS.values()], ids=[*sorted(PRESETS), *FUNCTIONS])
@pytest.mark.filterwarnings("error")
def test_views_are_the_same_from_many_threads_at_once(augment) -> None:
    views = Views(30, seed=3, augment=augment)
    wanted = [(f"image {i % 5}".encode(), i % 11) for i in range(110)]
    alone = {key: pixels(noise(), key[0], [key[1]], views, HOW) for key in sorted(set(wanted))}
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda key: pixels(noise(), key[0], [key[1]], views, HOW), wanted))
    assert all(np.array_equal(made, alone[key]) for key, made in zip(wanted, together, strict=True))


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_are_repeatable_and_vary(function) -> None:
    views = Views(20, seed=1, augment=function)
    first = pixels(noise(), b"image", list(range(20)), views, HOW)
    torch.rand(5), np.random.rand(5), random.random()  # noqa: S311
    again = pixels(noise(), b"image", list(reversed(range(20))), views, HOW)[::-1]
    assert np.array_equal(first, again)
    assert len({view.tobytes() for view in first}) > 15
    other = pixels(noise(), b"image", list(range(20)), replace(views, seed=2), HOW)
    assert np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1:], other[1:])


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_leave_the_random_generators_as_they_were(function) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    pixels(noise(), b"image", [1, 2, 3], Views(4, augment=function), HOW)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    after = np.random.get_state()
    assert all(np.array_equal(a, b) for a, b in zip(after, before[2], strict=True))


def test_functions_that_fail_leave_the_random_generators_as_they_were() -> None:
    def failing(image: Image.Image) -> Image.Image:
        torch.rand(1), np.random.rand(), random.random()  # noqa: S311
        raise ValueError("no")

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with pytest.raises(ValueError, match="no"):
        pixels(noise(), b"image", [1], Views(2, augment=failing), HOW)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_functions_leave_the_accelerators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed would seed them for good: they are not among what is put back."""
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("all devices are seeded"))
    pixels(noise(), b"image", [1], Views(2, augment=v2.RandomRotation(20)), HOW)


def test_a_function_may_change_the_size_and_the_mode() -> None:
    views = Views(2, augment=v2.Compose([v2.Resize((50, 20)), v2.Grayscale()]))
    (view,) = pixels(noise(), b"image", [1], views, HOW)
    assert view.shape == (24, 24, 3)
    assert (view == view[..., :1]).all()


def test_a_function_does_not_see_view_zero_nor_change_the_image_of_another_view() -> None:
    def blacken(image: Image.Image) -> Image.Image:
        seen.append(np.asarray(image).copy())
        image.paste((0, 0, 0), (0, 0, *image.size))
        return image

    seen: list[np.ndarray] = []
    zero, first, second = pixels(noise(), b"image", [0, 1, 2], Views(3, augment=blacken), HOW)
    assert zero.any()
    assert not first.any()
    assert not second.any()
    assert [np.array_equal(image, noise()) for image in seen] == [True, True]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]), "Image"),
        (v2.PILToTensor(), "Tensor"),
        (np.asarray, "nd"),
    ],
)
def test_a_function_must_give_a_pil_image(function, kind: str) -> None:
    with pytest.raises(UsageError, match=rf"augment returned a {kind}.* instead of a PIL image; leave out ToTensor"):
        pixels(noise(), b"image", [1], Views(2, augment=function), HOW)
