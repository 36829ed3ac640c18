from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.data import Images, ImageSet, image_files, read_data, read_for_evaluation
from frostline.errors import DataError


def fill(folder: Path, count: int = 5, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("L", (4, 4), i).save(folder / f"{i}{suffix}")
    return folder


def layout(root: Path, *folders: str, count: int = 5) -> Path:
    for folder in folders:
        fill(root / folder, count)
    return root


def sizes(images: ImageSet) -> dict[str, int]:
    return {name: len(split) for name, split in images.splits.items()}


def by_class(images: Images, classes: tuple[str, ...]) -> dict[str, set[str]]:
    return {name: {images.names[i] for i in np.flatnonzero(images.targets == n)} for n, name in enumerate(classes)}


@pytest.mark.parametrize("train", ["train", "training"])
@pytest.mark.parametrize("valid", ["val", "valid", "validation"])
@pytest.mark.parametrize("test", ["test", "testing"])
def test_split_folders(train: str, valid: str, test: str, tmp_path: Path) -> None:
    root = layout(tmp_path / "pets", *(f"{split}/{kind}" for split in (train, valid, test) for kind in ("cat", "dog")))
    images = read_data(root)
    assert (images.name, images.classes, images.notes) == ("pets", ("cat", "dog"), ())
    for folder, split in zip((train, valid, test), images.splits.values(), strict=True):
        assert by_class(split, images.classes) == {
            kind: {f"{folder}/{kind}/{i}.png" for i in range(5)} for kind in ("cat", "dog")
        }
        assert [root / name for name in split.names] == split.pictures


def test_train_and_val_alone_have_no_test_split(tmp_path: Path) -> None:
    images = read_data(layout(tmp_path, "train/a", "train/b", "val/a", "val/b"))
    assert sizes(images) == {"train": 10, "valid": 10}
    assert images.test is None


def test_without_val_a_fifth_comes_from_train_and_never_from_test(tmp_path: Path) -> None:
    root = layout(tmp_path, "train/a", "train/b", "test/a", "test/b", count=10)
    for seed in range(5):
        images = read_data(root, seed)
        assert sizes(images) == {"train": 16, "valid": 4, "test": 20}
        assert np.bincount(images.valid.targets).tolist() == [2, 2]
        assert all(name.startswith("train/") for name in [*images.train.names, *images.valid.names])
        assert all(name.startswith("test/") for name in images.test.names)
        assert not set(images.train.names) & set(images.valid.names)


def test_plain_folder_is_split(tmp_path: Path) -> None:
    root = layout(tmp_path, "cat", "dog", "emu", count=10)
    images = read_data(root)
    assert images.classes == ("cat", "dog", "emu")
    assert sizes(images) == {"train": 24, "valid": 6}
    assert sorted([*images.train.names, *images.valid.names]) == sorted(
        f"{kind}/{i}.png" for kind in images.classes for i in range(10)
    )


def test_split_follows_the_seed_and_not_where_the_folder_lies(tmp_path: Path) -> None:
    first, second = (layout(tmp_path / place, "cat", "dog", count=20) for place in ("here", "there"))
    assert list(read_data(first, 1).valid.names) == list(read_data(second, 1).valid.names)
    assert set(read_data(first, 1).valid.names) != set(read_data(first, 2).valid.names)


def test_path_may_be_text_or_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout(tmp_path / "pets", "cat", "dog")
    monkeypatch.chdir(tmp_path)
    assert read_data("pets").name == read_data(Path("pets")).name == read_data(str(tmp_path / "pets")).name == "pets"


def test_folder_here_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(layout(tmp_path, "cat", "dog"))
    assert read_data(".").name


def test_image_set_is_returned_as_it_is(stripes: ImageSet) -> None:
    assert read_data(stripes) is stripes


def test_numeric_class_names_keep_their_images(tmp_path: Path) -> None:
    images = read_data(layout(tmp_path, *(str(i) for i in range(12)), count=2))
    assert images.classes == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
    for name, target in zip(images.train.names, images.train.targets, strict=True):
        assert name.split("/")[0] == images.classes[target]


def test_class_names_are_kept_letter_by_letter(tmp_path: Path) -> None:
    names = ["-x", "[red]", "a b", "con", "ö", "日本", "<img>", "%s"]
    assert read_data(layout(tmp_path, *names, count=2)).classes == tuple(sorted(names))


def test_images_below_class_folders_belong_to_the_class(tmp_path: Path) -> None:
    images = read_data(layout(tmp_path, "cat", "cat/young/tiny", "dog"))
    assert images.classes == ("cat", "dog")
    assert np.bincount(np.concatenate([images.train.targets, images.valid.targets])).tolist() == [10, 5]


@pytest.mark.parametrize("suffix", [".JPG", ".JpEg", ".PNG", ".TIF", ".Bmp", ".webp"])
def test_endings_in_any_case(suffix: str, tmp_path: Path) -> None:
    fill(tmp_path / "cat", suffix=suffix)
    fill(tmp_path / "dog", suffix=suffix)
    images = read_data(tmp_path)
    assert sizes(images) == {"train": 8, "valid": 2}
    assert images.notes == ()


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    root = layout(tmp_path, "cat", "dog", ".hidden", "__MACOSX", "cat/.thumbs", "cat/__MACOSX", "__pycache__")
    for name in (".hidden.jpg", "._0.png", ".DS_Store"):
        (root / "cat" / name).write_bytes(b"no image")
    images = read_data(root)
    assert images.classes == ("cat", "dog")
    assert sizes(images) == {"train": 8, "valid": 2}
    assert images.notes == ()


def test_stray_images_in_the_root_are_no_class(tmp_path: Path) -> None:
    root = layout(tmp_path, "cat", "dog")
    fill(root, 3)
    images = read_data(root)
    assert sizes(images) == {"train": 8, "valid": 2}
    assert images.notes == (f"3 images are in no class folder and not used: 3 in {root.name}/",)


def test_images_beside_the_class_folders_of_splits_are_counted(tmp_path: Path) -> None:
    root = layout(tmp_path / "pets", "train/a", "train/b", "val/a", "val/b")
    fill(root / "train", 1)
    assert "1 image is in no class folder and not used: 1 in pets/train/" in read_data(root).notes
    fill(root / "val", 2)
    assert read_data(root).notes == ("3 images are in no class folder and not used: 1 in pets/train/, 2 in pets/val/",)


def test_a_test_folder_without_class_folders_is_no_split(tmp_path: Path) -> None:
    images = read_data(layout(tmp_path / "pets", "train/a", "train/b", "val/a", "val/b", "test"))
    assert images.test is None
    assert "test/ has no class folders with images, so there is no test split" in images.notes
    assert "5 images are in no class folder and not used: 5 in pets/test/" in images.notes


@pytest.mark.parametrize("name", ["train", "val", "Training"])
def test_a_class_may_have_the_name_of_a_split(name: str, tmp_path: Path) -> None:
    root = layout(tmp_path, "bus", "car", name)
    images = read_data(root)
    assert set(images.classes) == {"bus", "car", name}
    assert images.notes == (f"{name}/ has images but no class folders, so it is a class like bus, car",)
    measured, split = read_for_evaluation(root, images.classes)
    assert (len(measured), split) == (15, "all")


@pytest.mark.parametrize(
    ("folders", "first", "have"),
    [
        (("bus", "car", "test"), "test", "test/ has images but no class folders, beside the class folders bus, car"),
        (("bus", "train"), "train", "train/ has images but no class folders, beside the class folders bus"),
        (("bus", "car", "train", "val"), "train", "train/ and val/ have images but no class folders"),
    ],
)
def test_what_may_be_a_class_or_a_split_is_refused(
    folders: tuple[str, ...], first: str, have: str, tmp_path: Path
) -> None:
    root = layout(tmp_path, *folders)
    with pytest.raises(DataError, match=rf"{have}.* rename its folder \(photos_of_{first}\)"):
        read_data(root)
    with pytest.raises(DataError, match=have):
        read_for_evaluation(root, ("bus", "car"))


def test_a_known_class_with_the_name_of_a_split_is_evaluated(tmp_path: Path) -> None:
    images, split = read_for_evaluation(layout(tmp_path, "bus", "test"), ("bus", "car", "test"))
    assert (len(images), split) == (10, "all")
    assert sorted(set(images.targets.tolist())) == [0, 2]


def test_notes_tell_of_files_passed_over(tmp_path: Path) -> None:
    root = layout(tmp_path, "cat", "dog")
    (root / "cat" / "labels.csv").touch()
    assert read_data(root).notes == ("skipped 1 file without an image extension: cat/labels.csv",)
    for name in ("a.gif", "b.txt", "c"):
        (root / "dog" / name).touch()
    assert read_data(root).notes == (
        "skipped 4 files without an image extension: cat/labels.csv, dog/a.gif, dog/b.txt …",
    )


def test_notes_tell_of_folders_that_are_no_class(tmp_path: Path) -> None:
    root = layout(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    (root / "train" / "emu").mkdir()
    (root / "train" / "fox" / "deep").mkdir(parents=True)
    (root / "train" / "fox" / "notes.txt").touch()
    images = read_data(root)
    assert images.classes == ("cat", "dog")
    assert images.notes == ("skipped folders without images: emu, fox",)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere")
    root = layout(tmp_path / "pets", "cat")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    images = read_data(root)
    assert images.classes == ("cat", "dog")
    assert np.bincount(np.concatenate([images.train.targets, images.valid.targets])).tolist() == [10, 5]


def test_loops_of_links_end_and_count_every_image_once(tmp_path: Path) -> None:
    root = layout(tmp_path, "cat", "dog", "cat/deep")
    (root / "cat" / "self").symlink_to(root / "cat")
    (root / "cat" / "deep" / "parent").symlink_to(root / "cat")
    (root / "dog" / "again").symlink_to(root / "dog")
    (root / "dog" / "nowhere").symlink_to(root / "dog" / "nowhere")
    (root / "emu").symlink_to(root / "emu")
    images = read_data(root)
    assert images.classes == ("cat", "dog")
    assert sizes(images) == {"train": 12, "valid": 3}


def test_dangling_links_are_listed_for_the_reader_to_refuse(tmp_path: Path) -> None:
    root = layout(tmp_path, "cat")
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    assert [file.name for file in image_files(root)] == ["0.png", "1.png", "2.png", "3.png", "4.png", "gone.png"]


def test_folders_named_like_images_are_no_images(tmp_path: Path) -> None:
    root = layout(tmp_path, "cat", "dog")
    (root / "cat" / "album.jpg").mkdir()
    assert sizes(read_data(root)) == {"train": 8, "valid": 2}


def test_order_of_image_files_is_fixed(tmp_path: Path) -> None:
    names = ["b/2.png", "b/10.png", "a/z.png", "c.png", "B.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(file.relative_to(tmp_path)) for file in image_files(tmp_path)]
    assert found == ["B.png", "c.png", "a/z.png", "b/10.png", "b/2.png"]


@pytest.mark.parametrize("name", ["nowhere/at/all", "./nowhere", "../nowhere"])
def test_no_such_folder(name: str) -> None:
    with pytest.raises(DataError, match=f"no such folder: {name.removeprefix('./')}"):
        read_data(name)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = fill(tmp_path) / "0.png"
    with pytest.raises(DataError, match=r"0\.png is a file; give a folder of class folders"):
        read_data(file)


def test_no_images_tells_what_was_expected_and_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images under .*/CLASS/.*found nothing"):
        read_data(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DataError, match="no images under .*found cat/, readme.txt$"):
        read_data(tmp_path)


def test_images_without_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    with pytest.raises(DataError, match=r"no images under .*found 0\.png, 1\.png"):
        read_data(tmp_path)


def test_no_images_under_train_asks_for_class_folders_there(tmp_path: Path) -> None:
    fill(tmp_path / "train", 2)
    with pytest.raises(DataError, match=r"no images under .*found 0\.png, 1\.png") as caught:
        read_data(tmp_path)
    assert f"{tmp_path}/train/CLASS/*.jpg" in str(caught.value)
    assert "train/train" not in str(caught.value)


@pytest.mark.parametrize("root", ["", "train/"])
def test_one_class_is_not_enough(root: str, tmp_path: Path) -> None:
    layout(tmp_path, f"{root}cat")
    (tmp_path / f"{root}dog").mkdir()
    with pytest.raises(DataError, match="only one class, 'cat', .*at least two"):
        read_data(tmp_path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_class_that_training_does_not_know(split: str, tmp_path: Path) -> None:
    root = layout(tmp_path, "train/a", "train/b", f"{split}/b", f"{split}/c")
    with pytest.raises(
        DataError, match=f"{split} has classes that are not in the training data: c; the training classes are a, b$"
    ):
        read_data(root)


def test_same_number_of_other_classes_is_refused(tmp_path: Path) -> None:
    root = layout(tmp_path, "train/a", "train/b", "val/c", "val/d")
    with pytest.raises(DataError, match="in the training data: c, d; the training classes are a, b$"):
        read_data(root)


def test_empty_folder_in_val_is_no_unknown_class(tmp_path: Path) -> None:
    root = layout(tmp_path, "train/a", "train/b", "val/a", "val/b")
    (root / "val" / "c").mkdir()
    assert sizes(read_data(root)) == {"train": 10, "valid": 10}


def test_val_may_lack_a_class_and_is_matched_by_name(tmp_path: Path) -> None:
    images = read_data(layout(tmp_path, "train/a", "train/b", "train/c", "val/b", "val/c", "test/c"))
    assert sorted(set(images.valid.targets.tolist())) == [1, 2]
    assert set(images.test.targets.tolist()) == {2}
    assert {name.split("/")[1] for name in images.test.names} == {"c"}


def test_splits_without_train(tmp_path: Path) -> None:
    root = layout(tmp_path, "val/a", "val/b", "test/a", "test/b")
    with pytest.raises(DataError, match=r"has val, test/ but no train/ folder"):
        read_data(root)


def test_val_without_images(tmp_path: Path) -> None:
    root = layout(tmp_path, "train/a", "train/b")
    (root / "val" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no validation images in .*val"):
        read_data(root)


def test_one_image_of_each_class_is_for_training_and_validation(tmp_path: Path) -> None:
    images = read_data(layout(tmp_path, "a", "b", count=1))
    assert images.train.names == images.valid.names == ["a/0.png", "b/0.png"]
    assert images.notes[0].startswith("no class has two images, so validation uses the training images")


def test_an_empty_folder_for_validation_is_refused(tmp_path: Path) -> None:
    root = layout(tmp_path, "train/a", "train/b", count=2)
    (root / "val").mkdir()
    with pytest.raises(DataError, match="no validation images in .*val; add some, or leave that split out"):
        read_data(root)


def test_two_images_a_class_are_enough(tmp_path: Path) -> None:
    images = read_data(layout(tmp_path, "a", "b", count=2))
    assert sizes(images) == {"train": 2, "valid": 2}
    assert sorted(images.train.targets) == sorted(images.valid.targets) == [0, 1]


CLASSES = ("ant", "bee", "cow", "dog")


def test_evaluation_matches_classes_by_name_where_numbers_would_shift(tmp_path: Path) -> None:
    images, split = read_for_evaluation(layout(tmp_path, "bee", "dog"), CLASSES)
    assert split == "all"
    assert by_class(images, CLASSES) == {
        "ant": set(),
        "bee": {f"bee/{i}.png" for i in range(5)},
        "cow": set(),
        "dog": {f"dog/{i}.png" for i in range(5)},
    }


def test_evaluation_keeps_the_order_of_the_run_not_of_the_alphabet(tmp_path: Path) -> None:
    images, _ = read_for_evaluation(layout(tmp_path, "ant", "bee"), ("bee", "ant"))
    for name, target in zip(images.names, images.targets, strict=True):
        assert name.split("/")[0] == ("bee", "ant")[target]


def test_evaluation_of_a_set_matches_classes_by_name() -> None:
    pictures = [np.zeros((2, 2), np.uint8)] * 4
    some = Images(pictures, np.array([0, 1, 1, 0]), list("wxyz"))
    whole = ImageSet("some", ("bee", "dog"), some, some)
    images, split = read_for_evaluation(whole, CLASSES)
    assert (images.targets.tolist(), split) == ([1, 3, 3, 1], "valid")


@pytest.mark.parametrize(
    ("folders", "wanted", "chosen", "prefixes"),
    [
        (("train", "val", "test"), "", "test", {"test"}),
        (("train", "val"), "", "valid", {"val"}),
        (("train",), "", "train", {"train"}),
        (("test",), "", "test", {"test"}),
        (("train", "val", "test"), "valid", "valid", {"val"}),
        (("train", "val", "test"), "train", "train", {"train"}),
        (("train", "validation", "test"), "all", "all", {"train", "validation", "test"}),
    ],
)
def test_which_split_is_evaluated(
    folders: tuple[str, ...], wanted: str, chosen: str, prefixes: set[str], tmp_path: Path
) -> None:
    layout(tmp_path, *(f"{folder}/{kind}" for folder in folders for kind in ("ant", "bee")))
    images, split = read_for_evaluation(tmp_path, CLASSES, wanted)
    assert split == chosen
    assert {name.split("/")[0] for name in images.names} == prefixes
    assert len(images) == 10 * len(prefixes)


@pytest.mark.parametrize(
    ("folders", "has"), [(("train/ant", "val/ant"), "train, valid"), (("ant", "bee"), "no splits: use --split all")]
)
def test_evaluation_of_a_split_that_is_not_there(folders: tuple[str, ...], has: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has no test split; it has {has}"):
        read_for_evaluation(layout(tmp_path, *folders), CLASSES, "test")


def test_evaluation_of_a_class_that_the_run_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in the training data: emu; the training classes are ant, bee, cow, dog$"):
        read_for_evaluation(layout(tmp_path, "ant", "emu"), CLASSES)


def test_evaluation_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_for_evaluation(tmp_path / "gone", CLASSES)


@pytest.mark.parametrize(
    ("name", "meant"), [("Validate", "val"), ("dev", "val"), ("holdout", "test"), ("testset", "test"), ("spare", "")]
)
def test_folders_beside_the_splits_are_said(name, meant, tmp_path):
    """Stumble 6."""
    from conftest import write_photos

    write_photos(tmp_path / "train", 5)
    write_photos(tmp_path / name, 2)
    note = f"{name}/ is not used" + (f"; if it is meant for {meant}/, rename it" if meant else "")
    assert note in read_data(tmp_path).notes
    write_photos(tmp_path / "val", 2)
    notes = read_data(tmp_path).notes
    assert not any("meant for val" in each for each in notes)


def test_a_train_folder_of_another_name_is_guessed(tmp_path: Path) -> None:
    root = layout(tmp_path, "train_set/a", "train_set/b", "val/a", "val/b")
    with pytest.raises(DataError, match=r"has val/ but no train/ folder; if train_set/ is meant for train/, rename it"):
        read_data(root)


@pytest.mark.parametrize("name", ["{}", "fold{}", "fold_{}"])
def test_folders_of_folds_are_no_classes(name: str, tmp_path: Path) -> None:
    root = layout(tmp_path, *(f"{name.format(fold)}/{kind}" for fold in range(5) for kind in ("cat", "dog")), count=1)
    with pytest.raises(DataError, match=r"if they are folds, move the images of each class .* give --folds 5$"):
        read_data(root)


def test_splits_are_no_classes(tmp_path):
    """Stumble 7."""
    from conftest import write_photos

    for name in ("train_set", "val_set"):
        write_photos(tmp_path / name, 2)
    with pytest.raises(DataError, match=r"train_set, val_set of .* all have the same subfolders \(flat, tall\)"):
        read_data(tmp_path)


def test_labels_of_which_each_image_has_its_own_are_no_classes(tmp_path):
    """Stumble 32."""
    from conftest import write_photos

    with pytest.raises(
        DataError, match=r"12 classes in 12 images of .*, and no class has two images: are .* classes\?"
    ):
        read_data(write_photos(tmp_path / "photos", 1, tuple(f"{i:02}" for i in range(12))))


def test_photographs_of_phones_are_no_secret(tmp_path, monkeypatch):
    """Stumble 15."""
    from conftest import write_photos
    from frostline.data import decoding, read_unlabelled
    from frostline.errors import UsageError

    monkeypatch.setattr(decoding, "READ", ())
    photos = write_photos(tmp_path / "photos", 5)
    (photos / "flat" / "IMG_2.heic").write_bytes(b"x")
    assert "1 of these are phone photographs: pip install pillow-heif adds support" in read_data(photos).notes
    alone = tmp_path / "alone" / "cats"
    alone.mkdir(parents=True)
    (alone / "IMG_3.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match="no images under .*; for phone photographs, pip install pillow-heif"):
        read_data(tmp_path / "alone")
    with pytest.raises(UsageError, match="no images in .*; pip install pillow-heif adds support"):
        read_unlabelled([alone])
