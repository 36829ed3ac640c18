from __future__ import annotations

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


def test_masks_without_an_image_are_noted(tmp_path: Path) -> None:
    root = layout(tmp_path, "train", "val")
    (root / "train" / "images" / "3.jpg").unlink()
    images = read(root)
    assert sizes(images) == {"train": 4, "valid": 5}
    assert images.notes == ("1 mask without an image: train/masks/3.png",)


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


def test_sizes_that_do_not_match(tmp_path: Path) -> None:
    root = layout(tmp_path, "")
    Image.new("L", (20, 30)).save(root / "masks" / "2.png")
    with pytest.raises(DataError, match=r"1 of 5 masks .*masks/2.png: 20 × 30 pixels, its image 2 × 2$"):
        read_mask_folder(root, 0)


def test_colours_for_classes(tmp_path: Path) -> None:
    root = layout(tmp_path, "")
    Image.new("RGB", (2, 2)).save(root / "masks" / "2.png")
    with pytest.raises(DataError, match=r"masks/2.png: a mask of shape \(2, 2, 3\); it must have one number per pixel"):
        read_mask_folder(root, 0)


def test_a_value_beyond_the_named_classes(tmp_path: Path) -> None:
    root = layout(tmp_path, "", values=(0, 1, 2))
    (root / "classes.txt").write_text("sky\nsea\n")
    with pytest.raises(DataError, match=r"5 masks hold values that are no class: \S+: 2; .* 0 = sky, 1 = sea, and 255"):
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
        with pytest.raises(DataError, match=f"{split} has not both images and masks"):
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
    with pytest.raises(DataError, match=r"no masks under .*empty; expected .*/images/\*.jpg and .*/masks/\*.png"):
        read_mask_folder_for(tmp_path / "empty", ("sky", "sea"), "")
    root = layout(tmp_path / "some", "train", "val")
    with pytest.raises(DataError, match="has no test split; it has train, valid"):
        read_mask_folder_for(root, ("background", "foreground"), "test")
    with pytest.raises(DataError, match="nothing says which value"):
        read_mask_folder_for(root, ("sky", "sea"), "")
