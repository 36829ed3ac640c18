from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from frostline.cli.options import json_option, print_json
from frostline.errors import InputsFailedError, UsageError


@click.command("predict", short_help="Classify images with a run.")
@click.argument("run")
@click.argument("images", nargs=-1, required=True)
@click.option("--format", "layout", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@json_option
def command(run: str, images: Sequence[str], layout: str, device: str, quiet: bool, as_json: bool) -> None:
    """Classify IMAGES (files, or folders of them) with RUN.

    A file that cannot be read gets an error in place of a label, and the exit code 6.
    """
    from frostline import terminal
    from frostline.classifier import predict

    with terminal.quiet(quiet):
        answers = predict(run, _files(images), device=device)
    if as_json or layout == "json":
        print_json([answer.as_json() for answer in answers])
    elif layout == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("path", "label", "probability", "error"))
        for a in answers:
            writer.writerow((a.path, a.label, "" if a.error else f"{a.probability:.6f}", a.error))
    else:
        width = max(len(terminal.printable(a.path)) for a in answers)
        for a in answers:
            said = f"error: {a.error}" if a.error else f"{a.probability:.4f}  {terminal.printable(a.label)}"
            click.echo(f"{terminal.printable(a.path):<{width}}  {said}")
    failed = sum(bool(a.error) for a in answers)
    if failed:
        raise InputsFailedError(f"{failed} of {len(answers)} images could not be read")


def _files(given: Sequence[str]) -> list[Path | str]:
    from frostline.data import image_files

    found: list[Path | str] = []
    for name in given:
        found += image_files(Path(name)) if Path(name).is_dir() else [name]
    if not found:
        raise UsageError(f"no images in {', '.join(given)}")
    return found
