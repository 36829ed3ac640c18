"""Where the rows of each phase of a plan are kept, and how to get them from there.

Rows are usually kept at the phase's frostline. If they are large there, measured costs (`costs.py`) decide between a
lower cut, decoded pixels, and nowhere. Where several processes train, rows are kept at the frostline if there is room:
only stored rows can be read by all. One pass over the images serves all phases. If an earlier run stored rows at a
lower cut, they are used instead of the images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frostline import distributed, terminal
from frostline.data.images import Images, ImageSet
from frostline.data.views import Views
from frostline.machine import Machine
from frostline.network.fingerprint import unchanged
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.network.tracing import Cut
from frostline.plan import Phase
from frostline.store.activations import (
    Activations,
    computed_once,
    extract_above,
    extract_together,
    fill,
    from_lower_cut,
    read,
    recomputed,
)
from frostline.store.costs import Candidate, Costs, candidates, chosen, measured
from frostline.store.inventory import Inventory, take_inventory
from frostline.store.rows import Rows, row_bytes
from frostline.store.shards import Cache, entries, left_of, remove_leftovers

MOSTLY = 0.5  # if at most this share of the rows is missing, they are stored beside the others
LARGE = 0.25  # share of a decoded image's bytes: smaller rows are stored without measuring


@dataclass(frozen=True)
class Decision:
    """A choice with its options and costs. budget: bytes that were left in the store."""

    costs: Costs
    options: Sequence[Candidate]
    option: Candidate
    budget: int

    def reason(self, network: Network) -> str:
        """The choice and the numbers behind it, in one line."""
        *_, frostline, nothing = self.options
        size = terminal.human_bytes
        if self.option.cut is None and not frostline.fits:
            return f"not caching: it needs {size(frostline.bytes)}, and budget or --disk leave {size(self.budget)}"
        if self.option.cut is None:
            seconds = f"{nothing.seconds:.1f} s without a cache, {frostline.seconds:.1f} s with one"
            return f"not caching: this fit and another take {seconds}"
        name = "decoded pixels" if self.option.cut.position == 0 else f"at {network.name_of(self.option.cut)}"
        why = f"{self.option.once:.1f} s to build, then {self.option.again:.1f} s in this fit and another"
        short = "" if frostline.fits else f"; the {size(frostline.bytes)} at the frostline exceed the budget"
        return f"caching {name}: {why}; recomputing would take {nothing.seconds:.1f} s{short}"


class Placement:
    """The rows of a plan's phases, split by split. The store is read only once.

    kept_at: what an interrupted fit decided, as the property says it. decisions: per phase the options and the choice;
        None if no choice was needed. Phases after one with `race`, which may never run, are decided on demand.
    together: per split and phase, the number of rows that the shared pass computed. seconds: its duration.
    """

    def __init__(
        self,
        network: Network,
        phases: Sequence[Phase],
        images: ImageSet,
        views: Views,
        *,
        machine: Machine,
        cache: Cache | None,
        keep: bool = True,
        kept_at: Sequence[int | None] = (),
    ) -> None:
        self.network, self.phases, self.views = network, phases, views
        self.machine, self.cache, self.keep = machine, cache, keep
        self._shared = distributed.size() > 1 or machine.cluster is not None
        self.together = {split: [0] * len(phases) for split in images.splits}
        self.seconds = 0.0
        self._images = images
        self._parts: dict[Cut, Part] = {}
        self._inventories: dict[tuple[Cut, int], list[Inventory]] = {}  # one per split
        self._shapes: list[object] | None = None  # shapes of the rows that earlier runs stored
        self._reasons: dict[tuple[Cut, int], str] = {}  # why rows of so many views cannot be stored; "" if they can
        self.decisions: list[Decision | None] = []
        self._before = tuple(kept_at)
        if cache is not None:
            remove_leftovers(cache.folder)
        self._left, self._taken = left_of(cache) if cache else 0, set[Cut]()
        self.sure = next((number for number, phase in enumerate(phases) if phase.race), len(phases) - 1) + 1
        self._decide(self.sure)

    @unchanged()
    def extract(self, images: ImageSet, splits: Sequence[str], phases: int | None = None) -> None:
        """One pass over the images of each split for all phases; it computes lower cuts on the way to higher ones.

        phases: the number of phases, from the first; by default those that are certain to run.
        """
        started, phases = time.perf_counter(), phases or self.sure
        cuts = [self._cut(number) for number in range(phases)]
        if self.cache and len({cut.position for cut in cuts if cut}) > 1:
            for split in splits:
                self._extract_split(cuts, images.splits[split], split)
        self.seconds = time.perf_counter() - started
        count = sum(max(self.together[split]) for split in splits)
        if count:
            terminal.say(f"one pass for {phases} phases: {count} views in {self.seconds:.1f} s")

    @unchanged()
    def activations(self, number: int, lower: Part, images: Images, split: str) -> Activations:
        """The rows of a phase: of its views for training, of the plain images for the other splits."""
        count = self._count(number, split)
        views = replace(self.views, count=count)
        label = f"{split} activations below {lower.frostline}"
        cut = self._cut(number)
        if not self.keep or (cut is None and self.network.trace is not None):
            return recomputed(Rows(lower, views, self.machine), images)
        if cut is None or lower.cut is None or not self._is_stored(cut, count):
            return computed_once(lower, images, views, machine=self.machine, label=label)
        before = self._without_images(cut, images, count, label)
        stored, after = fill(before, self.cache, label, self._later(cut, split))
        if after is not before:
            self._note_filled(cut, count, after)
        if cut == lower.cut:
            return stored
        if stored.filled.kept == "recomputed":
            return recomputed(Rows(lower, views, self.machine), images)
        return from_lower_cut(stored, self.network.between(cut, lower.cut), self.machine)

    def keeps(self, number: int) -> bool:
        """Whether the activations of a phase are stored right at its frostline, and not as decoded pixels."""
        frostline = self.network.find(self.phases[number].frostline) if self.network.trace else None
        cut = self._cut(number)
        return cut is not None and cut == frostline and cut.position > 0 and self._is_stored(cut, 1)

    @property
    def kept_at(self) -> list[int | None]:
        """The position of the cut at which each phase's rows are kept, None for nowhere; without undecided phases."""
        cuts = [self._cut(number) for number in range(len(self.decisions))]
        return [None if cut is None else cut.position for cut in cuts]

    @unchanged()
    def _decide(self, count: int) -> None:
        """Decide for those of the first `count` phases that are undecided."""
        for number in range(len(self.decisions), count):
            self.decisions.append(self._decision(number))

    def _decision(self, number: int) -> Decision | None:
        if self.cache is None or self.network.trace is None or self._is_decided(number):
            return None
        phase, images, decision = self.phases[number], self._images, None
        cut = self.network.find(phase.frostline)
        if cut in self._taken:
            return None
        needed, share = self._missing(number, cut)
        if needed > self._left or not (share <= MOSTLY or self._is_clear(number, cut, images)):
            budget = replace(self.cache, budget=max(0, self._left))
            views = replace(self.views, count=phase.views or 1)
            decision = decide(self.network, phase, images, views, machine=self.machine, cache=budget)
            needed = decision.option.bytes
        self._left -= needed
        self._taken |= {cut} if decision is None else {decision.option.cut} - {None}  # type: ignore[arg-type]
        return decision

    def _is_decided(self, number: int) -> bool:
        """Whether an interrupted fit decided for a phase. What one process kept nowhere, several decide anew."""
        return number < len(self._before) and not (self._shared and self._before[number] is None)

    def _is_clear(self, number: int, cut: Cut, images: ImageSet) -> bool:
        """Whether rows are kept at the frostline without measuring.

        Several processes share them, or they are small, or fast to compute from others.
        """
        if self._shared:
            return True
        count = self._count(number, "train")
        small = row_bytes(cut, self.machine) <= LARGE * self._picture_bytes()
        return small or self._lower(cut, images.train, count) is not None

    def missing(self, number: int) -> tuple[int, int]:
        """The number of rows that a phase's pass computes, for training and validation, and the bytes to store.

        Undecided phases count as if their rows were kept at the frostline. Both are 0 if the rows are
        recomputed in every epoch.
        """
        cut, count = self._kept_at(number), self._count(number, "train")
        if cut is None:
            return 0, 0
        if not self._is_stored(cut, count):
            return count * len(self._images.train) + len(self._images.valid), 0
        rows, _, size = self._lacking(cut, count)
        return rows, size

    def seconds_per_row(self, number: int, costs: Costs) -> float:
        """Seconds to get a row of a phase on each access."""
        frostline, cut = self.network.find(self.phases[number].frostline), self._kept_at(number)
        top = costs.forward[frostline.position]
        if cut is None:
            return costs.together(costs.decode, top)
        return costs.together(row_bytes(cut, self.machine) / costs.read, top - costs.forward[cut.position])

    def _kept_at(self, number: int) -> Cut | None:
        if not self.keep:
            return None
        decision = self.decisions[number] if number < len(self.decisions) else None
        return decision.option.cut if decision else self.network.find(self.phases[number].frostline)

    def _picture_bytes(self) -> int:
        return self.network.preprocessing.channels * self.network.preprocessing.size**2

    def _missing(self, number: int, cut: Cut) -> tuple[int, float]:
        """Bytes of the training and validation rows that are not stored at a cut, and their share (0 … 1)."""
        count = self._count(number, "train")
        if not self._is_stored(cut, count):
            return 0, 0.0
        rows, total, size = self._lacking(cut, count)
        return size, rows / max(1, total)

    def _lacking(self, cut: Cut, count: int) -> tuple[int, int, int]:
        """The numbers of missing and all rows, for training with `count` views and validation; the missing bytes."""
        train, valid = self._inventory(cut, self._images.train, count), self._inventory(cut, self._images.valid, 1)
        total = train.places.size + valid.places.size
        return train.missing + valid.missing, total, train.missing_bytes + valid.missing_bytes

    def _extract_split(self, cuts: Sequence[Cut | None], images: Images, split: str) -> None:
        counts: dict[Cut, int] = {}
        for number, cut in enumerate(cuts):
            if cut is not None and self._is_stored(cut, self._count(number, split)):
                counts[cut] = max(counts.get(cut, 1), self._count(number, split))
        if not counts:
            return
        assert self.cache is not None  # noqa: S101
        label = f"{split} activations for all phases"
        before = [self._without_images(cut, images, count, label) for cut, count in counts.items()]
        later = max(self._later(cut, split) for cut in counts)
        after = extract_together(self.network, before, self.cache, label, later)
        for (cut, count), old, new in zip(counts.items(), before, after, strict=True):
            if new is not old:
                self._note_filled(cut, count, new)
                self.together[split][cuts.index(cut)] = new.computed

    def _later(self, cut: Cut, split: str) -> int:
        """The number of rows at a cut that the next pass over images will compute, after the pass of a split."""
        missing = self._inventory(cut, self._images.valid, 1).missing if split == "train" else 0
        return missing if missing and self._lower(cut, self._images.valid, 1) is None else 0

    def _cut(self, number: int) -> Cut | None:
        """The cut at which a phase's rows are kept, None for nowhere."""
        self._decide(number + 1)
        if self.network.trace is None:
            return None
        if self._is_decided(number):
            return next((cut for cut in self.network.trace.cuts if cut.position == self._before[number]), None)
        decision = self.decisions[number]
        return decision.option.cut if decision else self.network.find(self.phases[number].frostline)

    def _count(self, number: int, split: str) -> int:
        return self.phases[number].views or 1 if split == "train" else 1

    def _rows(self, cut: Cut, count: int) -> Rows:
        if cut not in self._parts:
            self._parts[cut] = self.network.below(cut)
        return Rows(self._parts[cut], replace(self.views, count=count), self.machine)

    def _is_stored(self, cut: Cut, count: int) -> bool:
        """Whether rows at a cut are kept in the store; prints once why they cannot be."""
        asked = cut, count
        if asked not in self._reasons:  # a digest of the whole frozen part, which takes a tenth of a second
            reason = self._rows(cut, count).not_storable
            if self.cache is not None and reason and reason not in self._reasons.values():
                terminal.say(f"not caching activations: {reason}")
            self._reasons[asked] = reason
        return self.cache is not None and not self._reasons[asked]

    def _inventory(self, cut: Cut, images: Images, count: int, *, read_all: bool = False) -> Inventory:
        """The inventory of some images at a cut; remembered until it is asked for other images."""
        assert self.cache is not None  # noqa: S101
        known = next((each for each in self._inventories.get((cut, count), ()) if each.images is images), None)
        if known is None or read_all:
            known = take_inventory(
                self._rows(cut, count), images, self.cache.folder, self.cache.remote, read_all=read_all
            )
            self._note(cut, count, known)
        return known

    def _note_filled(self, cut: Cut, count: int, inventory: Inventory) -> None:
        """Forget the inventories of the same images with another number of views: they are outdated."""
        for place, others in self._inventories.items():
            if place[0] == cut:
                self._inventories[place] = [each for each in others if each.images is not inventory.images]
        self._note(cut, count, inventory)

    def _note(self, cut: Cut, count: int, inventory: Inventory) -> None:
        others = [each for each in self._inventories.get((cut, count), ()) if each.images is not inventory.images]
        self._inventories[cut, count] = [*others[-2:], inventory]  # at most one per split, train, valid and test

    def _without_images(self, cut: Cut, images: Images, count: int, label: str) -> Inventory:
        """The inventory at a cut; missing rows are computed from a lower cut if an earlier run stored all there."""
        inventory = self._inventory(cut, images, count)
        lower = self._lower(cut, images, count) if inventory.missing else None
        if lower is None or self.cache is None or inventory.folder is None:
            return inventory
        below, base = lower
        inventory = self._inventory(cut, images, count)  # now with all digests
        if inventory.missing:
            inventory = extract_above(read(base), self.network.between(below, cut), inventory, self.cache, label)
            self._note_filled(cut, count, inventory)
        return inventory

    def _lower(self, cut: Cut, images: Images, count: int) -> tuple[Cut, Inventory] | None:
        """The highest lower cut at which all rows of these images are stored, and its inventory."""
        assert self.network.trace is not None  # noqa: S101
        assert self.cache is not None  # noqa: S101
        if self._shapes is None:
            self._shapes = [entry.about.get("shape") for entry in entries(self.cache.folder)]
        for below in reversed([each for each in self.network.trace.cuts if each.position < cut.position]):
            if list(below.shape) in self._shapes:
                inventory = self._inventory(below, images, count)
                if len(inventory.index) and not images.digests.known.all():
                    inventory = self._inventory(below, images, count, read_all=True)
                if len(inventory.shards) and not inventory.missing:
                    return below, inventory
        return None


def decide(
    network: Network, phase: Phase, images: ImageSet, views: Views, *, machine: Machine, cache: Cache
) -> Decision:
    """All options for the rows of a phase, with their costs on this machine, and the best."""
    assert network.trace is not None  # noqa: S101
    frostline = network.find(phase.frostline)
    cuts = [cut for cut in network.trace.cuts if cut.position <= frostline.position]
    costs = measured(network, frostline, images.train, views, machine, cache.folder)
    size = {cut: row_bytes(cut, machine) for cut in cuts}
    computed = len(images.train) * views.count + len(images.valid)
    count = phase.epochs * len(images.train) + (phase.epochs + 1) * len(images.valid) if phase.epochs else computed
    options = candidates(costs, size, frostline, computed=computed, read=count, budget=cache.budget)
    return Decision(costs, options, chosen(options), cache.budget)
