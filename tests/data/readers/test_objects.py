from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import CIFAR100, STL10, SVHN, DatasetFolder, FakeData, FashionMNIST, ImageFolder
from torchvision.transforms import v2

from conftest import write_photos
from frostline.data.decoding import Item, open_image
from frostline.data.images import Images, ImageSet
from frostline.data.readers.objects import parts_of, read_objects, read_objects_for
from frostline.errors import DataError

COUNT = 20


def pictures(count: int = COUNT, channels: int = 3, first: int = 0) -> np.ndarray:
    """Pictures (N, 6, 8, C), no two alike; the corner's first value is the picture's number."""
    made = np.random.default_rng(first).integers(0, 256, (count, 6, 8, channels), dtype=np.uint8)
    made[:, 0, 0, 0] = np.arange(first, first + count)
    return made


def labels(count: int = COUNT, kinds: int = 2) -> np.ndarray:
    return np.arange(count) % kinds


def shown(images: Images) -> list[np.ndarray]:
    return [np.asarray(open_image(picture)) for picture in images.pictures]


def named(data: ImageSet, part: Images) -> dict[str, str]:
    """The class names of the images by their own."""
    return {name: data.classes[target] for name, target in zip(part.names, part.targets.tolist(), strict=True)}


class Own(Dataset):
    """Somebody's dataset: gives pairs, has a length, counts what is read."""

    def __init__(self, images: Any, targets: Any) -> None:
        self.pairs = list(zip(images, targets, strict=True))
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Any:
        self.read.append(i)
        return self.pairs[i]


@dataclass
class Columns:
    """What is read of a Hugging Face Dataset: rows by number, columns by name, features."""

    columns: dict[str, list[Any]]
    features: dict[str, Any]

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        return self.columns[key] if isinstance(key, str) else {n: c[key] for n, c in self.columns.items()}


def columns(targets: Any, names: list[str] | None, image: str = "image", label: str = "label") -> Columns:
    faces = [Image.fromarray(picture) for picture in pictures(len(targets))]
    kind = SimpleNamespace(names=names) if names else SimpleNamespace(dtype="int64")
    return Columns({image: faces, label: list(targets)}, {image: SimpleNamespace(decode=True), label: kind})


def refused(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_objects(data, 0)


# What every form of data has in common


FORMS: dict[str, Any] = {
    "numpy": lambda x, y: (x, y),
    "channels first": lambda x, y: (x.transpose(0, 3, 1, 2), y),
    "floats": lambda x, y: (x / 255, y),
    "tensors": lambda x, y: (torch.from_numpy(x), torch.from_numpy(y)),
    "float tensors": lambda x, y: ((torch.from_numpy(x).float() / 255).permute(0, 3, 1, 2).requires_grad_(), list(y)),
    "list of arrays": lambda x, y: (list(x), y.tolist()),
    "list of tensors": lambda x, y: ([torch.from_numpy(image) for image in x], [torch.tensor(label) for label in y]),
    "list of PIL images": lambda x, y: ([Image.fromarray(image) for image in x], y.astype(float)),
    "column of labels": lambda x, y: (x, y[:, None]),
    "TensorDataset": lambda x, y: TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
    "ToTensor'd": lambda x, y: TensorDataset(torch.from_numpy(x / 255).permute(0, 3, 1, 2), torch.from_numpy(y)),
    "list of pairs": lambda x, y: list(zip(x, y, strict=True)),
    "own dataset": lambda x, y: Own(x, y),
    "Subset": lambda x, y: Subset(Own([x[0], *x], [9, *y]), range(1, len(x) + 1)),
    "columns": lambda x, y: Columns({"image": list(x), "label": list(y)}, {"image": None, "label": None}),
    "mapping": lambda x, y: {"train": (x, y)},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_all_forms_of_the_same_data_are_the_same_data(form) -> None:
    expected = read_objects((pictures(), labels()), 0)
    found = read_objects(form(pictures(), labels()), 0)
    assert found.classes == expected.classes == ("0", "1")
    for one, other in zip(found.splits.values(), expected.splits.values(), strict=True):
        assert one.names == other.names
        assert one.targets.tolist() == other.targets.tolist()
        assert one.targets.dtype == np.int64
        assert all(np.array_equal(a, b) for a, b in zip(shown(one), shown(other), strict=True))
        assert one.digests == other.digests


@settings(max_examples=30, deadline=None)
@given(given_labels=st.lists(st.integers(-3, 12), min_size=2, max_size=40), seed=st.integers(0, 1000))
def test_without_validation_a_stratified_fifth_of_train_is_taken(given_labels: list[int], seed: int) -> None:
    often = np.array([0, 0, 1, 1, *given_labels])
    whole = read_objects((pictures(len(often)), often), seed)
    again = read_objects((pictures(len(often)), often), seed)
    assert whole.valid.names == again.valid.names
    assert sorted([*whole.train.names, *whole.valid.names]) == [f"train-{i:05}" for i in range(len(often))]
    assert {**named(whole, whole.train), **named(whole, whole.valid)} == {
        f"train-{i:05}": str(label) for i, label in enumerate(often)
    }
    for number, name in enumerate(whole.classes):
        count, held = (often == int(name)).sum(), (whole.valid.targets == number).sum()
        assert held == min(max(1, round(0.2 * count)), count - 1)
    assert whole.test is None


@given(st.lists(st.integers(-20, 120), min_size=2, max_size=12, unique=True))
def test_classes_of_numbers_are_in_the_order_of_the_numbers(numbers: list[int]) -> None:
    whole = read_objects((pictures(2 * len(numbers)), numbers * 2), 0)
    assert whole.classes == tuple(map(str, sorted(numbers)))


def test_classes_of_names_are_sorted() -> None:
    kinds = ["dog", "ant", "bee", "10", "9"] * 4
    whole = read_objects((pictures(), kinds), 0)
    assert whole.classes == ("10", "9", "ant", "bee", "dog")
    assert named(whole, whole.train).items() <= {f"train-{i:05}": kind for i, kind in enumerate(kinds)}.items()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ((pictures(), labels()), "arrays"),
        ({"train": (pictures(), labels())}, "data"),
        (list(zip(pictures(), labels(), strict=True)), "data"),
        (Own(pictures(), labels()), "own"),
        (Subset(Own(pictures(), labels()), range(10)), "own"),
    ],
)
def test_name(data: object, name: str) -> None:
    assert read_objects(data, 0).name == name


def test_nothing_is_imported_for_it() -> None:
    source = Path(sys.modules[read_objects.__module__].__file__ or "").read_text()
    assert not re.search(r"import (torch|datasets|pandas)|from (torch|datasets|pandas)", source)


# Pairs


@pytest.mark.parametrize("shape", ["NHW", "NHW1", "N1HW"])
def test_grey_images(shape: str) -> None:
    grey = pictures(channels=1)
    given_images = {"NHW": grey[..., 0], "NHW1": grey, "N1HW": grey.transpose(0, 3, 1, 2)}[shape]
    whole = read_objects((given_images, labels()), 0)
    i = int(whole.train.names[3][-5:])
    assert np.array_equal(shown(whole.train)[3], np.repeat(grey[i], 3, 2))


def test_paths(tmp_path: Path) -> None:
    files = sorted(write_photos(tmp_path / "photos", 10).rglob("*.png"))
    for paths in (files, [str(file) for file in files], np.array([str(file) for file in files])):
        whole = read_objects((paths, [file.parent.name for file in files]), 0)
        assert whole.classes == ("flat", "tall")
        assert all(isinstance(picture, Path) for picture in whole.train.pictures)
        assert [picture.parent.name for picture in whole.train.pictures] == list(named(whole, whole.train).values())


def test_one_damaged_file_is_no_reason_to_refuse_the_others(tmp_path: Path) -> None:
    files = sorted(write_photos(tmp_path / "photos", 10).rglob("*.png"))
    files[0].write_bytes(b"damaged")
    assert len(read_objects((files, [file.parent.name for file in files]), 0).train) == 16


def test_several_labels_an_image() -> None:
    several = np.random.default_rng(0).random((COUNT, 3)) < 0.5
    for given_labels in (several, several.astype(int), several.astype(np.float32), torch.from_numpy(several)):
        whole = read_objects((pictures(), given_labels), 0)
        assert whole.task == "multilabel"
        assert whole.classes == ("0", "1", "2")
        assert len(whole.valid) > 0
        for part in (whole.train, whole.valid):
            assert part.targets.dtype == bool
            assert part.targets.tolist() == [several[int(name[-5:])].tolist() for name in part.names]


def test_one_hot_labels_are_remarked_upon() -> None:
    assert "give class numbers" in read_objects((pictures(), np.eye(2, dtype=int)[labels()]), 0).notes[0]
    assert read_objects((pictures(), np.ones((COUNT, 2))), 0).notes == ()


@pytest.mark.parametrize("kind", ["pair", "TensorDataset", "own"])
def test_normalised_images_are_refused_with_the_range_found(kind: str) -> None:
    random = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.from_numpy(labels())
    data = {"pair": (random, targets), "TensorDataset": TensorDataset(random, targets), "own": Own(random, targets)}
    refused(data[kind], r"floats from -\d\.\d+ to \d\.\d+; give 0 … 1 before normalisation")


def test_floats_up_to_255_are_levels_where_they_are_whole() -> None:
    read = read_objects((pictures().astype(float), labels()), 0)
    plain = read_objects((pictures(), labels()), 0)
    assert all(np.array_equal(one, other) for one, other in zip(read.train.pictures, plain.train.pictures, strict=True))
    refused(
        (pictures().astype(float) * 0.99, labels()),
        r"image 0 of train: floats from 0 to 2\d\d.*; .* before normalisation, or whole numbers 0 … 255; give 0 … 255",
    )


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((4, 784), np.uint8), r"\(784,\) of uint8"),
        (np.zeros((4, 8, 8, 5), np.uint8), r"\(8, 8, 5\)"),
        (np.zeros((4, 2, 3, 8, 8), np.uint8), r"\(2, 3, 8, 8\)"),
        (np.full((4, 8, 8), 256), "int64"),
        ([1, 2, 3, 4], r"\(\) of uint8"),
        ([None] * 4, "object"),
    ],
)
def test_other_shapes_and_kinds_are_refused(images: object, found: str) -> None:
    refused((images, [0, 1, 0, 1]), rf"images of train cannot be read: an array .*{found}.*give")


def test_files_that_are_all_missing_are_refused(tmp_path: Path) -> None:
    refused(([tmp_path / "a.jpg", tmp_path / "b.jpg"], ["x", "y"]), r"cannot be read: no such file: .*a\.jpg")


def test_lengths_that_differ_are_refused() -> None:
    refused((pictures(5), labels(4)), "train has 5 images and 4 labels; give one label per image")
    refused({"train": (pictures(), labels()), "val": (pictures(3), labels(4))}, "valid has 3 images and 4 labels")


@pytest.mark.parametrize("data", [([], []), (np.zeros((0, 8, 8), np.uint8), []), [], Own([], []), {"train": []}])
def test_empty_data_are_refused(data: object) -> None:
    refused(data, "train is empty")


@pytest.mark.parametrize("only", [0, "cat"])
def test_one_class_is_refused(only: object) -> None:
    refused((pictures(), [only] * COUNT), f"only one class, '{only}'.*at least two")


def test_one_image_of_each_class_is_for_training_and_validation() -> None:
    images = read_objects((pictures(2), [0, 1]), 0)
    assert images.train.names == images.valid.names
    assert "validation uses the training images" in images.notes[0]


@pytest.mark.parametrize(
    ("found", "odd"),
    [
        ([0, 1, 0.5, 1], r"0\.5"),
        ([0, 1, np.inf, 1], "inf|0"),
        ([[0, 1], [1], [], [0]], r"\[0, 1\]"),
        ([[0, 2], [1, 0], [0, 0], [0, 1]], r"\[0, 2\]"),
        (np.zeros((4, 8, 8)), r"\[\[0"),
        ([["a", "b"]] * 4, r"\['a', 'b'\]"),
    ],
)
def test_other_labels_are_refused(found: object, odd: str) -> None:
    refused((pictures(4), found), rf"train has labels such as ({odd}).*; give class numbers or names")


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan])
@pytest.mark.parametrize("others", [["cat", "dog", "cat"], [0, 1, 1]])
def test_a_missing_label_is_no_class(missing: object, others: list[object]) -> None:
    refused((pictures(4), [*others, missing]), "1 labels of train are missing, the first is number 3")


def test_a_path_in_a_mapping_is_told_what_to_do(tmp_path: Path) -> None:
    refused({"train": str(tmp_path), "val": tmp_path}, "train is the path .*give one folder with train/ and val/")


# Datasets of torch and torchvision


def test_images_of_a_dataset_are_read_when_they_are_needed(tmp_path: Path) -> None:
    source = ImageFolder(str(write_photos(tmp_path / "photos", 20)))
    opened: list[str] = []
    source.loader = lambda path: opened.append(path) or Image.open(path).convert("RGB")
    whole = read_objects(source, 0)
    assert (whole.name, whole.classes) == ("imagefolder", ("flat", "tall"))
    assert len(set(opened)) <= 8  # that many are tried
    picture = whole.train.pictures[5]
    assert isinstance(picture, Item)
    assert (picture.source, picture.field) == (source, 0)
    assert named(whole, whole.train)[whole.train.names[5]] in source.samples[picture.index][0]


def test_labels_that_a_target_transform_changes_are_those_of_the_items(tmp_path: Path) -> None:
    root = str(write_photos(tmp_path / "photos", 4))
    whole = read_objects(ImageFolder(root, target_transform=lambda label: 1 - label), 0)
    assert whole.classes == ("flat", "tall")
    for name, kind in named(whole, whole.train).items():
        assert (kind == "flat") == (int(name[-5:]) >= 4)


def corrected(kind: type, number: int, label: int) -> type:
    """A subclass that corrects the label of one item, as people do who found a mistake."""

    class Corrected(kind):  # type: ignore[misc]
        def __getitem__(self, i: int) -> Any:
            image, old = super().__getitem__(i)
            return image, label if i == number else old

    return Corrected


def test_labels_are_those_of_the_items_even_if_only_one_differs_from_the_list(tmp_path: Path) -> None:
    source = corrected(Own, 57, 2)(pictures(100), labels(100))
    source.targets = labels(100).tolist()
    assert read_objects_for(source, ("0", "1", "2")).targets.tolist()[56:59] == [0, 2, 0]
    root = str(write_photos(tmp_path / "photos", 20))
    assert read_objects_for(corrected(ImageFolder, 13, 1)(root), ("flat", "tall")).targets.tolist()[12:15] == [0, 1, 0]


def test_labels_of_a_decorated_getitem_are_those_of_the_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = DatasetFolder.__getitem__

    @functools.wraps(plain)
    def fixed(self: ImageFolder, i: int) -> Any:
        image, label = plain(self, i)
        return image, 1 if i == 13 else label

    monkeypatch.setattr(DatasetFolder, "__getitem__", fixed)
    source = ImageFolder(str(write_photos(tmp_path / "photos", 20)))
    assert read_objects_for(source, ("flat", "tall")).targets.tolist()[12:15] == [0, 1, 0]


def test_labels_of_a_subset_of_your_own_are_those_of_its_items(tmp_path: Path) -> None:
    class Fixed:
        def __init__(self, dataset: Any, indices: list[int]) -> None:
            self.dataset, self.indices = dataset, indices

        def __len__(self) -> int:
            return len(self.indices)

        def __getitem__(self, i: int) -> Any:
            image, label = self.dataset[self.indices[i]]
            return image, 1 if i == 13 else label

    source = Fixed(ImageFolder(str(write_photos(tmp_path / "photos", 20))), list(range(40)))
    assert read_objects_for(source, ("flat", "tall")).targets.tolist()[12:15] == [0, 1, 0]


def test_targets_that_were_changed_count_only_where_the_items_use_them(tmp_path: Path) -> None:
    source = ImageFolder(str(write_photos(tmp_path / "photos", 20)))
    source.targets[13] = 1  # its items take `samples`
    assert read_objects_for(source, ("flat", "tall")).targets.tolist()[12:15] == [0, 0, 0]
    source.samples[13] = (source.samples[13][0], 1)
    assert read_objects_for(source, ("flat", "tall")).targets.tolist()[12:15] == [0, 1, 0]


@pytest.mark.parametrize(
    ("kind", "images", "attribute"),
    [
        (FashionMNIST, torch.from_numpy(pictures(60)[..., 0]), "targets"),
        (CIFAR100, pictures(60), "targets"),
        (SVHN, pictures(60).transpose(0, 3, 1, 2), "labels"),
        (STL10, pictures(60).transpose(0, 3, 1, 2), "labels"),
    ],
)
def test_labels_of_torchvision_are_those_of_its_items(kind: type, images: Any, attribute: str) -> None:
    source = kind.__new__(kind)  # without its files
    source.data, source.transform, source.target_transform = images, None, None
    setattr(source, attribute, torch.arange(60) % 3 if torch.is_tensor(images) else np.arange(60) % 3)
    expected = [int(source[i][1]) for i in range(60)]
    read: list[int] = []
    source.transform = lambda image: read.append(1) or image
    classes = tuple(getattr(kind, "classes", ("0", "1", "2")))
    assert read_objects_for(source, classes).targets.tolist() == expected
    assert len(read) < 60  # a few are tried, several times


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("labels", ["cat", "dog"]),
        ("targets", None),
        ("targets", torch.zeros(COUNT, 8)),
        ("samples", [Path("a.jpg")] * COUNT),
        ("samples", 7),
        ("classes", ["only one"]),
        ("classes", [("tench", "Tinca tinca"), ("goldfish",)]),
        ("classes", ["same", "same"]),
        ("classes", 2),
    ],
)
def test_attributes_that_mean_something_else_do_no_harm(attribute: str, value: object) -> None:
    source = Own(pictures(), labels())
    setattr(source, attribute, value)
    whole = read_objects(source, 0)
    assert whole.classes == ("0", "1")
    assert all(int(kind) == int(name[-5:]) % 2 for name, kind in named(whole, whole.train).items())


def test_a_subset_takes_the_labels_and_names_of_the_whole(tmp_path: Path) -> None:
    source = ImageFolder(str(write_photos(tmp_path / "photos", 10, ("ant", "bee", "cow"))))
    part = Subset(Subset(source, range(5, 30)), torch.arange(0, 15).tolist())
    whole = read_objects(part, 0)
    assert whole.classes == ("ant", "bee")
    assert whole.notes == ("skipped class names without training images: cow",)
    assert all((kind == "ant") == (int(name[-5:]) < 5) for name, kind in named(whole, whole.train).items())


def test_fake_data() -> None:
    whole = read_objects(FakeData(30, (3, 8, 8), 3, transform=v2.PILToTensor()), 0)
    assert whole.classes == ("0", "1", "2")
    assert shown(whole.train)[0].shape == (8, 8, 3)


def test_random_transforms_are_refused() -> None:
    crop = v2.Compose([v2.RandomCrop(6), v2.RandomHorizontalFlip()])
    refused(FakeData(30, (3, 24, 24), 3, transform=crop), r"change between two reads.*augment=")


def test_damaged_images_of_a_dataset_do_not_end_it(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", 10)
    (root / "flat" / "000.png").write_bytes(b"damaged")
    assert len(read_objects(ImageFolder(str(root)), 0).train) == 16


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        yield pictures(1)[0], 0


@pytest.mark.parametrize("data", [Endless(), DataLoader(Own(pictures(), labels())), iter([]), object(), 7])
def test_what_cannot_be_read_by_number_is_refused(data: object) -> None:
    refused(data, rf"train, of type {type(data).__name__}, cannot be indexed; .*for a DataLoader give its \.dataset")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pictures(), r"item 0 of train \(ndarray\) is of type ndarray; it must be \(image, label\)"),
        (
            TensorDataset(torch.zeros(4, 3, 8, 8)),
            r"item 0 of train \(TensorDataset\) is of type tuple; it must be \(image, label\)",
        ),
        ([{"image": 1, "label": 2}], r"item 0 of train \(list\) is of type dict"),
        ([(pictures()[0], 0), None], r"item 1 of train \(list\) is of type NoneType"),
        (Columns({"image": [1]}, {"image": None}), r"no column 'label'; found image; rename one"),
    ],
)
def test_items_that_are_no_pairs_are_refused(data: object, message: str) -> None:
    refused(data, message)


def test_an_item_that_cannot_be_read_for_its_label_is_named() -> None:
    class Broken(Own):
        def __getitem__(self, i: int) -> Any:
            if i == 3:
                raise OSError("disk on fire")
            return super().__getitem__(i)

    refused(Broken(pictures(), labels()), r"item 3 of train \(Broken\) cannot be read: disk on fire")


# Columns, as Hugging Face has them


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label"), ("scan", "kind")])
def test_columns_by_usual_name_or_by_feature(image: str, label: str) -> None:
    source = columns(labels(), ["cat", "dog"], image, label)
    whole = read_objects(source, 0)
    assert whole.classes == ("cat", "dog")
    picture = whole.train.pictures[2]
    assert isinstance(picture, Item)
    assert (picture.source, picture.field) == (source, image)
    assert np.array_equal(shown(whole.train)[2], pictures()[picture.index])
    assert whole.train.targets[2] == picture.index % 2


def test_columns_without_class_names() -> None:
    assert read_objects(columns([3, 12] * 10, None), 0).classes == ("3", "12")
    assert read_objects(columns(["b", "a"] * 10, None), 0).classes == ("a", "b")


def test_columns_that_cannot_be_told_apart_are_named() -> None:
    source = columns(labels(), ["a", "b"], label="left")
    source.columns["right"], source.features["right"] = source.columns["left"], source.features["left"]
    refused(source, r"no column 'label'; found image, left, right; rename one: dataset\.rename_column\(NAME, 'label'")


def test_the_label_of_images_without_one_is_refused() -> None:
    refused(columns([-1] * 4, ["cat", "dog"]), r"label -1 is not in 0 … 1 \(cat, dog\); leave out images without")


# Mappings


@pytest.mark.parametrize("valid", ["valid", "val", "validation"])
def test_parts_of_a_mapping(valid: str) -> None:
    parts = {
        "train": (pictures(8), labels(8)),
        valid: TensorDataset(torch.from_numpy(pictures(4, first=8)), torch.tensor([1, 1, 0, 1])),
        "test": list(zip(pictures(3, first=12), [0, 1, 1], strict=True)),
        "unsupervised": None,
    }
    whole = read_objects(parts, 0)
    assert {split: len(part) for split, part in whole.splits.items()} == {"train": 8, "valid": 4, "test": 3}
    assert whole.valid.names == ["valid-00000", "valid-00001", "valid-00002", "valid-00003"]
    assert whole.valid.targets.tolist() == [1, 1, 0, 1]
    assert [int(image[0, 0, 0]) for image in shown(whole.test)] == [12, 13, 14]
    assert whole.notes == ("skipped parts with other names: unsupervised",)


def test_without_validation_test_stays_whole() -> None:
    whole = read_objects({"train": (pictures(), labels()), "val": None, "test": (pictures(6), labels(6))}, 0)
    assert {split: len(part) for split, part in whole.splits.items()} == {"train": 16, "valid": 4, "test": 6}


def test_parts_that_carry_names_are_matched_by_name() -> None:
    parts = {"train": columns([0, 1, 2] * 4, ["cat", "dog", "emu"]), "val": columns([0, 1, 0], ["emu", "cat", "yak"])}
    whole = read_objects(parts, 0)
    assert whole.classes == ("cat", "dog", "emu")
    assert list(named(whole, whole.valid).values()) == ["emu", "cat", "emu"]


def test_parts_of_which_one_carries_names_are_matched_by_value() -> None:
    bare, carrying = (pictures(4), [1, 0, 0, 1]), columns([0, 1, 0, 1], ["cat", "dog"])
    whole = read_objects({"train": carrying, "val": bare}, 0)
    assert (whole.classes, whole.valid.targets.tolist()) == (("cat", "dog"), [1, 0, 0, 1])
    whole = read_objects({"train": bare, "val": carrying}, 0)
    assert (whole.classes, whole.valid.targets.tolist()) == (("0", "1"), [0, 1, 0, 1])


def test_texts_are_matched_with_the_names_that_training_carries() -> None:
    whole = read_objects({"train": columns([0, 1] * 4, ["dog", "cat"]), "val": (pictures(2), ["cat", "dog"])}, 0)
    assert (whole.classes, whole.valid.targets.tolist()) == (("dog", "cat"), [1, 0])


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        (
            (pictures(4), [0, 1, 2, 7]),
            "valid has classes that are not in the training data: 2, 7; the training classes are 0, 1",
        ),
        ((pictures(4), ["0", "1", "cat", "1"]), "valid has classes that are not in the training data: cat"),
        ((pictures(4), np.eye(4)), r"labels have shape \(20,\) in train, but \(4, 4\) in valid"),
        ((pictures(2).astype(float) - 9, [0, 1]), "image 0 of valid: floats from -9"),
    ],
)
def test_parts_that_do_not_fit_training_are_refused(valid: object, message: str) -> None:
    refused({"train": (pictures(), labels()), "valid": valid}, message)


def test_a_class_of_test_that_training_does_not_show_is_refused() -> None:
    kinds = ["cat", "dog", "emu"]
    refused(
        {"train": columns([0, 1] * 4, kinds), "test": columns([2], kinds)},
        "test has classes.*training data: emu; .* cat, dog",
    )


def test_mappings_without_training_data_are_refused() -> None:
    refused({"test": (pictures(), labels())}, "the mapping has test but no 'train'")
    refused({"images": 1, "labels": 2}, r"needs 'train' and may have 'valid' and 'test'; found 'images', 'labels'")
    refused({}, "found nothing")


# For evaluation


def test_for_evaluation_labels_are_matched_by_name() -> None:
    classes = ("dog", "emu", "cat")
    assert read_objects_for(columns([0, 1, 1], ["cat", "dog"]), classes).targets.tolist() == [2, 0, 0]
    assert read_objects_for((pictures(3), ["emu", "dog", "emu"]), classes).targets.tolist() == [1, 0, 1]
    assert read_objects_for((pictures(3), [7, 10, 7]), ("10", "9", "7")).targets.tolist() == [2, 0, 2]


def test_for_evaluation_all_images_are_kept_in_order() -> None:
    images = read_objects_for(Own(pictures(), labels()), ("0", "1"))
    assert images.names == [f"data-{i:05}" for i in range(COUNT)]
    assert [int(image[0, 0, 0]) for image in shown(images)] == list(range(COUNT))
    assert images.targets.dtype == np.int64


def test_for_evaluation_one_class_is_enough() -> None:
    assert read_objects_for((pictures(3), ["dog"] * 3), ("cat", "dog")).targets.tolist() == [1, 1, 1]


def test_for_evaluation_several_labels_are_matched_by_column() -> None:
    source = Own(pictures(3), np.array([[1, 0], [0, 1], [1, 1]]))
    source.classes = ["rain", "sun"]
    found = read_objects_for(source, ("sun", "snow", "rain")).targets
    assert found.tolist() == [[False, False, True], [True, False, False], [True, False, True]]


def test_for_evaluation_the_test_part_goes_before_validation_and_training() -> None:
    parts = {split: (pictures(n), labels(n)) for split, n in (("train", 8), ("val", 4), ("test", 6))}
    for split, count in (("test", 6), ("val", 4), ("train", 8)):
        assert len(read_objects_for(parts, ("0", "1"))) == count
        del parts[split]


def test_for_evaluation_classes_that_are_not_known_are_refused() -> None:
    for data in ((pictures(2), [0, 1]), columns([0, 1], ["0", "1"]), (pictures(2), [[1, 0], [0, 1]])):
        with pytest.raises(
            DataError,
            match="data has classes that are not in the training data: 0, 1; the training classes are cat, dog",
        ):
            read_objects_for(data, ("cat", "dog"))


def test_parts_of_gives_what_lies_there() -> None:
    train, valid = object(), object()
    assert parts_of({"training": train, "validation": valid, "test": None}) == {"train": train, "valid": valid}
