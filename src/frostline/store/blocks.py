"""A pass on a cluster: its nodes compute blocks of images, write the shards themselves and return receipts.

Rows never travel through the cluster. A receipt holds the digests of a block's images and why some could not be read;
where the rows are is in the store, which the process that asked looks up again at the end.
"""

from __future__ import annotations

import copy
import os
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from frostline import terminal
from frostline.cluster import Cluster, Slots, on_nodes, slots_of
from frostline.data.decoding import Item, Picture
from frostline.data.images import Images
from frostline.data.parts import Part as PartOfFile
from frostline.data.views import Views
from frostline.engines.choice import Engine, engine_named, engine_of
from frostline.errors import FrostlineError, MachineError
from frostline.files import default_folder
from frostline.machine import find_machine, to_device
from frostline.network.part import Part
from frostline.remote import is_address
from frostline.store.filling import FeatureExtraction, chosen_engine, extract, marks_of
from frostline.store.index import Index, index_of
from frostline.store.inventory import EMPTY, Inventory, open_shards, take_inventory
from frostline.store.net import sketch
from frostline.store.rows import Rows
from frostline.store.shards import Cache

LARGEST = 4_000  # images of a block: a minute on a core
TURNS = 8  # blocks per slot at least, so that the end of the pass waits for none
SMALLEST = 32  # images
LOST = "it ended every process that read it"
REMEMBER = 30.0  # seconds between two times at which learnt digests are saved


@dataclass(frozen=True, eq=False)
class Pass:
    """What all blocks of a pass have in common.

    frozen: gives the rows of each lower part, in their order. views: of each. folders: the entries, by name. keys: of
    the rows; a node whose key differs would compute other rows. looks: whether rows may be stored that the sender does
    not know, because it has not read all images.
    """

    identity: str
    frozen: Part
    lowers: tuple[Part, ...]
    views: tuple[Views, ...]
    keys: tuple[str, ...]
    folders: tuple[str, ...]
    cache: Cache
    engine: str
    precision: str
    device: str
    looks: bool
    version: str


@dataclass(frozen=True, eq=False)
class Block:
    """Some images, and for each lower part the views to compute: (N, V) of bool. workers: threads."""

    images: Images
    needed: tuple[np.ndarray, ...]
    workers: int


@dataclass(frozen=True, eq=False)
class Receipt:
    """What a node did, in how many seconds. digests: (N, 16) of uint8, known: (N,) of bool. failed: unreadable images,
    with the reason."""

    digests: np.ndarray
    known: np.ndarray
    failed: dict[int, str]
    computed: int
    seconds: float = 0.0
    error: FrostlineError | None = None


def extract_on(
    cluster: Cluster, extractions: Sequence[FeatureExtraction], frozen: Part, label: str, later: int = 0
) -> list[Inventory]:
    """The inventories after a pass on a cluster that stores all missing rows; arguments as of `extract`.

    Raises MachineError if the nodes and this process do not see the same store or do not compute the same rows.
    """
    inventories = [extraction.inventory for extraction in extractions]
    images, machine, cache = inventories[0].images, inventories[0].rows.machine, extractions[0].cache
    assert cache is not None  # noqa: S101  # or there would be no entry to fill
    engine = chosen_engine(extractions, frozen, later)
    marks = marks_of(extractions).any(1)
    frozen, *lowers = _on_processor(frozen, *(inventory.rows.lower for inventory in inventories))
    known = images.digests.known.all()
    common = Pass(
        identity=uuid.uuid4().hex,
        frozen=frozen,
        lowers=tuple(lowers),
        views=tuple(inventory.rows.views for inventory in inventories),
        keys=tuple(inventory.rows.key() for inventory in inventories),
        folders=tuple(inventory.folder.name for inventory in inventories if inventory.folder is not None),
        cache=cache,
        engine=engine.name,
        precision=machine.precision,
        device=cluster.device,
        looks=not known and any(len(inventory.index) for inventory in inventories),
        version=metadata.version("frostline"),
    )
    failed, computed, remembered = dict[int, str](), 0, time.monotonic()
    blocks = _blocks(np.flatnonzero(marks), slots_of(cluster))

    def argument(numbers: np.ndarray, slots: Slots) -> Block:
        return Block(_sent(images, numbers), tuple(each.needed[numbers] for each in inventories), slots.cpus)

    with terminal.progress(f"computing {label}", int(marks.sum()), "images") as advance:
        for numbers, receipt in on_nodes(cluster, compute, common, blocks, argument):
            if receipt is None:
                failed[int(numbers[0])] = LOST
            else:
                if receipt.error is not None:
                    raise receipt.error
                _learn(images, numbers, receipt)
                failed |= {int(numbers[number]): why for number, why in receipt.failed.items()}
                computed += receipt.computed
            advance(len(numbers))
            if time.monotonic() - remembered > REMEMBER:
                images.digests.remember(cache.folder)
                remembered = time.monotonic()
    images.digests.remember(cache.folder)
    return [_after(inventory, cache, failed, computed) for inventory in inventories]


def can_travel(images: Images) -> bool:
    """Whether images can be sent to nodes: not those that only a Dataset of this process can read."""
    return not (len(images) and isinstance(images.pictures[0], Item))


def _on_processor(*parts: Part) -> list[Part]:
    """Parts as they can travel to nodes without this device."""
    if all(tensor.device.type == "cpu" for part in parts for tensor in _tensors(part)):
        return list(parts)
    return [part.cpu() for part in copy.deepcopy(parts)]


def _tensors(part: nn.Module) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()]


def _blocks(numbers: np.ndarray, slots: Slots) -> list[np.ndarray]:
    """The images of each block."""
    size = min(LARGEST, max(SMALLEST, -(-len(numbers) // (TURNS * max(1, slots.count)))))
    return np.array_split(numbers, -(-len(numbers) // size))


def _sent(images: Images, numbers: np.ndarray) -> Images:
    """Some images as they travel: absolute paths and what is known of their content, without labels and names."""
    pictures = [_absolute(images.pictures[number]) for number in numbers.tolist()]
    sent = Images(pictures, np.zeros(len(numbers), np.int64), [""] * len(numbers))
    sent.digests.values[:], sent.digests.known[:] = images.digests.values[numbers], images.digests.known[numbers]
    return sent


def _absolute(picture: Picture) -> Picture:
    """A picture that means the same in another folder."""
    if isinstance(picture, Path):
        return picture.absolute()
    if isinstance(picture, PartOfFile) and not is_address(picture.root):
        return replace(picture, root=os.path.join(Path.cwd(), picture.root))  # noqa: PTH118  # a root may end in "/"
    return picture


def _learn(images: Images, numbers: np.ndarray, receipt: Receipt) -> None:
    """Take over the digests that a node has computed."""
    fresh = receipt.known & ~images.digests.known[numbers]
    images.digests.values[numbers[fresh]] = receipt.digests[fresh]
    images.digests.known[numbers[fresh]] = images.digests.learned[numbers[fresh]] = True


def _after(inventory: Inventory, cache: Cache, failed: dict[int, str], computed: int) -> Inventory:
    """The inventory taken again; raises MachineError if rows that were computed are not there."""
    now = take_inventory(inventory.rows, inventory.images, cache.folder, cache.remote)
    missing = np.flatnonzero(now.needed.any(1))
    lost = np.setdiff1d(missing, list(failed))
    if len(lost) or now.folder != inventory.folder:
        store = cache.remote or cache.folder
        raise MachineError(
            f"the nodes computed {len(lost)} images whose rows are not in {store}: each node must be able to write "
            "there; name a folder or a bucket with --store that all of them share"
        )
    return replace(now, failed={**inventory.failed, **failed}, computed=computed)


@dataclass(frozen=True, eq=False)
class Opened:
    """A pass as a process on a node has it, for all of its blocks.

    rows: of each lower part; they know their keys. sketches, indices: of each. cache: with the folder of this node.
    """

    identity: str
    keys: tuple[str, ...]
    frozen: Part
    rows: tuple[Rows, ...]
    engine: Engine
    sketches: tuple[list[float], ...]
    indices: tuple[Index, ...]
    cache: Cache


_latest: Opened | None = None  # of this process on a node: many blocks of a pass come to it


def compute(common: Pass, block: Block) -> Receipt:
    """Compute and store the rows of a block, on a node of the cluster."""
    started, digests = time.perf_counter(), block.images.digests
    digests.values, digests.known = digests.values.copy(), digests.known.copy()  # Ray's own cannot be written
    digests.learned = digests.learned.copy()
    failed, computed, error = dict[int, str](), 0, None
    try:
        with terminal.quiet():
            failed, computed = _computed(common, block)
    except FrostlineError as raised:  # with Ray's own traceback it would be no line for people
        error = raised
    return Receipt(digests.values, digests.known, failed, computed, time.perf_counter() - started, error)


def _computed(common: Pass, block: Block) -> tuple[dict[int, str], int]:
    global _latest
    if _latest is None or _latest.identity != common.identity:
        _latest = _opened(common, block.workers)
    extractions = [_extraction(_latest, common, number, block) for number in range(len(common.lowers))]
    roomy = all(extraction.fits() and extraction.folder is not None for extraction in extractions)
    if not roomy or not extract(extractions, _latest.frozen, "a block", engine=_latest.engine):
        raise MachineError(f"{_node()} has no room for rows in {_latest.cache.folder}; free space there")
    failed = {number: why for extraction in extractions for number, why in extraction.failed.items()}
    return failed, sum(extraction.computed for extraction in extractions)


def _opened(common: Pass, workers: int) -> Opened:
    """Prepare for a pass; the network and the engine of the pass before are kept if it had the same rows.

    Raises MachineError if this node would compute other rows than the sender.
    """
    machine = replace(find_machine(common.device, common.precision), workers=workers)
    here = metadata.version("frostline")
    if here != common.version:
        raise MachineError(
            f"{_node()} has Frostline {here}, and the process that asks has {common.version}; install the same one"
        )
    before = _latest
    same = before is not None and (before.keys, before.engine.name) == (common.keys, common.engine)
    if before is not None and same and before.rows[0].machine == machine:
        frozen, lowers, engine = before.frozen, [rows.lower for rows in before.rows], before.engine
        sketches = before.sketches
    else:
        frozen, lowers = common.frozen, list(common.lowers)
        for part in (frozen, *lowers):
            to_device(part, machine.device)
        engine = engine_named(common.engine, frozen, machine) or engine_of(frozen, machine)
        sketches = tuple(sketch(lower) for lower in lowers)
    rows = tuple(Rows(lower, views, machine) for lower, views in zip(lowers, common.views, strict=True))
    if tuple(each.key() for each in rows) != common.keys:
        raise MachineError(
            f"{_node()} would compute other activations: another version of Pillow, torchvision or timm than that of "
            "the process that asks; install the same ones"
        )
    cache = common.cache
    if cache.remote is not None:
        cache = replace(cache, folder=default_folder())  # of this node
    indices = (EMPTY,) * len(rows)
    if common.looks:
        indices = tuple(_index(cache, name, each) for name, each in zip(common.folders, rows, strict=True))
    return Opened(common.identity, common.keys, frozen, rows, engine, sketches, indices, cache)


def _index(cache: Cache, entry: str, rows: Rows) -> Index:
    shards = open_shards(cache.folder / "activations" / entry, rows, cache.remote).shards
    return index_of(shards) if shards else EMPTY


def _extraction(opened: Opened, common: Pass, number: int, block: Block) -> FeatureExtraction:
    """The rows of a block that are missing below one cut; without looking, those that the sender misses."""
    cache, folder = opened.cache, opened.cache.folder / "activations" / common.folders[number]
    places, twins = np.where(block.needed[number], -1, 0).astype(np.int64), np.arange(len(block.images))
    inventory = Inventory(
        opened.rows[number], block.images, folder, (), opened.indices[number], places, twins, remote=cache.remote
    )
    extraction = FeatureExtraction(inventory, cache, store_only=True)
    extraction.sketch = opened.sketches[number]
    return extraction


def _node() -> str:
    return f"the node {socket.gethostname()}"
