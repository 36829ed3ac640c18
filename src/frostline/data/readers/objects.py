"""Data sets that are Python values: arrays, tensors, and the datasets of torch, torchvision and Hugging Face.

Nothing of those libraries is imported: what a value has decides how it is read, not what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frostline.data.decoding import Item, Picture, UnreadableImageError, as_uint8, open_image
from frostline.data.digests import digest
from frostline.data.images import Images, ImageSet, spread
from frostline.data.readers.folder import SPLITS, unknown_classes
from frostline.data.split import image_set
from frostline.errors import DataError, reason

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target", "targets")
TRIED = 8  # images that are looked at beforehand, spread over a part


@dataclass(frozen=True, eq=False)
class _Part:
    """Images and their labels as they were given.

    labels: (N,) of int64 or of str, or (N, classes) of bool. names: of the classes, where the data carry them.
    """

    pictures: Sequence[Picture]
    labels: np.ndarray
    names: tuple[str, ...] = ()


def read_objects(data: object, seed: int) -> ImageSet:
    """A data set from a pair (images, labels), a map-style dataset, or a mapping of splits to such values.

    images: (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W) of uint8, floats 0 … 1 or whole numbers 0 … 255, numpy's
        or torch's; or a list of such arrays, PIL images or paths. labels: class numbers, names, or (N, classes) of 0
        and 1 for several labels per image.
    A map-style dataset gives pairs (image, label), as torch's and torchvision's do, or columns, as Hugging Face's do;
    its images are read when they are needed. Labels of different splits are matched by class name where both carry
    names, else by value. Without validation images a stratified fifth of the training images is taken.

    Raises DataError, saying what was found and what would be right.
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
    """Images of such data to measure a classifier on, their labels matched to its classes by name.

    Class numbers without names are matched by their text: 7 is the class "7". Of a mapping the test split is read, else
    validation, else training; `parts_of` gives them all. Raises DataError, also for classes that are not known.
    """
    if isinstance(data, Mapping):
        splits = parts_of(data)
        data = next(splits[split] for split in ("test", "valid", "train") if split in splits)
    return _images(_part(data, "data"), classes, "data")


def parts_of(data: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a mapping by split, "train", "valid" and "test" as far as it has them; DataError if it has none."""
    splits = {
        split: value
        for split, keys in SPLITS.items()
        if (value := next((data[key] for key in keys if key in data and data[key] is not None), None)) is not None
    }
    if not splits:
        keys = ", ".join(map(repr, data)) or "nothing"
        raise DataError(f"a mapping needs 'train' and perhaps 'valid' and 'test'; found {keys}")
    return splits


def _part(value: Any, where: str) -> _Part:
    if isinstance(value, tuple) and len(value) == 2:
        part = _from_pair(*value, where)
    elif not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        raise DataError(
            f"{where}, of type {type(value).__name__}, cannot be read by number; give a pair (images, labels) "
            "or a dataset with len() and [i], of a DataLoader its .dataset"
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
        raise DataError(f"{where} has {len(images)} images and {len(array)} labels; as many of both are wanted")
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
    """An array, or a tensor of any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _from_dataset(source: Any, where: str) -> _Part:
    labels = _listed_labels(source)
    if labels is None or not _gives(source, labels):
        labels = [_item(source, i, where)[1] for i in range(len(source))]
    array = _labels(labels, where)
    return _Part([Item(source, i, 0) for i in range(len(source))], array, _names(_whole(source), "classes", array))


def _whole(source: Any) -> Any:
    """What a torch Subset is taken of; anything else is whole."""
    return _whole(source.dataset) if _is_subset(source) else source


def _is_subset(source: Any) -> bool:
    return hasattr(source, "dataset") and hasattr(source, "indices")


def _listed_labels(source: Any) -> list[Any] | None:
    """The labels of a dataset without reading its images, where it lists them as torchvision's do."""
    if _is_subset(source):
        whole = _listed_labels(source.dataset)
        return None if whole is None else [whole[i] for i in source.indices]
    if getattr(source, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        if listed := _attribute(source, name):
            return listed
    samples = _attribute(source, "samples")
    pairs = samples and all(isinstance(sample, tuple) and len(sample) == 2 for sample in samples)
    return [sample[1] for sample in samples] if pairs else None


def _attribute(carrier: Any, name: str) -> list[Any]:
    """The list, tuple, array or tensor of that name; of anything else nothing, for it means something else."""
    value = _plain(getattr(carrier, name, None))
    return list(value) if isinstance(value, list | tuple) else []


def _gives(source: Any, labels: list[Any]) -> bool:
    """Whether a dataset gives with its images the labels that it lists; an image that is unreadable does not count."""
    if len(labels) != len(source):
        return False
    for i in spread(len(source), TRIED).tolist():  # plain numbers: somebody else's __getitem__ gets them
        try:
            label = source[i][1]
        except Exception:  # noqa: S112
            continue
        if _plain(label) != _plain(labels[i]):
            return False
    return True


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
    """Whether it is a Hugging Face Dataset, or reads as one."""
    return hasattr(source, "column_names") and hasattr(source, "features")


def pictures_of(source: Any, where: str = "the data") -> list[Picture]:
    """The images of a data set of columns, each read when it is needed; DataError where no column is of images."""
    image = _column(source, IMAGE_COLUMNS, "decode", where)
    return [Item(source, i, image) for i in range(len(source))]


def _from_columns(source: Any, where: str) -> _Part:
    label = _column(source, LABEL_COLUMNS, "names", where)
    array = _labels(source[label], where)
    return _Part(pictures_of(source, where), array, _names(source.features[label], "names", array))


def _column(source: Any, usual: tuple[str, ...], mark: str, where: str) -> str:
    """The column of a usual name, else the only one whose feature has the attribute that marks it."""
    columns: list[str] = list(source.column_names)
    marked = [name for name in columns if hasattr(source.features[name], mark)]
    if named := [name for name in usual if name in columns]:
        return named[0]
    if len(marked) == 1:
        return marked[0]
    raise DataError(
        f"{where} has the columns {', '.join(columns)}, none of them {usual[0]!r}; "
        f"rename one: dataset.rename_column(NAME, {usual[0]!r})"
    )


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _labels(values: Any, where: str) -> np.ndarray:
    """Labels as (N,) of int64 or of str, or (N, classes) of bool."""
    plain = [_plain(value) for value in _plain(values)]
    if not plain:
        raise DataError(f"{where} is empty")
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
        f"labels such as {str(odd)[:60]} in {where}; wanted are class numbers or names (N,), or rows of 0 and 1 "
        "(N, classes) for several labels per image"
    )


def _names(carrier: Any, attribute: str, labels: np.ndarray) -> tuple[str, ...]:
    """The class names that a dataset carries, if they fit its labels."""
    names = _attribute(carrier, attribute)
    if labels.dtype.kind == "U" or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        return ()
    fits = len(names) == labels.shape[1] if labels.ndim == 2 else labels.max() < len(names)
    return tuple(names) if fits else ()


def _try_some(pictures: Sequence[Picture], where: str) -> None:
    """Raises DataError where no image can be read, or where one changes from reading to reading."""
    some = [pictures[i] for i in spread(len(pictures), TRIED)]
    reasons = [reason for picture in some if (reason := _unreadable(picture))]
    if len(reasons) == len(some):
        raise DataError(f"the images of {where} cannot be read: {reasons[0]}")
    if any(digest(picture) != digest(picture) for picture in some):
        raise DataError(
            f"the images of {where} change from one reading to the next; leave random transforms out of the dataset "
            "and give them as augment="
        )


def _unreadable(picture: Picture) -> str:
    try:
        open_image(picture)
    except UnreadableImageError as error:
        return str(error)
    return ""


def _classes(train: _Part) -> tuple[str, ...]:
    """The names of the classes in their order: the data's own, else by number, else by name."""
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
            f"the label {odd} is none of 0 … {len(part.names) - 1} ({', '.join(part.names[:5])}); "
            "leave out images without a label"
        )
    texts: np.ndarray = np.array(part.names)[labels]
    return texts


def _named_as(train: _Part, part: _Part, where: str) -> _Part:
    """A part with the names that its labels are matched by: its own if training carries names too."""
    if train.labels.shape[1:] != part.labels.shape[1:]:
        raise DataError(f"labels of shape {train.labels.shape} in train, of {part.labels.shape} in {where}")
    return replace(part, names=(part.names or train.names) if train.names else ())


def _images(part: _Part, classes: tuple[str, ...], prefix: str) -> Images:
    """A part with its labels as numbers of `classes`; DataError for a class that is none of them."""
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
    """What was passed over or looks like a mistake, so that nobody misses it in silence."""
    notes = []
    known = [key for keys in SPLITS.values() for key in keys]
    if isinstance(data, Mapping) and (others := [str(key) for key in data if key not in known]):
        notes.append(f"parts of other names passed over: {', '.join(others[:5])}")
    if train.labels.ndim == 1 and train.names:
        absent = [name for i, name in enumerate(train.names) if not (train.labels == i).any()]
        if absent:
            notes.append(f"names without training images are no classes: {', '.join(absent[:5])}")
    if train.labels.ndim == 2 and (train.labels.sum(1) == 1).all():
        notes.append("every image has exactly one of several labels; for one class an image give class numbers")
    return tuple(notes)
