"""The content of `model.json`, checked before a classifier is built from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from frostline.backbones.provenance import NOT_STATED
from frostline.errors import WeightsError, reason
from frostline.files import CLASSIFIER
from frostline.preprocessing import Preprocessing, preprocessing_from
from frostline.tasks import NAMES

FORMAT = 4
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
CROPS = ("center", "squash")
LARGEST = 65_536  # pixels per side


@dataclass(frozen=True)
class Description:
    """Everything needed to build a classifier around its weights.

    task: one of frostline.tasks.NAMES. backbone: "source:name", or the class of a user's own module.
    weights: the source of the backbone's weights.
    heads: by module path, None for a new layer in place of the old one, or the input shape of a pooled head.
    files: the SHA-256 in hexadecimal of each file that is read with it.
    temperature: divisor of the logits.
    metrics: by split ("valid", "test"), the figures of the classifier, as metrics.json names them. provenance: what it
        was made with: packages, seed, number of images by split, SHA-256 of split.csv and of the reference.
    licence, sha256: of the backbone's weights, as in `Backbone`. code: Python that builds the bare network without
        Frostline, "" if impossible (classifier/elsewhere.py). It is shown and never run. colours: as in `Classifier`.
        The classifier can be built without these, so files without them are accepted.
    """

    task: str
    backbone: str
    weights: str
    heads: Mapping[str, tuple[int, ...] | None]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    files: Mapping[str, str]
    temperature: float = 1.0
    licence: str = NOT_STATED
    sha256: str | None = None
    code: str = ""
    colours: tuple[int, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def read_description(folder: Path) -> Description:
    """The description in a folder; raises WeightsError with the reason if it cannot be used."""
    try:
        values = json.loads((folder / CLASSIFIER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _corrupt(folder, reason(error)) from error
    if not isinstance(values, dict):
        raise _corrupt(folder, "it is not a JSON object")
    if values.get("format") != FORMAT:
        raise WeightsError(
            f"{folder} has format {values.get('format')}, but this version of Frostline reads format {FORMAT}: fit "
            "again, or use the version named in environment.json of the run"
        )
    missable: dict[str, Any] = {
        "licence": NOT_STATED,
        "sha256": None,
        "code": "",
        "colours": [],
        "metrics": {},
        "provenance": {},
    }
    values = {**missable, **values}
    missing = [field.name for field in fields(Description) if field.name not in values]
    if missing:
        raise _corrupt(folder, f"it lacks {', '.join(missing)}")
    wrong = next((text for text, holds in _checks(values) if not holds), None)
    if wrong:
        raise _corrupt(folder, wrong)
    return Description(
        values["task"],
        values["backbone"],
        values["weights"],
        {name: None if shape is None else tuple(shape) for name, shape in values["heads"].items()},
        tuple(values["classes"]),
        preprocessing_from(values["preprocessing"]),
        values["files"],
        float(values["temperature"]),
        values["licence"],
        values["sha256"],
        values["code"],
        tuple(values["colours"]),
        values["metrics"],
        values["provenance"],
    )


def _corrupt(folder: Path, what: str) -> WeightsError:
    return WeightsError(
        f"the classifier in {folder} is corrupt: model.json cannot be used, {what}; copy the folder again from an "
        "intact run, or fit again"
    )


def _checks(values: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """The checks of the values: an error text, and whether the check holds."""
    classes, heads, files, temperature = (values[key] for key in ("classes", "heads", "files", "temperature"))
    texts = isinstance(classes, list) and all(map(_is_text, classes))
    return [
        (f"its task {values['task']!r} is not one of {', '.join(NAMES)}", values["task"] in NAMES),
        ("its backbone is not text", _is_text(values["backbone"]) and bool(values["backbone"])),
        ("its weights are not text", _is_text(values["weights"])),
        ("its classes are not a list of names", texts and bool(classes)),
        ("its classes have a duplicate name", texts and len(set(classes)) == len(classes)),
        ("its heads are not a mapping of names to shapes", _is_mapping(heads, _is_shape)),
        ("its files are not a mapping of names to digests", _is_mapping(files, _is_text)),
        ("its licence is not text", _is_text(values["licence"])),
        ("its sha256 is not text", values["sha256"] is None or _is_text(values["sha256"])),
        ("its code is not text", _is_text(values["code"])),
        ("its metrics are not a mapping", isinstance(values["metrics"], dict)),
        ("its provenance is not a mapping", isinstance(values["provenance"], dict)),
        ("its colours are not a list of one number per class", _are_colours(values["colours"], classes)),
        ("its temperature is not a number above 0", _is_number(temperature) and temperature > 0),
        *_checks_of_preprocessing(values["preprocessing"]),
    ]


def _checks_of_preprocessing(values: Any) -> list[tuple[str, bool]]:
    names = {field.name for field in fields(Preprocessing)}
    if not isinstance(values, dict) or values.keys() != names:
        return [(f"its preprocessing must have {', '.join(sorted(names))} and nothing else", False)]
    mean, std = values["mean"], values["std"]
    lists = isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) > 0
    return [
        ("the size of its preprocessing is not a number of pixels", _is_size(values["size"])),
        ("the resize of its preprocessing is not a number of pixels", _is_size(values["resize"])),
        (f"its interpolation is not one of {', '.join(INTERPOLATIONS)}", values["interpolation"] in INTERPOLATIONS),
        (f"its crop is not one of {', '.join(CROPS)}", values["crop"] in CROPS),
        ("its mean and std are not lists of one number per channel", lists and all(map(_is_number, [*mean, *std]))),
        ("its std is not above 0", lists and all(_is_number(value) and value > 0 for value in std)),
    ]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_colours(values: Any, classes: Any) -> bool:
    fits = isinstance(values, list) and isinstance(classes, list) and len(values) in (0, len(classes))
    return fits and all(type(value) is int and 0 <= value <= 0xFFFFFF for value in values)


def _is_mapping(values: Any, is_value: Callable[[Any], bool]) -> bool:
    return isinstance(values, dict) and all(map(is_value, values.values()))


def _is_shape(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) in (1, 3) and all(map(_is_size, value)))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
