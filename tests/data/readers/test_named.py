from __future__ import annotations

import errno
import gzip
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from conftest import write_idx
from frostline.data import read_data, read_for_evaluation
from frostline.data.augment import PRESETS
from frostline.data.decoding import open_image
from frostline.data.images import Images
from frostline.data.readers.named import MOST_VALID, NAMED, _divided, augmentation, default_root, is_here, read_named
from frostline.errors import DataError, FrostlineError, MachineError, UsageError

TARGETS = {"train": np.arange(30) % 3, "valid": np.arange(9) % 3, "test": np.arange(6) % 3}


def drawn(targets: np.ndarray, *shape: int) -> np.ndarray:
    """One image a target, (N, *shape): black but for its second pixel, which tells the target, in red if in colour."""
    images = np.zeros((len(targets), *shape), np.uint8)
    images[(slice(None), 0, 1, 0)[: images.ndim]] = 100 + targets
    return images


def write_jpeg(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "green").save(file)


def idx(folder: str, train: str = "train", test: str = "t10k", end: str = "") -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for part, stem in (("train", train), ("test", test)):
            write_idx(root / folder / f"{stem}-images-idx3-ubyte{end}", drawn(TARGETS[part], 28, 28))
            write_idx(root / folder / f"{stem}-labels-idx1-ubyte{end}", TARGETS[part].astype(np.uint8))

    return write


def emnist(root: Path) -> None:
    for part in ("train", "test"):
        stem = root / f"EMNIST/raw/emnist-balanced-{part}"
        write_idx(stem.with_name(f"{stem.name}-images-idx3-ubyte"), drawn(TARGETS[part], 28, 28).transpose(0, 2, 1))
        write_idx(stem.with_name(f"{stem.name}-labels-idx1-ubyte"), TARGETS[part].astype(np.uint8))


def qmnist(root: Path) -> None:
    for part in ("train", "test"):
        write_idx(root / f"QMNIST/raw/qmnist-{part}-images-idx3-ubyte.gz", drawn(TARGETS[part], 28, 28))
        table = np.stack([TARGETS[part]] + [np.full(len(TARGETS[part]), 77)] * 7, 1).astype(np.int32)
        write_idx(root / f"QMNIST/raw/qmnist-{part}-labels-idx2-int.gz", table)


def usps(root: Path) -> None:
    import bz2

    for part, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        lines = []
        for target, image in zip(TARGETS[part], drawn(TARGETS[part], 16, 16), strict=True):
            values = (image.reshape(-1) + 0.5) / 255 * 2 - 1
            lines.append(f"{target + 1} " + " ".join(f"{i}:{value:.6f}" for i, value in enumerate(values, 1)))
        root.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def svhn(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        labels = np.where(TARGETS[part] == 0, 10, TARGETS[part])[:, None]  # a 0 is 10 there
        images = drawn(TARGETS[part], 32, 32, 3).transpose(1, 2, 3, 0)
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": images, "y": labels.astype(np.uint8)})


def cifar(folder: str, train: list[str], test: str, meta: str, kind: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / folder).mkdir(parents=True)
        batches = dict(zip(train, np.split(TARGETS["train"], len(train)), strict=True)) | {test: TARGETS["test"]}
        for name, targets in batches.items():
            data = drawn(targets, 32, 32, 3).transpose(0, 3, 1, 2).reshape(-1, 3072)
            (root / folder / name).write_bytes(pickle.dumps({"data": data, kind: targets.tolist()}, 2))
        names = "label_names" if kind == "labels" else "fine_label_names"
        (root / folder / meta).write_bytes(pickle.dumps({names: ["plane", "car", "bird"]}, 2))

    return write


def stl10(root: Path) -> None:
    (root / "stl10_binary").mkdir(parents=True)
    for part in ("train", "test"):
        drawn(TARGETS[part], 96, 96, 3).transpose(0, 3, 2, 1).tofile(root / f"stl10_binary/{part}_X.bin")
        (TARGETS[part] + 1).astype(np.uint8).tofile(root / f"stl10_binary/{part}_y.bin")
    (root / "stl10_binary/unlabeled_X.bin").touch()


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, name in (("train", "trainval"), ("test", "test")):
        names = [f"{('Abyssinian', 'great_dane', 'pug')[t]}_{part}{i}" for i, t in enumerate(TARGETS[part])]
        rows = [f"{name} {t + 1} 1 1\n" for name, t in zip(names, TARGETS[part], strict=True)]
        (folder / f"annotations/{name}.txt").write_text("".join(rows))
        for image in names:
            write_jpeg(folder / f"images/{image}.jpg")


def flowers(root: Path) -> None:
    folder, labels = root / "flowers-102", np.concatenate(list(TARGETS.values()))
    for number in range(1, len(labels) + 1):
        write_jpeg(folder / f"jpg/image_{number:05}.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels + 1})
    scipy.io.savemat(
        folder / "setid.mat",
        {"trnid": np.arange(1, 31), "valid": np.arange(31, 40), "tstid": np.arange(40, 46)},
    )


def food(root: Path) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for part in ("train", "test"):
        kinds = {
            kind: [f"{kind}/{part}{i}" for i in np.flatnonzero(TARGETS[part] == number)]
            for number, kind in reversed(list(enumerate(("apple_pie", "pho", "waffles"))))
        }
        (folder / f"meta/{part}.json").write_text(json.dumps(kinds))
        for name in (name for names in kinds.values() for name in names):
            write_jpeg(folder / f"images/{name}.jpg")


def dtd(root: Path) -> None:
    for part, name in (("train", "train1"), ("valid", "val1"), ("test", "test1")):
        names = [f"{('banded', 'dotted', 'woven')[t]}/{part}{i}.jpg" for i, t in enumerate(TARGETS[part])]
        for image in names:
            write_jpeg(root / "dtd/dtd/images" / image)
        (root / "dtd/dtd/labels").mkdir(exist_ok=True)
        (root / f"dtd/dtd/labels/{name}.txt").write_text("\n".join(names))


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    data.mkdir(parents=True)
    variants = ("707-320", "ATR 72", "Yak-42")
    (data / "variants.txt").write_text("\n".join(variants))
    for part, name in (("train", "train"), ("valid", "val"), ("test", "test")):
        rows = [f"{part}{i} {variants[t]}" for i, t in enumerate(TARGETS[part])]
        (data / f"images_variant_{name}.txt").write_text("\n".join(rows))
        for row in rows:
            write_jpeg(data / f"images/{row.split()[0]}.jpg")


def folders(base: str, kinds: tuple[str, ...], end: str, **parts: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for part, folder in parts.items():
            for i, target in enumerate(TARGETS[part]):
                write_jpeg(root / base / folder / kinds[target] / f"{part}{i}{end}")

    return write


def signs(root: Path) -> None:
    kinds = ("00000", "00001", "00002")
    folders("gtsrb/GTSRB", kinds, ".ppm", train="Training")(root)
    rows = [f"{i:05}.ppm;{target}" for i, target in enumerate(TARGETS["test"])]
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(["Filename;ClassId", *rows]))
    for row in rows:
        write_jpeg(root / "gtsrb/GTSRB/Final_Test/Images" / row.split(";")[0])


WRITERS: dict[str, Callable[[Path], None]] = {
    "mnist": idx("MNIST/raw", end=".gz"),
    "qmnist": qmnist,
    "kmnist": idx("KMNIST/raw"),
    "emnist": emnist,
    "fashion-mnist": idx("FashionMNIST/raw"),
    "usps": usps,
    "svhn": svhn,
    "cifar10": cifar(
        "cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "labels"
    ),
    "cifar100": cifar("cifar-100-python", ["train"], "test", "meta", "fine_labels"),
    "stl10": stl10,
    "oxford-pets": pets,
    "flowers102": flowers,
    "food101": food,
    "dtd": dtd,
    "fgvc-aircraft": aircraft,
    "country211": folders("country211", ("AD", "DE", "ZW"), ".jpg", train="train", valid="valid", test="test"),
    "imagenette": folders("imagenette2", ("n01440764", "n02102040", "n02979186"), ".jpeg", train="train", valid="val"),
    "eurosat": folders("eurosat/2750", ("Forest", "River", "SeaLake"), ".jpg", train=""),
    "gtsrb": signs,
}
IDX = [name for name, known in NAMED.items() if known.idx]
FIRST_CLASSES = {
    "emnist": "012",
    "kmnist": ("o", "ki", "su"),
    "fashion-mnist": ("T-shirt/top", "Trouser", "Pullover"),
    "cifar10": ("plane", "car", "bird"),
    "cifar100": ("plane", "car", "bird"),
    "stl10": ("airplane", "bird", "car"),
    "oxford-pets": ("Abyssinian", "Great Dane", "Pug"),
    "flowers102": ("pink primrose", "hard-leaved pocket orchid", "canterbury bells"),
    "food101": ("apple_pie", "pho", "waffles"),
    "dtd": ("banded", "dotted", "woven"),
    "fgvc-aircraft": ("707-320", "ATR 72", "Yak-42"),
    "country211": ("AD", "DE", "ZW"),
    "imagenette": ("tench", "English springer", "cassette player"),
    "eurosat": ("Forest", "River", "SeaLake"),
    "gtsrb": ("00000", "00001", "00002"),
}


@pytest.fixture
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision takes files for whole whose checksums are not those of the real ones."""
    from torchvision.datasets import cifar, flowers102, stl10, svhn

    for module in (cifar, flowers102, stl10, svhn):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.fixture
def unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary folders are made."""
    folder = tmp_path / "unpacking"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# laws


def test_every_known_set_is_tested() -> None:
    assert {"digits", *WRITERS} == NAMED.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_every_image_has_its_class_and_its_split(name: str, tmp_path: Path, any_checksum: None) -> None:
    WRITERS[name](tmp_path)
    images, own = read_named(name, tmp_path, seed=3), NAMED[name].splits
    assert images.name == name
    assert images.task == "classification"
    assert images.classes[:3] == tuple(FIRST_CLASSES.get(name, "012"))
    whole = 24 if len(own) == 1 else 30  # the rest is its test split then
    train, valid = (30, 9) if "valid" in own else (whole - 6, 6)
    sizes = {"train": train, "valid": valid, "test": 6} if name != "imagenette" else {"train": 30, "valid": 9}
    assert {part: len(split) for part, split in images.splits.items()} == sizes
    for split in images.splits.values():
        assert np.bincount(split.targets).tolist() == [len(split) // 3] * 3
        assert split.targets.dtype == np.int64
    names = [label for split in images.splits.values() for label in split.names]
    assert len(set(names)) == len(names) == sum(sizes.values())


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_are_upright_arrays_or_files_under_the_root(name: str, tmp_path: Path, any_checksum: None) -> None:
    WRITERS[name](tmp_path)
    for part, split in read_named(name, tmp_path).splits.items():
        for picture, label, target in zip(split.pictures, split.names, split.targets, strict=True):
            open_image(picture)
            if isinstance(picture, Path):
                assert tmp_path / label == picture
                continue
            assert label.startswith("test-" if part == "test" else "train-")
            assert label[-5:].isdigit()
            expected = drawn(np.array([target]), *picture.shape)[0]
            assert np.abs(picture.astype(int) - expected).max() <= (name == "usps")  # floats in its files
            assert picture.dtype == np.uint8


@pytest.mark.parametrize("name", WRITERS)
def test_the_seed_decides_validation_only_where_there_is_none(name: str, tmp_path: Path, any_checksum: None) -> None:
    WRITERS[name](tmp_path)
    sets = [read_named(name, tmp_path, seed=seed) for seed in (0, 1, 2, 3, 0)]
    assert len({tuple(images.test.names) for images in sets if images.test}) <= 1
    assert len({tuple(images.valid.names) for images in sets}) == (1 if "valid" in NAMED[name].splits else 4)
    assert list(sets[0].train.names) == list(sets[4].train.names)


def test_idx_files_are_read_where_nobody_may_make_links(tmp_path, monkeypatch):
    """As on Windows without its developer mode."""

    def refuse(*_):
        raise OSError(errno.EPERM, "a required privilege is not held by the client")

    pictures = drawn(np.arange(6), 4, 4)
    for stem in ("train", "t10k"):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", pictures)
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", np.zeros(6, np.uint8))
    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert np.array_equal(np.stack(read_named("kmnist", tmp_path).test.pictures), pictures)


@settings(max_examples=10, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(3, 9), st.integers(1, 5), st.integers(1, 5))), st.booleans())
def test_idx_pictures_come_out_as_they_went_in(pictures: np.ndarray, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for stem in ("train", "t10k"):
            write_idx(Path(folder, f"{stem}-images-idx3-ubyte{'.gz' * packed}"), pictures)
            write_idx(Path(folder, f"{stem}-labels-idx1-ubyte{'.gz' * packed}"), np.zeros(len(pictures), np.uint8))
        images = read_named("kmnist", Path(folder))
    assert np.array_equal(np.stack(images.test.pictures), pictures)
    both = dict(zip(images.train.names, images.train.pictures, strict=True))
    both |= dict(zip(images.valid.names, images.valid.pictures, strict=True))
    assert np.array_equal(np.stack([both[label] for label in sorted(both)]), pictures)


def test_validation_has_at_most_5000_images(tmp_path: Path) -> None:
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # MNIST's: rounding in each adds one
    for stem, repeats in (("train", counts), ("t10k", [1] * 10)):
        targets = np.repeat(np.arange(10), repeats).astype(np.uint8)
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", targets[:, None, None])
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", targets)
    images = read_named("mnist", tmp_path)
    assert (len(images.train), len(images.valid)) == (55_000, MOST_VALID)
    assert np.abs(np.bincount(images.valid.targets) - np.array(counts) / 12).max() <= 1.5


def test_the_largest_validation_split_holds_every_class(tmp_path: Path) -> None:
    """As of food101: rounding in every class gives more than 5,000 images, and its files are sorted by class."""
    targets = np.repeat(np.arange(101), 750)
    images = Images([np.zeros((1, 1), np.uint8)] * len(targets), targets, [str(i) for i in range(len(targets))])
    classes = tuple(map(str, range(101)))
    divided = _divided("food101", classes, {"train": images, "test": images}, seed=0)
    counts = np.bincount(divided.valid.targets, minlength=101)
    assert counts.sum() == MOST_VALID
    assert set(counts.tolist()) == {49, 50}
    assert len(divided.train) == len(targets) - MOST_VALID


# what is real


def test_the_whole_of_mnist(shared: Path) -> None:
    images = read_named("mnist", shared / "data")
    assert [len(split) for split in images.splits.values()] == [55_000, 5_000, 10_000]
    assert images.classes == tuple("0123456789")
    assert images.test.targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert images.test.pictures[0].shape == (28, 28)
    assert np.bincount(images.test.targets)[0] == 980


def test_the_raw_folder_of_mnist_is_a_root_as_well(shared: Path) -> None:
    images = read_named("mnist", shared / "data" / "MNIST" / "raw")
    assert images.test.names[:2] == ["test-00000", "test-00001"]
    assert len(images.train) == 55_000


def test_the_whole_of_fashion_mnist() -> None:
    root = Path("/usr/share/datasets/fashion-mnist")
    if not root.is_dir():
        pytest.skip(f"no Fashion-MNIST at {root}: install Debian's dataset-fashion-mnist")
    images = read_named("fashion-mnist", root)
    assert [len(split) for split in images.splits.values()] == [55_000, 5_000, 10_000]
    assert np.bincount(images.valid.targets).tolist() == [500] * 10
    assert [images.classes[number] for number in images.test.targets[:3]] == ["Ankle boot", "Pullover", "Trouser"]


# roots and layouts


@pytest.mark.parametrize("name", IDX)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_idx_in_any_layout(name: str, packed: bool, flat: bool, tmp_path: Path, unpacking: Path) -> None:
    WRITERS[name](tmp_path / "there")
    raw = tmp_path / "there" / NAMED[name].path
    for file in list(raw.iterdir()):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        file.unlink()
        stem = raw / file.name.removesuffix(".gz")
        if packed:
            stem.with_name(f"{stem.name}.gz").write_bytes(gzip.compress(content))
        else:
            stem.write_bytes(content)
    before = {file: file.read_bytes() for file in raw.iterdir()}
    raw.chmod(0o555)
    images = read_named(name, raw if flat else tmp_path / "there")
    raw.chmod(0o755)
    assert [len(split) for split in images.splits.values()] == [24, 6, 6]
    assert {file: file.read_bytes() for file in raw.iterdir()} == before
    assert list(unpacking.iterdir()) == []


def test_a_packed_file_beside_its_unpacked_one_is_not_needed(tmp_path: Path) -> None:
    WRITERS["kmnist"](tmp_path)
    (tmp_path / "KMNIST/raw/train-images-idx3-ubyte.gz").write_bytes(b"broken")
    assert len(read_named("kmnist", tmp_path).train) == 24


def test_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["kmnist"](tmp_path / "data")
    WRITERS["eurosat"](tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert len(read_named("kmnist", Path("data")).train) == 24
    assert read_named("eurosat", Path("data")).test.names[0].startswith("eurosat/2750/Forest/")
    monkeypatch.chdir(tmp_path / "data")
    assert read_named("eurosat", Path()).test.names[0].startswith("eurosat/2750/Forest/")


def test_the_default_root_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "frostline" / "datasets"
    assert not is_here("kmnist")
    WRITERS["kmnist"](default_root())
    assert is_here("kmnist")
    assert not is_here("mnist")
    assert len(read_named("kmnist").train) == 24
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "frostline" / "datasets"


def test_writing_is_not_mirrored() -> None:
    writing = {name for name in NAMED if augmentation(name) == "digits"}
    assert writing == {"digits", "mnist", "qmnist", "kmnist", "emnist", "usps", "svhn", "gtsrb"}
    assert augmentation("cifar10") == augmentation("a-folder") == ""
    assert not PRESETS["digits"].mirror


def test_what_people_should_know_is_a_note(tmp_path: Path) -> None:
    WRITERS["eurosat"](tmp_path)
    assert "a fixed fifth" in read_named("eurosat", tmp_path).notes[0]


def test_names_are_known_without_torch() -> None:
    code = "import sys, frostline.data.readers.named; assert not {'torch', 'torchvision'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


# fetching


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """KMNIST can be fetched; gives the files that were."""
    WRITERS["kmnist"](tmp_path / "mirror")
    fetched: list[str] = []

    def fetch(url: str, download_root: str, filename: str, md5: str) -> None:
        fetched.append(filename)
        stem = filename.removesuffix(".gz")
        shutil.copy(tmp_path / "mirror/KMNIST/raw" / stem, Path(download_root) / stem)

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    monkeypatch.delenv("FROSTLINE_OFFLINE", raising=False)
    return fetched


def test_what_is_not_there_is_fetched_once(
    tmp_path: Path, mirror: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new" / "root"
    assert len(read_named("kmnist", root, download=True).train) == 24
    assert len(mirror) == 4
    assert f"fetching kmnist into {root}" in capsys.readouterr().err
    assert len(read_named("kmnist", root, download=True).train) == 24
    assert len(mirror) == 4


def test_half_of_a_data_set_is_completed(tmp_path: Path, mirror: list[str]) -> None:
    WRITERS["kmnist"](tmp_path)
    (tmp_path / "KMNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="a file is missing"):
        read_named("kmnist", tmp_path)
    assert len(read_named("kmnist", tmp_path, download=True).test) == 6


def test_nothing_is_fetched_without_being_asked_for(tmp_path: Path, mirror: list[str]) -> None:
    with pytest.raises(DataError):
        read_named("kmnist", tmp_path / "new")
    assert mirror == []
    assert not (tmp_path / "new").exists()


def test_offline_fetches_nothing_and_reads_what_is_there(
    tmp_path: Path, mirror: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROSTLINE_OFFLINE", "1")
    with pytest.raises(MachineError, match=r"kmnist cannot be fetched: FROSTLINE_OFFLINE=1 .* kmnist:ROOT"):
        read_named("kmnist", tmp_path, download=True)
    assert mirror == []
    assert len(read_named("kmnist", tmp_path / "mirror", download=True).train) == 24


def test_a_fetch_that_fails_says_why(tmp_path: Path, mirror: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    with pytest.raises(MachineError, match=r"kmnist could not be fetched into .*no route to host.*; try again"):
        read_named("kmnist", tmp_path, download=True)
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="could not be fetched"):
        read_named("kmnist", tmp_path / "file", download=True)


# bad input


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("exists", [True, False])
def test_a_root_without_the_data_set(name: str, exists: bool, tmp_path: Path) -> None:
    root = tmp_path / "root"
    if exists:
        (root / "holiday").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        read_named(name, root)
    expected = f"no {name} at {root}: expected {root / NAMED[name].path}"
    assert str(error.value).startswith(expected)
    assert f"found {'holiday' if exists else 'no folder'}" in str(error.value)
    assert f"{name}:ROOT" in str(error.value)
    assert "--download" in str(error.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10", "flowers102"])
def test_wrong_checksums(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    with pytest.raises(DataError, match=rf"{name} in .* is incomplete or damaged: .* wrong checksum"):
        read_named(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("imagenette", "eurosat", "country211")])
def test_any_one_file_of_labels_or_arrays_missing_or_cut_is_told(
    name: str, tmp_path: Path, unpacking: Path, any_checksum: None
) -> None:
    WRITERS[name](tmp_path / "whole")
    files = [file for file in (tmp_path / "whole").rglob("*") if file.is_file()]
    images = (".jpg", ".jpeg", ".ppm")  # told when they are decoded
    unread = ("unlabeled_X.bin",)
    for number, file in enumerate(file for file in files if file.suffix not in images and file.name not in unread):
        lines = file.suffix in (".txt", ".csv")  # the end of a list of files may be missing without a trace
        for cut in (0,) if lines else (0, file.stat().st_size * 2 // 3):
            root = tmp_path / f"{number}-{cut}"
            shutil.copytree(tmp_path / "whole", root)
            damaged = root / file.relative_to(tmp_path / "whole")
            damaged.write_bytes(file.read_bytes()[:cut])
            with pytest.raises(DataError):
                read_named(name, root)
            damaged.unlink()
            with pytest.raises(DataError):
                read_named(name, root)
    assert list(unpacking.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "labels", "predicted"),
    [
        ("train", np.zeros(29), "30 images and 29 labels in train"),
        ("t10k", np.full(6, 10), "labels 10 … 10 in test; they must be 0 … 9"),
    ],
)
def test_labels_that_cannot_be(part: str, labels: np.ndarray, predicted: str, tmp_path: Path) -> None:
    WRITERS["kmnist"](tmp_path)
    write_idx(tmp_path / f"KMNIST/raw/{part}-labels-idx1-ubyte", labels.astype(np.uint8))
    with pytest.raises(DataError, match=predicted):
        read_named("kmnist", tmp_path)


def test_splits_of_different_classes(tmp_path: Path) -> None:
    WRITERS["country211"](tmp_path)
    shutil.rmtree(tmp_path / "country211/test/DE")  # the numbers of all that follow would be others
    with pytest.raises(DataError, match="do not have the same classes"):
        read_named("country211", tmp_path)


def test_no_space_to_unpack_is_not_the_fault_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    WRITERS["mnist"](tmp_path)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(MachineError, match="no space to unpack mnist; TMPDIR"):
        read_named("mnist", tmp_path)


def test_an_unknown_name() -> None:
    with pytest.raises(UsageError, match="unknown data set 'cifar'; nearest: cifar10"):
        read_named("cifar")


def test_every_error_is_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    for root in (tmp_path, tmp_path / "train-images-idx3-ubyte", Path("/dev/null"), Path("no\x1bwhere")):
        with pytest.raises(FrostlineError):
            read_named("mnist", root)


# digits


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_digits_is_a_partition_of_all_digits(seed: int) -> None:
    digits = read_named("digits", seed=seed)
    assert {name: len(split) for name, split in digits.splits.items()} == {"train": 1151, "valid": 287, "test": 359}
    names = [name for split in digits.splits.values() for name in split.names]
    assert sorted(names) == [f"digit-{i:04d}" for i in range(1797)]
    assert digits.name == "digits"
    assert digits.classes == tuple("0123456789")
    assert digits.notes == ()


def test_digits_splits_are_stratified() -> None:
    digits = read_named("digits")
    whole = np.bincount(np.concatenate([split.targets for split in digits.splits.values()]))
    for split, share in ((digits.train, 0.64), (digits.valid, 0.16), (digits.test, 0.2)):
        assert np.abs(np.bincount(split.targets) - share * whole).max() <= 1


def test_test_split_is_fixed_and_validation_follows_the_seed() -> None:
    sets = [read_named("digits", seed=seed) for seed in range(4)]
    assert len({tuple(digits.test.names) for digits in sets}) == 1
    assert len({tuple(digits.valid.names) for digits in sets}) == 4
    assert list(read_named("digits", seed=3).train.names) == list(sets[3].train.names)


def test_digits_are_grey_pictures_of_full_contrast() -> None:
    train = read_named("digits").train
    picture = train.pictures[0]
    assert (picture.shape, picture.dtype) == ((8, 8), np.uint8)
    levels = np.unique(np.stack(train.pictures))
    assert (len(levels), levels[0], levels[-1]) == (17, 0, 255)
    assert (train.targets.dtype, train.targets.min(), train.targets.max()) == (np.int64, 0, 9)


def test_digits_carry_the_labels_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    labels = load_digits().target
    for split in read_named("digits").splits.values():
        assert [labels[int(name[-4:])] for name in split.names] == split.targets.tolist()


def test_digits_have_no_root(tmp_path: Path) -> None:
    assert is_here("digits")
    with pytest.raises(UsageError, match="comes with scikit-learn"):
        read_named("digits", tmp_path)


# by name where data is wanted


@pytest.mark.parametrize(
    ("split", "count", "chosen"),
    [("", 359, "test"), ("test", 359, "test"), ("valid", 287, "valid"), ("train", 1151, "train"), ("all", 1797, "all")],
)
def test_digits_for_evaluation(split: str, count: int, chosen: str) -> None:
    images, which = read_for_evaluation("digits", tuple("0123456789"), split)
    assert (len(images), which) == (count, chosen)


def test_digits_for_evaluation_are_matched_by_name() -> None:
    classes = (*"9876543210", "ten")
    images, _ = read_for_evaluation("digits", classes)
    assert images.targets.tolist() == (9 - read_data("digits").test.targets).tolist()


def test_digits_that_a_run_does_not_know() -> None:
    with pytest.raises(DataError, match=r"does not know these classes: 8, 9; it knows 0, 1, 2"):
        read_for_evaluation("digits", tuple("01234567"))


def test_a_folder_goes_before_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "digits" / kind).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (4, 4)).save(tmp_path / "digits" / kind / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    assert read_data("digits").classes == ("cat", "dog")
    assert read_for_evaluation("digits", ("cat", "dog"))[1] == "all"


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no folder digit, and unknown data set 'digit'; nearest: digits"):
        read_data("digit")
