"""The check of a data set for faults, before training."""

from __future__ import annotations

from pathlib import Path

from frostline import terminal
from frostline.checks.cleaning import cleaned
from frostline.checks.findings import Checks
from frostline.checks.look import Unreadable, look
from frostline.checks.samples import Samples, gathered
from frostline.data import Data, ImageSet
from frostline.data.unreadable import refuse_too_many
from frostline.errors import UsageError
from frostline.files import refuse_overwriting, write_atomically
from frostline.fitting import lines
from frostline.fitting.options import Options
from frostline.fitting.setup import loaded_network, machine_of, store_of
from frostline.machine import Machine
from frostline.process import give_back_freed_memory
from frostline.store.activations import Activations, computed_once


def check(data: Data, *, fix: str | Path | None = None, quiet: bool = False, **options: object) -> Checks:
    """Check all images of a data set for faults that make results misleading.

    It finds unreadable files; copies, byte for byte or saved again in another size or quality; the same image in two
    splits, or under two labels; labels that all other images contradict; images unlike all others; classes that are
    missing from a split, are rare, or differ only in case; series of frames in several splits. It trains nothing and
    changes no image.

    data: everything that `fit` takes. options: those of `fit` that turn images into features: backbone, weights,
        image_size, group, path_column, label_column, images, seed, download, device, precision, workers, cache,
        store, cache_budget. The features are cached: the next check reuses them, and so does a fit that solves only
        the head (plan probe).
    fix: a manifest (.csv) to write, without unreadable images, without copies (if an image is in two splits, its
        training copy is dropped), and without images that have two labels. Likely wrong labels stay.

    Returns the findings; `counts` has their number by kind.
    Raises DataError for data that cannot be read, UsageError for a `fix` that cannot be written.

    >>> check("photos/").counts["leak"]  # doctest: +SKIP
    0
    """
    if fix is not None and Path(fix).suffix != ".csv":
        raise UsageError(f"{fix} does not end in .csv; a manifest is a CSV file: give a name ending in .csv")
    if fix is not None:
        refuse_overwriting(Path(fix))
    with terminal.quiet(quiet):
        chosen = Options(data, **options)  # type: ignore[arg-type]
        machine = machine_of(chosen)
        images = chosen.read()
        if fix is not None and (split := [name for name in images.classes if "|" in name]):
            raise UsageError(
                f"the class name {split[0]} contains |, which separates several labels in a manifest; rename the class"
            )
        lines.say_data(images)
        samples, unreadable, lacking = _samples(chosen, images, machine)
        checks = look(samples, unreadable, lacking, images.groups)
        if checks.lacking:
            terminal.say(f"finding only copies with the same bytes, no wrong labels or outliers: {checks.lacking}")
        if fix is not None:
            text, left = cleaned(images, checks, Path(fix))
            write_atomically(Path(fix), text.encode("utf-8", "surrogateescape"))
            wrong = checks.counts["label-error"]
            stay = f"; it still holds {wrong} likely wrong labels, correct them there" if wrong else ""
            terminal.say(
                f"wrote {fix}: {left} of {checks.n} images, without unreadable images, images with two labels, and "
                f"copies (across splits the training copy){stay}"
            )
    return checks


def _samples(options: Options, images: ImageSet, machine: Machine) -> tuple[Samples, Unreadable, str]:
    """All images with their frozen features; the unreadable ones; and why features are missing."""
    rows, unreadable = _features(options, images, machine)
    give_back_freed_memory()  # else freed memory from reading would stay allocated beside the features
    samples, lacking = gathered(rows, images.classes)
    return samples, unreadable, lacking


def _features(options: Options, images: ImageSet, machine: Machine) -> tuple[dict[str, Activations], Unreadable]:
    """The frozen features of the plain images of every split, and the unreadable images.

    A fit with the same options computes and caches the same features first.
    """
    options, _, network = loaded_network(options, images, machine)
    lower, _ = network.cut("head")
    store, rows = store_of(options), {}
    for split, part in images.distinct.items():
        rows[split] = computed_once(lower, part, machine=machine, cache=store, label=f"{split} features")
    unreadable = [(split, *each) for split, own in rows.items() for each in own.unreadable]
    total = sum(len(part) for part in images.distinct.values())
    if len(unreadable) == total:
        refuse_too_many([(name, reason) for _, name, reason in unreadable], total)
    return rows, unreadable
