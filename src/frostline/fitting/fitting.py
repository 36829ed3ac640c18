"""The steps of a fit, and the state that passes from one to the next."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import nn

from frostline import terminal
from frostline.backbones import load_backbone
from frostline.classifier.artifact import save_classifier, save_golden
from frostline.classifier.classifier import Classifier
from frostline.data import read_data
from frostline.data.augment import NONE
from frostline.data.images import ImageSet
from frostline.data.unreadable import named, refuse_too_many
from frostline.data.views import Views, suited
from frostline.errors import UsageError
from frostline.files import default_folder, parse_bytes, write_atomically
from frostline.machine import find_machine, to_device
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.plan import Phase, resolve_plan
from frostline.runs.config import resolved
from frostline.runs.run import Run, create_run, write_csv, write_json, write_start
from frostline.store.activations import Activations
from frostline.store.placement import Placement
from frostline.store.shards import Cache
from frostline.tasks import Outputs, loss_of, task_of
from frostline.tasks.summary import SHOWN, summary
from frostline.tasks.weights import class_weights
from frostline.training.judging import predict_all
from frostline.training.probe import solve_head
from frostline.training.training import Training

HEAD_STEPS = 300  # at least, for a head that cannot be solved


class Fitting:
    """One fit on its way through its phases. `asked` are the arguments of `fit`."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.started = time.perf_counter()
        self.machine = find_machine(asked["device"], asked["precision"], asked["workers"])
        budget = parse_bytes(asked["cache_budget"])
        store = Cache(Path(asked["cache_dir"] or default_folder()), budget) if asked["cache"] else None
        self.seed: int = asked["seed"]
        self.images = read_data(asked["data"], self.seed, download=asked["download"])
        self.total = sum(len(part) for part in self.images.splits.values())
        _say_data(self.images)
        self.task = task_of(self.images.task)
        self.views = self._augmentation(asked["augment"])
        self.backbone = load_backbone(
            asked["backbone"], asked["weights"], image_size=asked["image_size"], seed=self.seed
        )
        self.network = self.backbone.network(len(self.images.classes), self.seed, self.images.task)
        self._choose_loss(asked)
        self.phases = self._phases(asked)
        self.run = create_run(asked["out"], f"{self.images.name}-{self.backbone.name.rpartition(':')[2]}")
        write_start(self.run, resolved(asked, self.images, self.backbone, self.phases), self.images)
        to_device(self.network.model, self.machine.device)
        self.unreadable: list[tuple[str, str]] = []
        self.history: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.storing = Placement(
            self.network, self.phases, self.images, self.views, machine=self.machine, cache=store, keep=asked["cache"]
        )
        self.previous_optimizer: dict[str, Any] | None = None  # its state after the phase before

    def _augmentation(self, asked: Any) -> Views:
        """The recipe of the training views; chosen by what the images are where nothing was asked for."""
        auto = isinstance(asked, str) and asked == "auto"
        recipe = (self.images.augment or suited(self.images.train.pictures)) if auto else asked
        views = Views(seed=self.seed, augment=recipe)
        if self.images.task == "segmentation" and callable(views.recipe):
            raise UsageError("a function changes images and not their masks; give augment= the name of a preset")
        return views

    def _choose_loss(self, asked: Mapping[str, Any]) -> None:
        """What is trained, and by what an epoch is judged: the same, but for smoothed labels."""
        given = asked["class_weights"]
        self.weight = class_weights(given, self.images.train.targets, self.images.classes) if given else None
        weight = self.weight.to(self.machine.device) if self.weight is not None else None
        loss = asked["loss"]
        if isinstance(loss, nn.Module):  # its weights, if it has some, have to be where the logits are
            loss = copy.deepcopy(loss).to(self.machine.device)
        self.loss = loss_of(self.task, loss, weight=weight, smoothing=asked["label_smoothing"])
        self.monitor = loss_of(self.task, loss, weight=weight)
        plain = asked["loss"] in (None, next(iter(self.task.LOSSES)))
        reasons = {
            "a map of classes": self.images.task == "segmentation",
            f"loss {getattr(asked['loss'], '__name__', asked['loss'])}": not plain,
            **{name.replace("_", " "): asked[name] for name in ("label_smoothing", "balanced", "mixup")},
        }
        self.unsolvable = ", ".join(reason for reason, holds in reasons.items() if holds)
        self.balanced: bool = asked["balanced"]
        if self.balanced and self.images.task == "segmentation":
            raise UsageError("pixels cannot be drawn, so not balanced either; class_weights='balanced' weighs them")

    def _phases(self, asked: Mapping[str, Any]) -> list[Phase]:
        common = {field.name: asked[field.name] for field in fields(Phase) if field.name in asked}
        if self.views.recipe == NONE:
            common["views"] = 1
        self.given = {name: value for name, value in common.items() if value is not None}
        least = 1 if asked["augment"] == "auto" else 2  # what was asked for is to be seen
        count, stages = len(self.images.train), self.network.stages
        phases = resolve_plan(asked["plan"], stages, count, least_views=least, **common)
        unused = [name for name in self.given if name != "views"]
        if unused and not self.unsolvable and not any(phase.epochs for phase in phases):
            terminal.say(f"note: this plan trains nothing; without effect: {', '.join(unused)}")
        phases = [replace(phase, frostline=self.network.resolve(phase.frostline)) for phase in phases]
        _check_order(self.network, phases)
        for phase in phases:
            if phase.freeze:
                self.network.cut(phase.frostline, phase.freeze)  # what it names is there: known before hours are spent
        return phases

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """What is said inside goes to the run's log; whoever interrupts is told what is kept."""
        with terminal.logged(self.run.path / "log.txt"):
            terminal.say(
                f"backbone {self.backbone.name} · weights {self.backbone.weights} "
                f"· {self.machine.device.type} {self.machine.precision}"
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

    def extract(self, splits: Sequence[str] = ("train", "valid")) -> None:
        """One pass over the images for all phases."""
        self.storing.extract(self.images, splits)

    def pass_through(self, phase: Phase) -> None:
        """Cut at the frostline, have the activations, solve or train what is above, keep the best of it."""
        started = time.perf_counter()
        lower, self.upper = self.network.cut(phase.frostline, phase.freeze)
        train, self.valid = self.activations(lower, "train"), self.activations(lower, "valid")
        self._say_phase(phase, train)
        epochs = self.solve(phase, train) if phase.epochs == 0 else None
        if epochs is None:
            instead = phase if phase.epochs else _trained_instead(phase, len(train.images), self.given)
            epochs = self.train(instead, train)
        self.answers, _ = predict_all(self.upper, self.valid, self.task)
        fills = (train.filled, self.valid.filled)
        together = sum(self.storing.together[split][len(self.results)] for split in ("train", "valid"))
        computed = together + sum(filled.computed for filled in fills)
        result = {
            "frostline": phase.frostline,
            "epochs": epochs,
            "seconds": time.perf_counter() - started + (0 if self.results else self.storing.seconds),
            "fill_seconds": sum(filled.seconds for filled in fills) + (0 if self.results else self.storing.seconds),
            "cached_bytes": sum(filled.bytes for filled in fills),
            "computed": computed,
            "reused": max(0, len(train) + len(self.valid) - computed),
            "valid": self.task.measure(self.answers),
        }
        self.results.append(result)
        trained = {name: value.detach().cpu().contiguous() for name, value in self.upper.state_dict().items()}
        file = self._checkpoint(len(self.results))
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, save(trained))

    def _checkpoint(self, number: int) -> Path:
        return self.run.path / "checkpoints" / f"phase-{number}.safetensors"

    def activations(self, lower: Part, split: str, number: int | None = None) -> Activations:
        """The activations of one split; its unreadable images are no part of the data from here on."""
        number = len(self.results) if number is None else number
        filled = self.storing.activations(number, lower, self.images.splits[split], split)
        if filled.unreadable:
            self.unreadable += filled.unreadable
            refuse_too_many(self.unreadable, self.total)
            terminal.say(f"{len(filled.unreadable)} unreadable in {split}, skipped: {named(filled.unreadable)}")
            self.images = self.images.with_splits({split: filled.images})
        return filled

    def solve(self, phase: Phase, train: Activations) -> int | None:
        """Solve the head; None where that cannot be done."""
        if self.unsolvable:
            terminal.say(f"this head is trained, not solved: {self.unsolvable}")
            return None
        started = time.perf_counter()
        before = self._monitored()[1] if self.results else math.inf
        state = {name: value.clone() for name, value in self.upper.state_dict().items()}
        if not solve_head(self.network, self.upper, train, self.seed, self.weight):
            terminal.say(f"what lies above {phase.frostline} is more than one linear layer: trained, not solved")
            return None
        valid, loss = self._monitored()
        if loss > before:
            self.upper.load_state_dict(state)
            valid, loss = self._monitored()
        self._record(phase, {"epoch": 0, "valid_loss": loss}, valid, time.perf_counter() - started)
        return 0

    def train(self, phase: Phase, train: Activations) -> int:
        """Train until the phase's epochs or its patience are spent; the number of epochs that it took."""
        training = Training(
            self.network,
            self.upper,
            train,
            self.valid,
            phase,
            task=self.task,
            loss=self.loss,
            monitor=self.monitor,
            balanced=self.balanced,
            seed=self.seed,
            precision=self.machine.precision,
            freeze_batchnorm_statistics=self.backbone.weights != "none",
            previous_optimizer=self.previous_optimizer,
        )
        self._record(phase, {"epoch": 0, "valid_loss": training.best}, training.initial, 0.0)
        for row in training:
            self._record(phase, asdict(row), row.valid, row.seconds)
            if training.epochs_without_improvement >= phase.patience:
                break
        training.restore_best()
        self.previous_optimizer = training.optimizer_state()
        return training.epoch

    def finish(self) -> Run:
        """After all choices: save the classifier, open the test split once, write the results and the pictures."""
        classes = self.images.classes
        save_classifier(self.run, self.backbone, self.network, self.images)
        if self.images.task != "segmentation":
            predicted = self.task.probabilities(self.answers.outputs)
            save_golden(self.run, self.valid, predicted, self.network.preprocessing, self.machine.precision)
        measured = {"valid": self.task.metrics(self.answers, classes), "test": None}
        rows = self.task.predictions(self.valid.images.names, "valid", self.answers, classes)
        if self.images.test is not None and len(self.images.test):
            opened, answers = self.open_test()
            measured["test"] = self.task.metrics(answers, classes)
            rows += self.task.predictions(opened.images.names, "test", answers, classes)
        write_csv(self.run, "predictions.csv", self.task.COLUMNS, rows)
        try:
            self._draw()
        except Exception as error:  # hours of training are not lost for a picture
            terminal.say(f"the pictures could not be drawn: {error}")
        seconds = time.perf_counter() - self.started
        result = {
            "run": str(self.run.path),
            "task": self.images.task,
            "classes": list(classes),
            "phases": self.results,
            **measured,
            "seconds": seconds,
            "unreadable": [{"path": name, "error": reason} for name, reason in self.unreadable],
        }
        write_json(self.run, "metrics.json", result)
        for name, found in measured.items():
            if found:
                terminal.say(f"{name}: {summary(found)}")
        terminal.say(f"run: {self.run.path} · {seconds:.1f} s")
        return self.run

    def open_test(self) -> tuple[Activations, Outputs]:
        """Measure the test images with what every phase had made; returns those of the last one."""
        self._back_to_start()
        self.extract(["test"])
        for number, (phase, result) in enumerate(zip(self.phases, self.results, strict=True)):
            lower, upper = self.network.cut(phase.frostline)
            opened = self.activations(lower, "test", number)
            upper.load_state_dict(load_file(self._checkpoint(number + 1)))
            answers, _ = predict_all(upper, opened, self.task)
            result["test"] = self.task.measure(answers)
        return opened, answers

    def _back_to_start(self) -> None:
        """The weights that the fit began with; what lies above a phase's frostline is in its checkpoint."""
        own = self.network.model.state_dict()
        initial = self.backbone.model.state_dict()
        kept = {name: value for name, value in initial.items() if name in own and own[name].shape == value.shape}
        self.network.model.load_state_dict(kept, strict=False)

    def _draw(self) -> None:
        from frostline.report import gallery

        views = replace(self.views, count=max(phase.views or 1 for phase in self.phases))
        tests = [result["test"]["accuracy"] if "test" in result else None for result in self.results]
        gallery.draw_curves(self.run, tests)
        network = self.network
        classifier = Classifier(
            network.model.eval(), self.images.classes, network.preprocessing, self.machine, self.images.task
        )
        gallery.draw_views(self.run, classifier, self.images.train, views)
        gallery.draw_answers(self.run, classifier, self.valid.images, self.answers)

    def _monitored(self) -> tuple[dict[str, float], float]:
        answers, loss = predict_all(self.upper, self.valid, self.task, self.monitor)
        return self.task.measure(answers), loss

    def _record(self, phase: Phase, row: Mapping[str, Any], valid: Mapping[str, float], seconds: float) -> None:
        """One row of the history: written, and said."""
        trained = ""
        name = "solved" if phase.epochs == 0 else "start"
        if row["epoch"]:
            trained = f"train {row['train_accuracy']:.4f} loss {row['train_loss']:.4f} · "
            name = f"epoch {row['epoch']:>2}/{phase.epochs}"
        more = {key: value for key, value in valid.items() if key not in ("accuracy", "loss")}
        shown = "".join(f" {SHOWN.get(key, key)} {value:.4f}" for key, value in more.items())
        terminal.say(
            f"  {name:<11} {trained}valid {valid['accuracy']:.4f} loss {row['valid_loss']:.4f}{shown} · {seconds:.1f} s"
        )
        entry: dict[str, Any] = {"phase": len(self.results) + 1, "frostline": phase.frostline}
        entry |= {key: row.get(key, "") for key in ("epoch", "lr", "train_loss", "train_accuracy", "valid_loss")}
        entry |= {"valid_accuracy": valid["accuracy"], **{f"valid_{k}": v for k, v in more.items()}, "seconds": seconds}
        self.history.append(entry)
        write_csv(self.run, "history.csv", list(entry), [list(e.values()) for e in self.history])

    def _say_phase(self, phase: Phase, train: Activations) -> None:
        """One line of truth: what trains, what is frozen, what is reused."""
        names = self.network.stage_names()
        trained = sum(parameter.numel() for parameter in self.upper.parameters() if parameter.requires_grad)
        every = sum(parameter.numel() for parameter in self.network.model.parameters())
        span = phase.frostline if phase.frostline == names[-1] else f"{phase.frostline} … {names[-1]}"
        if phase.freeze:
            span += f" without {', '.join(phase.freeze)}"
        size = f"({terminal.human_count(trained)} of {terminal.human_count(every)})"
        filled, count = train.filled, f"{len(train.images)} images"
        if train.views > 1:
            recipe = self.views.augment
            count += f" × {train.views} views ({recipe if isinstance(recipe, str) else 'your own'})"
        below = "nothing frozen, decoded" if phase.frostline == names[0] else "below it frozen, computed"
        if filled.kept == "below":
            how = f"below it frozen: {count}, {terminal.human_bytes(filled.bytes)}, the last of it again in every epoch"
        elif filled.kept == "recomputed":
            how = f"{below} again in every epoch: {count}"
        else:
            source = f"{filled.computed} computed in {filled.seconds:.1f} s" if filled.computed else "reused"
            if self.storing.together["train"][len(self.results)]:
                source = "from the one pass"
            where = "" if filled.kept == "stored" else ", in memory"
            how = f"{below} once: {count}, {terminal.human_bytes(filled.bytes)}, {source}{where}"
        number = f"{len(self.results) + 1}/{len(self.phases)}"
        terminal.say(f"phase {number}  trains {span} {size} · {how}")
        decision = self.storing.ways[len(self.results)]
        if decision is not None:
            terminal.say(f"  {decision.reason(self.network)}")


def _trained_instead(phase: Phase, images: int, given: Mapping[str, Any]) -> Phase:
    """What trains a head that cannot be solved: steps enough for few images, epochs enough for many.

    given: what was asked for every phase that trains.
    """
    phase = replace(phase, **{name: value for name, value in given.items() if name not in ("epochs", "views")})
    epochs = given.get("epochs", max(20, -(-HEAD_STEPS // -(-images // phase.batch_size))))
    return replace(phase, epochs=epochs, lr=phase.lr or 10 * phase.learning_rate, patience=max(20, phase.patience))


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
