"""Where the rows of every phase of a plan are kept, and how they are had from there.

Usually right at the phase's frostline. Where rows there are large, it is decided by what things cost (`costs.py`): at a
lower cut, as decoded pixels, or nowhere. One pass over the images serves all phases, and what an earlier run stored
further down is read instead of the images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frostline import terminal
from frostline.data.images import Images, ImageSet
from frostline.data.views import Views
from frostline.machine import Machine
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.network.tracing import Cut
from frostline.plan import Phase
from frostline.store.activations import (
    Activations,
    activations,
    extract_above,
    extract_together,
    from_lower_cut,
    stored_below,
)
from frostline.store.costs import Candidate, Costs, candidates, chosen, measured
from frostline.store.rows import Rows, row_bytes
from frostline.store.shards import Cache

LARGE = 0.25  # of the decoded image: smaller rows are stored without any measuring


@dataclass(frozen=True)
class Decision:
    """A choice and what it was made of. budget: bytes that the store had left for it."""

    costs: Costs
    ways: Sequence[Candidate]
    way: Candidate
    budget: int

    def reason(self, network: Network) -> str:
        """One line: what is done, and the numbers that speak for it."""
        *_, frostline, nothing = self.ways
        size = terminal.human_bytes
        if self.way.cut is None and not frostline.fits:
            return (
                f"stored nowhere: {size(frostline.bytes)} are needed, the store's budget has {size(self.budget)} left"
            )
        if self.way.cut is None:
            return f"stored nowhere: that takes {nothing.seconds:.1f} s for two fits, storing {frostline.seconds:.1f} s"
        name = "as decoded pixels" if self.way.cut.position == 0 else f"below {network.name_of(self.way.cut)}"
        why = f"{self.way.once:.1f} s once and {self.way.again:.1f} s for all epochs of two fits"
        short = "" if frostline.fits else f"; at the frostline {size(frostline.bytes)} do not fit the budget"
        return f"stored {name}: {why}, without a store {nothing.seconds:.1f} s{short}"


class Placement:
    """The rows of a plan's phases, split by split.

    ways: of each phase all that was weighed, and what was chosen; None where nothing had to be.
    together: of each split how many rows the common pass computed for each phase. seconds: that it took.
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
    ) -> None:
        self.network, self.phases, self.views = network, phases, views
        self.machine, self.cache, self.keep = machine, cache, keep
        self.together = {split: [0] * len(phases) for split in images.splits}
        self.seconds = 0.0
        self.ways = self._decide(images)

    def _decide(self, images: ImageSet) -> list[Decision | None]:
        if self.cache is None or self.network.trace is None:
            return [None] * len(self.phases)
        left, taken = self.cache.budget, set[Cut]()
        decided: list[Decision | None] = []
        for phase in self.phases:
            cut = self.network.find(phase.frostline)
            if cut in taken or self._is_clear(phase, cut, images):
                left -= 0 if cut in taken else self._bytes(phase, cut, images)
                taken.add(cut)
                decided.append(None)
                continue
            cache = replace(self.cache, budget=max(0, left))
            decision = decide(self.network, phase, images, self._of(phase), machine=self.machine, cache=cache)
            left -= decision.way.bytes
            taken |= {decision.way.cut} if decision.way.cut else set()
            decided.append(decision)
        return decided

    def _is_clear(self, phase: Phase, cut: Cut, images: ImageSet) -> bool:
        """Whether the frostline is the place without asking: its rows are small, or there, or soon made of others."""
        rows = Rows(self.network.below(cut), self._of(phase), self.machine)
        pixels = 3 * self.network.preprocessing.size**2
        if self.cache is None or rows.not_storable:
            return True
        if any((self.cache.folder / "activations" / rows.key()).glob("*.safetensors")):
            return True
        if self._bytes(phase, cut, images) > self.cache.budget:
            return False
        below = (self.network, rows.lower, images.train, self._of(phase), self.machine, self.cache)
        return row_bytes(cut, self.machine) <= LARGE * pixels or stored_below(*below) is not None

    def _bytes(self, phase: Phase, cut: Cut, images: ImageSet) -> int:
        return row_bytes(cut, self.machine) * (len(images.train) * (phase.views or 1) + len(images.valid))

    def _of(self, phase: Phase) -> Views:
        return replace(self.views, count=phase.views or 1)

    def extract(self, images: ImageSet, splits: Sequence[str]) -> None:
        """One pass over the images of each split for all phases: on the way to a higher cut lie the lower ones."""
        started = time.perf_counter()
        places = [self._place(number) for number in range(len(self.phases))]
        if self.cache and len({place.position for place in places if place}) > 1:
            for split in splits:
                counts: dict[Cut, int] = {}
                for place, phase in zip(places, self.phases, strict=True):
                    if place is not None:
                        counts[place] = max(counts.get(place, 1), (phase.views or 1) if split == "train" else 1)
                wanted = [(self.network.below(cut), replace(self.views, count=count)) for cut, count in counts.items()]
                label = f"{split} activations for all phases"
                for lower, views in wanted:
                    self._raise_stored(lower, images.splits[split], views, label)
                computed = extract_together(self.network, wanted, images.splits[split], self.machine, self.cache, label)
                for cut, count in zip(counts, computed, strict=True):
                    self.together[split][places.index(cut)] = count
        self.seconds = time.perf_counter() - started
        count = sum(max(self.together[split]) for split in splits)
        if count:
            terminal.say(f"one pass for all {len(self.phases)} phases: {count} views in {self.seconds:.1f} s")

    def _place(self, number: int) -> Cut | None:
        """The cut at which a phase's rows are kept, if anywhere."""
        way = self.ways[number]
        if way is not None:
            return way.way.cut
        return self.network.find(self.phases[number].frostline) if self.network.trace else None

    def activations(self, number: int, lower: Part, images: Images, split: str) -> Activations:
        """The rows of a phase: those of its views for training, of the plain images for all else."""
        views = replace(self.views, count=self.phases[number].views or 1 if split == "train" else 1)
        label = f"{split} activations below {lower.frostline}"
        place = self._place(number)
        keep = self.keep and (place is not None or self.network.trace is None)
        if place is None or lower.cut is None or place == lower.cut:
            if keep and self.cache and lower.cut is not None:
                self._raise_stored(lower, images, views, label)
            return activations(lower, images, views, machine=self.machine, cache=self.cache, keep=keep, label=label)
        base = activations(
            self.network.below(place), images, views, machine=self.machine, cache=self.cache, label=label
        )
        if base.filled.kept == "recomputed":
            return activations(lower, images, views, machine=self.machine, keep=False, label=label)
        return from_lower_cut(base, self.network.between(place, lower.cut), self.machine)

    def _raise_stored(self, lower: Part, images: Images, views: Views, label: str) -> None:
        """Make missing rows from those that an earlier run stored at a lower cut, without the images."""
        assert self.cache is not None  # noqa: S101
        base = stored_below(self.network, lower, images, views, self.machine, self.cache)
        if base is not None and lower.cut is not None:
            cut, rows = base
            extract_above(
                rows, self.network.between(cut, lower.cut), lower, images, views, self.machine, self.cache, label
            )


def decide(
    network: Network, phase: Phase, images: ImageSet, views: Views, *, machine: Machine, cache: Cache
) -> Decision:
    """All ways to have the rows of a phase, with what each costs here, and the best."""
    assert network.trace is not None  # noqa: S101
    frostline = network.find(phase.frostline)
    cuts = [cut for cut in network.trace.cuts if cut.position <= frostline.position]
    costs = measured(network, frostline, images.train, views, machine, cache.folder)
    size = {cut: row_bytes(cut, machine) for cut in cuts}
    made = len(images.train) * views.count + len(images.valid)
    read = phase.epochs * len(images.train) + (phase.epochs + 1) * len(images.valid) if phase.epochs else made
    ways = candidates(costs, size, frostline, made=made, read=read, budget=cache.budget)
    return Decision(costs, ways, chosen(ways), cache.budget)
