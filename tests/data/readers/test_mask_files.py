from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from frostline.data.decoding import open_image
from frostline.data.masks import NOTHING, Masks, read_values
from frostline.data.readers.mask_files import Key, Legend, Pairs, held_in, mask_set, matched, read_legend
from frostline.errors import DataError


def pairs(folder: Path, *held: list[int]) -> Pairs:
    """Images whose masks hold those values, a row each."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, values in enumerate(held):
        mask = np.repeat(np.array(values, np.uint8)[:, None], 3, axis=1)
        Image.fromarray(mask).save(folder / f"{i}-mask.png")
        Image.new("RGB", mask.shape[::-1]).save(folder / f"{i}.png")
    numbers = range(len(held))
    return Pairs(
        [folder / f"{i}.png" for i in numbers], [folder / f"{i}-mask.png" for i in numbers], [f"{i}" for i in numbers]
    )


def mapped(masks: object, values: list[int]) -> list[int]:
    assert isinstance(masks, Masks)
    return masks.numbers[values].tolist()


@pytest.mark.parametrize(
    ("held", "classes", "numbers"),
    [
        ([[0, 1], [0, 0]], ("background", "foreground"), {0: 0, 1: 1, 255: NOTHING}),
        ([[0, 255], [0, 0]], ("background", "foreground"), {0: 0, 255: 1, 1: NOTHING}),
        ([[0, 1], [255, 0]], ("0", "1"), {0: 0, 1: 1, 255: NOTHING}),
        ([[0, 2], [10, 255]], ("0", "2", "10"), {0: 0, 2: 1, 10: 2, 255: NOTHING}),
        ([[1, 2], [1, 2]], ("1", "2"), {1: 0, 2: 1, 0: NOTHING, 255: NOTHING}),
    ],
)
def test_values_of_training_are_the_classes_where_nothing_names_them(
    held: list[list[int]], classes: tuple[str, ...], numbers: dict[int, int], tmp_path: Path
) -> None:
    images = mask_set("some", {"train": pairs(tmp_path, *held)}, Key(), 0)
    assert (images.classes, images.task, images.notes) == (classes, "segmentation", ())
    for split in images.splits.values():
        assert mapped(split.targets, list(numbers)) == list(numbers.values())


@pytest.mark.parametrize(
    ("legend", "held", "classes", "numbers"),
    [
        ({0: "sky", 1: "sea"}, [[0, 1], [1, 255]], ("sky", "sea"), {0: 0, 1: 1, 255: NOTHING}),
        ({0: "sky", 1: "sea"}, [[0, 255], [0, 0]], ("sky", "sea"), {0: 0, 255: 1, 1: NOTHING}),
        ({3: "sky", 200: "sea"}, [[3, 200], [3, 3]], ("sky", "sea"), {3: 0, 200: 1, 0: NOTHING}),
        ({0: "sky", 255: "sea"}, [[0, 255], [0, 0]], ("sky", "sea"), {0: 0, 255: 1}),
    ],
)
def test_a_legend_names_values(
    legend: Legend, held: list[list[int]], classes: tuple[str, ...], numbers: dict[int, int], tmp_path: Path
) -> None:
    images = mask_set("some", {"train": pairs(tmp_path, *held)}, Key(legend), 0)
    assert (images.classes, images.notes) == (classes, ())
    assert mapped(images.valid.targets, list(numbers)) == list(numbers.values())


def test_classes_that_no_training_mask_shows_are_noted(tmp_path: Path) -> None:
    images = mask_set("some", {"train": pairs(tmp_path, [0, 1], [1, 1])}, Key({0: "sky", 1: "sea", 2: "sand"}), 0)
    assert images.classes == ("sky", "sea", "sand")
    assert images.notes == ("no training mask shows sand",)


def test_a_fifth_is_for_validation_and_every_image_keeps_its_mask(tmp_path: Path) -> None:
    images = mask_set("some", {"train": pairs(tmp_path, *[[0, i, 9] for i in range(1, 9)] * 2)}, Key(), 0)
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 13, "valid": 3}
    for split in images.splits.values():
        assert isinstance(split.targets, Masks)
        for name, mask in zip(split.names, split.targets.pictures, strict=True):
            assert mask == tmp_path / f"{name}-mask.png"


def test_given_splits_share_the_numbers_of_training(tmp_path: Path) -> None:
    splits = {name: pairs(tmp_path / name, [0, 5], [0, 0]) for name in ("train", "valid", "test")}
    images = mask_set("some", splits, Key(), 0)
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 2, "valid": 2, "test": 2}
    assert [mapped(split.targets, [0, 5]) for split in images.splits.values()] == [[0, 1]] * 3


@pytest.mark.parametrize(("held", "told"), [([[0], [0]], "hold 0;"), ([[255], [255]], "hold 255;")])
def test_fewer_than_two_classes(held: list[list[int]], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"training masks of some {told} segmentation needs at least two classes"):
        mask_set("some", {"train": pairs(tmp_path, *held)}, Key(), 0)


@pytest.mark.parametrize("legend", [None, {0: "sky", 3: "sea"}])
def test_values_that_training_does_not_know(legend: Legend | None, tmp_path: Path) -> None:
    splits = {"train": pairs(tmp_path / "t", [0, 3]), "valid": pairs(tmp_path / "v", [0, 0], [3, 7], [8, 9])}
    with pytest.raises(
        DataError, match=r"2 masks hold values without a class: \S+1-mask.png: 7; \S+2-mask.png: 8, 9; "
    ):
        mask_set("some", splits, Key(legend), 0)


def test_one_image_is_for_training_and_validation(tmp_path: Path) -> None:
    images = mask_set("some", {"train": pairs(tmp_path, [0, 1])}, Key(), 0)
    assert images.train.names == images.valid.names
    assert "validation uses the training images" in images.notes[0]


@pytest.mark.parametrize(
    ("legend", "classes", "held", "numbers"),
    [
        ({0: "sea", 1: "sky"}, ("sky", "sea"), [0, 1], {0: 1, 1: 0}),
        ({0: "sea", 1: "sky", 2: "sand"}, ("sky", "sea"), [0, 1, 255], {0: 1, 1: 0, 2: NOTHING, 255: NOTHING}),
        ({0: "sky", 1: "sea"}, ("sky", "sea"), [0, 255], {0: 0, 255: 1}),
        (None, ("0", "4"), [0, 4, 255], {0: 0, 4: 1, 255: NOTHING}),
        (None, ("0", "1"), [0, 255], {0: 0, 1: 1, 255: NOTHING}),
        (None, ("background", "foreground"), [0, 1], {0: 0, 1: 1, 255: NOTHING}),
        (None, ("background", "foreground"), [0, 255], {0: 0, 255: 1}),
        (None, ("background", "foreground"), [255], {0: 0, 255: 1}),
        (None, ("background", "foreground"), [0], {0: 0}),
    ],
)
def test_masks_are_matched_to_classes_by_name(
    legend: Legend | None, classes: tuple[str, ...], held: list[int], numbers: dict[int, int], tmp_path: Path
) -> None:
    images = matched(pairs(tmp_path, held), Key(legend), classes, "some")
    assert images.names == ["0"]
    assert mapped(images.targets, list(numbers)) == list(numbers.values())


def test_what_cannot_be_matched(tmp_path: Path) -> None:
    some = pairs(tmp_path, [0, 2])
    with pytest.raises(DataError, match="the masks of some have values without class names \\(sky, sea\\)"):
        matched(some, Key(), ("sky", "sea"), "some")
    with pytest.raises(
        DataError, match="some has classes that are not in the training data: sand; the training classes are sky, sea"
    ):
        matched(some, Key({0: "sky", 1: "sea", 2: "sand"}), ("sky", "sea"), "some")
    with pytest.raises(DataError, match=r"1 masks hold values without a class: .*: 2; the classes are 0 = sky"):
        matched(some, Key({0: "sky", 1: "sea"}), ("sky", "sea"), "some")


names = st.lists(st.text("abcäöü日 -_", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=30, unique=True)


@given(names)
def test_all_ways_of_writing_a_legend_say_the_same(tmp_path_factory: pytest.TempPathFactory, some: list[str]) -> None:
    folder = tmp_path_factory.mktemp("legend")
    wanted = dict(enumerate(some))
    texts = {
        "classes.json": [json.dumps(some), json.dumps({str(i): name for i, name in reversed(wanted.items())})],
        "classes.txt": ["\n".join(some), "\r\n".join(some) + "\r\n\r\n", "\ufeff" + "\n".join(some)],
    }
    for name, ways in texts.items():
        for text in ways:
            (folder / name).write_bytes(text.encode())
            read = read_legend([folder])
            assert read == wanted
            assert list(read) == sorted(wanted)


def test_the_first_folder_with_a_legend_counts(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        if name != "a":
            (tmp_path / name / "classes.txt").write_text(f"{name}0\n{name}1\n")
    assert read_legend([tmp_path / name for name in ("a", "b", "c")]) == {0: "b0", 1: "b1"}
    assert read_legend([tmp_path / "a"]) is None


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("classes.txt", b"", r"0 values \(none\); name 2 to 255"),
        ("classes.txt", b"sky\n", r"1 values \(0\); name 2 to 255"),
        ("classes.txt", b"sky\nsky\n", "duplicate or empty class name"),
        ("classes.txt", b"sky\n\nsea\n", "duplicate or empty class name"),
        ("classes.txt", b"\nsky\nsea\n", "duplicate or empty class name"),
        ("classes.txt", b"sk\xff", "give one class per line, in UTF-8"),
        ("classes.txt", "\n".join(map(str, range(256))).encode(), "names 256 values"),
        ("classes.json", b"", "JSON like"),
        ("classes.json", b'"sky"', "neither a list nor an object"),
        ("classes.json", b"7", "neither a list nor an object"),
        ("classes.json", b'{"sky": 0, "sea": 1}', "JSON like"),
        ("classes.json", b'{"0": "sky", "256": "sea"}', r"2 values \(0, 256\); name 2 to 255 values of 0 … 255"),
        ("classes.json", b'{"-1": "sky", "2": "sea"}', r"\(-1, 2\)"),
        ("classes.json", b"[" * 100_000, "JSON like"),
    ],
)
def test_legends_that_say_nothing(name: str, text: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(DataError, match=why):
        read_legend([tmp_path])


def test_values_are_told_mask_by_mask(tmp_path: Path) -> None:
    found = held_in(pairs(tmp_path, [0, 7], [255, 255, 1]), read_values)
    assert [None if each is None else each.tolist() for each in found] == [[0, 7], [1, 255]]
    assert held_in(Pairs([], [], []), read_values) == []


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp", "bmp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_an_image_is_that_of_its_upright_pixels(ending: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file, mask = tmp_path / f"a.{ending}", tmp_path / "mask.png"
    exif[0x02BC] = b"<x:xmpmeta/>"  # as photo editors leave it
    Image.new("RGB", (8, 4)).save(file, **({} if ending == "bmp" else {"exif": exif}))
    size = open_image(file).size
    assert size == ((4, 8) if orientation > 4 and ending != "bmp" else (8, 4))
    Image.new("L", size).save(mask)
    held_in(Pairs([file], [mask], ["a"]), read_values)
    Image.new("L", size[::-1]).save(mask)
    told = f"mask.png: {size[1]} × {size[0]} pixels, but its image has {size[0]} × {size[1]}$"
    with pytest.raises(DataError, match=told):
        held_in(Pairs([file], [mask], ["a"]), read_values)


def test_masks_that_cannot_be_used_are_counted_and_the_first_named(tmp_path: Path) -> None:
    some = pairs(tmp_path, *[[0, 1]] * 8)
    for mask in some.masks[1:]:
        Image.new("LA", (3, 2)).save(mask)
    with pytest.raises(
        DataError, match=r"^7 of 8 masks cannot be used: \S+1-mask.png: a mask of shape .* …$"
    ) as caught:
        held_in(some, read_values)
    assert str(caught.value).count("-mask.png") == 5


def test_an_unreadable_image_is_left_to_the_pass_that_decodes(tmp_path: Path) -> None:
    some = pairs(tmp_path, [0, 1], [1, 0])
    Path(some.images[0]).write_bytes(b"no image")
    assert [each.tolist() for each in held_in(some, read_values) if each is not None] == [[0, 1]] * 2
