"""Start reading here: from labelled images to a classifier, in one function.

data → backbone → plan → for each phase: cut, activations made once, solve or train, keep the best → test once → run
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch takes seconds to import, and `frostline fit --help` needs only the signature below
    from torch import Tensor, nn

    from frostline.activations import Activations
    from frostline.backbones import Backbone
    from frostline.data.images import ImageSet
    from frostline.machine import Machine
    from frostline.network import Network, Part
    from frostline.plan import Phase
    from frostline.run import Run
    from frostline.store import Cache


def fit(
    data: str | Path | ImageSet,
    *,
    backbone: str | nn.Module | Backbone = "efficientnet-lite0",
    weights: str | Path = "pretrained",
    plan: str | Path | list[Phase] = "gradual",
    out: str | Path | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    views: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    cache_budget: str = "20GB",
    quiet: bool = False,
) -> Run:
    """Train a classifier on labelled images and leave a run.

    Args:
        data: a folder with train/ and val/ of class folders, a folder of class folders, or a name such as digits.
        backbone: source:name (torchvision:resnet18, timm:vit_tiny_patch16_224), or in Python an nn.Module.
        weights: pretrained, none, a .safetensors or .pth file, or a name the source knows (IMAGENET1K_V1).
        plan: probe, gradual, full or a YAML file of phases; in Python also a list of Phase.
        out: the run folder to make; by default runs/DATA-BACKBONE-NUMBER.
        epochs: at most so many in every phase that trains.
        lr: learning rate of the head in every phase that trains.
        batch_size: images in one step.
        views: augmented variants an image, each computed once; by default 4 for small data sets, 1 for large ones.
        image_size: network input in pixels, instead of what the weights were trained with.
        seed: decides split, views, new head and order of images.
        device: auto, cpu, cuda or cuda:N.
        precision: of the frozen part: auto (bf16 where the hardware has it), bf16 or fp32.
        workers: threads that decode images; by default one a core.
        cache: keep activations in the store; without it the frozen part is computed again in every epoch.
        cache_dir: folder of the store; by default $FROSTLINE_CACHE or ~/.cache/frostline.
        cache_budget: most that the store may take, as in 20GB.
        quiet: say nothing but errors.

    Returns the run; its `metrics` are what `fit --json` prints.
    Raises FrostlineError in one of its kinds (frostline.errors), each with what to do about it.
    """
    from frostline import terminal
    from frostline.backbones import load_backbone
    from frostline.data import read_data
    from frostline.machine import machine
    from frostline.plan import plan_as_yaml, resolve_plan
    from frostline.run import create_run, write_start
    from frostline.store import Cache, default_folder, parse_bytes

    options = {name: value for name, value in locals().items() if name in (fit.__kwdefaults__ or {})}
    started = time.perf_counter()
    on = machine(device, precision, workers)
    store = Cache(Path(cache_dir or default_folder()), parse_bytes(cache_budget)) if cache else None
    with terminal.quiet(quiet):
        images = read_data(data, seed)
        _say_data(images)
        chosen = load_backbone(backbone, weights, image_size=image_size, seed=seed)
        network = chosen.network(len(images.classes), seed)
        common = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "views": views}
        phases = resolve_plan(plan, network.stages, len(images.train), **common)
        _check_order(network, phases)
        run = create_run(out, f"{images.name}-{chosen.name.rpartition(':')[2]}")
        config = {"data": str(data), **options, "backbone": chosen.name, "plan": {"phases": plan_as_yaml(phases)}}
        write_start(run, {k: str(v) if isinstance(v, Path) else v for k, v in config.items()}, images)
        with terminal.logged(run.path / "log.txt"), _says_where(run):
            terminal.say(f"backbone {chosen.name} · weights {chosen.weights} · {on.device.type} {on.precision}")
            if chosen.note:
                terminal.say(f"weights: {chosen.note}")
            if network.untraceable:
                terminal.say(f"the network is taken as a whole, two cuts only: {network.untraceable}")
            fitting = _Fitting(images, chosen, network, phases, on, store, cache, seed, run)
            fitting.train()
            fitting.finish(started)
    return run


class _Fitting:
    """The state of one fit while it passes through its phases."""

    def __init__(
        self,
        images: ImageSet,
        backbone: Backbone,
        network: Network,
        phases: list[Phase],
        on: Machine,
        store: Cache | None,
        keep: bool,
        seed: int,
        run: Run,
    ) -> None:
        import torch

        self.images, self.backbone, self.network, self.phases = images, backbone, network, phases
        self.on, self.store, self.keep, self.seed, self.run = on, store, keep, seed, run
        self.network.model.to(on.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.total = sum(len(part) for part in images.splits.values())
        self.unreadable: list[tuple[str, str]] = []
        self.history: list[tuple[object, ...]] = []
        self.results: list[dict[str, Any]] = []
        self.carried: dict[Tensor, Any] = {}

    def train(self) -> None:
        """All phases, each starting from the best of the one before."""
        for number, phase in enumerate(self.phases, 1):
            started = time.perf_counter()
            lower, self.upper = self.network.cut(phase.frostline)
            train = self._activations(lower, "train", phase.views or 1)
            self.valid = self._activations(lower, "valid", 1)
            self._say_phase(number, phase, train)
            epochs = self._solve(phase, train) if phase.epochs == 0 else None
            if epochs is None:
                epochs = self._train(phase if phase.epochs else replace(phase, epochs=20, lr=1e-3), train)
            self._keep(phase, number, train, epochs, time.perf_counter() - started)

    def _activations(self, lower: Part, split: str, count: int) -> Activations:
        """The activations of one split, their unreadable images dropped from the data from here on."""
        from frostline import terminal
        from frostline.activations import activations
        from frostline.data.views import Views
        from frostline.evaluation import named, refuse_too_many

        filled = activations(
            lower,
            self.images.splits[split],
            Views(count, self.seed),
            on=self.on,
            cache=self.store,
            keep=self.keep,
            label=f"{split} activations {lower.label}",
        )
        if filled.unreadable:
            self.unreadable += filled.unreadable
            refuse_too_many(self.unreadable, self.total)
            terminal.say(f"{len(filled.unreadable)} unreadable in {split}, skipped: {named(filled.unreadable)}")
            self.images = self.images.with_splits({split: filled.images})
        return filled

    def _solve(self, phase: Phase, train: Activations) -> int | None:
        """Solve the head; None where what lies above the frostline is more than one linear layer."""
        from frostline import terminal
        from frostline.probe import solve_head
        from frostline.training import outputs

        started = time.perf_counter()
        if not solve_head(self.network, self.upper, train, self.seed):
            terminal.say(f"what lies above {phase.frostline} is not one linear layer: trained instead of solved")
            return None
        self._record(phase, 0, {}, _measured(*outputs(self.upper, self.valid, self.on.device)), started)
        return 0

    def _train(self, phase: Phase, train: Activations) -> int:
        from frostline.training import Training

        started = time.perf_counter()
        training = Training(
            self.network,
            self.upper,
            train,
            self.valid,
            phase,
            seed=self.seed,
            keep_statistics=self.backbone.weights != "none",
            carried=self.carried,
        )
        self._record(phase, 0, {}, training.start, started)
        for row in training:
            valid = {"accuracy": row.valid_accuracy, "loss": row.valid_loss}
            self._record(phase, row.epoch, asdict(row), valid, time.perf_counter() - row.seconds)
            if training.stale >= phase.patience:
                break
        training.restore_best()
        self.carried = dict(training.optimizer.state)
        return training.epoch

    def _record(self, phase: Phase, epoch: int, row: dict[str, Any], valid: dict[str, float], started: float) -> None:
        """One row of the history: written, and said."""
        from frostline import terminal
        from frostline.run import write_csv

        seconds = time.perf_counter() - started
        trained = f"train {row['train_accuracy']:.4f} loss {row['train_loss']:.4f} · " if row else ""
        name = f"epoch {epoch:>2}/{phase.epochs}" if row else ("solved" if phase.epochs == 0 else "start")
        terminal.say(f"  {name:<11} {trained}valid {valid['accuracy']:.4f} loss {valid['loss']:.4f} · {seconds:.1f} s")
        columns = ("epoch", "lr", "train_loss", "train_accuracy")
        values = [row.get(column, epoch if column == "epoch" else "") for column in columns]
        self.history.append(
            (len(self.results) + 1, phase.frostline, *values, valid["loss"], valid["accuracy"], seconds)
        )
        header = ("phase", "frostline", *columns, "valid_loss", "valid_accuracy", "seconds")
        write_csv(self.run, "history.csv", header, self.history)

    def _keep(self, phase: Phase, number: int, train: Activations, epochs: int, seconds: float) -> None:
        """Note a phase's result and save the network as it is after it."""
        from safetensors.torch import save

        from frostline.store import write_atomically
        from frostline.training import outputs

        fills = (train.filled, self.valid.filled)
        self.results.append(
            {
                "frostline": phase.frostline,
                "epochs": epochs,
                "seconds": seconds,
                "fill_seconds": sum(f.seconds for f in fills),
                "cached_bytes": sum(f.bytes for f in fills),
                "computed": sum(f.computed for f in fills),
                "reused": sum(f.found for f in fills),
                "valid": _measured(*outputs(self.upper, self.valid, self.on.device)),
            }
        )
        folder = self.run.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        trained = {name: value.detach().cpu().contiguous() for name, value in self.upper.state_dict().items()}
        write_atomically(folder / f"phase-{number}.safetensors", save(trained))

    def finish(self, started: float) -> None:
        """After all choices: open the test split once, save the classifier and the results."""
        from frostline import terminal
        from frostline.classifier import save_classifier, save_golden
        from frostline.evaluation import metrics, predictions_of
        from frostline.run import write_csv, write_json
        from frostline.training import outputs

        classes = self.images.classes
        logits, targets = outputs(self.upper, self.valid, self.on.device)
        valid, test = metrics(logits, targets, classes), None
        rows = predictions_of(self.valid.images, logits, classes, "valid")
        if self.images.test is not None and len(self.images.test):
            lower, self.upper = self.network.cut(self.phases[-1].frostline)
            filled = self._activations(lower, "test", 1)
            logits, targets = outputs(self.upper, filled, self.on.device)
            test = metrics(logits, targets, classes)
            rows += predictions_of(filled.images, logits, classes, "test")
        write_csv(self.run, "predictions.csv", ("path", "split", "label", "predicted", "probability"), rows)
        save_classifier(self.run, self.backbone, self.network, classes, self.on)
        save_golden(self.run, self.upper, self.valid, self.backbone.preprocessing, self.on.precision)
        seconds = time.perf_counter() - started
        result = {
            "run": str(self.run.path),
            "classes": list(classes),
            "phases": self.results,
            "valid": valid,
            "test": test,
            "seconds": seconds,
            "unreadable": [{"path": name, "error": reason} for name, reason in self.unreadable],
        }
        write_json(self.run, "metrics.json", result)
        for name, measured in (("valid", valid), ("test", test)):
            if measured:
                low, high = measured["interval"]
                terminal.say(
                    f"{name}: accuracy {measured['accuracy']:.4f} ({low:.3f} … {high:.3f}, n = {measured['n']})"
                )
        terminal.say(f"run: {self.run.path} · {seconds:.1f} s")

    def _say_phase(self, number: int, phase: Phase, train: Activations) -> None:
        from frostline import terminal

        names = self.network.stage_names()
        trained = sum(p.numel() for p in self.upper.parameters())
        every = sum(p.numel() for p in self.network.model.parameters())
        span = phase.frostline if phase.frostline == names[-1] else f"{phase.frostline} … {names[-1]}"
        size = f"({terminal.human_count(trained)} of {terminal.human_count(every)})"
        filled, count = train.filled, f"{len(train.images)} images"
        if train.views > 1:
            count += f" × {train.views} views"
        if filled.kept == "recomputed":
            how = f"below it frozen, computed again in every epoch: {count}"
        else:
            source = "reused" if not filled.computed else f"{filled.computed} computed in {filled.seconds:.1f} s"
            where = "" if filled.kept == "stored" else ", in memory"
            below = "nothing frozen, decoded" if phase.frostline == names[0] else "below it frozen, computed"
            how = f"{below} once: {count}, {terminal.human_bytes(filled.bytes)}, {source}{where}"
        terminal.say(f"phase {number}/{len(self.phases)}  trains {span} {size} · {how}")


def _measured(logits: Tensor, targets: Tensor) -> dict[str, float]:
    from frostline.tasks import classification

    return classification.measure(logits, targets)


def _check_order(network: Network, phases: list[Phase]) -> None:
    """Every frostline exists, and none rises: what has trained must not be frozen and stored as if it had not."""
    from frostline.errors import UsageError

    places = [network.depth(phase.frostline) for phase in phases]
    for phase, before, here in zip(phases[1:], places, places[1:], strict=False):
        if here > before:
            raise UsageError(
                f"the frostline rises to {phase.frostline!r} in the plan; order the phases from the head down"
            )


def _say_data(images: ImageSet) -> None:
    from frostline import terminal

    sizes = " · ".join(f"{len(part)} {name}" for name, part in images.splits.items())
    shown = ", ".join(images.classes[:6]) + (" …" if len(images.classes) > 6 else "")
    terminal.say(f"{images.name}: {sizes} images · {len(images.classes)} classes: {shown}")
    for note in images.notes:
        terminal.say(f"note: {note}")


@contextlib.contextmanager
def _says_where(run: Run) -> Iterator[None]:
    """Whoever interrupts a fit is told what is kept."""
    from frostline import terminal

    try:
        yield
    except KeyboardInterrupt:
        kept = sorted((run.path / "checkpoints").glob("*.safetensors"))
        terminal.say(f"interrupted; {run.path} keeps the history and {len(kept)} finished phase(s)")
        raise
