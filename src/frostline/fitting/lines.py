"""What a fit prints while it runs: one line for each thing that happens."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from frostline import terminal
from frostline.checks.classes import similar
from frostline.checks.findings import Checks
from frostline.data.images import ImageSet
from frostline.errors import MachineError
from frostline.fitting.decisions import SURE, Decision
from frostline.fitting.job import Job
from frostline.fitting.progress import Progress, candidates
from frostline.network.part import Part
from frostline.plan import Phase
from frostline.runs.run import remove_start, to_resume
from frostline.signals import undisturbed
from frostline.store.activations import Activations
from frostline.tasks.calibration import Calibration
from frostline.tasks.paired import Paired
from frostline.tasks.summary import SHOWN, in_points, in_words, summary
from frostline.training.probe import CROSS_FOLDS

AGAIN = "nothing was measured; repeat the command: computed activations are in the store"


def say_data(images: ImageSet) -> None:
    sizes = " · ".join(f"{len(part)} {name}" for name, part in images.splits.items())
    named = [f'"{name}"' if "," in name else name for name in images.classes[:6]]
    shown = ", ".join(named) + (" …" if len(images.classes) > 6 else "")
    terminal.say(f"{images.name}: {sizes} images · {len(images.classes)} classes: {shown}")
    for note in images.notes:
        terminal.say(f"note: {note}")
    for twins in similar(images.classes):
        terminal.say(f"warning: {twins.detail}; give them one name if they are one class")


@contextlib.contextmanager
def logged(job: Job) -> Iterator[None]:
    """Everything printed inside also goes to the run's log, after the lines that came before the log existed."""
    backbone, network, machine = job.backbone, job.network, job.machine
    weights = backbone.weights + (f" · licence {backbone.licence}" if backbone.licence != "none" else "")
    log = job.run.path / "log.txt"
    with log.open("a", encoding="utf-8") as file:  # of a fit that goes on there is one already
        file.write("".join(f"{line}\n" for line in job.first_lines))
    with terminal.logged(log):
        try:
            terminal.say(f"backbone {backbone.name} · weights {weights} · {machine.device.type} {machine.precision}")
            if backbone.note:
                terminal.say(f"weights: {backbone.note}")
            for path in network.pooled:
                terminal.say(f"{path}: found no weights for it; replaced it by pooling and one linear layer")
            if network.untraceable:
                terminal.say(f"the network has only two cuts, before it and at its head: {network.untraceable}")
            yield
        except BaseException as error:
            _say_ended(job, error)
            raise


def _say_ended(job: Job, error: BaseException) -> None:
    """Say how to go on after an interruption or a fault of the machine; a run without figures is removed."""
    something, to_go_on = job.resumes or (job.run.path / "history.csv").exists(), to_resume(job.run.path)
    if "data" in job.objects:
        to_go_on = f"frostline.resume({str(job.run.path)!r}, DATA), with the same data, in Python"
    if isinstance(error, KeyboardInterrupt):
        terminal.say(f"interrupted; {f'to go on: {to_go_on}' if something else AGAIN}")
    elif isinstance(error, (OSError, MachineError)):
        terminal.say(f"when that is mended, go on with: {to_go_on}" if something else AGAIN)
    if not something:  # frees the name for another fit
        with undisturbed():
            remove_start(job.run)


def say_phase(job: Job, progress: Progress, phase: Phase, upper: Part, train: Activations) -> None:
    """One line: what trains, what is frozen, what is reused."""
    number, names = len(progress.phases), job.network.stage_names()
    trained = sum(parameter.numel() for parameter in upper.parameters() if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in job.network.model.parameters())
    span = phase.frostline if phase.frostline == names[-1] else f"{phase.frostline} … {names[-1]}"
    if phase.freeze:
        span += f" without {', '.join(phase.freeze)}"
    size = f"({terminal.human_count(trained)} of {terminal.human_count(every)} parameters)"
    source = _source(job, number, train, nothing_frozen=phase.frostline == names[0])
    of = " of at most " if any(each.race for each in job.plan[number:]) else "/"
    terminal.say(f"phase {number + 1}{of}{len(job.plan)}: training {span} {size} · {source}")
    decision = job.placement.decisions[number]
    if decision is not None:
        terminal.say(f"  {decision.reason(job.network)}")


def _source(job: Job, number: int, train: Activations, *, nothing_frozen: bool) -> str:
    """What is frozen, and where its activations come from."""
    filled, count = train.filled, f"{len(train.images)} images"
    if train.views > 1:
        recipe = job.views.augment
        count += f" × {train.views} views ({recipe if isinstance(recipe, str) else 'your own'})"
    size = terminal.human_bytes(filled.bytes)
    if filled.kept == "below":
        return f"the rest is frozen: {count}, {size}; its upper part is recomputed in every epoch"
    below = "nothing is frozen; pixels" if nothing_frozen else "the rest is frozen and"
    if filled.kept == "recomputed":
        return f"{below} {'decoded' if nothing_frozen else 'recomputed'} in every epoch: {count}"
    source = f"{filled.computed} computed in {filled.seconds:.1f} s" if filled.computed else "reused"
    if job.placement.together["train"][number]:
        source = "from the shared pass"
    place = "cached" if filled.kept == "stored" else "kept in memory"
    return f"{below} {place}: {count}, {size}, {source}"


def say_attempt(phase: Phase) -> None:
    """The settings of the epochs that follow."""
    terminal.say(f"  with {_settings(phase.learning_rate, phase.batchnorm)}:")


def _settings(lr: float | None, batchnorm: str | None) -> str:
    return f"learning rate {lr:g}" + (", BatchNorm statistics updated" if batchnorm == "updated" else "")


def say_epoch(phase: Phase, epoch: Mapping[str, Any], valid: Mapping[str, float]) -> None:
    """One line per epoch; epoch: as in history.csv. valid: the task's metrics."""
    trained, name = "", "solved" if phase.epochs == 0 else "start"
    if epoch["epoch"]:
        trained = f"train {epoch['train_accuracy']:.4f} loss {epoch['train_loss']:.4f} · "
        name = f"epoch {epoch['epoch']:>2}/{phase.epochs}"
    others = {key: value for key, value in valid.items() if key not in ("accuracy", "loss")}
    shown = "".join(f" {SHOWN.get(key, key)} {value:.4f}" for key, value in others.items())
    accuracy, loss, seconds = valid["accuracy"], epoch["valid_loss"], epoch["seconds"]
    terminal.say(f"  {name:<11} {trained}valid {accuracy:.4f} loss {loss:.4f}{shown} · {seconds:.1f} s")


def say_decision(decision: Decision, epoch: int | None = None) -> None:
    """How much a phase improved the network, and whether it is kept.

    epoch: the epoch that was compared; None for a solved head.
    """
    d, accuracy = decision, decision.accuracy
    points = in_points(accuracy.difference, accuracy.low, accuracy.high)
    chance = "" if d.p_value is None else f" (p = {d.p_value:.2g})"
    losses = f"{d.by} {d.loss[0]:.4f} → {d.loss[1]:.4f}{chance}"
    if d.score is not None and d.metric != "accuracy":
        losses = f"{d.metric} {d.score[0]:.4f} → {d.score[1]:.4f}, {losses}"
    terminal.say(f"  {d.frostline} {d.how}: accuracy {points}, {losses}, {_verdict(d, epoch)}")


def _verdict(d: Decision, epoch: int | None) -> str:
    """Kept, or undone with the reason."""
    if d.kept:
        of = "" if epoch is None else f" epoch {epoch}"
        return f"kept{of}: {_settings(d.lr, d.batchnorm)}" if d.tried else f"kept{of}"
    better = f"a higher {d.metric}" if d.metric else "a lower validation loss"
    if d.score is not None and d.score[1] <= d.score[0] and d.tried:
        return f"undone: the {d.metric} did not rise"
    if d.p_value is not None and d.loss[1] < d.loss[0]:
        return f"undone: this may be chance (p above {SURE:g})" if d.p_value > SURE else "undone: accuracy fell"
    if d.tried and not any(math.isfinite(heat.loss) for heat in d.tried):
        return "undone: it diverged"
    if d.how == "solved" or d.tried:
        return f"undone: the {d.metric or 'validation loss'} was {'higher' if d.metric else 'lower'} before"
    return f"undone: no epoch had {better} than the start of the phase"


def say_trial(name: str, metrics: Mapping[str, Any], behind: Paired | None) -> None:
    """How a backbone did in a round, and whether it drops out."""
    left = ""
    if behind is not None:
        left = f", drops out: {in_points(behind.difference, behind.low, behind.high)} against the best"
    terminal.say(f"  {name}: valid {metrics['accuracy']:.4f}{left}")


def say_calibration(calibration: Calibration | None) -> None:
    """What temperature scaling did to the probabilities; prints nothing without a calibration."""
    if calibration is None:
        return
    c = calibration
    if c.temperature == 1:
        terminal.say(
            f"calibration unchanged: calibration error {c.ece_before:.4f}, log-loss {c.loss_before:.4f}, n = {c.n}"
        )
        return
    terminal.say(
        f"calibrated: temperature {c.temperature:.2f}, calibration error {c.ece_before:.4f} → {c.ece_after:.4f}, "
        f"log-loss {c.loss_before:.4f} → {c.loss_after:.4f} (cross-fitted on {c.n} images)"
    )


def say_copies(images: ImageSet) -> None:
    """Warn, before anything is decided, of validation images that are known to be training images as well."""
    train, valid = images.train.digests, images.valid.digests
    if images.validation == "crossed" or not images.held_out or not (train.known.all() and valid.known.all()):
        return
    seen = {digest.tobytes() for digest in train.values}
    copies = sum(digest.tobytes() in seen for digest in valid.values)
    if copies:
        terminal.say(
            f"warning: {copies} of {len(valid)} validation images are also training images, byte for byte; the "
            "validation figures are too good (frostline check lists these images)"
        )


def say_checks(checks: Checks) -> None:
    """The findings about the images."""
    if checks.findings:
        terminal.say(f"checks: {checks.summary()} (checks.json lists them)")


def say_more_images(curve: Mapping[str, Any] | None) -> None:
    """The accuracy to expect of the solved head with twice the training images."""
    if curve is not None:
        now, then = curve["points"][-1]["accuracy"], curve["doubled"]
        won, low, high = (100 * (then[name] - now) for name in ("expected", "low", "high"))
        terminal.say(
            f"twice the training images would change the solved head's accuracy by about {won:+.1f} points "
            f"({100 * then['band']:.0f} %: {low:+.1f} … {high:+.1f})"
        )


def _say_unseen(per_class: Mapping[str, Mapping[str, Any]]) -> None:
    if unseen := [name for name, figures in per_class.items() if not figures["n"]]:
        terminal.say(f"note: not in any validation mask, so nothing measures it: {', '.join(unseen)}")


def say_result(job: Job, progress: Progress, metrics: Mapping[str, Any]) -> None:
    how = f"valid, in {CROSS_FOLDS} folds" if progress.images.validation == "crossed" else "valid"
    if metrics["task"] == "segmentation":  # the classes of masks are counted only now
        _say_unseen(metrics["valid"]["per_class"])
    terminal.say(f"{how}: {summary(metrics['valid'], best_of=candidates(progress), backbones=job.backbones_tried)}")
    if metrics["test"]:
        terminal.say(f"test: {summary(metrics['test'])}")
    if clean := metrics.get("without_leaks"):
        split = "test" if metrics["test"] else "valid"
        others = " or other images of their group" if "groups" in metrics[split] else ""
        terminal.say(f"{split} without images that have copies{others} in another split: {in_words(clean)}")
    if forecast := metrics["forecast"]:
        size = {name: terminal.human_bytes(forecast["bytes"][name]) for name in ("actual", "expected")}
        memory = {name: terminal.human_bytes(forecast["memory"][name]) for name in ("actual", "expected")}
        seconds = {name: terminal.human_seconds(forecast["seconds"][name]) for name in ("actual", "expected")}
        actual, expected = (
            f"{seconds[n]} · {size[n]} of cache · {memory[n]} of memory" for n in ("actual", "expected")
        )
        terminal.say(f"used {actual}; the forecast for these phases was {expected}")
    terminal.say(f"run: {job.run.path} · {metrics['seconds']:.1f} s")
    if (job.run.path / "report.html").is_file():
        terminal.say(f"report: {job.run.path / 'report.html'}")
