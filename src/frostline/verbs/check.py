"""What is wrong with a data set, before anything is learned from it."""

from __future__ import annotations

from pathlib import Path

from frostline import terminal
from frostline.checks.cleaning import cleaned
from frostline.checks.findings import Checks
from frostline.checks.look import Unreadable, look
from frostline.checks.samples import Samples, gathered
from frostline.data import Data, ImageSet, read_data
from frostline.data.unreadable import refuse_too_many
from frostline.errors import UsageError
from frostline.files import write_atomically
from frostline.fitting import lines
from frostline.fitting.options import Options
from frostline.fitting.setup import loaded, store_of
from frostline.machine import find_machine, to_device
from frostline.process import give_back_freed_memory
from frostline.store.activations import Activations, computed_once


def check(data: Data, *, fix: str | Path | None = None, quiet: bool = False, **options: object) -> Checks:
    """Look at all images of a data set for what makes a number worth less than it seems.

    Files that cannot be read; copies, byte for byte or saved again in another size or quality; the same image in two
    splits, or under two labels; labels that all other images contradict; images unlike all others; classes that lack in
    a split, are rare, or differ in case only; series of frames in several splits. Nothing is trained, and no image is
    changed.

    data: everything that `fit` takes. options: those of `fit` that say how images become features: backbone, weights,
        image_size, group, path_column, label_column, images, seed, download, device, precision, workers, cache,
        cache_dir, cache_budget. What is computed is stored: another check finds it, and so does a fit that solves the
        head only (plan probe).
    fix: a manifest (.csv) to write, of the images without unreadable ones, without copies (of one image in two splits
        that for training goes), and without those that are labelled differently. Likely wrong labels stay.

    Returns the findings; `counts` has their number by kind.
    Raises DataError for data that cannot be read, UsageError for a `fix` that cannot be written.

    >>> check("photos/").counts["leak"]  # doctest: +SKIP
    0
    """
    if fix is not None and Path(fix).suffix != ".csv":
        raise UsageError(f"{fix} does not end in .csv, and a manifest is written as CSV; give another name")
    if fix is not None and Path(fix).exists():
        raise UsageError(f"{fix} exists already, and no file is overwritten; give another name")
    with terminal.quiet(quiet):
        chosen = Options(data, **options)  # type: ignore[arg-type]
        images = read_data(data, chosen.seed, download=chosen.download, group=chosen.group, wanted=chosen.wanted)
        if fix is not None and (split := [name for name in images.classes if "|" in name]):
            raise UsageError(
                f"the class {split[0]} has a | in its name, which separates several labels in a manifest; rename it"
            )
        lines.say_data(images)
        samples, unreadable, lacking = _samples(chosen, images)
        checks = look(samples, unreadable, lacking, images.groups)
        if checks.lacking:
            terminal.say(
                f"copies are told by their bytes only, and wrong labels and outliers are not: {checks.lacking}"
            )
        if fix is not None:
            text, left = cleaned(images, checks, Path(fix))
            write_atomically(Path(fix), text.encode("utf-8", "surrogateescape"))
            wrong = checks.counts["label-error"]
            stay = f"; {wrong} labels that are likely wrong stay, correct them there" if wrong else ""
            terminal.say(
                f"{fix}: {left} of {checks.n} images, without unreadable ones, those with two labels, and copies (of "
                f"one image in two splits that for training){stay}"
            )
    return checks


def _samples(options: Options, images: ImageSet) -> tuple[Samples, Unreadable, str]:
    """All images with what the frozen network makes of them; which could not be read; and why features lack."""
    rows, unreadable = _features(options, images)
    give_back_freed_memory()  # what reading a data set leaves would lie beside the features to the end
    samples, lacking = gathered(rows, images.classes)
    return samples, unreadable, lacking


def _features(options: Options, images: ImageSet) -> tuple[dict[str, Activations], Unreadable]:
    """What the frozen network makes of the plain images of every split, and which could not be read.

    It is what a fit with the same options computes first and stores.
    """
    options, backbone = loaded(options, images)
    machine = find_machine(options.device, options.precision, options.workers)
    network = backbone.network(len(images.classes), options.seed, images.task)
    to_device(network.model, machine.device)
    lower, _ = network.cut("head")
    store, rows = store_of(options), {}
    for split, part in images.distinct.items():
        rows[split] = computed_once(lower, part, machine=machine, cache=store, label=f"{split} features")
    unreadable = [(split, *each) for split, own in rows.items() for each in own.unreadable]
    total = sum(len(part) for part in images.distinct.values())
    if len(unreadable) == total:
        refuse_too_many([(name, reason) for _, name, reason in unreadable], total)
    return rows, unreadable
