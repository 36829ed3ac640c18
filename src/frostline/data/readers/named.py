"""Known data sets by name: one table, read with torchvision's classes.

torchvision is imported only when a data set is read, so that listing the names is quick.
"""

from __future__ import annotations

import errno
import gzip
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from frostline import terminal
from frostline.data.images import Images, ImageSet
from frostline.data.split import VALID_FRACTION, split
from frostline.errors import DataError, MachineError, UsageError, reason, unknown
from frostline.files import user_folder
from frostline.process import offline

Splits = Mapping[str, Mapping[str, Any]]  # the arguments of torchvision's class for "train", "valid" and "test"

TEST_FRACTION = 0.2
MOST_VALID = 5_000  # more images would hardly narrow the interval of an accuracy


@dataclass(frozen=True)
class Known:
    """One known data set.

    source: its class in torchvision.datasets. classes: their number. path: what its root must contain.
    splits: arguments of the class for each of "train", "valid" and "test" that the set has.
    pictures, targets: attributes with an array or a list of files, and with class numbers; without `targets`,
        `pictures` is a list of pairs. axes: order of the array's axes that gives (N, H, W) or (N, H, W, 3).
    names: of the classes, if the source has none or odd ones. idx: pattern of its files in IDX format.
    augment: the preset that fits these images, "" for the default. notes: facts about its splits.
    """

    source: str
    classes: int
    path: str
    splits: Splits
    pictures: str = "data"
    targets: str = "targets"
    axes: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    idx: str = ""
    augment: str = ""
    notes: tuple[str, ...] = ()


def _by_name(**names: str) -> Splits:
    return {part: {"split": name} for part, name in names.items()}


WHOLE: Splits = {"train": {}}
FLAG: Splits = {"train": {"train": True}, "test": {"train": False}}
BALANCED: Splits = {part: {**flag, "split": "balanced"} for part, flag in FLAG.items()}
TWO, THREE = _by_name(train="train", test="test"), _by_name(train="train", valid="val", test="test")
PETS, COUNTRIES = _by_name(train="trainval", test="test"), _by_name(train="train", valid="valid", test="test")
NETTE = _by_name(train="train", valid="val")
DIGITS = tuple("0123456789")
STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
SIGNS = tuple(f"{number:05}" for number in range(43))  # the names of its folders
FIFTH = ("the set has no splits: a fixed fifth of every class is the test split",)
TRACKS = ("training and validation contain frames of the same signs: only the test split gives a fair accuracy",)

# fmt: off
NAMED: dict[str, Known] = {
    "digits": Known("", 10, "", WHOLE, names=DIGITS, augment="digits"),
    "mnist": Known("MNIST", 10, "MNIST/raw", FLAG, names=DIGITS, idx="t*-idx*", augment="digits"),
    "qmnist": Known("QMNIST", 10, "QMNIST/raw", FLAG, names=DIGITS, idx="qmnist-t*-idx*", augment="digits"),
    "kmnist": Known("KMNIST", 10, "KMNIST/raw", FLAG, idx="t*-idx*", augment="digits"),
    "emnist": Known("EMNIST", 47, "EMNIST/raw", BALANCED, axes=(0, 2, 1), idx="emnist-balanced-*", augment="digits"),
    "fashion-mnist": Known("FashionMNIST", 10, "FashionMNIST/raw", FLAG, idx="t*-idx*"),
    "usps": Known("USPS", 10, "usps.bz2", FLAG, names=DIGITS, augment="digits"),
    "svhn": Known("SVHN", 10, "train_32x32.mat", TWO, "data", "labels", (0, 2, 3, 1), DIGITS, augment="digits"),
    "cifar10": Known("CIFAR10", 10, "cifar-10-batches-py", FLAG),
    "cifar100": Known("CIFAR100", 100, "cifar-100-python", FLAG),
    "stl10": Known("STL10", 10, "stl10_binary", TWO, "data", "labels", (0, 2, 3, 1), STL10),
    "oxford-pets": Known("OxfordIIITPet", 37, "oxford-iiit-pet", PETS, "_images", "_labels"),
    "flowers102": Known("Flowers102", 102, "flowers-102", THREE, "_image_files", "_labels"),
    "food101": Known("Food101", 101, "food-101", TWO, "_image_files", "_labels"),
    "dtd": Known("DTD", 47, "dtd/dtd", THREE, "_image_files", "_labels"),
    "fgvc-aircraft": Known("FGVCAircraft", 100, "fgvc-aircraft-2013b", THREE, "_image_files", "_labels"),
    "country211": Known("Country211", 211, "country211", COUNTRIES, "samples", ""),
    "imagenette": Known("Imagenette", 10, "imagenette2", NETTE, "_samples", ""),
    "eurosat": Known("EuroSAT", 10, "eurosat/2750", WHOLE, "samples", "", notes=FIFTH),
    "gtsrb": Known("GTSRB", 43, "gtsrb/GTSRB", TWO, "_samples", "", names=SIGNS, augment="digits", notes=TRACKS),
}
# fmt: on


def default_root() -> Path:
    """`datasets` in `user_folder()`: on Linux `frostline/datasets` under `XDG_CACHE_HOME` or ~/.cache."""
    return user_folder() / "datasets"


def augmentation(name: str) -> str:
    """The augmentation preset that fits a known data set; "" for the default, and for all other names."""
    return NAMED[name].augment if name in NAMED else ""


def is_here(name: str, root: Path | None = None) -> bool:
    """Whether the files of a known data set seem to be at its root; reads nothing."""
    return name == "digits" or _folder(NAMED[name], root or default_root()) is not None


def read_named(name: str, root: Path | None = None, download: bool = False, seed: int = 0) -> ImageSet:
    """The training, validation and test images of a known data set.

    root: the folder for torchvision's class (or the one with the IDX files); by default `default_root()`.
    download: whether torchvision may fetch missing files into the root.
    seed: decides validation if the set has no such split: a stratified fifth of training, at most 5,000 images.

    Files stay files, named by their path under the root; arrays are uint8, named train-00042.
    Raises UsageError for an unknown name, DataError for missing, incomplete or damaged data, and MachineError if the
    download fails.
    """
    if name not in NAMED:
        raise unknown("data set", name, NAMED)
    if name == "digits":
        if root is not None:
            raise UsageError(f"digits comes with scikit-learn and has no root; give digits, not digits:{root}")
        return _divided(name, DIGITS, {"train": _digits()}, seed)
    folder = (root or default_root()).expanduser()
    try:
        classes, parts = _read(name, folder)
    except DataError:
        if not download:
            raise
        _fetch(name, folder)
        classes, parts = _read(name, folder)
    return _divided(name, classes, parts, seed)


def _digits() -> Images:
    """1,797 handwritten digits of 8 × 8 pixels that come with scikit-learn (Alpaydin & Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = list(np.rint(digits.images * (255 / 16)).astype(np.uint8))
    return Images(pictures, digits.target.astype(np.int64), [f"digit-{i:04d}" for i in range(len(pictures))])


def _divided(name: str, classes: tuple[str, ...], parts: Mapping[str, Images], seed: int) -> ImageSet:
    """A data set whose missing splits come from training: test is always the same, validation depends on the seed."""
    train, valid, test = parts["train"], parts.get("valid"), parts.get("test")
    if len(parts) == 1:
        train, test = split(train, TEST_FRACTION, seed=0)
    if valid is None:
        train, valid = split(train, min(VALID_FRACTION, MOST_VALID / len(train)), seed, MOST_VALID)
    validation: Literal["given", "split"] = "given" if "valid" in parts else "split"
    return ImageSet(name, classes, train, valid, test, NAMED[name].notes, validation=validation)


def _read(name: str, root: Path) -> tuple[tuple[str, ...], dict[str, Images]]:
    """The classes, and the images of each split of the set."""
    known = NAMED[name]
    folder = _folder(known, root)
    if folder is None:
        raise _absent(name, root)
    try:
        with _laid_out(known, folder, root) as laid_out:
            sources = {part: _opened(known, laid_out, arguments) for part, arguments in known.splits.items()}
        classes = _classes(known, sources["train"])
        if any(_classes(known, source) != classes for source in sources.values()):
            raise DataError("its splits do not have the same classes")
        return classes, {part: _images(known, source, part, root, classes) for part, source in sources.items()}
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise MachineError(f"no space to unpack {name}; TMPDIR=FOLDER chooses another disk") from error
        lost = "download=True" in str(error)  # torchvision's advice, which does not apply here
        why = "a file is missing or has a wrong checksum" if lost else reason(error)
        raise DataError(
            f"{name} in {folder} is incomplete or damaged: {why}; remove the broken files and fetch them again, by "
            f"hand or with --download"
        ) from error


def _absent(name: str, root: Path) -> DataError:
    known = NAMED[name]
    expected = f"{root / known.path}" + (f", or files like {known.idx}.gz in {root}" if known.idx else "")
    seen = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing" if root.is_dir() else "no folder"
    return DataError(
        f"no {name} at {root}: expected {expected}, found {seen}; give {name}:ROOT if it is elsewhere, or --download "
        f"to fetch it"
    )


def _folder(known: Known, root: Path) -> Path | None:
    """The folder of the files; IDX files may also be directly in the root."""
    if not known.idx:
        return root / known.path if (root / known.path).exists() else None
    return next((folder for folder in (root / known.path, root) if any(folder.glob(known.idx))), None)


@contextmanager
def _laid_out(known: Known, existing: Path, root: Path) -> Iterator[Path]:
    """The root for torchvision; for IDX files a temporary one with unpacked files and links."""
    if not known.idx:
        yield root
        return
    with TemporaryDirectory(prefix="frostline-") as folder:
        raw = Path(folder, known.path)
        raw.mkdir(parents=True)
        for file in sorted(existing.glob(known.idx)):  # an unpacked file comes before its .gz
            unpacked = raw / file.name.removesuffix(".gz")
            if file.suffix != ".gz":
                _linked(unpacked, file)
            elif not unpacked.exists():
                with gzip.open(file) as source, unpacked.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        yield Path(folder)


def _linked(link: Path, file: Path) -> None:
    try:
        link.symlink_to(file.resolve())
    except OSError:  # Windows lets few people make links
        shutil.copyfile(file, link)


def _opened(known: Known, root: Path, arguments: Mapping[str, Any], download: bool = False) -> Any:
    from torchvision import datasets

    return getattr(datasets, known.source)(str(root), download=download, **arguments)


def _fetch(name: str, root: Path) -> None:
    """Let torchvision fetch missing files and check them; raises MachineError."""
    known = NAMED[name]
    if forbidding := offline():
        raise MachineError(f"{name} cannot be fetched: {forbidding} forbids it; unset it, or give {name}:ROOT")
    terminal.say(f"fetching {name} into {root}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with redirect_stdout(sys.stderr):  # torchvision announces what it fetches, among our own output
            for arguments in known.splits.values():
                _opened(known, root, arguments, download=True)
    except Exception as error:
        broken = f", or remove {root / known.path} if that is broken" if (root / known.path).exists() else ""
        why = " ".join(str(error).split()) or type(error).__name__  # the attempts are listed after the first line
        raise MachineError(
            f"{name} could not be fetched into {root} ({why}); try again{broken}, or give {name}:ROOT"
        ) from error


def _classes(known: Known, source: Any) -> tuple[str, ...]:
    return known.names or tuple(name if isinstance(name, str) else name[0] for name in source.classes)


def _images(known: Known, source: Any, part: str, root: Path, classes: tuple[str, ...]) -> Images:
    pictures = getattr(source, known.pictures)
    if known.targets:
        targets = np.asarray(getattr(source, known.targets)).astype(np.int64)
    else:
        targets = np.array([number for _, number in pictures], np.int64)
        pictures = [file for file, _ in pictures]
    if targets.ndim == 2:
        targets = targets[:, 0]  # QMNIST has more columns than the class
    if len(targets) != len(pictures) or len(pictures) == 0:
        raise DataError(f"{len(pictures)} images and {len(targets)} labels in {part}")
    if not 0 <= targets.min() <= targets.max() < len(classes):
        raise DataError(f"labels {targets.min()} … {targets.max()} in {part}; they must be 0 … {len(classes) - 1}")
    if isinstance(pictures, list):
        files = [Path(file) for file in pictures]
        return Images(files, targets, [str(file.relative_to(root)) for file in files])
    array = np.asarray(pictures)
    upright = np.ascontiguousarray(array.transpose(known.axes) if known.axes else array)
    return Images(list(upright), targets, [f"{part}-{i:05}" for i in range(len(upright))])
