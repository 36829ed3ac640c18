"""Reading labelled images from what people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frostline.data.folder import image_files, read_folder, read_labelled
from frostline.data.images import Images, ImageSet, join
from frostline.data.named import NAMED
from frostline.errors import DataError, unknown

Data = str | Path | ImageSet

__all__ = ["NAMED", "Data", "ImageSet", "Images", "image_files", "read_data", "read_for_evaluation"]


def read_data(data: Data, seed: int = 0) -> ImageSet:
    """Training, validation and perhaps test images.

    data: a folder with `train/` and `val/` (and `test/`) of class folders, a folder of class folders, the name of a
        known data set ("digits"), or an ImageSet, which is returned as it is.
    seed: decides the split where the data has none.

    Raises DataError, saying what was found and what would be right.
    """
    if isinstance(data, ImageSet):
        return data
    if str(data) in NAMED and not Path(data).is_dir():
        return NAMED[str(data)](seed)
    return read_folder(_folder(data), seed)


def read_for_evaluation(data: Data, classes: tuple[str, ...], split: str = "") -> tuple[Images, str]:
    """Labelled images matched to `classes` by name, and which split they are.

    split: "train", "valid", "test" or "all"; by default all of a plain folder, else the test split, else validation.
    """
    if isinstance(data, ImageSet) or (str(data) in NAMED and not Path(data).is_dir()):
        whole = read_data(data)
        choice = split or ("test" if whole.test is not None else "valid")
        chosen = join(list(whole.splits.values())) if choice == "all" else whole.splits.get(choice)
        if chosen is None:
            raise DataError(f"{whole.name} has no {choice} split; it has {', '.join(whole.splits)}")
        return _renumbered(chosen, whole.classes, classes), choice
    return read_labelled(_folder(data), classes, split)


def _folder(data: str | Path) -> Path:
    path = Path(data)
    if path.is_dir():
        return path
    if path.is_file():
        raise DataError(f"{path} is a file; give a folder of class folders")
    if "/" not in str(data) and not str(data).startswith("."):
        near = unknown("data set", str(data), NAMED)
        raise DataError(f"no folder {data}, and {near}")
    raise DataError(f"no such folder: {path}")


def _renumbered(images: Images, names: tuple[str, ...], classes: tuple[str, ...]) -> Images:
    extra = [name for i, name in enumerate(names) if name not in classes and (images.targets == i).any()]
    if extra:
        raise DataError(
            f"classes that the run does not know: {', '.join(extra[:5])}; it knows {', '.join(classes[:10])}"
        )
    numbers = np.array([classes.index(name) if name in classes else -1 for name in names])
    return Images(images.pictures, numbers[images.targets], images.names)
