"""Which rows of some images and views are stored: looked up once, then used to decide, to fill and to read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from frostline import terminal
from frostline.data.images import Images, spread
from frostline.data.texts import Paths
from frostline.errors import reason
from frostline.store.claims import claimed
from frostline.store.index import Index, index_names
from frostline.store.net import agrees, written
from frostline.store.rows import Rows, view_names
from frostline.store.shard_file import DamagedError, Form, Held, Shard, open_shard
from frostline.store.shards import Opened, open_entry, shard_files

GENERATIONS = 8  # maximum of entries per key, for networks that differ only in their outputs
SAMPLED = 32  # images that are hashed first, so that some rows can be compared
EMPTY = index_names(np.empty((0, 16), np.uint8))


@dataclass(frozen=True, eq=False)
class Inventory:
    """Which rows of some images and views exist, and where.

    folder: the entry for new rows; None if nothing is stored.
    shards: of the entry and in memory. index: finds the rows of the entry by name.
    places: (N, V) of int64, for each view of each image the number of its row in all shards, one after the
        other; -1 if it is missing, or if the image's digest is not known yet.
    twins: (N,) of int64, for each image the first one with the same content.
    failed: why images could not be read, by their numbers.
    computed: number of rows that the last pass computed.
    """

    rows: Rows
    images: Images
    folder: Path | None
    shards: tuple[Shard | Held, ...]
    index: Index
    places: np.ndarray
    twins: np.ndarray
    failed: Mapping[int, str] = field(default_factory=dict)
    computed: int = 0

    @cached_property
    def needed(self) -> np.ndarray:
        """The views to compute: (N, V) of bool; identical pictures are computed once."""
        first = self.twins == np.arange(len(self.images))
        needed: np.ndarray = (self.places < 0) & first[:, None]
        return needed

    @cached_property
    def missing(self) -> int:
        """The number of rows to compute."""
        return int(self.needed.sum())

    @property
    def found(self) -> int:
        """The number of rows that exist."""
        return self.places.size - self.missing

    @property
    def missing_bytes(self) -> int:
        return self.missing * self.rows.row_bytes()

    def filled(
        self,
        folder: Path | None,
        shards: tuple[Shard | Held, ...],
        places: np.ndarray,
        failed: Mapping[int, str],
        computed: int,
    ) -> Inventory:
        """The inventory after a pass: images with the same content share the rows of the first."""
        twins, failed = np.where(places >= 0, places, places[self.twins]), {**self.failed, **failed}
        return replace(self, folder=folder, shards=shards, places=twins, failed=failed, computed=computed)


@contextlib.contextmanager
def exclusively(inventories: Sequence[Inventory]) -> Iterator[list[Inventory]]:
    """The inventories while no other process adds rows to their entries; they have what others added before."""
    for _ in range(GENERATIONS):
        folders = {each.folder for each in inventories if each.folder is not None}
        with claimed(folders):
            inventories = [_again(each) for each in inventories]
            if folders.issuperset(each.folder for each in inventories if each.folder is not None):
                yield list(inventories)
                return
    raise AssertionError("an entry has at most GENERATIONS names")


def _again(inventory: Inventory) -> Inventory:
    """The inventory, taken again if another process has added rows to its entry."""
    folder, rows = inventory.folder, inventory.rows
    if folder is None:
        return inventory
    known = {shard.path for shard in inventory.shards if isinstance(shard, Shard)} | written(rows.lower)
    try:
        others = [file for file in shard_files(folder) if file not in known]
    except OSError:  # it cannot be read, and so not be written either
        return inventory
    if not any(_has(file, rows.form) for file in others):
        return inventory
    return take_inventory(rows, inventory.images, folder.parent.parent)


def _has(file: Path, form: Form) -> bool:
    try:
        return open_shard(file, stays_open=False).form == form
    except (OSError, DamagedError):
        return False


def take_inventory(rows: Rows, images: Images, store: Path | None, *, read_all: bool = False) -> Inventory:
    """The inventory of the rows of some images in a store.

    store: its folder, None for none. read_all: hash all images now; otherwise an unknown file is hashed later, when its
        row is computed or found.
    """
    if not isinstance(images.pictures, Paths) and len(images) and isinstance(images.pictures[0], np.ndarray):
        images.digests.all()
    if store is None:
        return _inventory(rows, images, None, Opened())
    if read_all:
        images.digests.all(store)
    else:
        images.digests.recall(store)
    base = store / "activations" / rows.key()
    for number in range(GENERATIONS):
        folder = base if not number else base.with_name(f"{base.name}-{number}")
        opened = _open(folder, rows)
        if opened.shards and not images.digests.known.all():
            unknown = np.flatnonzero(~images.digests.known)
            for image in unknown[spread(len(unknown), SAMPLED)].tolist():
                images.digests.read(image)
        try:
            inventory = _inventory(rows, images, folder, opened)
            if agrees(rows, images, opened.shards, inventory.places):
                return inventory
        except (OSError, DamagedError) as error:  # removed or changed meanwhile
            terminal.say(f"cannot read stored activations ({reason(error)}); recomputing them")
            return _inventory(rows, images, folder, Opened())
        terminal.say(f"not using the activations stored {rows.about['label']}: this network computes others")
    return _inventory(rows, images, None, Opened())


def _open(folder: Path, rows: Rows) -> Opened:
    try:
        opened = open_entry(folder, rows.form)
    except OSError as error:
        terminal.say(f"cannot read the store of activations ({reason(error)}); recomputing them")
        return Opened()
    if opened.damaged:
        several = "s" * (opened.damaged > 1)
        terminal.say(f"removed {opened.damaged} damaged shard{several} of stored activations; recomputing them")
    if opened.ignored:
        more = f" and {len(opened.ignored) - 1} more" if len(opened.ignored) > 1 else ""
        terminal.say(f"ignored files in the store: {opened.ignored[0]}{more}")
    return opened


def _inventory(rows: Rows, images: Images, folder: Path | None, opened: Opened) -> Inventory:
    digests = images.digests
    known = np.flatnonzero(digests.known)
    index = opened.index if opened.shards else EMPTY
    places = np.full((len(images), rows.views.count), -1, np.int64)
    twins = np.arange(len(images))
    if len(known):
        words = np.ascontiguousarray(digests.values[known]).view(np.dtype("V16")).ravel()
        _, first, inverse = np.unique(words, return_index=True, return_inverse=True)
        twins[known] = known[first[inverse]]
        names = view_names(digests.values[known], rows.views)
        places[known] = index.find(names.reshape(-1, 16)).reshape(len(known), -1)
    return Inventory(rows, images, folder, opened.shards, index, places, twins)
