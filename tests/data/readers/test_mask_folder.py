from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.data.images import Images, ImageSet
from frostline.data.masks import NOTHING, Masks
from frostline.data.readers.mask_folder import read_mask_folder, read_mask_folder_for
from frostline.errors import DataError


def fill(images: Path, masks: Path, count: int = 5, values: tuple[int, ...] = (0, 1), ending: str = ".jpg") -> None:
    """Images 2 wide whose masks hold the values, a row each."""
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (2, len(values)), (i, 0, 0)).save(images / f"{i}{ending}")
        Image.fromarray(np.array([[value, value] for value in values], np.uint8)).save(masks / f"{i}.png")


def layout(root: Path, *splits: str, masks: str = "masks", values: tuple[int, ...] = (0, 1)) -> Path:
    for split in splits:
        fill(root / split / "images", root / split / masks, values=values)
    return root


def read(root: Path, seed: int = 0) -> ImageSet:
    images = read_mask_folder(root, seed)
    assert images is not None
    return images


def sizes(images: ImageSet) -> dict[str, int]:
    return {name: len(split) for name, split in images.splits.items()}


def files(images: Images) -> list[tuple[Path, Path]]:
    assert isinstance(images.targets, Masks)
    return [(Path(i), Path(m)) for i, m in zip(images.pictures, images.targets.pictures, strict=True)]  # type: ignore[arg-type]


def numbers(images: Images) -> np.ndarray:
    assert isinstance(images.targets, Masks)
    return images.targets.numbers


@pytest.mark.parametrize("masks", ["masks", "annotations", "labels", "Masks"])
def test_images_beside_masks(masks: str, tmp_path: Path) -> None:
    images = read(layout(tmp_path / "sea", "", masks=masks))
    assert (images.name, images.classes, images.task) == ("sea", ("background", "foreground"), "segmentation")
    assert (sizes(images), images.notes) == ({"train": 4, "valid": 1}, ())
    for split in images.splits.values():
        for (image, mask), name in zip(files(split), split.names, strict=True):
            assert image == tmp_path / "sea" / name
            assert mask == tmp_path / "sea" / masks / f"{image.stem}.png"


def test_every_image_comes_with_the_class_numbers_of_its_mask(tmp_path: Path) -> None:
    images = read(layout(tmp_path, "", values=(7, 255, 3)))
    assert images.classes == ("3", "7")
    assert isinstance(images.train.targets, Masks)
    for i in range(len(images.train)):
        assert np.asarray(images.train.targets.read(i)).tolist() == [[1, 1], [NOTHING, NOTHING], [0, 0]]


@pytest.mark.parametrize("valid", ["val", "valid", "validation"])
@pytest.mark.parametrize("splits_above", [True, False])
def test_splits_above_or_below(valid: str, splits_above: bool, tmp_path: Path) -> None:
    for split in ("train", valid, "test"):
        above, below = ((split, ""), ("", split))[not splits_above]
        fill(tmp_path / above / "images" / below, tmp_path / above / "masks" / below)
    images = read(tmp_path)
    assert sizes(images) == {"train": 5, "valid": 5, "test": 5}
    for split, some in zip(("train", valid, "test"), images.splits.values(), strict=True):
        assert all(split in Path(name).parts for name in some.names)
        for image, mask in files(some):
            assert mask == Path(str(image).replace("images", "masks")).with_suffix(".png")


def test_without_validation_a_fifth_comes_from_training_and_never_from_test(tmp_path: Path) -> None:
    images = read(layout(tmp_path, "train", "test"), seed=1)
    assert sizes(images) == {"train": 4, "valid": 1, "test": 5}
    assert all(name.startswith("train/") for name in [*images.train.names, *images.valid.names])


def test_the_split_follows_the_seed(tmp_path: Path) -> None:
    layout(tmp_path, "")
    assert read(tmp_path, 1).valid.names == read(tmp_path, 1).valid.names
    assert len({tuple(read(tmp_path, seed).valid.names) for seed in range(12)}) > 1


def test_subfolders_keep_images_of_one_name_apart(tmp_path: Path) -> None:
    for place in ("a", "b/c"):
        fill(tmp_path / "images" / place, tmp_path / "masks" / place, ending=".png")
    images = read(tmp_path)
    assert len(images.train) + len(images.valid) == 10
    for image, mask in files(images.train):
        assert image.relative_to(tmp_path / "images") == mask.relative_to(tmp_path / "masks")


def test_names_with_dots_lose_their_ending_only(tmp_path: Path) -> None:
    for name in ("a.1", "a.2", "a"):
        fill(tmp_path / "x" / "images", tmp_path / "x" / "masks", 1)
        (tmp_path / "x" / "images" / "0.jpg").rename(tmp_path / "x" / "images" / f"{name}.jpg")
        (tmp_path / "x" / "masks" / "0.png").rename(tmp_path / "x" / "masks" / f"{name}.png")
    images = read(tmp_path / "x")
    assert all(image.stem == mask.stem for image, mask in files(images.train) + files(images.valid))


@pytest.mark.parametrize("place", ["", "train/masks", "train"])
def test_classes_are_named_in_the_root_or_beside_the_masks(place: str, tmp_path: Path) -> None:
    root = layout(tmp_path, "train", "val", values=(0, 1, 255))
    (root / place / "classes.txt").write_text("sky\nsea\nsand\n")
    images = read(root)
    assert images.classes == ("sky", "sea", "sand")
    assert images.notes == ("no training mask shows sand",)
    assert numbers(images.valid)[[0, 1, 2, 255]].tolist() == [0, 1, 2, NOTHING]


def test_masks_without_an_image_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layout(tmp_path, "train", "val")
    (root / "train" / "images" / "3.jpg").unlink()
    images = read(root)
    assert sizes(images) == {"train": 4, "valid": 5}
    assert images.notes == ("1 mask without an image: train/masks/3.png",)
    read_mask_folder_for(root, images.classes, "train")
    assert "note: 1 mask without an image: train/masks/3.png" in capsys.readouterr().err


def test_other_files_among_masks_are_no_masks(tmp_path: Path) -> None:
    root = layout(tmp_path, "")
    (root / "masks" / "readme.md").touch()
    (root / "masks" / ".hidden.png").touch()
    assert read(root).notes == ()


def test_of_several_folders_the_one_that_holds_pictures_counts(tmp_path: Path) -> None:
    root = layout(tmp_path, "", masks="masks")
    (root / "annotations").mkdir()
    (root / "annotations" / "all.json").write_text("{}")
    assert sizes(read(root)) == {"train": 4, "valid": 1}


def test_layouts_that_are_not_of_masks(tmp_path: Path) -> None:
    for folders in (("cat", "dog"), ("train/cat", "train/dog"), ("images",), ("masks",)):
        root = tmp_path / "_".join(folders).replace("/", "-")
        for folder in folders:
            fill(root / folder, root / folder)
        assert read_mask_folder(root, 0) is None
    boxes = layout(tmp_path / "boxes", "", masks="labels")
    for mask in (boxes / "labels").iterdir():
        mask.rename(mask.with_suffix(".txt"))
    assert read_mask_folder(boxes, 0) is None


def test_an_image_without_a_mask(tmp_path: Path) -> None:
    root = layout(tmp_path, "")
    for name in ("1", "4"):
        (root / "masks" / f"{name}.png").unlink()
    told = r"2 of 5 images have no mask: \S+images/1.jpg; \S+images/4.jpg; expected \S+masks/1.png$"
    with pytest.raises(DataError, match=told):
        read_mask_folder(root, 0)


@pytest.mark.parametrize("name", ["3.bmp", "3_mask.png"])
def test_two_masks_of_one_image_are_refused(name: str, tmp_path: Path) -> None:
    root = layout(tmp_path, "")
    Image.new("L", (2, 2), 1).save(root / "masks" / name)
    first, second = sorted(["3.png", name])
    with pytest.raises(
        DataError, match=rf"1 images of .*images have more than one mask: 3 has {first} and {second}; keep one"
    ):
        read(root)


def test_sizes_that_do_not_match(tmp_path: Path) -> None:
    root = layout(tmp_path, "")
    Image.new("L", (20, 30)).save(root / "masks" / "2.png")
    with pytest.raises(DataError, match=r"1 of 5 masks .*masks/2.png: 20 × 30 pixels, but its image has 2 × 2$"):
        read_mask_folder(root, 0)


def coloured(root: Path, *colours: str, mode: str = "RGB") -> Path:
    """The masks painted in colours, one in each row."""
    from PIL import ImageColor

    for mask in (root / "masks").iterdir():
        rows = np.array([[ImageColor.getrgb(colour)] * 2 for colour in colours], np.uint8)
        Image.fromarray(rows).convert(mode).save(mask)
    return root


def painted(root: Path, *colours: str) -> Path:
    fill(root / "images", root / "masks", values=(0,) * len(colours))
    return coloured(root, *colours)


def test_colours_without_names_are_listed_once_with_what_to_write(tmp_path: Path) -> None:
    """Stumble 34."""
    painted(tmp_path, "#ff0000", "#00ff00", "#000000")
    with pytest.raises(DataError) as caught:
        read_mask_folder(tmp_path, 0)
    told = str(caught.value)
    assert told.startswith(f"5 of 5 masks of {tmp_path.name} have RGB colours, but no file names their classes; write ")
    assert told.endswith(
        f"write {tmp_path}/classes.txt with one line per class, and its name for NAME: "
        '"NAME #000000", "NAME #00ff00", "NAME #ff0000"'
    )
    lines = [line.replace("NAME", name) for line, name in zip(re.findall('"(.*?)"', told), "abc", strict=True)]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    assert read(tmp_path).classes == ("a", "b", "c")


def test_colours_by_a_palette_are_the_numbers_of_its_lines(tmp_path: Path) -> None:
    """Stumble 34."""
    painted(tmp_path, "#ff0000", "#000000", "#0000ff")
    (tmp_path / "classes.txt").write_text("sky #0000FF\nbig sea 255 0 0\n0 0 0 sand\nrock, 1, 2, 3\n")
    images = read(tmp_path)
    assert images.classes == ("sky", "big sea", "sand", "rock")
    assert images.notes == ("no training mask shows rock",)
    assert isinstance(images.train.targets, Masks)
    for i in range(len(images.train)):
        assert np.asarray(images.train.targets[[i]].read(0)).tolist() == [[1, 1], [2, 2], [0, 0]]
    matched, _ = read_mask_folder_for(tmp_path, ("sand", "rock", "sky", "big sea"), "")
    assert isinstance(matched.targets, Masks)
    assert np.asarray(matched.targets.read(0)).tolist() == [[3, 3], [0, 0], [2, 2]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label_colors.txt", "64 128 64\tAnimal\n192 0 128\t\tArchway\n"),
        ("class_dict.csv", "name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\n"),
    ],
)
def test_the_palettes_of_camvid(name: str, text: str, tmp_path: Path) -> None:
    painted(tmp_path, "#c00080", "#408040")
    (tmp_path / name).write_text(text)
    images = read(tmp_path)
    assert images.classes == ("Animal", "Archway")
    assert isinstance(images.train.targets, Masks)
    assert np.asarray(images.train.targets.read(0)).tolist() == [[1, 1], [0, 0]]


def test_the_colours_of_pascal_voc_are_known(tmp_path: Path) -> None:
    painted(tmp_path, "#000000", "#c08080", "#e0e0c0", "#400080")
    images = read(tmp_path)
    assert images.classes == ("background", "dog", "person")
    assert images.notes == (
        "masks in the colours of PASCAL VOC: background, dog, person; a classes.txt overrides them",
    )
    assert isinstance(images.train.targets, Masks)
    assert np.asarray(images.train.targets.read(0))[:, 0].tolist() == [0, 2, NOTHING, 1]


def test_palette_files_keep_their_numbers_and_grey_in_rgb_its_grey(tmp_path: Path) -> None:
    painted(tmp_path / "p", "#000000", "#c08080")
    for mask in (tmp_path / "p" / "masks").iterdir():
        indexed = Image.fromarray(np.array([[0, 0], [2, 2]], np.uint8))
        indexed.putpalette([0, 0, 0, 9, 9, 9, 192, 128, 128])
        indexed.save(mask)
    assert read(tmp_path / "p").classes == ("0", "2")
    assert read(painted(tmp_path / "grey", "#000000", "#ffffff")).classes == ("background", "foreground")
    assert read(
        coloured(painted(tmp_path / "rgba", "#000000", "#010101"), "#000000", "#010101", mode="RGBA")
    ).classes == (
        "background",
        "foreground",
    )


def test_a_colour_that_the_palette_lacks_and_shades_without_end(tmp_path: Path) -> None:
    painted(tmp_path, "#ff0000", "#00ff00", "#000000")
    (tmp_path / "classes.txt").write_text("sky #ff0000\nsea #00ff00\n")
    with pytest.raises(DataError, match=r"5 masks hold colours without a class: \S+0.png: #000000; .* add a line NAME"):
        read_mask_folder(tmp_path, 0)
    (tmp_path / "classes.txt").unlink()
    chance = np.random.default_rng(0)
    for file in [*(tmp_path / "masks").iterdir(), *(tmp_path / "images").iterdir()]:
        Image.fromarray(chance.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(file)
    with pytest.raises(DataError, match=r"they hold 2,\d+ colours, too many for classes: save them as PNG"):
        read_mask_folder(tmp_path, 0)


def test_one_transparent_mask_is_refused(tmp_path: Path) -> None:
    root = layout(tmp_path, "")
    Image.new("RGBA", (2, 2)).save(root / "masks" / "2.png")
    with pytest.raises(DataError, match=r"masks/2.png: transparent pixels have no class"):
        read_mask_folder(root, 0)


@pytest.mark.parametrize("mark", ["_mask", "-mask", "_label", "_seg", "_MASK"])
@pytest.mark.parametrize("split", ["", "train", "masks"])
def test_masks_that_say_so_in_their_names(mark: str, split: str, tmp_path: Path) -> None:
    """Stumble 34."""
    fill(tmp_path / "images", tmp_path / "masks")
    place = tmp_path / split if split == "train" else tmp_path / "masks" if split else tmp_path
    place.mkdir(exist_ok=True)
    for file in (tmp_path / "masks").glob("*.png"):
        file.rename(place / f"{file.stem}{mark}.png")
    if split != "masks":
        for file in (tmp_path / "images").iterdir():
            file.rename(place / file.name)
        (tmp_path / "masks").rmdir()
        (tmp_path / "images").rmdir()
    images = read(tmp_path)
    assert (sizes(images), images.notes) == ({"train": 4, "valid": 1}, ())
    assert all(mask == place / f"{image.stem}{mark}.png" for image, mask in files(images.train))


def test_an_image_without_the_mask_that_others_have_beside_them(tmp_path: Path) -> None:
    fill(tmp_path, tmp_path / "masks")
    for file in (tmp_path / "masks").iterdir():
        file.rename(tmp_path / f"{file.stem}_mask.png")
    (tmp_path / "3_mask.png").unlink()
    with pytest.raises(DataError, match=r"1 of 5 images have no mask: \S+3.jpg; expected \S+3_mask.png"):
        read_mask_folder(tmp_path, 0)


def test_a_value_beyond_the_named_classes(tmp_path: Path) -> None:
    root = layout(tmp_path, "", values=(0, 1, 2))
    (root / "classes.txt").write_text("sky\nsea\n")
    with pytest.raises(DataError, match=r"5 masks hold values without a class: \S+: 2; .* 0 = sky, 1 = sea, and 255"):
        read_mask_folder(root, 0)


def test_a_validation_value_that_training_does_not_know(tmp_path: Path) -> None:
    root = layout(tmp_path, "train")
    layout(root, "val", values=(0, 2))
    with pytest.raises(DataError, match=r"val/masks/0.png: 2; "):
        read_mask_folder(root, 0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_masks_is_not_passed_over(split: str, tmp_path: Path) -> None:
    above = layout(tmp_path / "above", "train", split)
    (above / split / "masks").rename(above / split / "other")
    below = tmp_path / "below"
    for part in ("train", split):
        fill(below / "images" / part, below / "masks" / part)
    (below / "masks" / split).rename(below / "masks" / "other")
    for root in (above, below):
        with pytest.raises(DataError, match=f"{split} needs both images and masks"):
            read_mask_folder(root, 0)


def test_splits_without_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has masks for valid, test but none for training"):
        read_mask_folder(layout(tmp_path, "val", "test"), 0)


@pytest.mark.parametrize(
    ("splits", "wanted", "chosen", "prefixes"),
    [
        (("train", "val", "test"), "", "test", {"test"}),
        (("train", "val"), "", "valid", {"val"}),
        (("",), "", "all", {"images"}),
        (("val",), "", "valid", {"val"}),
        (("train", "val", "test"), "train", "train", {"train"}),
        (("train", "val", "test"), "all", "all", {"train", "val", "test"}),
    ],
)
def test_which_split_is_evaluated(
    splits: tuple[str, ...], wanted: str, chosen: str, prefixes: set[str], tmp_path: Path
) -> None:
    images, split = read_mask_folder_for(layout(tmp_path, *splits), ("background", "foreground"), wanted)
    assert split == chosen
    assert {name.split("/")[0] for name in images.names} == prefixes
    assert len(images) == 5 * len(prefixes)


def test_evaluation_matches_classes_by_name(tmp_path: Path) -> None:
    root = layout(tmp_path, "")
    (root / "classes.txt").write_text("sea\nsky\n")
    images, _ = read_mask_folder_for(root, ("sand", "sky", "sea"), "")
    assert numbers(images)[[0, 1, 255]].tolist() == [2, 1, NOTHING]


def test_what_cannot_be_evaluated(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no masks under .*empty; expected .*/images/NAME.jpg and .*/masks/NAME.png"):
        read_mask_folder_for(tmp_path / "empty", ("sky", "sea"), "")
    root = layout(tmp_path / "some", "train", "val")
    with pytest.raises(DataError, match="has no test split; it has train, valid"):
        read_mask_folder_for(root, ("background", "foreground"), "test")
    with pytest.raises(DataError, match="values without class names"):
        read_mask_folder_for(root, ("sky", "sea"), "")
