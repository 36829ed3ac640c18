"""Data sets that are Python objects: arrays, tensors, and the datasets of torch, torchvision and Hugging Face.

These libraries are not imported: the attributes of an object decide how it is read, not its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frostline import terminal
from frostline.data.decoding import Item, Picture, UnreadableImageError, as_uint8, open_image
from frostline.data.digests import digest
from frostline.data.images import Images, ImageSet, spread
from frostline.data.readers.folder import SPLITS, unknown_classes
from frostline.data.readers.table import is_missing
from frostline.data.split import image_set
from frostline.errors import DataError, reason

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target", "targets")
TRIED = 8  # images per split that are tried beforehand
SUBSET = "torch.utils.data.dataset.Subset.__getitem__"
LISTED = {  # where the code of torchvision takes the labels of its items from
    "torchvision.datasets.folder.DatasetFolder.__getitem__": "samples",
    "torchvision.datasets.mnist.MNIST.__getitem__": "targets",
    "torchvision.datasets.cifar.CIFAR10.__getitem__": "targets",
    "torchvision.datasets.svhn.SVHN.__getitem__": "labels",
    "torchvision.datasets.stl10.STL10.__getitem__": "labels",
}


@dataclass(frozen=True, eq=False)
class _Part:
    """Images and their original labels.

    labels: (N,) of int64 or of str, or (N, classes) of bool. names: of the classes, if the data has them.
    """

    pictures: Sequence[Picture]
    labels: np.ndarray
    names: tuple[str, ...] = ()


def read_objects(data: object, seed: int) -> ImageSet:
    """A data set from a pair (images, labels), a map-style dataset, or a mapping of splits to such values.

    images: (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W) of uint8, floats 0 … 1 or whole numbers 0 … 255, from
        numpy or torch; or a list of such arrays, PIL images or paths. labels: class numbers, names, or (N, classes) of
        0 and 1 for several labels per image.
    A map-style dataset gives pairs (image, label), like torch's and torchvision's, or columns, like Hugging Face's; its
    images are read on demand. Labels of different splits are matched by class name if both have names, else by value.
    Without validation images it uses a stratified fifth of the training images.

    Raises DataError; its message says what was found and what would be right.
    """
    splits = parts_of(data) if isinstance(data, Mapping) else {"train": data}
    if "train" not in splits:
        raise DataError(f"the mapping has {', '.join(splits)} but no 'train'")
    parts = {split: _part(value, split) for split, value in splits.items()}
    train = parts["train"]
    classes = _classes(train)
    if len(classes) < 2:
        raise DataError(f"only one class, {classes[0]!r}, in the labels; a classifier needs at least two")
    images = {split: _images(_named_as(train, part, split), classes, split) for split, part in parts.items()}
    return image_set(_name(data), classes, images, seed, _notes(data, train), "the data")


def read_objects_for(data: object, classes: tuple[str, ...]) -> Images:
    """Images to measure a classifier on, from the same objects; labels are matched to its classes by name.

    Class numbers without names are matched as text: 7 is the class "7". From a mapping it reads the test split, else
    validation, else training; `parts_of` gives all. Raises DataError, also for unknown classes.
    """
    if isinstance(data, Mapping):
        splits = parts_of(data)
        data = next(splits[split] for split in ("test", "valid", "train") if split in splits)
    return _images(_part(data, "data"), classes, "data")


def _refuse_paths(splits: Mapping[str, Any]) -> None:
    for split, value in splits.items():
        if isinstance(value, (str, Path)):
            raise DataError(
                f"{split} is the path {value}; in a mapping give images and labels or a Dataset, or give one folder "
                "with train/ and val/ as the data"
            )


def parts_of(data: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a mapping by split: "train", "valid" and "test" if present. Raises DataError without any."""
    splits = {
        split: value
        for split, keys in SPLITS.items()
        if (value := next((data[key] for key in keys if key in data and data[key] is not None), None)) is not None
    }
    if not splits:
        keys = ", ".join(map(repr, data)) or "nothing"
        raise DataError(f"a mapping needs 'train' and may have 'valid' and 'test'; found {keys}")
    _refuse_paths(splits)
    return splits


def _part(value: Any, where: str) -> _Part:
    if isinstance(value, tuple) and len(value) == 2:
        part = _from_pair(*value, where)
    elif not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        raise DataError(
            f"{where}, of type {type(value).__name__}, cannot be indexed; give a pair (images, labels) or a dataset "
            "with len() and [i]; for a DataLoader give its .dataset"
        )
    elif not len(value):
        raise DataError(f"{where} is empty")
    elif has_columns(value):
        part = _from_columns(value, where)
    else:
        part = _from_dataset(value, where)
    _try_some(part.pictures, where)
    return part


def _from_pair(images: Any, labels: Any, where: str) -> _Part:
    images = _numpy(images) if getattr(images, "ndim", 1) > 1 else list(images)
    array = _labels(labels, where)
    if len(images) != len(array):
        raise DataError(f"{where} has {len(images)} images and {len(array)} labels; give one label per image")
    return _Part([_picture(image, f"image {i} of {where}") for i, image in enumerate(images)], array)


def _picture(image: Any, which: str) -> Picture:
    if isinstance(image, str | Path):
        return Path(image)
    if isinstance(image, Image.Image):
        return Item([(image,)], 0, 0)
    try:
        return as_uint8(_numpy(image))
    except UnreadableImageError as error:
        raise DataError(f"{which}: {error}; give 0 … 255 as uint8") from None


def _numpy(values: Any) -> np.ndarray:
    """A numpy array, also from a tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _from_dataset(source: Any, where: str) -> _Part:
    labels = _listed_labels(source)
    array = _labels(_labels_of_items(source, where) if labels is None else labels, where)
    return _Part([Item(source, i, 0) for i in range(len(source))], array, _names(_whole(source), "classes", array))


def _whole(source: Any) -> Any:
    """The dataset behind a torch Subset; any other dataset unchanged."""
    return _whole(source.dataset) if _is_subset(source) else source


def _is_subset(source: Any) -> bool:
    return hasattr(source, "dataset") and hasattr(source, "indices")


def _listed_labels(source: Any) -> list[Any] | None:
    """The labels of a dataset without reading its images, if its items certainly have them.

    A `targets` of your own may differ from what `__getitem__` gives, which is what everybody else trains on. So the
    list is used only where torchvision's own code reads the labels from it.
    """
    code = getattr(type(source), "__getitem__", None)
    made_by = f"{getattr(code, '__globals__', {}).get('__name__')}.{getattr(code, '__qualname__', '')}"
    if made_by == SUBSET:
        whole = _listed_labels(source.dataset)
        return None if whole is None else [whole[i] for i in source.indices]
    if made_by not in LISTED or getattr(source, "target_transform", None) is not None:
        return None
    listed = _attribute(source, LISTED[made_by])
    labels = [sample[1] for sample in listed] if LISTED[made_by] == "samples" else listed
    return labels if len(labels) == len(source) else None


def _labels_of_items(source: Any, where: str) -> list[Any]:
    with terminal.progress(f"reading the labels of {where}", len(source), "items") as advance:
        labels = []
        for i in range(len(source)):
            labels.append(_item(source, i, where)[1])
            advance(1)
    return labels


def _attribute(carrier: Any, name: str) -> list[Any]:
    """The list, tuple, array or tensor of that name; empty for anything else, which has another meaning."""
    value = _plain(getattr(carrier, name, None))
    return list(value) if isinstance(value, list | tuple) else []


def _item(source: Any, i: int, where: str) -> Sequence[Any]:
    try:
        item = source[i]
    except Exception as error:
        raise DataError(f"item {i} of {where} ({type(source).__name__}) cannot be read: {reason(error)}") from error
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise DataError(
            f"item {i} of {where} ({type(source).__name__}) is of type {type(item).__name__}; it must be (image, label)"
        )
    return item


def has_columns(source: object) -> bool:
    """Whether an object is a Hugging Face Dataset, or looks like one."""
    return hasattr(source, "column_names") and hasattr(source, "features")


def pictures_of(source: Any, where: str = "the data") -> list[Picture]:
    """The images of a dataset with columns, each read on demand; raises DataError without a column of images."""
    image = _column(source, IMAGE_COLUMNS, "decode", where)
    return [Item(source, i, image) for i in range(len(source))]


def _from_columns(source: Any, where: str) -> _Part:
    label = _column(source, LABEL_COLUMNS, "names", where)
    array = _labels(source[label], where)
    return _Part(pictures_of(source, where), array, _names(source.features[label], "names", array))


def _column(source: Any, usual: tuple[str, ...], mark: str, where: str) -> str:
    """The column with a usual name, else the only column whose feature has the attribute `mark`."""
    columns: list[str] = list(source.column_names)
    marked = [name for name in columns if hasattr(source.features[name], mark)]
    if named := [name for name in usual if name in columns]:
        return named[0]
    if len(marked) == 1:
        return marked[0]
    raise DataError(
        f"{where} has no column {usual[0]!r}; found {', '.join(columns)}; "
        f"rename one: dataset.rename_column(NAME, {usual[0]!r})"
    )


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _labels(values: Any, where: str) -> np.ndarray:
    """Labels as (N,) of int64 or of str, or (N, classes) of bool."""
    plain = [_plain(value) for value in _plain(values)]
    if not plain:
        raise DataError(f"{where} is empty")
    if missing := [i for i, value in enumerate(plain) if is_missing(value)]:
        raise DataError(
            f"{len(missing)} labels of {where} are missing, the first is number {missing[0]}; leave them out"
        )
    try:
        array = np.array(plain)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and array.dtype.kind == "U":
        return array
    if array.dtype.kind in "biuf" and np.isfinite(array).all():
        if array.ndim == 1 and (array == np.rint(array)).all():
            return array.astype(np.int64)
        if array.ndim == 2 and np.isin(array, (0, 1)).all():
            return array.astype(bool)
    odd = plain[int(np.argmax(array != np.rint(array)))] if array.ndim == 1 and array.dtype.kind == "f" else plain[0]
    raise DataError(
        f"{where} has labels such as {str(odd)[:60]}; give class numbers or names (N,), or rows of 0 and 1 "
        "(N, classes) for several labels per image"
    )


def _names(carrier: Any, attribute: str, labels: np.ndarray) -> tuple[str, ...]:
    """The class names of a dataset, if they fit its labels."""
    names = _attribute(carrier, attribute)
    if labels.dtype.kind == "U" or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        return ()
    fits = len(names) == labels.shape[1] if labels.ndim == 2 else labels.max() < len(names)
    return tuple(names) if fits else ()


def _try_some(pictures: Sequence[Picture], where: str) -> None:
    """Raises DataError if no image can be read, or if an image changes between two reads."""
    some = [pictures[i] for i in spread(len(pictures), TRIED)]
    reasons = [reason for picture in some if (reason := _unreadable(picture))]
    if len(reasons) == len(some):
        raise DataError(f"the images of {where} cannot be read: {reasons[0]}")
    if any(digest(picture) != digest(picture) for picture in some):
        raise DataError(
            f"the images of {where} change between two reads; remove random transforms from the dataset and give them "
            "as augment="
        )


def _unreadable(picture: Picture) -> str:
    try:
        open_image(picture)
    except UnreadableImageError as error:
        return str(error)
    return ""


def _classes(train: _Part) -> tuple[str, ...]:
    """The class names in order: that of the data, else by number, else by name."""
    if train.labels.ndim == 2:
        return train.names or tuple(map(str, range(train.labels.shape[1])))
    return tuple(map(str, _texts(train, np.unique(train.labels))))


def _texts(part: _Part, labels: np.ndarray) -> np.ndarray:
    """The class names of labels."""
    if not part.names or labels.dtype.kind == "U":
        return labels.astype(str)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(part.names):
        odd = labels[(labels < 0) | (labels >= len(part.names))][0]
        raise DataError(
            f"the label {odd} is not in 0 … {len(part.names) - 1} ({', '.join(part.names[:5])}); "
            "leave out images without a label"
        )
    texts: np.ndarray = np.array(part.names)[labels]
    return texts


def _named_as(train: _Part, part: _Part, where: str) -> _Part:
    """A part with the names that match its labels: its own names if training has names too."""
    if train.labels.shape[1:] != part.labels.shape[1:]:
        raise DataError(f"labels have shape {train.labels.shape} in train, but {part.labels.shape} in {where}")
    return replace(part, names=(part.names or train.names) if train.names else ())


def _images(part: _Part, classes: tuple[str, ...], prefix: str) -> Images:
    """A part with its labels as numbers of `classes`; raises DataError for an unknown class."""
    names = [f"{prefix}-{i:05}" for i in range(len(part.pictures))]
    number = {name: i for i, name in enumerate(classes)}
    if part.labels.ndim == 2:
        own = _classes(part)
        used = [name for name, column in zip(own, part.labels.T, strict=True) if column.any()]
        _refuse_unknown(used, classes, prefix)
        targets = np.zeros((len(names), len(classes)), bool)
        for name, column in zip(own, part.labels.T, strict=True):
            if name in number:
                targets[:, number[name]] = column
        return Images(part.pictures, targets, names)
    texts = _texts(part, part.labels).tolist()
    _refuse_unknown(sorted({*texts}), classes, prefix)
    return Images(part.pictures, np.array([number[text] for text in texts], np.int64), names)


def _refuse_unknown(names: list[str], classes: tuple[str, ...], where: str) -> None:
    if extra := [name for name in names if name not in classes]:
        raise unknown_classes(where, extra, classes)


def _name(data: object) -> str:
    if isinstance(data, tuple):
        return "arrays"
    return "data" if isinstance(data, Mapping | list) else type(_whole(data)).__name__.lower()


def _notes(data: object, train: _Part) -> tuple[str, ...]:
    """Notes on what was skipped or looks like a mistake."""
    notes = []
    known = [key for keys in SPLITS.values() for key in keys]
    if isinstance(data, Mapping) and (others := [str(key) for key in data if key not in known]):
        notes.append(f"skipped parts with other names: {', '.join(others[:5])}")
    if train.labels.ndim == 1 and train.names:
        absent = [name for i, name in enumerate(train.names) if not (train.labels == i).any()]
        if absent:
            notes.append(f"skipped class names without training images: {', '.join(absent[:5])}")
    if train.labels.ndim == 2 and (train.labels.sum(1) == 1).all():
        notes.append("every image has exactly one label; for one class per image give class numbers")
    return tuple(notes)
