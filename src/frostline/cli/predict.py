from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from frostline.cli.options import json_option, print_json
from frostline.errors import InputsFailedError, UsageError

if TYPE_CHECKING:
    from frostline.classifier.classifier import Prediction


@click.command("predict", short_help="Classify images with a run.")
@click.argument("run")
@click.argument("images", nargs=-1, required=True)
@click.option("--format", "layout", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--masks", type=click.Path(file_okay=False, path_type=Path), help="Where a segmentation writes its PNGs.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--download", is_flag=True, help="Let torchvision fetch a known data set that is not here.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@json_option
def command(
    run: str,
    images: Sequence[str],
    layout: str,
    masks: Path | None,
    device: str,
    download: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Classify IMAGES (files, folders of them, or a known data set such as qmnist:ROOT) with RUN.

    A file that cannot be read gets an error in place of a label, and the exit code 6.
    """
    from frostline import terminal
    from frostline.classifier.artifact import load_classifier
    from frostline.data import read_unlabelled
    from frostline.machine import find_machine
    from frostline.report.masks import write_mask

    with terminal.quiet(quiet):
        classifier = load_classifier(run, machine=find_machine(device, "fp32"))
        if masks is not None and classifier.task != "segmentation":
            raise UsageError(f"{run} tells what whole images show; leave out --masks, which is for a segmentation")
        given = read_unlabelled(images, download=download)
        answers, written = [], {}
        for i, answer in enumerate(classifier.predict_images(given)):
            if masks is not None and answer.mask is not None:
                written[i] = write_mask(masks, answer.path, answer.mask, len(classifier.classes))
            answers.append(replace(answer, mask=None))
    if as_json or layout == "json":
        print_json([a.as_json() | ({"mask": str(written[i])} if i in written else {}) for i, a in enumerate(answers)])
    elif layout == "csv":
        _csv(answers)
    else:
        _table(answers)
    failed = sum(bool(a.error) for a in answers)
    if failed:
        raise InputsFailedError(f"{failed} of {len(answers)} images could not be read")


def _csv(answers: Sequence[Prediction]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("path", "label", "probability", "error"))
    for a in answers:
        writer.writerow((a.path, a.label, "" if a.error else f"{a.probability:.6f}", a.error))


def _table(answers: Sequence[Prediction]) -> None:
    from frostline.terminal import printable

    width = max(len(printable(a.path)) for a in answers)
    for a in answers:
        predicted = f"error: {a.error}" if a.error else f"{a.probability:.4f}  {printable(a.label)}"
        click.echo(f"{printable(a.path):<{width}}  {predicted}")
