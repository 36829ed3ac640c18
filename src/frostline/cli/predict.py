from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from frostline.cli.options import json_option, print_json
from frostline.errors import InputsFailedError, UsageError

if TYPE_CHECKING:
    from frostline.classifier.classifier import Prediction
    from frostline.verbs.predict import Inputs

REASONS = 3  # training images that are named


@click.command("predict", short_help="Classify images with a run.")
@click.argument("run")
@click.argument("images", nargs=-1, required=True)
@click.option("--format", "layout", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--coverage", type=float, help="Also sets that hold the true class so often, such as 0.95.")
@click.option("--why", is_flag=True, help="Also the nearest training images.")
@click.option("--masks", type=click.Path(file_okay=False, path_type=Path), help="Where a segmentation writes its PNGs.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--download", is_flag=True, help="Let torchvision fetch a known data set that is not on this machine.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@json_option
def command(
    run: str,
    images: Sequence[str],
    layout: str,
    coverage: float | None,
    why: bool,
    masks: Path | None,
    device: str,
    download: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Classify IMAGES (files, folders of them, manifests, or a known data set such as qmnist:ROOT) with RUN.

    "-" stands for the names on standard input, one on each line.

    Where all images are labelled, by class folders, a manifest or a known data set, the accuracy is told too. A file
    that cannot be read gets an error in place of a label, and the exit code 6.

    With --coverage 0.95 each image also gets the set of classes that holds the true one for 95 of 100 images, and is
    called none of the classes where it is farther from the training images than 95 of 100 held-out images are, whatever
    the coverage.
    """
    from frostline import terminal
    from frostline.classifier.artifact import load
    from frostline.classifier.reference import FALSE_ALARMS
    from frostline.machine import find_machine
    from frostline.report.masks import write_mask
    from frostline.verbs.predict import predicted, read_inputs

    with terminal.quiet(quiet):
        classifier = load(run, machine=find_machine(device, "fp32"))
        if masks is not None and classifier.task != "segmentation":
            raise UsageError(f"{run} tells what whole images show; leave out --masks, which is for a segmentation")
        inputs = read_inputs(_named(images), classifier, download=download)
        predictions, written = [], {}
        found = predicted(classifier, run, inputs.images, coverage, REASONS if why else 0)
        for i, prediction in enumerate(found):
            if masks is not None and prediction.mask is not None:
                written[i] = write_mask(masks, prediction.path, prediction.mask, len(classifier.classes))
            predictions.append(replace(prediction, mask=None))
        if coverage is not None:
            terminal.say(
                f"the sets hold the true class of {100 * coverage:g} of 100 images; of images that are of a class, "
                f"{100 * FALSE_ALARMS:g} of 100 are called ones of none"
            )
        right = _accuracy(run, inputs, predictions)
        layout = "json" if as_json else layout
        _print(predictions, written, layout, coverage=coverage is not None, why=why)
        if right and layout == "table":
            click.echo(right)
        elif right:
            terminal.say(right)
    failed = sum(bool(p.error) for p in predictions)
    if failed:
        raise InputsFailedError(f"{failed} of {len(predictions)} images could not be read")


def _named(images: Sequence[str]) -> list[str]:
    """The images, with the names on standard input in place of "-"."""
    lines = (line.rstrip("\n") for line in sys.stdin) if "-" in images else ()
    given = [line for line in lines if line]
    return [name for image in images for name in (given if image == "-" else [image])]


def _print(
    predictions: Sequence[Prediction], masks: Mapping[int, Path], layout: str, *, coverage: bool, why: bool
) -> None:
    if layout == "json":
        said = [p.as_json() | ({"mask": str(masks[i])} if i in masks else {}) for i, p in enumerate(predictions)]
        print_json(said)
    elif layout == "csv":
        _csv(predictions, coverage=coverage, why=why)
    else:
        _table(predictions)


def _accuracy(run: str, inputs: Inputs, predictions: Sequence[Prediction]) -> str:
    """How many of labelled images are right; "" where none is labelled. Says where the run was trained on some."""
    from frostline import terminal
    from frostline.runs.run import load_run, trained_on
    from frostline.verbs.predict import agreement

    if inputs.labels is None or not (measured := agreement(predictions, inputs.labels))["n"]:
        return ""
    if known := int(trained_on(load_run(run), inputs.images).sum()):
        terminal.say(f"note: the run was trained on {known} of these images; expect less on images new to it")
    low, high = measured["interval"]
    return f"accuracy {measured['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}) of {measured['n']} labelled images"


def _csv(predictions: Sequence[Prediction], *, coverage: bool = False, why: bool = False) -> None:
    """In UTF-8 whatever the terminal's encoding; a name that is no UTF-8 keeps its bytes, but on a terminal."""
    from frostline.files import csv_text
    from frostline.terminal import printable

    shown = printable if sys.stdout.isatty() else str
    header, records = ["path", "label", "probability", "error"], []
    header += ["set", "none"] * coverage + ["why"] * why
    for p in predictions:
        record = [shown(p.path), shown(p.label), "" if p.error else f"{p.probability:.6f}", shown(p.error)]
        if coverage:
            record += ["", ""] if p.set is None else [shown("|".join(p.set)), str(p.none).lower()]
        if why:
            record.append(shown("|".join(path for path, _, _ in p.why)))
        records.append(record)
    text = csv_text(header, records)
    click.echo(text.encode("utf-8", "surrogateescape"), nl=False)


def _table(predictions: Sequence[Prediction]) -> None:
    from frostline.terminal import printable

    width = max(len(printable(p.path)) for p in predictions)
    for p in predictions:
        label = f"error: {printable(p.error)}" if p.error else f"{p.probability:.4f}  {printable(p.label)}"
        if p.none:
            label = f"none of the classes, perhaps: far from the training images; else {label}"
        if p.set is not None:
            label += f"  {{{printable(', '.join(p.set))}}}"
        click.echo(f"{printable(p.path):<{width}}  {label}")
        for path, name, cosine in p.why:
            click.echo(f"{'':<{width}}  like {printable(path)} ({printable(name)}, cosine {cosine:.2f})")
