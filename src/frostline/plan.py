"""Plans: lists of phases, with a frostline that sinks from one to the next.

phases:                      # a plan in YAML
  - frostline: head
    epochs: 0                # solved, not trained
  - frostline: layer4
    epochs: 10
    lr: 0.001
    optimizer: sgd
    freeze: ["layer4.0*"]  # stays frozen although it lies above the frostline
  - frostline: stem
    race: true  # tries several settings, and must prove an improvement; else it is undone and the plan ends
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from frostline import settings, terminal
from frostline.errors import UsageError, unknown
from frostline.values import read_yaml

if TYPE_CHECKING:  # the options of a fit are read before torch is imported
    from frostline.network.network import Network
    from frostline.network.stages import Stage

BatchNorm = Literal["frozen", "updated"]
Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["cosine", "step", "constant"]
LEARNING_RATES: dict[Optimizer, float] = {"adamw": 3e-4, "adam": 3e-4, "sgd": 3e-3}  # defaults
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass(frozen=True)
class Phase:
    """A frostline, and how to train above it.

    frostline: the lowest stage or module that trains; everything below is frozen.
    epochs: maximum number of epochs; 0 solves a head that is linear in its input and trains nothing else.
    lr: the learning rate of the head; each stage further down gets `lr_decay` times the one above. None for the
        optimizer's default.
    views: augmented views per image, used in turn from epoch to epoch; 1 for none, None for as many as pay off.
    patience: stop after this many epochs without a better validation loss; has no effect with `race`.
    batch_size: images per step.
    optimizer: "adamw", "adam" or "sgd". momentum: SGD momentum. weight_decay: of all parameters but biases and norms.
    schedule: learning rate schedule: "cosine" to zero, "step" (a tenth after each third of the epochs), both with
        warm-up over the first tenth; or "constant".
    mixup: alpha of the Beta distribution that mixes the activations and losses of two images (Zhang et al.
        2018); 0 for none.
    clip: maximum norm of all gradients together in one step; 0 for no limit.
    freeze: modules or parameters above the frostline that stay frozen, by name or glob ("layer4.0*").
    batchnorm: running statistics of BatchNorm above the frostline: "frozen" keeps those of the
        pretrained weights; "updated" trains with the statistics of each batch, and keeps their running means. None for
        "frozen", or "updated" without pretrained weights.
    race: try several learning rates if lr is None, and keep the phase only if a paired test on the validation images
        shows an improvement after its last epoch; else the plan ends there.
    """

    frostline: str
    epochs: int = 10
    lr: float | None = None
    lr_decay: float = 0.5
    views: int | None = None
    patience: int = 5
    batch_size: int = 32
    weight_decay: float = 0.01
    optimizer: Optimizer = "adamw"
    momentum: float = 0.9
    schedule: Schedule = "cosine"
    mixup: float = 0.0
    clip: float = 0.0
    freeze: tuple[str, ...] = ()
    batchnorm: BatchNorm | None = None
    race: bool = False

    def __post_init__(self) -> None:
        settings.check(self)
        _check(self.frostline != "", "frostline", self.frostline, "the name of a stage")
        _check(0 <= self.epochs <= 100_000, "epochs", self.epochs, "0 … 100000")
        _check(self.lr is None or 0 < self.lr <= 100, "lr", self.lr, "above 0, at most 100")
        _check(0 < self.lr_decay <= 1, "lr_decay", self.lr_decay, "above 0, at most 1")
        _check(self.views is None or 1 <= self.views <= 1000, "views", self.views, "1 … 1000")
        _check(self.patience >= 1, "patience", self.patience, "at least 1")
        _check(1 <= self.batch_size <= 100_000, "batch_size", self.batch_size, "1 … 100000")
        _check(0 <= self.weight_decay <= 1, "weight_decay", self.weight_decay, "0 … 1")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0, below 1")
        _check(0 <= self.mixup <= 10, "mixup", self.mixup, "0 … 10")
        _check(0 <= self.clip < math.inf, "clip", self.clip, "0 or above")
        _check(not (self.race and self.epochs == 0), "race", True, "false where the head is solved (epochs: 0)")

    @property
    def learning_rate(self) -> float:
        """The learning rate of the head: `lr`, else the optimizer's default."""
        return LEARNING_RATES[self.optimizer] if self.lr is None else self.lr


def _check(good: bool, name: str, value: object, right: str) -> None:
    if not good:
        raise UsageError(f"{name} is {value!r}; it must be {right}")


Plan = str | Path | Sequence[Phase]
SOLVED = Phase("head", epochs=0)
DEPTHS = (0.4, 1.0)  # shares of the network's work that the phases of `auto` train


def _tuned(stages: Sequence[Stage]) -> list[str]:
    """The stages below the head that have parameters, from the head to the image."""
    return [stage.name for stage in reversed(stages[:-1]) if stage.parameters]


def probe(_: Network, __: int | None) -> list[Phase]:
    """The head only."""
    return [SOLVED]


def gradual(network: Network, _: int | None) -> list[Phase]:
    """The head, then the last stage, then the one before it."""
    return [SOLVED, *(Phase(name) for name in _tuned(network.stages)[:2])]


def full(network: Network, _: int | None) -> list[Phase]:
    """The head, then everything."""
    return [SOLVED, Phase(network.stages[0].name)]


def auto(network: Network, images: int | None) -> list[Phase]:
    """The head, then more of the network while that pays off: stages with 40 % of its work, then all.

    Fewer stages gain less and cost as much to try: training only EfficientNet-Lite0's last stage makes digits worse.
    """
    from frostline.network.counting import work_shares  # by now torch is imported anyway

    shares, epochs = work_shares(network), _epochs(images or 0)
    views = 8 if 500 < (images or 0) <= 10_000 else None  # maximum, so that a view seldom repeats
    head = replace(SOLVED, views=4) if images is not None and images <= 10_000 else SOLVED
    deep_enough = [next((n for n in _tuned(network.stages) if shares[n] >= share), None) for share in DEPTHS]
    frostlines = dict.fromkeys(name for name in deep_enough if name)
    return [head, *(Phase(n, epochs, lr_decay=0.8, views=views, race=True) for n in frostlines)]


PRESETS: dict[str, Callable[[Network, int | None], list[Phase]]] = {
    "auto": auto,
    "probe": probe,
    "gradual": gradual,
    "full": full,
}


def resolve_plan(
    plan: Plan, network: Network, images: int | None, *, least_views: int = 1, **common: Any
) -> list[Phase]:
    """The phases of a preset, a YAML file or a list, ready to run on this many training images (None: unknown).

    Values in `common` that are not None override every phase that trains, `views` also a solved head; views that are
    still None are chosen, at least `least_views` for a phase that trains.

    Raises UsageError for an unknown preset, a file that is no plan, or a frostline that does not sink.
    """
    preset = isinstance(plan, (str, Path)) and str(plan) in PRESETS
    if isinstance(plan, (str, Path)):
        phases = PRESETS[str(plan)](network, images) if preset else read_plan(Path(plan))
    else:
        phases = list(plan)
        other = next((phase for phase in phases if not isinstance(phase, Phase)), None)
        if other is not None:
            raise UsageError(
                f"the plan contains {reprlib.repr(other)}; it must be a list of phases, as in [Phase('head')]"
            )
    if not phases:
        raise UsageError("the plan has no phases; give at least one, as in [Phase('head')]")
    common = {name: value for name, value in common.items() if value is not None}
    _check(common.get("epochs", 1) != 0, "epochs", 0, "at least 1; use --plan probe to train nothing")
    Phase("head", **common)  # raises for bad values even if no phase trains
    if not preset:
        _tell_replaced(phases, common)
    solved = {"views": common["views"]} if "views" in common else {}
    phases = [replace(phase, **(common if phase.epochs else solved)) for phase in phases]
    phases = [
        replace(phase, views=min(phase.views, phase.epochs)) if preset and phase.race and phase.views else phase
        for phase in phases
    ]
    if images is None:
        return phases
    chosen = max(least_views, _views(images))
    return [phase if phase.views else replace(phase, views=chosen if phase.epochs else 1) for phase in phases]


def _tell_replaced(phases: Sequence[Phase], common: Mapping[str, Any]) -> None:
    """Print the plan's own values that the options override."""
    usual = Phase("head")
    values = {
        name: {getattr(phase, name) for phase in phases if phase.epochs} - {getattr(usual, name)} for name in common
    }
    replaced = [f"{name} {common[name]}" for name, own in values.items() if own - {common[name]}]
    if replaced:
        terminal.say(f"note: every phase that trains gets {', '.join(replaced)} instead of the plan's value")


def _views(images: int) -> int:
    """The number of views per image that is worth its pass: more for fewer images."""
    return 4 if images <= 2_000 else 2 if images <= 10_000 else 1


def _epochs(images: int) -> int:
    """The number of epochs that makes about 240 steps of 32 images: at least 3, at most 10."""
    return min(10, max(3, round(7_680 / max(1, images))))


def check_plan(plan: Plan) -> None:
    """Check a plan file before any data is read; raises UsageError."""
    if isinstance(plan, (str, Path)) and str(plan) not in PRESETS:
        read_plan(Path(plan))


def may_end_with_head(plan: Plan) -> bool:
    """Whether a plan may end with a solved head when images are too few for more.

    >>> may_end_with_head("auto"), may_end_with_head([SOLVED]), may_end_with_head("full")
    (True, True, False)
    """
    if isinstance(plan, (str, Path)):
        if str(plan) in PRESETS:
            return str(plan) in ("auto", "probe")
        plan = read_plan(Path(plan))
    return all(isinstance(phase, Phase) and phase.epochs == 0 for phase in plan)


def read_plan(file: Path) -> list[Phase]:
    """A plan from a YAML file; raises UsageError, naming the file and the key."""
    if file.suffix not in (".yaml", ".yml") and not file.is_file():
        raise unknown("plan", str(file), [*PRESETS, "FILE.yaml"])
    if not file.is_file():
        raise UsageError(f"there is no plan file {file}; give another file, or a preset: {', '.join(PRESETS)}")
    content = read_yaml(file)
    phases = content.get("phases") if isinstance(content, dict) else content
    if not isinstance(phases, list) or not phases:
        raise UsageError(f"{file} has no list of phases; `frostline plan BACKBONE` prints one")
    if isinstance(content, dict) and (others := [key for key in content if key != "phases"]):
        raise UsageError(f"{file}: {unknown('key', str(others[0]), ['phases'])}")
    return [phase_from(item, f"{file}, phase {i}") for i, item in enumerate(phases, 1)]


def phase_from(item: object, where: str) -> Phase:
    """One phase from its YAML mapping (or from the name of its frostline)."""
    if isinstance(item, str):
        return Phase(item) if item != "head" else SOLVED
    if not isinstance(item, dict) or "frostline" not in item:
        raise UsageError(f"{where}: found {reprlib.repr(item)}; a phase must be a mapping with at least `frostline`")
    known = settings.settings_of(Phase)
    for name in item:
        if name not in known:
            raise UsageError(f"{where}: {unknown('key', str(name), known)}")
    try:
        return Phase(**item)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def plan_as_yaml(phases: Sequence[Phase]) -> list[dict[str, Any]]:
    """The phases as plain values, as a plan file holds them."""
    return [{**asdict(phase), "freeze": list(phase.freeze)} for phase in phases]
