from __future__ import annotations

import contextlib
import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from frostline.cli.options import complete_data, complete_run, json_option
from frostline.errors import DataError, InputsFailedError, UsageError, WeightsError
from frostline.files import refuse_overwriting

if TYPE_CHECKING:
    from frostline.classifier.classifier import Classifier, Prediction
    from frostline.verbs.predict import Inputs

REASONS = 3  # nearest training images shown
STANDARD_INPUT = frozenset(["-", "/dev/stdin"])
LAYOUTS = {".csv": "csv", ".json": "json", ".jsonl": "jsonl"}


@click.command("predict", short_help="Classify images with a run.")
@click.argument("run", shell_complete=complete_run)
@click.argument("images", nargs=-1, required=True, shell_complete=complete_data)
@click.option(
    "--format", "layout", type=click.Choice(["table", *LAYOUTS.values()]), help="Output format; by default a table."
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this .csv, .json or .jsonl file."
)
@click.option("--top", type=click.IntRange(1), help="Number of classes to print, most probable first.")
@click.option("--probabilities", is_flag=True, help="Also the probability of every class (CSV and JSON).")
@click.option("--coverage", type=float, help="Also print sets that hold the true class this often, such as 0.95.")
@click.option("--threshold", type=float, help="Mark predictions with a lower probability as uncertain, such as 0.8.")
@click.option("--why", is_flag=True, help="Also print the nearest training images.")
@click.option(
    "--masks", type=click.Path(file_okay=False, path_type=Path), help="Folder for the PNG masks of a segmentation."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--download", is_flag=True, help="Let torchvision download a known data set that is not on this machine.")
@click.option("--quiet", is_flag=True, help="Print only errors.")
@json_option
def command(
    run: str,
    images: Sequence[str],
    layout: str | None,
    out: Path | None,
    top: int | None,
    probabilities: bool,
    coverage: float | None,
    threshold: float | None,
    why: bool,
    masks: Path | None,
    device: str,
    download: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Classify IMAGES (files, folders, manifests, or a known data set such as qmnist:ROOT) with RUN.

    "-" reads names from standard input, one per line. Patterns such as "photos/**/*.jpg" are expanded. Each prediction
    is written as soon as it is ready.

    If all images are labelled, by class folders, a manifest or a known data set, the accuracy is printed too. A file
    that cannot be read gets an error instead of a label, and the exit code is 6.

    With --coverage 0.95 each image also gets the set of classes that holds the true one for 95 of 100 images. It counts
    as none of the classes if it is farther from the training images than 95 of 100 held-out images are, at any
    coverage.
    """
    from frostline import terminal
    from frostline.classifier.answers import Columns, as_text
    from frostline.classifier.artifact import load
    from frostline.machine import find_machine
    from frostline.verbs.predict import predicted, read_inputs

    layout = _layout(out, layout, as_json)
    if probabilities and layout == "table":
        raise UsageError("a table has no room for --probabilities; add --format csv, json or jsonl, or --out FILE.csv")
    with terminal.quiet(quiet):
        classifier = load(run, machine=find_machine(device, "fp32"))
        classifier = replace(classifier, top=top or classifier.top)
        if masks is not None and classifier.task != "segmentation":
            raise UsageError(f"{run} classifies whole images; leave out --masks, which needs a segmentation run")
        inputs = read_inputs(_named(images), classifier, download=download)
        kept: list[Prediction] = []
        found = predicted(classifier, run, inputs.images, coverage, REASONS if why else 0, threshold)
        classes = classifier.classes if probabilities else ()
        columns = Columns(top or 1, classes, coverage is not None, why, threshold is not None)
        passing = _kept(found, kept, masks, classifier)
        with _writing(out, layout) as write:
            for text in as_text(passing, layout, columns, width=_width(inputs), shown=_shown(out)):
                write(text)
        if coverage is not None:
            _say_promise(coverage)
        _say_accuracy(_accuracy(run, inputs, kept), layout, out)
    failed = sum(bool(p.error) for p in kept)
    if out is not None and not quiet:
        terminal.say(f"wrote {out}: {len(kept)} image{'s' * (len(kept) != 1)}")
    if failed:
        raise InputsFailedError(f"{failed} of {len(kept)} images could not be read")


def _width(inputs: Inputs) -> int:
    from frostline.terminal import printable

    return max((len(printable(name)) for name in inputs.images.names), default=0)


def _shown(out: Path | None) -> Callable[[str], str]:
    """How names are written in CSV: escaped for a terminal, which a name must not steer."""
    from frostline.terminal import printable

    return printable if out is None and sys.stdout.isatty() else str


def _layout(out: Path | None, asked: str | None, as_json: bool) -> str:
    """The layout that was asked for, else the one of the file's extension; raises UsageError if they differ."""
    if as_json and asked not in (None, "json"):
        raise UsageError(f"--json and --format {asked} contradict each other; leave one out")
    asked, how = ("json", "--json") if as_json else (asked, f"--format {asked}")
    named = LAYOUTS.get(out.suffix.lower()) if out is not None else "table"
    if out is not None and asked and named not in (None, asked):
        right = out.with_suffix(next((end for end, layout in LAYOUTS.items() if layout == asked), ".txt"))
        raise UsageError(f"the name {out} is for {named}, but {how} is given; leave that out, or write to {right}")
    layout = asked or named
    if layout is None:
        raise UsageError(f"the name {out} does not end in {', '.join(LAYOUTS)}; give another name, or --format")
    if out is not None:
        refuse_overwriting(out)
    return layout


@contextmanager
def _writing(out: Path | None, layout: str) -> Iterator[Callable[[str], object]]:
    """A function that writes text to standard output or to a file; CSV is UTF-8 whatever the terminal's encoding."""
    from frostline.files import replacing

    if out is None:
        yield lambda text: click.echo(text.encode("utf-8", "surrogateescape") if layout == "csv" else text, nl=False)
        return
    with replacing(out) as stream:
        yield lambda text: stream.write(text.encode("utf-8", "surrogateescape"))


def _kept(
    found: Iterator[Prediction], kept: list[Prediction], masks: Path | None, classifier: Classifier
) -> Iterator[Prediction]:
    """The predictions, with their masks written; keeps of each what the summary at the end needs."""
    from frostline.report.colours import palette
    from frostline.report.masks import write_mask

    colours = palette(len(classifier.classes), classifier.colours)
    for prediction in found:
        if masks is not None and prediction.mask is not None:
            file = write_mask(masks, prediction.path, prediction.mask, colours)
            prediction = replace(prediction, mask_file=str(file))
        kept.append(replace(prediction, top=(), why=(), mask=None, probabilities=None))
        yield prediction


def _say_accuracy(right: str, layout: str, out: Path | None) -> None:
    """Print the accuracy as the last line of a table; on standard error beside output for programs."""
    from frostline import terminal

    if right and layout == "table" and out is None:
        click.echo(right)
    elif right:
        terminal.say(right)


def _say_promise(coverage: float) -> None:
    from frostline import terminal
    from frostline.classifier.reference import FALSE_ALARMS

    terminal.say(
        f"the sets hold the true class for {100 * coverage:g} of 100 images; {100 * FALSE_ALARMS:g} of 100 images of "
        "a known class are marked as none of the classes"
    )


def _named(images: Sequence[str]) -> list[str]:
    """The images, with the names on standard input instead of "-"."""
    content = b"" if STANDARD_INPUT.isdisjoint(images) else sys.stdin.buffer.read()
    if b"\0" in content:
        raise UsageError("standard input is not text; give names of images, one per line, or the image as a file")
    given = [line for line in os.fsdecode(content).replace("\r\n", "\n").split("\n") if line]
    return [name for image in images for name in (given if image in STANDARD_INPUT else _matching(image))]


def _matching(image: str) -> list[str]:
    """The files of a pattern that the shell has left as it is; a file of that name goes first."""
    if not glob.has_magic(image) or os.path.lexists(image):
        return [image]
    found = {str(Path(name)) for name in glob.glob(image, recursive=True)}  # noqa: PTH207  # a Path takes none from /
    if found:  # folders only where no file matches: else their images would count twice
        return sorted(name for name in found if not Path(name).is_dir()) or sorted(found)
    raise DataError(f"no file matches {image}")


def _accuracy(run: str, inputs: Inputs, predictions: Sequence[Prediction]) -> str:
    """The accuracy on labelled images; "" without labels. Prints a note if the run was trained on some of them."""
    from frostline import terminal
    from frostline.runs.run import load_run, trained_on
    from frostline.verbs.predict import agreement

    if inputs.labels is None or not (measured := agreement(predictions, inputs.labels))["n"]:
        return ""
    with contextlib.suppress(WeightsError):  # only the classifier was copied, which does not know its images
        if known := int(trained_on(load_run(run), inputs.images).sum()):
            terminal.say(f"note: the run was trained on {known} of these images; expect lower accuracy on new images")
    low, high = measured["interval"]
    return f"accuracy {measured['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}) of {measured['n']} labelled images"
