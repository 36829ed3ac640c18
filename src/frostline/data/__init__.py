"""Reading labelled images from folders, tables and Python objects."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frostline import terminal
from frostline.data.decoding import SUFFIXES, hint_for, refuse_address
from frostline.data.grouping import copies_together, grouped
from frostline.data.images import Images, ImageSet, join
from frostline.data.masks import NOTHING, Masks
from frostline.data.readers import named, objects
from frostline.data.readers.bucket import elsewhere, image_at
from frostline.data.readers.coco import coco_table
from frostline.data.readers.columns import Wanted
from frostline.data.readers.folder import files_below, image_files, read_folder, read_labelled, skipped
from frostline.data.readers.listed import Listed, all_listed, listed_for, listed_set
from frostline.data.readers.manifest import AS_IT_IS, read_manifest, read_manifest_for, read_paths
from frostline.data.readers.mask_folder import read_mask_folder, read_mask_folder_for
from frostline.data.readers.named import NAMED
from frostline.data.readers.roboflow import roboflow_table
from frostline.data.readers.table import ENDINGS, Table, is_frame, is_table, table_of
from frostline.data.readers.webdataset import COMPRESSED
from frostline.data.readers.yolo import yolo_table
from frostline.data.split import chosen_splits
from frostline.errors import DataError, UsageError, unknown
from frostline.remote import is_address

ARCHIVES = (".zip", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
LISTINGS = {".json": "COCO", ".yaml": "YOLO", ".yml": "YOLO"}  # files that list images and are no tables

Data = str | Path | ImageSet | Any  # Any: arrays and tensors, Datasets, a mapping of splits (data/objects.py)

__all__ = ["NAMED", "Data", "ImageSet", "Images", "image_files", "read_data", "read_for_evaluation"]


def read_data(
    data: Data,
    seed: int = 0,
    *,
    download: bool = False,
    group: str | None = None,
    wanted: Wanted = AS_IT_IS,
    store: Path | None = None,
) -> ImageSet:
    """Read training, validation and optionally test images.

    data: a folder of class folders, or one with train/ and val/ (and test/) of class folders; a folder of images/ and
        masks/; a CSV, TSV, JSONL or Parquet manifest, or a DataFrame with the same columns; COCO's JSON or YOLO's
        labels, or a folder with them; a tar of WebDataset, a folder of them or a pattern ("train-{000..063}.tar"); the
        URL of a folder, a manifest or tars ("s3://bucket/photos/"); the name of a known data set ("digits",
        "mnist:ROOT"); a pair of images and labels, a torch Dataset of (image, label) pairs, a Hugging Face Dataset, or
        a mapping of "train" and "valid" (and "test") to any of these; or an ImageSet, which is returned unchanged.
    seed: decides the split if the data has none. Copies of an image, byte for byte, are in the same part.
    download: let torchvision fetch a known data set that is missing.
    group: keeps images that belong together in one split: a column of the manifest, or "names" for series of files
        such as patient12_003.png.
    wanted: names the columns of a manifest and the folder of its images, if they differ from the defaults.
    store: folder that remembers the digests of files, so that unchanged files need not be compared again.

    Raises DataError; its message says what was found and what would be right. Of a URL also UsageError for one that is
    none, and MachineError for a bucket that cannot be listed.
    """
    if isinstance(data, ImageSet) and (group is None or data.groups):
        return data
    if group is not None:
        wanted = replace(wanted, group=group)
    images = data if isinstance(data, ImageSet) else _read(data, seed, download, wanted)
    if group is not None:
        return grouped(images, group, data, seed, wanted, store)
    return copies_together(images, seed, store)


def _read(data: Data, seed: int, download: bool, wanted: Wanted) -> ImageSet:
    listing = (
        isinstance(data, (str, Path)) and Path(data).suffix.lower() == ".json" and not (wanted.path or wanted.label)
    )
    if wanted.of_manifests and not is_table(data) and not listing:
        raise UsageError(
            f"{' and '.join(wanted.of_manifests)} describe a manifest, but {calls_of(data)} is not one; leave them out"
        )
    if is_frame(data):
        return read_manifest(data, seed, wanted)
    if not isinstance(data, (str, Path)):
        return objects.read_objects(data, seed)
    if Path(data).name in ("", ".."):  # "." is called as its folder is
        data = os.path.abspath(data)  # noqa: PTH100  # links stay as they are written
    return replace(_read_path(data, seed, download, wanted), origin=str(data))


def _read_path(data: str | Path, seed: int, download: bool, wanted: Wanted) -> ImageSet:
    if found := _elsewhere(data):
        return read_manifest(found, seed, wanted) if isinstance(found, Table) else listed_set(found, seed)
    if known := _known(data):
        name, root = known
        return replace(named.read_named(name, root, download, seed), augment=named.augmentation(name))
    path = _existing(data)
    if is_table(path) and path.is_file():
        return read_manifest(path, seed, wanted)
    if path.is_dir() and (masks := read_mask_folder(path, seed)):
        return masks
    table = _listing(path, wanted)
    return read_folder(path, seed) if table is None else read_manifest(table, seed, wanted)


def is_listing(path: str | Path) -> bool:
    """Whether the extension of a path is that of a file that lists images with their labels."""
    return is_table(path) or Path(path).suffix.lower() in LISTINGS


def _listing(path: Path, wanted: Wanted) -> Table | None:
    """The images in the files of COCO, YOLO or Roboflow, as a table; None for a folder without such files."""
    kind = LISTINGS.get(path.suffix.lower(), "") if path.is_file() else ""
    table = coco_table(path, wanted.images) if kind != "YOLO" else None
    if table is None and kind != "COCO":
        table = yolo_table(path)
    return roboflow_table(path) if table is None and path.is_dir() else table


def read_for_evaluation(
    data: Data,
    classes: tuple[str, ...],
    split: str = "",
    task: str = "classification",
    *,
    seed: int = 0,
    download: bool = False,
    wanted: Wanted = AS_IT_IS,
) -> tuple[Images, str]:
    """Labelled images matched to `classes` by name, and the name of their split.

    split: "train", "valid", "test" or "all"; by default all of a plain folder or pair, else the test split, else
        validation.
    seed: that of the run, which chose the validation images of a known data set. wanted: as in `read_data`.

    Raises DataError, also if the labels do not fit `task`.
    """
    images, choice = _matched(data, classes, split, task, seed, download, wanted)
    if images.task != task:
        raise DataError(f"{calls_of(data)} has labels for {images.task}, but the run learned {task}")
    return images, choice


def calls_of(data: Data) -> str:
    """What messages call the data."""
    if isinstance(data, (str, Path)):
        return str(data)
    return data.name if isinstance(data, ImageSet) else "the data"


def _matched(
    data: Data, classes: tuple[str, ...], split: str, task: str, seed: int, download: bool, wanted: Wanted
) -> tuple[Images, str]:
    if isinstance(data, Mapping):
        parts = objects.parts_of(data)
        names, choice = chosen_splits(parts, split, "the mapping")
        return join([objects.read_objects_for(parts[name], classes) for name in names]), choice
    if is_frame(data):
        return read_manifest_for(data, classes, split, task, wanted)
    if not isinstance(data, (str, Path, ImageSet)):
        return objects.read_objects_for(data, classes), "all"
    if isinstance(data, ImageSet) or _known(data):
        whole = read_data(data, seed, download=download)
        choice = split or ("test" if whole.test is not None else "valid")
        chosen = join(list(whole.splits.values())) if choice == "all" else whole.splits.get(choice)
        if chosen is None:
            raise DataError(f"{whole.name} has no {choice} split; it has {', '.join(whole.splits)}")
        return _renumbered(chosen, whole.classes, classes), choice
    if found := _elsewhere(data):
        if isinstance(found, Table):
            return read_manifest_for(found, classes, split, task, wanted)
        return listed_for(found, classes, split)
    path = _existing(data)
    if task == "segmentation" and path.is_dir():
        return read_mask_folder_for(path, classes, split)
    table = path if is_table(path) and path.is_file() else _listing(path, wanted)
    if table is not None:
        return read_manifest_for(table, classes, split, task, wanted)
    return read_labelled(path, classes, split)


def read_listing(path: Path, classes: tuple[str, ...], task: str) -> tuple[list[Path], Images | None]:
    """The images that a manifest, COCO's JSON or YOLO's file lists, each once; and those with labels.

    The latter are matched to `classes` by name; None if labels are missing, or are not of these classes and this task.
    Raises DataError without a column of paths, and for files that do not exist.
    """
    table = table_of(path) if is_table(path) else _listing(path, AS_IT_IS)
    if table is None:
        raise DataError(f"{path} does not list images")
    files = read_paths(table)
    try:
        labelled, _ = read_manifest_for(table, classes, "all", task)
    except DataError:
        return files, None
    return files, labelled if labelled.task == task else None


def read_unlabelled(sources: Sequence[str | Path], *, download: bool = False) -> Images:
    """Images to classify: files, all images of folders, and the images of known data sets that `evaluate` uses.

    Raises UsageError if none are found.
    """
    parts = []
    for each in sources:
        refuse_address(each)
        if is_address(each) and (image := image_at(str(each))):
            parts.append(Images(image, np.zeros(1, np.int64), [str(each)]))
        elif found := _elsewhere(each):
            parts.append(_unlabelled_elsewhere(found))
        elif _known(each):
            whole = read_data(each, download=download)
            parts.append(whole.test or whole.valid)
        else:
            files = _unlabelled_files(Path(each))
            parts.append(Images(files, np.zeros(len(files), np.int64), [str(file) for file in files]))
    if not sum(len(part) for part in parts):
        folders = [Path(each) for each in sources if Path(each).is_dir()]
        hint = next((hint for each in folders for file in files_below(each) if (hint := hint_for(file.name))), "")
        raise UsageError(f"no images in {', '.join(map(str, sources))}" + (f"; {hint}" if hint else ""))
    return join(parts)


def _elsewhere(data: Any) -> Listed | Table | None:
    """The images of a URL or of tars; None for other data. A web address is refused."""
    refuse_address(data)
    return elsewhere(data)


def _unlabelled_elsewhere(found: Listed | Table) -> Images:
    """Images to classify at a URL or in tars; a manifest there must have labels."""
    if isinstance(found, Listed):
        return all_listed(found)
    return join(list(read_manifest(found, 0).splits.values()))


def _unlabelled_files(path: Path) -> list[Path]:
    """A file, or the images of a folder; a note lists its other files."""
    if not path.is_dir():
        return [path]
    files = list(files_below(path))
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    if images:
        for note in skipped(path, [file for file in files if file.suffix.lower() not in SUFFIXES]):
            terminal.say(f"note: {note}")
    return images


def _known(data: str | Path) -> tuple[str, Path | None] | None:
    """The name and the root of a known data set."""
    name, _, root = str(data).partition(":")
    if name in NAMED and not Path(data).exists():
        return name, Path(root) if root else None
    return None


def _existing(data: str | Path) -> Path:
    refuse_address(data)
    path = Path(data)
    if path.is_dir() or (path.is_file() and is_listing(path)):
        return path
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        hint = f"; if it is a WebDataset, gunzip {path.name} instead" if path.name.lower().endswith(COMPRESSED) else ""
        raise DataError(f"{path} is an archive; extract it, and give the folder{hint}")
    if path.is_file():
        raise DataError(
            f"{path} is a file; give a folder of class folders, a manifest ({', '.join(ENDINGS)}), COCO's .json or "
            "YOLO's data.yaml"
        )
    if {"/", os.sep}.isdisjoint(str(data)) and not str(data).startswith("."):
        near = unknown("data set", str(data).partition(":")[0], NAMED)
        raise DataError(f"no folder {data}, and {near}")
    raise DataError(f"no such folder: {path}")


def _renumbered(images: Images, names: tuple[str, ...], classes: tuple[str, ...]) -> Images:
    """The images with their labels as numbers of `classes`; raises DataError for other classes."""
    numbers = np.array([classes.index(name) if name in classes else -1 for name in names])
    targets = images.targets
    if isinstance(targets, Masks):
        lookup = np.full(256, NOTHING, np.uint8)
        lookup[: len(numbers)] = numbers
        extra = [name for name in names if name not in classes]
        renumbered: Masks | np.ndarray = replace(targets, numbers=lookup[targets.numbers], painted=())
    elif targets.ndim == 2:
        extra = [name for i, name in enumerate(names) if name not in classes and targets[:, i].any()]
        renumbered = np.zeros((len(targets), len(classes)), bool)
        renumbered[:, numbers[numbers >= 0]] = targets[:, numbers >= 0]
    else:
        extra = [name for i, name in enumerate(names) if name not in classes and (targets == i).any()]
        renumbered = numbers[targets]
    if extra:
        raise DataError(
            f"the run does not know these classes: {', '.join(extra[:5])}; it knows {', '.join(classes[:10])}"
        )
    return Images(images.pictures, renumbered, images.names)
