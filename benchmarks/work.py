"""The work units, and the runs that they are measured by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TRAINING = ("tutorial", "fastai", "lightning", "huggingface")  # peers whose time grows with the epochs
PEERS = (*TRAINING, "sklearn")
SOLVED, AGAIN, TRAINED = "frostline", "frostline-again", "frostline-trained"


@dataclass(frozen=True)
class Unit:
    """Work that is the same for all: images, network, what trains, for how many epochs (each number is one table).

    who: the peers and Frostline's ways, in the order in which they run. panel: the table that it appears in.
    """

    name: str
    panel: str
    title: str
    data: str
    arch: str
    train: str
    epochs: tuple[int, ...]
    who: tuple[str, ...]

    @property
    def first_fit(self) -> str:
        """Frostline's run that begins with an empty store and leaves it to the second fit."""
        return SOLVED if self.train == "head" else TRAINED


HEAD_ONLY = (*PEERS, SOLVED, AGAIN, TRAINED)
ONE_STAGE = (*TRAINING, TRAINED, AGAIN)
LITE, RESNET = "efficientnet-lite0", "resnet18"
PHOTOS = "EfficientNet-Lite0, 244 + 153 photographs (ants and bees), head only"
FASHION = "2,000 + 500 images of Fashion-MNIST"
MNIST = "EfficientNet-Lite0, MNIST at 224 pixels, by training images, head only"
UNITS = (
    Unit("W1", "W1", PHOTOS, "hymenoptera", LITE, "head", (10, 25), HEAD_ONLY),
    Unit("W2", "W2", f"EfficientNet-Lite0, {FASHION}, head only", "fashion-2000", LITE, "head", (10,), HEAD_ONLY),
    Unit(
        "W3",
        "W3",
        f"EfficientNet-Lite0, {FASHION}, last stage trained",
        "fashion-2000",
        LITE,
        "blocks.6",
        (10,),
        ONE_STAGE,
    ),
    Unit("W4-head", "W4-head", f"ResNet-18, {FASHION}, head only", "fashion-2000", RESNET, "head", (10,), HEAD_ONLY),
    Unit(
        "W4-layer4",
        "W4-layer4",
        f"ResNet-18, {FASHION}, layer4 trained",
        "fashion-2000",
        RESNET,
        "layer4",
        (10,),
        ONE_STAGE,
    ),
    Unit("W5-1000", "W5", MNIST, "mnist-1000", LITE, "head", (0,), ("sklearn", SOLVED)),
    Unit("W5-8000", "W5", MNIST, "mnist-8000", LITE, "head", (0,), ("sklearn", SOLVED)),
    Unit("W5-60000", "W5", MNIST, "mnist-60000", LITE, "head", (0,), (SOLVED,)),
)


@dataclass(frozen=True)
class Job:
    """One process to be measured. epochs: 0 where nothing is repeated an epoch (a solved head)."""

    unit: Unit
    who: str
    epochs: int
    repeat: int

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.unit.name, self.who, self.epochs, self.repeat

    @property
    def environment(self) -> str:
        return self.who.partition("-")[0]


def chosen_units(names: Sequence[str]) -> list[Unit]:
    """Units by name; "W4" stands for all that begin so."""
    for name in names:
        if not any(_is_called(unit, name) for unit in UNITS):
            raise SystemExit(f"no work unit {name!r}; there are {', '.join(unit.name for unit in UNITS)}")
    return [unit for unit in UNITS if any(_is_called(unit, name) for name in names)]


def _is_called(unit: Unit, name: str) -> bool:
    return unit.name == name or unit.name.startswith(f"{name}-")


def jobs(unit: Unit, repeats: int, measured: Sequence[int] = (), environments: Sequence[str] = ()) -> Iterator[Job]:
    """All runs of a unit: one repetition of everybody, then the next, so that a slow hour of the machine hits all.

    measured: epochs that peers run instead of all of them. environments: only these; all if empty.
    """
    for repeat in range(repeats):
        for who in unit.who:
            for epochs in epochs_of(unit, who, measured):
                job = Job(unit, who, epochs, repeat)
                if not environments or job.environment in environments:
                    yield job


def epochs_of(unit: Unit, who: str, measured: Sequence[int]) -> tuple[int, ...]:
    if who in TRAINING:
        return tuple(measured) or unit.epochs
    if who == TRAINED:
        return unit.epochs
    return unit.epochs if who == AGAIN and unit.first_fit == TRAINED else (0,)
