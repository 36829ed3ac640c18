"""Which fit a file belongs to: digests of its configuration and of its images, in their order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

from frostline.data.digests import digest
from frostline.data.images import Images, ImageSet
from frostline.data.masks import Masks
from frostline.fitting.options import FREE
from frostline.runs.run import Run

# Options that do not change the result once the plan is made. Images and weights are compared by their content.
NOT_DECIDING = (*FREE, "data", "images", "weights", "out", "time", "memory", "disk")


def config_digest(run: Run) -> str:
    """The digest of a run's config.yaml, without what does not change the result."""
    config = {name: value for name, value in run.config.items() if name not in NOT_DECIDING}
    return _digest([json.dumps(config, sort_keys=True, default=str).encode()])


def images_digest(images: ImageSet) -> str:
    """The digest of the names, labels, masks and groups of all images, in their order; contents have their own."""
    return _digest(_told(images))


def _told(images: ImageSet) -> Iterator[bytes]:
    yield json.dumps([images.classes, images.validation]).encode()
    for split, part in images.distinct.items():
        labels = [str(label) for label in part.labels(images.classes)]
        groups = [images.groups.get(name, "") for name in part.names]
        yield json.dumps([split, list(part.names), labels, groups]).encode()
        if split != "test":  # which stays closed
            yield from _masks(part)


def _masks(images: Images) -> Iterator[bytes]:
    if isinstance(images.targets, Masks):
        yield images.targets.numbers.tobytes() + json.dumps(sorted((images.targets.colours or {}).items())).encode()
        yield from map(digest, images.targets.pictures)


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()
