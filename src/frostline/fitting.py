"""The steps of a fit, and the state that passes from one to the next."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, channels_last

from frostline import terminal
from frostline.activations import Activations, activations, fill_together
from frostline.backbones import Backbone, load_backbone
from frostline.classifier import save_classifier, save_golden
from frostline.data import read_data
from frostline.data.images import ImageSet
from frostline.data.views import Views
from frostline.errors import UsageError
from frostline.evaluation import metrics, named, predictions_of, refuse_too_many, summary
from frostline.machine import machine
from frostline.network import Network
from frostline.part import Part
from frostline.plan import Phase, plan_as_yaml, resolve_plan
from frostline.probe import solve_head
from frostline.run import Run, create_run, write_csv, write_json, write_start
from frostline.store import Cache, default_folder, parse_bytes, write_atomically
from frostline.tasks import classification
from frostline.training import Training, outputs


class Fitting:
    """One fit on its way through its phases. `asked` are the arguments of `fit`."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.started = time.perf_counter()
        self.on = machine(asked["device"], asked["precision"], asked["workers"])
        budget = parse_bytes(asked["cache_budget"])
        self.keep: bool = asked["cache"]
        self.store = Cache(Path(asked["cache_dir"] or default_folder()), budget) if self.keep else None
        self.seed: int = asked["seed"]
        self.images = read_data(asked["data"], self.seed)
        self.total = sum(len(part) for part in self.images.splits.values())
        _say_data(self.images)
        self.backbone = load_backbone(
            asked["backbone"], asked["weights"], image_size=asked["image_size"], seed=self.seed
        )
        self.network = self.backbone.network(len(self.images.classes), self.seed)
        common = {name: asked[name] for name in ("epochs", "lr", "batch_size", "views")}
        self.phases = resolve_plan(asked["plan"], self.network.stages, len(self.images.train), **common)
        _check_order(self.network, self.phases)
        self.run = create_run(asked["out"], f"{self.images.name}-{self.backbone.name.rpartition(':')[2]}")
        write_start(self.run, _config(asked, self.backbone, self.phases), self.images)
        self.network.model.to(self.on.device, memory_format=channels_last)  # type: ignore[call-overload]
        self.unreadable: list[tuple[str, str]] = []
        self.history: list[tuple[object, ...]] = []
        self.results: list[dict[str, Any]] = []
        self.carried: dict[Tensor, Any] = {}  # optimizer state of what trained before

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """What is said inside goes to the run's log; whoever interrupts is told what is kept."""
        with terminal.logged(self.run.path / "log.txt"):
            terminal.say(
                f"backbone {self.backbone.name} · weights {self.backbone.weights} "
                f"· {self.on.device.type} {self.on.precision}"
            )
            if self.backbone.note:
                terminal.say(f"weights: {self.backbone.note}")
            for path in self.network.pooled:
                terminal.say(f"{path}: no weights for it were found; replaced by pooling and one linear layer")
            if self.network.untraceable:
                terminal.say(f"the network is taken as a whole, two cuts only: {self.network.untraceable}")
            try:
                yield
            except KeyboardInterrupt:
                count = len(self.results)
                terminal.say(f"interrupted; {self.run.path} keeps the history and {count} of {len(self.phases)} phases")
                raise

    def fill(self) -> None:
        """One pass over the images for all phases: on the way to a higher frostline lie the lower ones."""
        self.together = {"train": [0] * len(self.phases), "valid": [0] * len(self.phases)}
        started = time.perf_counter()
        names = [phase.frostline for phase in self.phases]
        if self.store and len(set(names)) > 1:
            for split, counts in self.together.items():
                views = dict.fromkeys(names, 1)
                for phase in self.phases if split == "train" else []:
                    views[phase.frostline] = max(views[phase.frostline], phase.views or 1)
                wanted = [(name, Views(count, self.seed)) for name, count in views.items()]
                images, label = self.images.splits[split], f"{split} activations for all phases"
                computed = fill_together(self.network, wanted, images, self.on, self.store, label)
                for name, count in zip(views, computed, strict=True):
                    counts[names.index(name)] = count
        self.fill_seconds = time.perf_counter() - started
        count = sum(max(counts) for counts in self.together.values())
        if count:
            terminal.say(f"one pass for all {len(self.phases)} phases: {count} views in {self.fill_seconds:.1f} s")

    def pass_through(self, phase: Phase) -> None:
        """Cut at the frostline, have the activations, solve or train what is above, keep the best of it."""
        started = time.perf_counter()
        lower, self.upper = self.network.cut(phase.frostline)
        train = self.activations(lower, "train", phase.views or 1)
        self.valid = self.activations(lower, "valid", 1)
        self._say_phase(phase, train)
        epochs = self.solve(phase, train) if phase.epochs == 0 else None
        if epochs is None:
            epochs = self.train(phase if phase.epochs else replace(phase, epochs=20, lr=1e-3), train)
        self.answers = outputs(self.upper, self.valid, self.on.device)
        fills = (train.filled, self.valid.filled)
        together = sum(counts[len(self.results)] for counts in self.together.values())
        computed = together + sum(filled.computed for filled in fills)
        result = {
            "frostline": phase.frostline,
            "epochs": epochs,
            "seconds": time.perf_counter() - started + (0 if self.results else self.fill_seconds),
            "fill_seconds": sum(filled.seconds for filled in fills) + (0 if self.results else self.fill_seconds),
            "cached_bytes": sum(filled.bytes for filled in fills),
            "computed": computed,
            "reused": max(0, len(train) + len(self.valid) - computed),
            "valid": classification.measure(*self.answers),
        }
        self.results.append(result)
        trained = {name: value.detach().cpu().contiguous() for name, value in self.upper.state_dict().items()}
        folder = self.run.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"phase-{len(self.results)}.safetensors", save(trained))

    def activations(self, lower: Part, split: str, count: int) -> Activations:
        """The activations of one split; its unreadable images are no part of the data from here on."""
        label = f"{split} activations below {lower.frostline}"
        images, views = self.images.splits[split], Views(count, self.seed)
        filled = activations(lower, images, views, on=self.on, cache=self.store, keep=self.keep, label=label)
        if filled.unreadable:
            self.unreadable += filled.unreadable
            refuse_too_many(self.unreadable, self.total)
            terminal.say(f"{len(filled.unreadable)} unreadable in {split}, skipped: {named(filled.unreadable)}")
            self.images = self.images.with_splits({split: filled.images})
        return filled

    def solve(self, phase: Phase, train: Activations) -> int | None:
        """Solve the head; None where what lies above the frostline is more than one linear layer."""
        started = time.perf_counter()
        before = self._measure()["loss"] if self.results else math.inf
        state = {name: value.clone() for name, value in self.upper.state_dict().items()}
        if not solve_head(self.network, self.upper, train, self.seed):
            terminal.say(f"what lies above {phase.frostline} is more than one linear layer: trained, not solved")
            return None
        after = self._measure()
        if after["loss"] > before:
            self.upper.load_state_dict(state)
            after = self._measure()
        self._record(phase, {"epoch": 0}, after, time.perf_counter() - started)
        return 0

    def train(self, phase: Phase, train: Activations) -> int:
        """Train until the phase's epochs or its patience are spent; the number of epochs that it took."""
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
        self._record(phase, {"epoch": 0}, training.start, 0.0)
        for row in training:
            self._record(phase, asdict(row), {"loss": row.valid_loss, "accuracy": row.valid_accuracy}, row.seconds)
            if training.stale >= phase.patience:
                break
        training.restore_best()
        self.carried = dict(training.optimizer.state)
        return training.epoch

    def finish(self) -> Run:
        """After all choices: open the test split once, save the classifier and the results."""
        classes = self.images.classes
        logits, targets = self.answers
        valid, test = metrics(logits, targets, classes), None
        rows = predictions_of(self.valid.images, logits, classes, "valid")
        save_classifier(self.run, self.backbone, self.network, classes)
        save_golden(self.run, self.valid, logits, self.backbone.preprocessing, self.on.precision)
        if self.images.test is not None and len(self.images.test):
            lower, self.upper = self.network.cut(self.phases[-1].frostline)
            opened = self.activations(lower, "test", 1)
            logits, targets = outputs(self.upper, opened, self.on.device)
            test = metrics(logits, targets, classes)
            rows += predictions_of(opened.images, logits, classes, "test")
        write_csv(self.run, "predictions.csv", ("path", "split", "label", "predicted", "probability"), rows)
        seconds = time.perf_counter() - self.started
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
        for name, found in (("valid", valid), ("test", test)):
            if found:
                terminal.say(f"{name}: {summary(found)}")
        terminal.say(f"run: {self.run.path} · {seconds:.1f} s")
        return self.run

    def _measure(self) -> dict[str, float]:
        return classification.measure(*outputs(self.upper, self.valid, self.on.device))

    def _record(self, phase: Phase, row: Mapping[str, Any], valid: Mapping[str, float], seconds: float) -> None:
        """One row of the history: written, and said."""
        trained = ""
        name = "solved" if phase.epochs == 0 else "start"
        if row["epoch"]:
            trained = f"train {row['train_accuracy']:.4f} loss {row['train_loss']:.4f} · "
            name = f"epoch {row['epoch']:>2}/{phase.epochs}"
        terminal.say(f"  {name:<11} {trained}valid {valid['accuracy']:.4f} loss {valid['loss']:.4f} · {seconds:.1f} s")
        columns = ("epoch", "lr", "train_loss", "train_accuracy")
        values = [row.get(column, "") for column in columns]
        self.history.append(
            (len(self.results) + 1, phase.frostline, *values, valid["loss"], valid["accuracy"], seconds)
        )
        header = ("phase", "frostline", *columns, "valid_loss", "valid_accuracy", "seconds")
        write_csv(self.run, "history.csv", header, self.history)

    def _say_phase(self, phase: Phase, train: Activations) -> None:
        """One line of truth: what trains, what is frozen, what is reused."""
        names = self.network.stage_names()
        trained = sum(parameter.numel() for parameter in self.upper.parameters())
        every = sum(parameter.numel() for parameter in self.network.model.parameters())
        span = phase.frostline if phase.frostline == names[-1] else f"{phase.frostline} … {names[-1]}"
        size = f"({terminal.human_count(trained)} of {terminal.human_count(every)})"
        filled, count = train.filled, f"{len(train.images)} images"
        if train.views > 1:
            count += f" × {train.views} views"
        below = "nothing frozen, decoded" if phase.frostline == names[0] else "below it frozen, computed"
        if filled.kept == "recomputed":
            how = f"{below} again in every epoch: {count}"
        else:
            source = f"{filled.computed} computed in {filled.seconds:.1f} s" if filled.computed else "reused"
            if self.together["train"][len(self.results)]:
                source = "from the one pass"
            where = "" if filled.kept == "stored" else ", in memory"
            how = f"{below} once: {count}, {terminal.human_bytes(filled.bytes)}, {source}{where}"
        number = f"{len(self.results) + 1}/{len(self.phases)}"
        terminal.say(f"phase {number}  trains {span} {size} · {how}")


def _config(asked: Mapping[str, Any], backbone: Backbone, phases: list[Phase]) -> dict[str, Any]:
    """The arguments as plain values, names resolved."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in asked.items()}
    data = asked["data"].name if isinstance(asked["data"], ImageSet) else str(asked["data"])
    if not isinstance(asked["backbone"], str):  # an object: what it is, not what would have been its defaults
        plain |= {"weights": backbone.weights, "image_size": backbone.preprocessing.size}
    return {**plain, "data": data, "backbone": backbone.name, "plan": {"phases": plan_as_yaml(phases)}}


def _check_order(network: Network, phases: list[Phase]) -> None:
    """Every frostline exists, and none rises: what has trained must not be frozen and stored as if it had not."""
    places = [network.depth(phase.frostline) for phase in phases]
    for phase, before, here in zip(phases[1:], places, places[1:], strict=False):
        if here > before:
            raise UsageError(
                f"the frostline rises to {phase.frostline!r} in the plan; order the phases from the head down"
            )


def _say_data(images: ImageSet) -> None:
    sizes = " · ".join(f"{len(part)} {name}" for name, part in images.splits.items())
    shown = ", ".join(images.classes[:6]) + (" …" if len(images.classes) > 6 else "")
    terminal.say(f"{images.name}: {sizes} images · {len(images.classes)} classes: {shown}")
    for note in images.notes:
        terminal.say(f"note: {note}")
