from __future__ import annotations

import contextlib
import glob
import itertools
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
    from frostline.verbs.predict import Inputs, Tally

REASONS = 3  # nearest training images shown
STANDARD_INPUT = frozenset(["-", "/dev/stdin"])
BLOCK = 65_536  # bytes of standard input at once, as much as a pipe holds
LONGEST = 65_536  # bytes of a name
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
    from frostline.verbs.predict import Tally, predicting

    layout = _layout(out, layout, as_json)
    if probabilities and layout == "table":
        raise UsageError("a table has no room for --probabilities; add --format csv, json or jsonl, or --out FILE.csv")
    with terminal.quiet(quiet):
        classifier = load(run, machine=find_machine(device, "fp32"))
        classifier = replace(classifier, top=top or classifier.top)
        if masks is not None and classifier.task != "segmentation":
            raise UsageError(f"{run} classifies whole images; leave out --masks, which needs a segmentation run")
        parts, tally = _parts(images, classifier, download), Tally()
        predict = predicting(classifier, run, coverage, REASONS if why else 0, threshold)
        first = next(parts)
        predictions = tally.counted(itertools.chain([first], parts), predict)
        if masks is not None:
            predictions = _with_masks(predictions, masks, classifier)
        every = classifier.classes if probabilities else ()
        columns = Columns(top or 1, every, coverage is not None, why, threshold is not None)
        width = _width(first) if layout == "table" else 0
        with _writing(out, layout) as write:
            for text in as_text(predictions, layout, columns, width=width, shown=_shown(out)):
                write(text)
        _say_promise(coverage)
        _say_accuracy(_accuracy(run, tally), layout, out)
    if out is not None and not quiet:
        terminal.say(f"wrote {out}: {tally.images} image{'s' * (tally.images != 1)}")
    if tally.failed:
        raise InputsFailedError(f"{tally.failed} of {tally.images} images could not be read")


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


def _with_masks(predictions: Iterator[Prediction], masks: Path, classifier: Classifier) -> Iterator[Prediction]:
    """The predictions, with their masks written."""
    from frostline.report.colours import palette
    from frostline.report.masks import write_mask

    colours = palette(len(classifier.classes), classifier.colours)
    for prediction in predictions:
        if prediction.mask is not None:
            file = write_mask(masks, prediction.path, prediction.mask, colours)
            prediction = replace(prediction, mask_file=str(file))
        yield prediction


def _say_accuracy(right: str, layout: str, out: Path | None) -> None:
    """Print the accuracy as the last line of a table; on standard error beside output for programs."""
    from frostline import terminal

    if right and layout == "table" and out is None:
        click.echo(right)
    elif right:
        terminal.say(right)


def _say_promise(coverage: float | None) -> None:
    from frostline import terminal
    from frostline.classifier.reference import FALSE_ALARMS

    if coverage is not None:
        terminal.say(
            f"the sets hold the true class for {100 * coverage:g} of 100 images; {100 * FALSE_ALARMS:g} of 100 images "
            "of a known class are marked as none of the classes"
        )


def _parts(images: Sequence[str], classifier: Classifier, download: bool) -> Iterator[Inputs]:
    """The images in order, at least one: those that are named together, those on standard input as they come."""
    from frostline.verbs.predict import read_any_inputs, read_inputs

    named: list[Inputs | None] = []  # None for standard input; all others are read first, so that errors come first
    for piped, some in itertools.groupby(images, STANDARD_INPUT.__contains__):
        names = [] if piped else [name for image in some for name in _matching(image)]
        named.append(None if piped else read_inputs(names, classifier, download=download))
    none = True
    for part in named:
        several = [part] if part else (read_any_inputs(some, classifier, download=download) for some in _arriving())
        for each in filter(None, several):
            none = False
            yield each
    if none:
        raise UsageError("no images on standard input; give names of images, one per line")


def _arriving() -> Iterator[list[str]]:
    """The names on standard input, those together that have arrived."""
    rest = b""
    while block := sys.stdin.buffer.read1(BLOCK):  # type: ignore[union-attr]  # it does not wait for a whole block
        *lines, rest = (rest + block).split(b"\n")
        if b"\0" in block or len(rest) > LONGEST:
            raise UsageError("standard input is not text; give names of images, one per line, or the image as a file")
        yield _names(lines)
    yield _names([rest])


def _names(lines: Sequence[bytes]) -> list[str]:
    return [name for line in lines if (name := os.fsdecode(line.removesuffix(b"\r")))]


def _matching(image: str) -> list[str]:
    """The files of a pattern that the shell has left as it is; a file of that name goes first."""
    if not glob.has_magic(image) or os.path.lexists(image):
        return [image]
    found = {str(Path(name)) for name in glob.glob(image, recursive=True)}  # noqa: PTH207  # a Path takes none from /
    if found:  # folders only where no file matches: else their images would count twice
        return sorted(name for name in found if not Path(name).is_dir()) or sorted(found)
    raise DataError(f"no file matches {image}")


def _accuracy(run: str, tally: Tally) -> str:
    """The accuracy on labelled images; "" without labels. Prints a note if the run was trained on some of them."""
    from frostline import terminal
    from frostline.runs.run import load_run, trained_on

    if (measured := tally.measured) is None or not measured["n"]:
        return ""
    with contextlib.suppress(WeightsError):  # only the classifier was copied, which does not know its images
        if known := sum(int(trained_on(load_run(run), images).sum()) for images in tally.labelled or ()):
            terminal.say(f"note: the run was trained on {known} of these images; expect lower accuracy on new images")
    low, high = measured["interval"]
    return f"accuracy {measured['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}) of {measured['n']} labelled images"
