"""Fill the store with the activations of a data set."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from frostline import terminal
from frostline.cluster import slots_of
from frostline.data import Data, Images, ImageSet
from frostline.data.unreadable import named, refuse_too_many
from frostline.data.views import PLAIN, Views
from frostline.errors import MachineError, UsageError
from frostline.fitting import lines
from frostline.fitting.options import Options
from frostline.fitting.setup import augmentation, loaded_network, machine_of, store_of
from frostline.machine import Machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.process import usable_cores
from frostline.store.activations import Activations, computed_once
from frostline.store.costs import measured
from frostline.store.inventory import take_inventory
from frostline.store.parquet import refuse_target, write_rows
from frostline.store.rows import Rows
from frostline.store.shards import Cache, free_bytes, stored_bytes

PART = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Features:
    """What the store holds of a data set now.

    shape: of a row. images: those of this part that can be read. rows: of all their views. computed: rows that were
    not stored before. bytes: of all rows. to: the file that has them for other tools. unreadable: (name, reason).
    """

    store: str
    backbone: str
    frostline: str
    shape: tuple[int, ...]
    images: int
    rows: int
    computed: int
    bytes: int
    seconds: float
    to: str | None = None
    unreadable: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"unreadable": [{"path": name, "error": why} for name, why in self.unreadable]}


def features(
    data: Data,
    *,
    frostline: str = "head",
    part: str | None = None,
    to: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> Features:
    """Compute what a backbone gives below a frostline for every image, once, and store it.

        frostline.features("photos/", backbone="torchvision:resnet50", views=4)

    A fit with the same backbone, frostline and views then finds its activations. What is stored already is not
    computed again, so the same command goes on after an interruption.

    data: everything that `fit` takes. frostline: the lowest layer that would train, as in a phase of a plan.
    part: "3/64" computes the third of 64 equal parts: each of 64 jobs fills one store with its own.
    to: a new .parquet file that gets all these rows for other tools, a record per image and view: path, split, label,
        view, digest and vector. It needs pyarrow (frostline[parquet]).
    options: those of `fit` that decide about rows: backbone, weights, views, augment, image_size, seed, device,
        precision, workers, store, cache_budget, download, group, path_column, label_column, images,
        skip_unreadable.

    Training images get `views` views each (default 1, the plain image), others the plain one.
    Raises UsageError for an unknown frostline, a part that is none, a file `to` that exists or is no .parquet, and a
    network or an augmentation that no key identifies; DataError for data that cannot be read; MachineError for a store
    without room, and without pyarrow.

    >>> features("digits", backbone="torchvision:resnet18").shape  # doctest: +SKIP
    (512,)
    """
    number, count = _part(part)
    started = time.perf_counter()
    refuse_target(to)
    with terminal.quiet(quiet):
        chosen = Options(data, **options)
        machine, store = machine_of(chosen), store_of(chosen)
        if store is None:
            raise UsageError("features fills a store; leave out cache=False")
        _refuse_unwritable(store)
        images = chosen.read()
        lines.say_data(images)
        chosen, backbone, network = loaded_network(chosen, images, machine)
        views = replace(augmentation(chosen, images), count=chosen.views or 1)
        wanted = _wanted(images, views, number, count)
        lower, _ = network.cut(frostline)
        if why := Rows(lower, views, machine).not_storable:
            raise UsageError(f"the activations below {frostline} cannot be stored, so only a fit computes them: {why}")
        _say_costs(network, lower, wanted, machine, store)
        with _told_if_interrupted():
            found = _computed(lower, wanted, machine, store, skip=chosen.skip_unreadable, alone=part is None)
        if to is not None:
            write_rows(Path(to), found, images.classes, backbone.name, Rows(lower, views, machine))
    result = _result(found, str(store.remote or store.folder), backbone.name, lower)
    return replace(result, seconds=time.perf_counter() - started, to=None if to is None else str(to))


@contextlib.contextmanager
def _told_if_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        terminal.say("interrupted; what is stored stays, and the same command goes on with it")
        raise


def _result(found: Mapping[str, Activations], store: str, backbone: str, lower: Part) -> Features:
    filled = [own.filled for own in found.values()]
    return Features(
        store,
        backbone,
        lower.frostline,
        tuple(lower.output_shape),
        images=sum(len(own.images) for own in found.values()),
        rows=sum(map(len, found.values())),
        computed=sum(own.computed for own in filled),
        bytes=sum(own.bytes for own in filled),
        seconds=0.0,
        unreadable=tuple(failed for own in found.values() for failed in own.unreadable),
    )


def _part(part: str | None) -> tuple[int, int]:
    """The number of a part, from 0, and the number of parts."""
    if part is None:
        return 0, 1
    found = PART.fullmatch(str(part))
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"{part!r} is no part; write it as in 3/64, from 1/64 to 64/64")
    return int(found[1]) - 1, int(found[2])


def _wanted(images: ImageSet, views: Views, number: int, count: int) -> dict[str, tuple[Images, Views]]:
    """For each split the images of a part, and their views."""
    wanted = {}
    for split, own in images.distinct.items():
        numbers = np.arange(len(own) * number // count, len(own) * (number + 1) // count)
        wanted[split] = own.take(numbers), views if split == "train" else PLAIN
    return wanted


def _say_costs(
    network: Network, lower: Part, wanted: Mapping[str, tuple[Images, Views]], machine: Machine, store: Cache
) -> None:
    """One line: how many rows are missing, their size, and the time that they will take.

    Raises MachineError if the store can never hold them.
    """
    if lower.cut is None:
        return
    missing, size, most = 0, 0, max(wanted.values(), key=lambda each: len(each[0]))
    for some, views in wanted.values():
        inventory = take_inventory(Rows(lower, views, machine), some, store.folder, store.remote)
        missing, size = missing + inventory.missing, size + inventory.missing_bytes
    if not missing:
        terminal.say(f"every row below {lower.frostline} is stored")
        return
    known = all(some.digests.known.all() for some, _ in wanted.values())
    costs = measured(network, lower.cut, most[0], most[1], machine, store.folder)
    seconds = missing * costs.together(costs.decode, costs.forward[lower.cut.position]) + size / costs.write
    terminal.say(
        f"{'' if known else 'at most '}{missing:,} rows below {lower.frostline} are missing: "
        f"{terminal.human_bytes(size)}{_time(seconds, machine)}"
    )
    _refuse_too_small(store, size)


def _time(seconds: float, machine: Machine) -> str:
    """The time that this machine takes, or its cluster, by its cores; a cluster of GPUs cannot be told from here."""
    if machine.cluster is None:
        return f", about {terminal.human_seconds(seconds)} on this machine"
    slots = slots_of(machine.cluster)
    cores = slots.count * slots.cpus
    if slots.gpus or not cores:
        return f", on {slots.count} GPUs" if slots.gpus else ""
    shared = terminal.human_seconds(seconds * usable_cores() / cores)
    return f", about {shared} on {cores} cores like those of this machine"


def _refuse_unwritable(store: Cache) -> None:
    """Raises MachineError if nothing can be written to the folder of a store."""
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=store.folder):
            pass
    except OSError as error:
        raise MachineError(
            f"cannot write to the store {store.folder} ({error.strerror}); name another folder with --store"
        ) from error


def _refuse_too_small(store: Cache, size: int) -> None:
    """Raises MachineError if rows of that size have no room even in an empty store; a bucket has room."""
    if store.remote is not None:
        return
    needed, budget = terminal.human_bytes(size), terminal.human_bytes(store.budget)
    room = stored_bytes(store.folder) + free_bytes(store.folder)
    if size > store.budget:
        raise MachineError(f"the rows take {needed}, and the store may have {budget}; give a larger --cache-budget")
    if size > room:
        raise MachineError(
            f"the rows take {needed}, and the disk of {store.folder} has {terminal.human_bytes(room)} for them; name a "
            "place on another disk with --store"
        )


def _computed(
    lower: Part, wanted: Mapping[str, tuple[Images, Views]], machine: Machine, store: Cache, *, skip: bool, alone: bool
) -> dict[str, Activations]:
    """All rows of each split, stored. alone: whether another process that fills the same entry is waited for.

    Raises DataError if too many images cannot be read, MachineError if the store has no room for all rows.
    """
    found = {
        split: computed_once(lower, some, views, machine=machine, cache=store, label=f"{split} features", alone=alone)
        for split, (some, views) in wanted.items()
    }
    unreadable = [failed for own in found.values() for failed in own.unreadable]
    refuse_too_many(unreadable, sum(len(some) for some, _ in wanted.values()), skip=skip)
    if any(own.filled.kept != "stored" for own in found.values() if len(own)):
        raise MachineError(
            f"the store {store.folder} does not hold all rows; give a larger --cache-budget, or another --store"
        )
    if unreadable:
        terminal.say(f"skipped {len(unreadable)} unreadable: {named(unreadable)}")
    return found
