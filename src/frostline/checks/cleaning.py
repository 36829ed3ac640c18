"""Write a manifest of a data set without the images that the checks reject."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from frostline.checks.findings import Checks, Finding
from frostline.data.images import Images, ImageSet
from frostline.data.masks import Masks
from frostline.data.texts import Paths
from frostline.errors import UsageError
from frostline.values import safe_cell

SPLITS = {"train": "train", "valid": "val", "test": "test"}


def cleaned(images: ImageSet, checks: Checks, manifest: Path) -> tuple[str, int]:
    """The text of a CSV manifest for `read_data`, and the number of images in it.

    It leaves out unreadable images; every image with two labels; all copies within a split except the first; and, for
    an image in two splits, the copies in the earlier split, so that measured images stay.
    manifest: the path of the new file; image paths are relative to it. If validation images were split off, they keep
    the split "train".

    Raises UsageError for images that are not files, or that are outside the folder of the manifest.
    """
    drop = dropped(checks)
    column = "mask" if images.task == "segmentation" else "label"
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    grouped = bool(images.groups)
    writer.writerow(("path", column, "split", *(["group"] if grouped else [])))
    count = 0
    for split, part in images.distinct.items():
        named = "train" if split == "valid" and images.validation != "given" else SPLITS[split]
        for number, (path, target) in enumerate(_records(part, images.classes, manifest)):
            if (split, part.names[number]) not in drop:
                own = images.groups.get(part.names[number], "")
                writer.writerow((path, target, named, *([safe_cell(own)] if grouped else [])))
                count += 1
    return lines.getvalue(), count


def dropped(checks: Checks) -> set[tuple[str, str]]:
    """The split and the name of every rejected image."""
    gone = {
        image for kind in ("unreadable", "label-conflict") for finding in checks.of(kind) for image in _images(finding)
    }
    for finding in checks.of("leak"):
        gone.update(_images(finding)[1:])
    for kind in ("duplicate", "near-duplicate"):
        for finding in checks.of(kind):
            gone.update([image for image in _images(finding) if image not in gone][1:])
    return gone


def _images(finding: Finding) -> list[tuple[str, str]]:
    return list(zip(finding.splits, finding.paths, strict=True))


def _records(part: Images, classes: tuple[str, ...], manifest: Path) -> Iterator[tuple[str, str]]:
    """The path of each image, and its label or the path of its mask."""
    if not isinstance(part.pictures, Paths):
        raise UsageError("these images are not files, so a manifest cannot list them; leave out --fix")
    labels = part.labels(classes)
    for number, picture in enumerate(part.pictures):
        if isinstance(part.targets, Masks):
            mask = part.targets.pictures[number]
            if not isinstance(mask, Path):
                raise UsageError("these masks are not files, so a manifest cannot list them; leave out --fix")
            yield _relative(picture, manifest), _relative(mask, manifest)
        else:
            yield _relative(picture, manifest), labels[number]


def _relative(file: Path, manifest: Path) -> str:
    path = os.path.relpath(file, manifest.parent)
    if path.startswith(".."):
        raise UsageError(f"{file} is not below {manifest.parent}; give --fix a path in a folder above the images")
    return path if safe_cell(path) == path else f".{os.sep}{path}"  # so that no spreadsheet reads it as a formula
