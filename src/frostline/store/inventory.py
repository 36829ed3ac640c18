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
from frostline.remote import Remote
from frostline.store.claims import claimed
from frostline.store.index import Index, index_names
from frostline.store.net import agrees, written
from frostline.store.rows import Rows, view_names
from frostline.store.shard_file import MOST_OPEN, DamagedError, Form, Held, Shard, open_shard
from frostline.store.shards import Cache, Opened, describe, open_entry, shard_files, touch
from frostline.store.sharing import fetched, is_local, open_shared, send_missing, shared_files

GENERATIONS = 8  # maximum of entries per key, for networks that differ only in their outputs
TRIES = 3  # inventories of a shared store that has lost or damaged shards
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
    remote: the bucket of the store, if it has one.
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
    remote: Remote | None = None
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
    shared = shared_files(inventory.remote, folder) if inventory.remote else {}
    if not any(_has(file, rows.form) for file in others) and not shared.keys() - {file.name for file in known}:
        return inventory
    return take_inventory(rows, inventory.images, folder.parent.parent, inventory.remote)


def _has(file: Path, form: Form) -> bool:
    try:
        return open_shard(file, stays_open=False).form == form
    except (OSError, DamagedError):
        return False


def at_hand(inventory: Inventory, cache: Cache | None) -> Inventory:
    """The inventory with the shards that it uses both on this machine, as far as there is room, and in the bucket.

    Rows whose shard in the bucket is lost or damaged are missing afterwards.
    """
    if cache is None or cache.remote is None:
        return inventory
    for _ in range(TRIES):
        if inventory.folder is None:
            return inventory
        used = _used(inventory)
        try:
            here = dict(zip(used, _brought(used, cache), strict=True))
        except (DamagedError, FileNotFoundError) as error:
            terminal.say(f"cannot read stored activations ({reason(error)}); recomputing them")
            inventory = take_inventory(inventory.rows, inventory.images, cache.folder, cache.remote)
            continue
        send_missing(cache, [shard for shard in here.values() if is_local(shard)])
        shards = tuple(here.get(shard, shard) if isinstance(shard, Shard) else shard for shard in inventory.shards)
        return inventory if shards == inventory.shards else replace(inventory, shards=shards)
    return _inventory(inventory.rows, inventory.images, inventory.folder, Opened(), cache.remote)


def _used(inventory: Inventory) -> list[Shard]:
    """The shards that hold rows of the inventory's images."""
    starts = np.cumsum([0, *map(len, inventory.shards)])
    places = inventory.places[inventory.places >= 0]
    numbers = np.unique(np.searchsorted(starts, places, side="right") - 1).tolist()
    return [shard for number in numbers if isinstance(shard := inventory.shards[number], Shard)]


def _brought(shards: Sequence[Shard], cache: Cache) -> list[Shard]:
    """The same shards, on this machine as far as there is room; after a line if any is not there yet."""
    size = sum(shard.status[0] for shard in shards if not is_local(shard))
    if not size:
        return list(shards)
    here = []
    label = f"fetching {terminal.human_bytes(size)} of activations from {cache.remote}"
    with terminal.progress(label, len(shards), "shards") as advance:
        for number, shard in enumerate(shards):
            here.append(fetched(shard, cache, stays_open=number < MOST_OPEN))
            advance(1)
    return here


def take_inventory(
    rows: Rows, images: Images, store: Path | None, remote: Remote | None = None, *, read_all: bool = False
) -> Inventory:
    """The inventory of the rows of some images in a store.

    store: its folder, None for none. remote: its bucket, if it has one. read_all: hash all images now; otherwise an
        unknown file is hashed later, when its row is computed or found.
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
        inventory = _usable(rows, images, folder, remote)
        if inventory is not None:
            return inventory
        terminal.say(f"not using the activations stored {rows.about['label']}: this network computes others")
    return _inventory(rows, images, None, Opened())


def _usable(rows: Rows, images: Images, folder: Path, remote: Remote | None) -> Inventory | None:
    """The inventory of one entry; None if its rows are those of another network."""
    for _ in range(TRIES if remote else 1):  # a shard in the bucket that proves damaged is left out the next time
        opened = _open(folder, rows, remote)
        if opened.shards and not images.digests.known.all():
            unknown = np.flatnonzero(~images.digests.known)
            for image in unknown[spread(len(unknown), SAMPLED)].tolist():
                images.digests.read(image)
        try:
            inventory = _inventory(rows, images, folder, opened, remote)
            return inventory if agrees(rows, images, opened.shards, inventory.places) else None
        except (OSError, DamagedError) as error:  # removed or changed meanwhile
            terminal.say(f"cannot read stored activations ({reason(error)}); recomputing them")
    return _inventory(rows, images, folder, Opened(), remote)


def _open(folder: Path, rows: Rows, remote: Remote | None) -> Opened:
    try:
        opened = open_entry(folder, rows.form)
        if remote is not None:
            opened = _with_shared(opened, folder, rows, remote)
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


def _with_shared(opened: Opened, folder: Path, rows: Rows, remote: Remote) -> Opened:
    """The shards of an entry in the folder, then those that only the bucket has."""
    shared = open_shared(remote, folder, rows.form, {shard.path.name for shard in opened.shards})
    if shared.damaged:
        terminal.say(f"{shared.damaged} shards in {remote} are damaged; recomputing their rows")
    if shared.shards:
        describe(folder, rows.about)
        touch(folder)
    return replace(opened, shards=opened.shards + shared.shards, ignored=opened.ignored + shared.ignored)


def _inventory(
    rows: Rows, images: Images, folder: Path | None, opened: Opened, remote: Remote | None = None
) -> Inventory:
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
    return Inventory(rows, images, folder, opened.shards, index, places, twins, remote=remote)
