"""Folders of class folders, with or without splits above them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from frostline.data.decoding import SUFFIXES, hint_for
from frostline.data.images import Images, ImageSet, join
from frostline.data.parts import Bucket, Parts
from frostline.data.split import image_set
from frostline.data.texts import Paths, Texts
from frostline.errors import DataError

SPLITS = {
    "train": ("train", "training"),
    "valid": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
IMAGES = ("images",)
CONFIG = "config.yaml"
OF_A_RUN = (CONFIG, "classes.json", "split.csv")  # files that every run has, also an interrupted one
LONG = 300  # letters of a path that a message shows
Sides = tuple[Path, Path]  # a folder of images, and the folder of their masks or labels
CALLED = {"train": "train", "valid": "val", "test": "test"}
LIKELY = {"dev": ("valid",), "holdout": ("test",), "hold_out": ("test",), "eval": ("valid", "test")}


def read_folder(root: Path, seed: int) -> ImageSet:
    """A data set from `root/{train,val,test}/class/…` or `root/class/…`.

    Without a validation folder it uses a stratified fifth of the training images, never test images; a note lists the
    classes that it cannot measure.
    Raises DataError without images, for fewer than two classes, or for classes that are not in the training data.
    """
    folders, called = _splits(root)
    if folders and "train" not in folders:
        meant = next((each.name for each in _class_folders(root) if likely_split(each.name, folders) == "train"), "")
        raise DataError(
            f"{root} has {', '.join(folder.name for folder in folders.values())}/ but no train/ folder"
            + (f"; if {meant}/ is meant for train/, rename it" if meant else "")
        )
    train_root = folders.get("train", root)
    classes = _classes(train_root)
    train, others = _images(train_root, classes, root)
    notes = _notes(train_root, classes, others)
    measured = {split: folder for split, folder in folders.items() if split != "train"}
    notes = (*called, *notes, *_nested(train_root, classes), *_beside(root, folders))
    notes = (*notes, *_loose([root, *folders.values()], root))
    images = {split: _images(_known(folder, classes), classes, root)[0] for split, folder in measured.items()}
    if "test" in images and not len(images["test"]):
        notes = (*notes, f"{folders['test'].name}/ has no class folders with images, so there is no test split")
        del images["test"]
    return image_set(
        root.name or str(root), classes, {"train": train, **images}, seed, notes, folders.get("valid", root)
    )


def _beside(root: Path, splits: Mapping[str, Path]) -> Iterator[str]:
    """A note for each folder of images that is not a split, with the split that it may be meant for."""
    for folder in _with_images(root) if splits else ():
        if folder in splits.values():
            continue
        meant = likely_split(folder.name, splits)
        yield f"{folder.name}/ is not used" + (f"; if it is meant for {meant}/, rename it" if meant else "")


def likely_split(name: str, taken: Collection[str] = ()) -> str:
    """The split that a name may be meant for, other than those that are taken; "" if none is near.

    >>> likely_split("dev"), likely_split("Train_set"), likely_split("cats")
    ('val', 'train', '')
    """
    free = {called: split for split, names in SPLITS.items() if split not in taken for called in names}
    near = [*get_close_matches(name.lower(), free, 1), *LIKELY.get(name.lower(), ())]
    return next((CALLED[split] for each in near if (split := free.get(each, each)) not in taken), "")


def _splits(root: Path, known: tuple[str, ...] = ()) -> tuple[dict[str, Path], list[str]]:
    """The folders of the splits of a root; and a note if a folder with such a name is a class.

    A split has class folders. A folder `train` or `val` that has images instead, beside two or more class folders, is
    a class. known: the classes of a run; a folder with such a name and images is one of them.
    Raises DataError for a folder that may be either.
    """
    if root.is_dir() and is_run([entry.name for entry in _entries(root)]):
        raise DataError(
            f"{root} is a run, not a folder of images; to go on with its fit: frostline fit --resume {root}; to repeat "
            f"it: frostline fit --config {root / CONFIG}"
        )
    folders = split_folders(root)
    named = [folder.name for folder in folders.values()]
    beside = [folder.name for folder in _with_images(root) if folder.name not in named]
    if not beside or any(_with_images(folder) or not _images_in(folder) for folder in folders.values()):
        return folders, []
    if {*named} <= {*known}:
        return {}, []
    whose = f"{', '.join(beside[:5])}{' …' if len(beside) > 5 else ''}"
    has = f"{'/ and '.join(named)}/ {'has' if len(named) == 1 else 'have'} images but no class folders"
    if len(named) > 1 or "test" in folders or len(beside) == 1:
        raise DataError(
            f"{root}: {has}, beside the class folders {whose}. If these images are a class, rename its folder "
            f"(photos_of_{named[0]}); if they have no labels, move them out of {root}; if they are a split, sort them "
            "into class folders"
        )
    return {}, [f"{has}, so it is a class like {whose}"]


def _with_images(root: Path) -> list[Path]:
    return [folder for folder in _class_folders(root) if any(True for _ in image_files(folder))]


def _images_in(folder: Path) -> int:
    """The number of images that a folder itself has, without those of its subfolders."""
    return sum(
        1
        for file in _entries(folder)
        if file.suffix.lower() in SUFFIXES and not _is_hidden(file.name) and not file.is_dir()
    )


def _nested(root: Path, classes: Sequence[str]) -> Iterator[str]:
    """A note if no class folder has images of its own, so that the labels may lie a level deeper."""
    if not any(_images_in(root / name) for name in classes):
        below = [f"{name}/{sub.name}" for name in classes[:2] for sub in _with_images(root / name)[:2]]
        yield (
            f"the classes are {', '.join(classes[:3])}{' …' if len(classes) > 3 else ''}, though all images lie in "
            f"folders below them ({', '.join(below)} …); if those are the classes, move them up one level"
        )


def _loose(folders: Sequence[Path], root: Path) -> list[str]:
    """A note on images that are in no class folder."""
    counts = {folder: count for folder in folders if (count := _images_in(folder))}
    where = ", ".join(f"{count} in {folder.relative_to(root.parent)}/" for folder, count in counts.items())
    total = sum(counts.values())
    return (
        [f"{total} image{'s are' if total > 1 else ' is'} in no class folder and not used: {where}"] if counts else []
    )


def _refuse_splits_as_classes(root: Path, folders: Sequence[Path]) -> None:
    """Raises DataError if all class folders have the same subfolders of images, which then are the classes."""
    inside = [[sub.name for sub in _with_images(folder)] for folder in folders]
    if len(inside[0]) > 1 and all(names == inside[0] for names in inside):
        names, subs = ", ".join(folder.name for folder in folders[:5]), ", ".join(inside[0][:5])
        what = "rename the folders for training, validation and testing to train, val and test"
        if all(folder.name.lstrip("folds_-").isdecimal() for folder in folders):
            what = f"if they are folds, move the images of each class into one folder and give --folds {len(folders)}"
        raise DataError(
            f"the folders {names} of {root} all have the same subfolders ({subs}), which look like the classes; {what}"
        )


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits that a root has."""
    return {split: folder for split, names in SPLITS.items() if (folder := subfolder(root, names))}


def read_labelled(root: Path, classes: tuple[str, ...], choice: str) -> tuple[Images, str]:
    """Images to measure a classifier on, matched to its classes by name, and the name of their split.

    choice: "all", "train", "valid" or "test"; "" for all of a plain folder, else the test split, else validation.
    """
    folders, _ = _splits(root, classes)
    choice = choice or ("all" if not folders else next(s for s in ("test", "valid", "train") if s in folders))
    if choice == "all":
        roots = list(folders.values()) or [root]
    elif choice in folders:
        roots = [folders[choice]]
    else:
        raise DataError(f"{root} has no {choice} split; it has {', '.join(folders) or 'no splits: use --split all'}")
    return join([_images(_known(part, classes), classes, root)[0] for part in roots]), choice


def subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The direct subfolder with one of these names, in any case; None without one."""
    return next((p for p in sorted(_entries(root)) if p.name.lower() in names and p.is_dir()), None)


def sides_of(root: Path, names: tuple[str, ...], is_one: Callable[[Path], bool]) -> tuple[dict[str, Sides], list[str]]:
    """The two folders of every split ("train" without splits), and the splits that have only one of them.

    The images are in `root/images/…`, `root/{train,val,test}/images/…` or `root/images/{train,val,test}/…`. Their
    masks or labels are beside `images`, in the first folder of those names with a file for which `is_one` is true.
    """
    above = split_folders(root)
    folders = {split: _sides(folder, names, is_one) for split, folder in above.items()}
    if any(folders.values()):
        found = {split: sides for split, sides in folders.items() if sides}
        return found, [str(above[split]) for split in folders if split not in found]
    whole = _sides(root, names, is_one)
    if not whole:
        return {}, []
    below = {split: [subfolder(side, called) for side in whole] for split, called in SPLITS.items()}
    found = {split: (images, others) for split, (images, others) in below.items() if images and others}
    if not found:
        return {"train": whole}, []
    return found, [str(some[0] or some[1]) for split, some in below.items() if any(some) and split not in found]


def _sides(folder: Path, names: tuple[str, ...], is_one: Callable[[Path], bool]) -> Sides | None:
    images = subfolder(folder, IMAGES)
    beside = (others for name in names if (others := subfolder(folder, (name,))))
    others = next((others for others in beside if any(map(is_one, files_below(others)))), None)
    return (images, others) if images and others else None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "__pycache__")


def _class_folders(root: Path) -> list[Path]:
    return sorted(p for p in _entries(root) if p.is_dir() and not _is_hidden(p.name))


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; raises DataError if it cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError as error:
        _refuse_folder(error)
        raise


def _classes(root: Path) -> tuple[str, ...]:
    folders = _with_images(root)
    if not folders:
        seen = ", ".join(sorted(p.name + "/" * p.is_dir() for p in _entries(root))[:8]) or "nothing"
        top = root.parent if root.name.lower() in SPLITS["train"] else root
        endings = ", ".join(ending[1:] for ending in SUFFIXES)
        hint = next((hint for file in files_below(root) if (hint := hint_for(file.name))), "")
        raise DataError(
            f"no images under {root}; expected {top}/train/CLASS/*.jpg or {top}/CLASS/*.jpg ({endings}), found {seen}"
            + (f"; for phone photographs, {hint}" if hint else "")
        )
    _refuse_splits_as_classes(root, folders)
    if len(folders) < 2:
        raise DataError(f"only one class, {folders[0].name!r}, under {root}; a classifier needs at least two")
    return tuple(folder.name for folder in folders)


def _known(root: Path, classes: tuple[str, ...]) -> Path:
    extra = [folder.name for folder in _with_images(root) if folder.name not in classes]
    if extra:
        raise unknown_classes(root, extra, classes)
    return root


def unknown_classes(where: object, extra: Sequence[str], classes: Sequence[str]) -> DataError:
    """The error for labels that training has not seen."""
    return DataError(
        f"{where} has classes that are not in the training data: {', '.join(extra[:5])}; "
        f"the training classes are {', '.join(classes[:10])}{' …' if len(classes) > 10 else ''}"
    )


def _notes(root: Path, classes: tuple[str, ...], others: Sequence[Path]) -> tuple[str, ...]:
    """Notes on everything that was skipped."""
    notes = []
    empty = [p.name for p in _class_folders(root) if p.name not in classes]
    if empty:
        notes.append(f"skipped folders without images: {', '.join(empty[:5])}")
    return (*notes, *skipped(root, others))


def _some(root: Path, files: Sequence[Path]) -> str:
    return ", ".join(str(file.relative_to(root)) for file in files[:3]) + (" …" if len(files) > 3 else "")


def skipped(root: Path, others: Sequence[Path]) -> list[str]:
    """Notes on files that are not images, and on runs."""
    runs = [p.parent for p in others if p.name == CONFIG and is_run([name.name for name in _entries(p.parent)])]
    others = [p for p in others if p.parent not in runs]
    notes = []
    if runs:
        notes.append(f"skipped the pictures of {len(runs)} run{'s' * (len(runs) > 1)}: {_some(root, runs)}")
    if others:
        some = _some(root, others)
        notes.append(f"skipped {len(others)} file{'s' * (len(others) > 1)} without an image extension: {some}")
    hints = [hint for other in others if (hint := hint_for(other.name))]
    if hints:
        notes.append(f"{len(hints)} of these are phone photographs: {hints[0]}")
    return notes


def image_files(folder: Path) -> Iterator[Path]:
    """All image files under a folder, by their extension, in a fixed order."""
    return (file for file in files_below(folder) if file.suffix.lower() in SUFFIXES)


def files_below(folder: Path) -> Iterator[Path]:
    """All files under a folder except hidden ones; each folder is visited once, despite links."""
    return map(Path, _texts_below(folder))


def pictures_below(root: Path | Bucket, names: Texts) -> Paths | Parts:
    """The files with these names below a root."""
    if isinstance(root, Bucket):
        return root.pictures(names)
    return Paths(str(root / "-")[:-1], names)


def _texts_below(folder: Path) -> Iterator[str]:
    """The files as text, which takes half the time of paths. Of a run only its config.yaml: its plots are no data.

    Raises DataError for a folder that cannot be read, because its images would be missing without a word.
    """
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        status = os.stat(parent)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        if is_run(files):
            folders.clear()
            yield f"{parent}{os.sep}{CONFIG}"
            continue
        folders[:] = sorted(f for f in folders if not _is_hidden(f))
        for file in sorted(files):
            if not file.startswith("."):
                yield f"{parent}{os.sep}{file}"


def _refuse_folder(error: OSError) -> None:
    name = str(error.filename)
    raise DataError(
        f"the folder {name if len(name) < LONG else '…' + name[-LONG:]} cannot be read: {error.strerror}; make it "
        "readable, or move it out of the data"
    )


def is_run(names: Collection[str]) -> bool:
    """Whether a folder with these files is a run of Frostline, whose pictures are no data.

    >>> is_run(["config.yaml", "classes.json", "split.csv", "log.txt"]), is_run(["1.jpg", "config.yaml"])
    (True, False)
    """
    return all(name in names for name in OF_A_RUN)


def _images(root: Path, classes: tuple[str, ...], base: Path) -> tuple[Images, list[Path]]:
    """The images of all classes, named by their path below `base`; and the files without an image extension."""
    names: list[str] = []
    targets: list[int] = []
    others: list[Path] = []
    below = len(str(base / "-")) - 1
    for number, class_name in enumerate(classes):
        for file in _texts_below(root / class_name) if (root / class_name).is_dir() else ():
            if file.lower().endswith(SUFFIXES):
                names.append(file[below:])
                targets.append(number)
            else:
                others.append(Path(file))
    texts = Texts.of(names)
    return Images(pictures_below(base, texts), np.array(targets, np.int64), texts), others
