"""Masks beside a file of colours: whether their colours or their values decide the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from frostline.data.images import Images, ImageSet
from frostline.data.masks import NOTHING, Masks
from frostline.data.readers.mask_files import Pairs, mask_set, matched, read_key
from frostline.data.readers.palette import VOC_EDGE, voc_colour
from frostline.errors import DataError

RED, BLUE, BLACK, GREY, WHITE = 0xFF0000, 0x0000FF, 0x000000, 0x808080, 0xFFFFFF
ROADS = {"road": RED, "sky": BLUE, "void": BLACK}


def rgb(colours: np.ndarray) -> Image.Image:
    """An RGB image of colours (H, W), 0xRRGGBB."""
    return Image.fromarray(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 2).astype(np.uint8))


def indexed(values: np.ndarray, palette: list[int]) -> Image.Image:
    """A palette image whose values have these colours, in order."""
    image = Image.fromarray(np.asarray(values, np.uint8))
    image.putpalette([channel for colour in palette for channel in (colour >> 16, colour >> 8 & 255, colour & 255)])
    return image


def grey(values: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(values, np.uint8))


def colour_file(folder: Path, classes: dict[str, int], name: str = "classes.txt") -> None:
    form = "{n},{r},{g},{b}" if name.endswith("csv") else "{n} {r} {g} {b}"
    lines = [form.format(n=n, r=c >> 16, g=c >> 8 & 255, b=c & 255) for n, c in classes.items()]
    (folder / name).write_text("\n".join(["name,r,g,b"] * name.endswith("csv") + lines))


def saved(folder: Path, *masks: Image.Image) -> Pairs:
    numbers = range(len(masks))
    for i, mask in enumerate(masks):
        mask.save(folder / f"{i}-mask.png")
        Image.new("RGB", mask.size).save(folder / f"{i}.png")
    return Pairs(
        [folder / f"{i}.png" for i in numbers], [folder / f"{i}-mask.png" for i in numbers], [f"{i}" for i in numbers]
    )


def read(folder: Path, *masks: Image.Image) -> ImageSet:
    given = saved(folder, *masks)
    return mask_set("some", {"train": given, "valid": given}, read_key([folder]), 0)


def named(images: Images, classes: tuple[str, ...]) -> list[list[list[str | None]]]:
    """The class of every pixel of every mask; None for ignored pixels."""
    assert isinstance(images.targets, Masks)
    names = {NOTHING: None} | dict(enumerate(classes))
    masks = images.targets
    return [[[names[n] for n in row] for row in np.asarray(masks.read(i)).tolist()] for i in range(len(masks))]


@st.composite
def painted(draw: st.DrawFn, greys: bool) -> tuple[list[int], np.ndarray]:
    """Colours of classes, and the numbers of the classes of pixels, at least two."""
    levels = st.integers(0, 255).map(lambda level: level * 0x010101)
    colours = draw(st.lists(levels if greys else st.integers(0, 0xFFFFFF), min_size=2, max_size=9, unique=True))
    shape = arrays.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=5)
    return colours, draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, len(colours) - 1)))


@settings(deadline=None)  # files are written
@given(painted(greys=False), st.randoms(use_true_random=False))
def test_a_colour_has_its_class_in_rgb_and_under_every_index(tmp_path_factory, some, chance) -> None:
    colours, numbers = some
    folder = tmp_path_factory.mktemp("masks")
    classes = {f"c{number}": colour for number, colour in enumerate(colours)}
    colour_file(folder, classes)
    order = chance.sample(range(len(colours)), len(colours))
    masks = (rgb(np.array(colours)[numbers]), indexed(np.argsort(order)[numbers], [colours[i] for i in order]))
    expected = [[f"c{number}" for number in row] for row in numbers.tolist()]
    for mask in masks:
        images = read(folder, mask)
        assert images.classes == tuple(classes)
        assert named(images.train, images.classes) == [expected]


@settings(deadline=None)  # files are written
@given(painted(greys=True))
def test_grey_colours_have_their_class_in_l_too(tmp_path_factory, some) -> None:
    colours, numbers = some
    folder = tmp_path_factory.mktemp("masks")
    colour_file(folder, {f"c{number}": colour for number, colour in enumerate(colours)}, "label_colors.txt")
    expected = [[f"c{number}" for number in row] for row in numbers.tolist()]
    shades = np.array(colours)[numbers]
    for mask in (rgb(shades), grey((shades & 255).tolist()), Image.fromarray((shades & 255).astype(np.uint16))):
        images = read(folder, mask)
        assert named(images.train, images.classes) == [expected]


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_black_and_white_whose_file_begins_with_white(mode: str, tmp_path: Path) -> None:
    colour_file(tmp_path, {"object": WHITE, "background": BLACK})
    images = read(tmp_path, grey([[0, 255], [0, 0]]).convert(mode))
    assert named(images.train, images.classes) == [[["background", "object"], ["background"] * 2]]
    assert images.notes == (
        "the colours of the masks decide their classes: #000000 is background; by value (0) it would be object; "
        "remove the file's colours to read values",
    )


def test_classes_have_the_colours_that_the_user_gave(tmp_path: Path) -> None:
    row = np.array([[0, 1, 2]])
    assert read(tmp_path, grey(row.tolist())).colours == ()
    assert read(tmp_path, indexed(row, [BLACK, GREY, WHITE])).colours == ()  # shades of grey are values
    assert read(tmp_path, indexed(row, [BLACK, RED, RED])).colours == ()
    assert read(tmp_path, indexed(row, [BLACK, RED, BLUE])).colours == (BLACK, RED, BLUE)
    assert read(tmp_path, rgb(np.array([[voc_colour(0), voc_colour(3)]]))).colours == (0, voc_colour(3))
    colour_file(tmp_path, ROADS)
    assert read(tmp_path, rgb(np.array([[RED, BLUE, BLACK]]))).colours == (RED, BLUE, BLACK)
    assert read(tmp_path, grey(row.tolist())).colours == (RED, BLUE, BLACK)  # by value: for display only
    (tmp_path / "classes.json").write_text('["road", "sky", "tree"]')
    (tmp_path / "classes.txt").rename(tmp_path / "label_colors.txt")
    assert read(tmp_path, grey(row.tolist())).colours == ()  # a tree has none


def test_an_evaluation_says_what_a_fit_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colour_file(tmp_path, {"object": WHITE, "background": BLACK})
    matched(saved(tmp_path, grey([[0, 255], [0, 0]])), read_key([tmp_path]), ("object", "background"), "some")
    assert "note: the colours of the masks decide their classes: #000000 is background" in capsys.readouterr().err


def test_black_and_white_in_order_need_no_note(tmp_path: Path) -> None:
    colour_file(tmp_path, {"background": BLACK, "object": WHITE})
    images = read(tmp_path, grey([[0, 255], [0, 0]]))
    assert named(images.train, images.classes) == [[["background", "object"], ["background"] * 2]]
    assert images.notes == ()


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_an_evaluation_whose_masks_are_all_black(mode: str, tmp_path: Path) -> None:
    colour_file(tmp_path, {"road": RED, "sky": BLACK})
    given = saved(tmp_path, Image.new("RGB", (2, 1)).convert(mode))
    assert named(matched(given, read_key([tmp_path]), ("road", "sky"), "some"), ("road", "sky")) == [[["sky", "sky"]]]


@pytest.mark.parametrize("name", ["classes.txt", "label_colors.txt", "class_dict.csv"])
def test_palettes_whose_order_differs_from_file_to_file(name: str, tmp_path: Path) -> None:
    colour_file(tmp_path, ROADS, name)
    masks = (indexed(np.array([[0, 1, 2]]), [BLACK, BLUE, RED]), indexed(np.array([[0, 1, 2]]), [BLUE, RED, BLACK]))
    images = read(tmp_path, *masks)
    assert images.classes == tuple(ROADS)
    assert named(images.train, images.classes) == [[["void", "sky", "road"]], [["sky", "road", "void"]]]
    assert images.notes == ()  # an index has several colours: it is no class


def test_palettes_of_other_colours_whose_order_differs_are_refused(tmp_path: Path) -> None:
    colour_file(tmp_path, ROADS)
    masks = (indexed(np.array([[0, 1, 2]]), [GREY, BLUE, RED]), indexed(np.array([[0, 1, 2]]), [BLUE, RED, BLACK]))
    with pytest.raises(DataError, match=r"1 masks hold colours without a class: \S+0-mask.png: #808080; "):
        read(tmp_path, *masks)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", ["classes.txt", "label_colors.txt", "class_dict.csv"])
def test_shades_of_grey_with_classes(mode: str, name: str, tmp_path: Path) -> None:
    colour_file(tmp_path, {"a": BLACK, "b": GREY, "c": WHITE}, name)
    images = read(tmp_path, grey([[0, 128, 255]]).convert(mode))
    assert images.classes == ("a", "b", "c")
    assert (named(images.train, images.classes), images.notes) == ([[["a", "b", "c"]]], ())


def test_a_shade_of_grey_that_the_colours_lack_is_no_class_of_its_own(tmp_path: Path) -> None:
    colour_file(tmp_path, {"a": BLACK, "b": GREY}, "label_colors.txt")
    with pytest.raises(DataError, match=r"hold colours without a class: \S+0-mask.png: #ffffff; "):
        read(tmp_path, grey([[0, 128, 255]]))


def test_colours_for_display_only_leave_values_as_they_are(tmp_path: Path) -> None:
    colour_file(tmp_path, ROADS)
    images = read(tmp_path, grey([[0, 1, 2, 255]]))
    assert images.classes == tuple(ROADS)
    assert named(images.train, images.classes) == [[["road", "sky", "void", None]]]
    assert images.notes == (
        "the values of the masks decide their classes: 0 is road; by colour (#000000) it would be void, but #010101 "
        "has no class",
    )
    colour_file(tmp_path, {"road": RED, "sky": BLUE, "tree": 0x00FF00})
    assert read(tmp_path, grey([[0, 1, 2, 255]])).notes == ()
    assert read(tmp_path, indexed(np.array([[0, 1, 2]]), [1, 2, 3])).notes == ()


def test_values_beyond_the_lines_are_told_as_before(tmp_path: Path) -> None:
    colour_file(tmp_path, {"road": RED, "sky": BLUE})
    with pytest.raises(DataError, match=r"1 masks hold values without a class: \S+0-mask.png: 2; the classes are 0 ="):
        read(tmp_path, grey([[0, 1, 2]]))


VOC_COLOURS = [voc_colour(number) for number in range(256)]


@pytest.mark.parametrize("void", [{}, {"void": VOC_EDGE}])
def test_indices_of_pascal_voc_beside_its_colours(void: dict[str, int], tmp_path: Path) -> None:
    colour_file(tmp_path, {"ground": VOC_COLOURS[0], "plane": VOC_COLOURS[1], "bike": VOC_COLOURS[2]} | void)
    images = read(tmp_path, indexed(np.array([[0, 1, 2, 255]]), VOC_COLOURS))
    assert named(images.train, images.classes) == [[["ground", "plane", "bike", None]]]


def test_some_colours_of_pascal_voc_in_another_order(tmp_path: Path) -> None:
    colour_file(tmp_path, {"person": VOC_COLOURS[15], "ground": VOC_COLOURS[0]})
    images = read(tmp_path, indexed(np.array([[0, 15, 255]]), VOC_COLOURS))
    assert named(images.train, images.classes) == [[["ground", "person", None]]]


def test_only_one_class_and_the_edges_of_pascal_voc(tmp_path: Path) -> None:
    colour_file(tmp_path, {"ground": BLACK, "plane": VOC_COLOURS[1]})
    images = read(tmp_path, rgb(np.array([[BLACK, VOC_EDGE]])))
    assert named(images.train, images.classes) == [[["ground", None]]]
    assert images.notes == ("no training mask shows plane",)


def test_ignored_pixels_in_the_padding_of_a_palette(tmp_path: Path) -> None:
    colour_file(tmp_path, {"void": BLACK, "road": RED, "sky": BLUE})
    images = read(tmp_path, indexed(np.array([[0, 1, 2, 255]]), [BLACK, RED, BLUE] + [BLACK] * 253))
    assert named(images.train, images.classes) == [[["void", "road", "sky", None]]]


def test_a_transparent_value_is_still_a_value(tmp_path: Path) -> None:
    colour_file(tmp_path, {"road": RED, "sky": BLUE})
    given = saved(tmp_path, mask := indexed(np.array([[0, 1]]), [RED, BLUE]))
    mask.save(given.masks[0], transparency=0)
    images = mask_set("some", {"train": given, "valid": given}, read_key([tmp_path]), 0)
    assert named(images.train, images.classes) == [[["road", "sky"]]]


def test_without_a_file_of_colours_the_values_count(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("object\nbackground\n")
    images = read(tmp_path, grey([[0, 255]]).convert("RGB"))
    assert named(images.train, images.classes) == [[["object", "background"]]]
