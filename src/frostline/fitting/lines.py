"""What a fit tells while it runs: one line of truth for each thing that happens."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from frostline import terminal
from frostline.checks.findings import Checks
from frostline.data.images import ImageSet
from frostline.fitting.decisions import SURE, Decision
from frostline.fitting.job import Job
from frostline.fitting.progress import FILE, Progress, candidates
from frostline.network.part import Part
from frostline.plan import Phase
from frostline.store.activations import Activations
from frostline.tasks.calibration import Calibration
from frostline.tasks.paired import Paired
from frostline.tasks.summary import SHOWN, in_points, in_words, summary
from frostline.training.probe import CROSS_FOLDS


def say_data(images: ImageSet) -> None:
    sizes = " · ".join(f"{len(part)} {name}" for name, part in images.splits.items())
    named = [f'"{name}"' if "," in name else name for name in images.classes[:6]]
    shown = ", ".join(named) + (" …" if len(images.classes) > 6 else "")
    terminal.say(f"{images.name}: {sizes} images · {len(images.classes)} classes: {shown}")
    for note in images.notes:
        terminal.say(f"note: {note}")


@contextlib.contextmanager
def logged(job: Job) -> Iterator[None]:
    """What is said inside goes to the run's log, too, after what was said before there was one."""
    backbone, network, machine = job.backbone, job.network, job.machine
    weights = backbone.weights + (f" · licence {backbone.licence}" if backbone.licence != "none" else "")
    log = job.run.path / "log.txt"
    log.write_text("".join(f"{line}\n" for line in job.first_lines), encoding="utf-8")
    try:
        with terminal.logged(log):
            terminal.say(f"backbone {backbone.name} · weights {weights} · {machine.device.type} {machine.precision}")
            if backbone.note:
                terminal.say(f"weights: {backbone.note}")
            for path in network.pooled:
                terminal.say(f"{path}: no weights for it were found; replaced by pooling and one linear layer")
            if network.untraceable:
                terminal.say(f"the network is taken as a whole, two cuts only: {network.untraceable}")
            yield
    except BaseException as error:
        something = any((job.run.path / name).exists() for name in (FILE, "history.csv"))
        if isinstance(error, KeyboardInterrupt):
            kept = f"{job.run.path} keeps what was finished" if something else "nothing was finished"
            terminal.say(f"interrupted; {kept}")
        if not something:  # another fit may have the name
            shutil.rmtree(job.run.path, ignore_errors=True)
        raise


def say_phase(job: Job, progress: Progress, phase: Phase, upper: Part, train: Activations) -> None:
    """What trains, what is frozen, what is reused."""
    number, names = len(progress.phases), job.network.stage_names()
    trained = sum(parameter.numel() for parameter in upper.parameters() if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in job.network.model.parameters())
    span = phase.frostline if phase.frostline == names[-1] else f"{phase.frostline} … {names[-1]}"
    if phase.freeze:
        span += f" without {', '.join(phase.freeze)}"
    size = f"({terminal.human_count(trained)} of {terminal.human_count(every)})"
    source = _source(job, number, train, nothing_frozen=phase.frostline == names[0])
    of = " of at most " if any(each.race for each in job.plan[number:]) else "/"
    terminal.say(f"phase {number + 1}{of}{len(job.plan)}  trains {span} {size} · {source}")
    decision = job.placement.decisions[number]
    if decision is not None:
        terminal.say(f"  {decision.reason(job.network)}")


def _source(job: Job, number: int, train: Activations, *, nothing_frozen: bool) -> str:
    """Where the activations come from."""
    filled, count = train.filled, f"{len(train.images)} images"
    if train.views > 1:
        recipe = job.views.augment
        count += f" × {train.views} views ({recipe if isinstance(recipe, str) else 'your own'})"
    size = terminal.human_bytes(filled.bytes)
    if filled.kept == "below":
        return f"below it frozen: {count}, {size}, the last of it again in every epoch"
    below = "nothing frozen, decoded" if nothing_frozen else "below it frozen, computed"
    if filled.kept == "recomputed":
        return f"{below} again in every epoch: {count}"
    source = f"{filled.computed} computed in {filled.seconds:.1f} s" if filled.computed else "reused"
    if job.placement.together["train"][number]:
        source = "from the one pass"
    return f"{below} once: {count}, {size}, {source}{'' if filled.kept == 'stored' else ', in memory'}"


def say_attempt(phase: Phase) -> None:
    """The settings of what follows."""
    terminal.say(f"  with {_settings(phase.learning_rate, phase.batchnorm)}:")


def _settings(lr: float | None, batchnorm: str | None) -> str:
    return f"learning rate {lr:g}" + (", BatchNorm's statistics updated" if batchnorm == "updated" else "")


def say_epoch(phase: Phase, epoch: Mapping[str, Any], valid: Mapping[str, float]) -> None:
    """One line per epoch; epoch: as history.csv has it. valid: all that the task is judged by."""
    trained, name = "", "solved" if phase.epochs == 0 else "start"
    if epoch["epoch"]:
        trained = f"train {epoch['train_accuracy']:.4f} loss {epoch['train_loss']:.4f} · "
        name = f"epoch {epoch['epoch']:>2}/{phase.epochs}"
    others = {key: value for key, value in valid.items() if key not in ("accuracy", "loss")}
    shown = "".join(f" {SHOWN.get(key, key)} {value:.4f}" for key, value in others.items())
    accuracy, loss, seconds = valid["accuracy"], epoch["valid_loss"], epoch["seconds"]
    terminal.say(f"  {name:<11} {trained}valid {accuracy:.4f} loss {loss:.4f}{shown} · {seconds:.1f} s")


def say_decision(decision: Decision) -> None:
    """What a phase was worth, and what follows."""
    d, accuracy = decision, decision.accuracy
    points = in_points(accuracy.difference, accuracy.low, accuracy.high)
    chance = "" if d.p_value is None else f" (p = {d.p_value:.2g})"
    losses = f"{d.by} {d.loss[0]:.4f} → {d.loss[1]:.4f}{chance}"
    if d.score is not None and d.metric != "accuracy":
        losses = f"{d.metric} {d.score[0]:.4f} → {d.score[1]:.4f}, {losses}"
    terminal.say(f"  {d.frostline} {d.how}: accuracy {points}, {losses}, {_verdict(d)}")


def _verdict(d: Decision) -> str:
    """Kept, or undone and why."""
    if d.kept:
        of = "" if d.epoch is None else f" epoch {d.epoch}"
        return f"kept{of}: {_settings(d.lr, d.batchnorm)}" if d.tried else f"kept{of}"
    better = f"a higher {d.metric}" if d.metric else "a lower validation loss"
    if d.score is not None and d.score[1] <= d.score[0] and d.tried:
        return f"undone: the {d.metric} was no lower before"
    if d.p_value is not None and d.loss[1] < d.loss[0]:
        return f"undone: that may be chance (p above {SURE:g})" if d.p_value > SURE else "undone: it is less accurate"
    if d.tried and not any(math.isfinite(heat.loss) for heat in d.tried):
        return "undone: it diverged"
    if d.how == "solved" or d.tried:
        return f"undone: the {d.metric or 'validation loss'} was {'higher' if d.metric else 'lower'} before"
    return f"undone: no epoch had {better} than the start of the phase"


def say_trial(name: str, metrics: Mapping[str, Any], behind: Paired | None) -> None:
    """How a backbone did in a round, and whether it leaves."""
    left = ""
    if behind is not None:
        left = f", drops out: {in_points(behind.difference, behind.low, behind.high)} to the best"
    terminal.say(f"  {name}: valid {metrics['accuracy']:.4f}{left}")


def say_calibration(calibration: Calibration | None) -> None:
    """What a temperature makes of the probabilities; nothing where none was sought."""
    if calibration is None:
        return
    c = calibration
    if c.temperature == 1:
        terminal.say(
            f"calibration left as it is: calibration error {c.ece_before:.4f}, log-loss {c.loss_before:.4f}, n = {c.n}"
        )
        return
    terminal.say(
        f"calibrated: temperature {c.temperature:.2f}, calibration error {c.ece_before:.4f} → {c.ece_after:.4f}, "
        f"log-loss {c.loss_before:.4f} → {c.loss_after:.4f} (cross-fitted on {c.n} images)"
    )


def say_copies(images: ImageSet) -> None:
    """Before anything is decided by them: validation images that are training images, as far as that is known."""
    train, valid = images.train.digests, images.valid.digests
    if images.validation == "crossed" or not images.held_out or not (train.known.all() and valid.known.all()):
        return
    seen = {digest.tobytes() for digest in train.values}
    copies = sum(digest.tobytes() in seen for digest in valid.values)
    if copies:
        terminal.say(
            f"warning: {copies} of {len(valid)} validation images are among the training images, byte for byte: what "
            "is decided and measured by them is too good (frostline check lists them)"
        )


def say_checks(checks: Checks) -> None:
    """What is wrong with the images."""
    if checks.findings:
        terminal.say(f"checks: {checks.summary()} (checks.json lists them)")


def say_more_images(curve: Mapping[str, Any] | None) -> None:
    """What the solved head would come to with twice the training images."""
    if curve is not None:
        now, then = curve["points"][-1]["accuracy"], curve["doubled"]
        won, low, high = (100 * (then[name] - now) for name in ("expected", "low", "high"))
        terminal.say(
            f"with twice the training images the solved head would win about {won:+.1f} points of accuracy "
            f"({100 * then['band']:.0f} %: {low:+.1f} … {high:+.1f})"
        )


def say_result(job: Job, progress: Progress, metrics: Mapping[str, Any]) -> None:
    how = f"valid, in {CROSS_FOLDS} folds" if progress.images.validation == "crossed" else "valid"
    terminal.say(f"{how}: {summary(metrics['valid'], best_of=candidates(progress), backbones=job.backbones_tried)}")
    if metrics["test"]:
        terminal.say(f"test: {summary(metrics['test'])}")
    if clean := metrics.get("without_leaks"):
        split = "test" if metrics["test"] else "valid"
        others = ", or others of their group" if "groups" in metrics[split] else ""
        terminal.say(
            f"{split} without the images of which there are copies{others} in another split: {in_words(clean)}"
        )
    if forecast := metrics["forecast"]:
        size = {name: terminal.human_bytes(forecast["bytes"][name]) for name in ("actual", "expected")}
        memory = {name: terminal.human_bytes(forecast["memory"][name]) for name in ("actual", "expected")}
        seconds = {name: terminal.human_seconds(forecast["seconds"][name]) for name in ("actual", "expected")}
        actual, expected = (f"{seconds[n]} · {size[n]} stored · {memory[n]} of memory" for n in ("actual", "expected"))
        terminal.say(f"it took {actual}; forecast for these phases: {expected}")
    terminal.say(f"run: {job.run.path} · {metrics['seconds']:.1f} s")
    if (job.run.path / "report.html").is_file():
        terminal.say(f"look at it: {job.run.path / 'report.html'}")
