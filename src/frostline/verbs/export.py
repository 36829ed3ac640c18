"""Export the classifier of a run to a file that runs without Frostline."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from frostline import terminal
from frostline.classifier.artifact import load
from frostline.classifier.classifier import Classifier
from frostline.classifier.description import read_description
from frostline.data.images import ImageSet, join, spread
from frostline.data.split import some_of_each
from frostline.errors import DataError, FrostlineError, MachineError, UsageError, reason
from frostline.export import Exporter, Quantiser, exporter_of, quantiser_of
from frostline.export.int8 import Kept, kept_by, refuse_loss
from frostline.export.verifying import Agreement, agreement, decoded, refuse_other_answers
from frostline.export.whole import whole
from frostline.files import move, refuse_overwriting, sha256_of
from frostline.fitting.options import Options
from frostline.machine import find_machine
from frostline.report.card import card_of
from frostline.report.facts import percent
from frostline.runs.run import Run, load_run, read_json

CALIBRATING = 200  # training images that set the ranges of int8
Write = Callable[[Classifier, dict[str, str], Path, Run], tuple[Agreement, Kept | None]]
SEEN = 64  # validation images that an export is compared on
OF_DATA = ("seed", "group", "path_column", "label_column", "images")  # the options that decide the validation images


def export_run(
    run: str | Path | Run,
    format: str = "onnx",  # noqa: A002  # as the flag, and as other libraries call it
    out: str | Path | None = None,
    *,
    int8: bool = False,
    model: nn.Module | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write the classifier of a run as a file that runs without Frostline, and verify that file first.

    The formats onnx and torch (.pt2) take decoded images (N, H, W, 3) of uint8, any height and width, and give
    probabilities (N, classes) of float32: preprocessing and temperature are inside. openvino (.xml, with .bin beside
    it) takes pictures (N, size, size, 3) of uint8, cropped and resized as the program in MODEL_CARD.md does it.
    safetensors and pth are only the weights, under the names of the network's own source. hub is a folder for the
    Hugging Face Hub, which timm loads: model.safetensors, config.json and README.md, the model card.

    out: the file; by default RUN/export/model with the extension of the format, or RUN/export/hub. model: as in `load`.
    int8: quantise the network to 8 bits, for onnx and openvino; up to 200 training images of the run set the ranges.

    Returns file, format, bytes, sha256 (of a folder that of model.safetensors), classes, verified and int8.
    `verified`: images, largest (difference of a probability) and same (share of images with the same class), on
    synthetic pictures in batches and on up to 64 validation images; in int8 on up to 1,000 validation images.
    `int8`: None, or metric, n, fp32 and int8 (the metric of classifier and file on these images), and fp32_bytes.
    Raises UsageError for a file that exists or has another extension, for segmentation, and for a format that cannot
    hold the network or int8; DataError if int8 lacks the run's images; MachineError if a package is missing, if a
    probability is not the classifier's (by more than 1e-4), or if int8 loses more than one point of the metric. Then
    nothing is written.

    >>> export_run("runs/pets", "onnx")["file"]  # doctest: +SKIP
    'runs/pets/export/model.onnx'
    """
    run = run if isinstance(run, Run) else load_run(run)
    write: Write = partial(_quantised, quantiser_of(format)) if int8 else partial(_written, exporter_of(format))
    file = _file(run, exporter_of(format), format, out)
    with terminal.quiet(quiet):
        classifier, about = load(run, model, find_machine("cpu", "fp32")), _about(run)
        if format == "hub":
            about["card"] = card_of(run, hub=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        terminal.say(
            f"writing {file} and comparing it with the run, which may take {'minutes' if int8 else 'a minute'}"
        )
        with tempfile.TemporaryDirectory(prefix=".export-", dir=file.parent) as folder:
            try:
                measured, kept = write(classifier, about, Path(folder, file.name), run)
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                raise MachineError(f"this network cannot be exported to {format}: {reason(error)}") from error
            refuse_loss(kept, format) if kept else refuse_other_answers(measured, format)
            _move(Path(folder), file.parent)
        terminal.say(_said(file, measured, kept))
    return {
        "file": str(file),
        "format": format,
        "bytes": _size(file),
        "sha256": sha256_of(file / "model.safetensors" if file.is_dir() else file),
        "classes": list(classifier.classes),
        "verified": asdict(measured),
        "int8": asdict(kept) if kept else None,
    }


def _file(run: Run, exporter: Exporter, name: str, out: str | Path | None) -> Path:
    """The file or folder to write, which must not exist."""
    usual = f"model{exporter.ENDING}" if exporter.ENDING else name
    file = Path(out) if out is not None else run.path / "export" / usual
    if exporter.ENDING and file.suffix != exporter.ENDING:
        raise UsageError(f"{file} does not end in {exporter.ENDING}, the extension of format {name}")
    refuse_overwriting(file, "another --out")
    if name == "openvino":  # its weights lie beside it
        refuse_overwriting(file.with_suffix(".bin"), "another --out")
    return file


def _written(
    exporter: Exporter, classifier: Classifier, about: dict[str, str], file: Path, run: Run
) -> tuple[Agreement, None]:
    """Write a file in fp32 and compare it with the classifier, on validation images if these are at hand."""
    program = whole(classifier, resizes=exporter.RESIZES)
    exporter.write(program, about, file)
    try:
        valid = _data_of(run, classifier).valid
        images = [image for _, image in decoded(valid, spread(len(valid), SEEN))]
    except DataError as error:
        terminal.say(f"verifying with synthetic pictures only: the run's images are not at hand ({error})")
        images = []
    return agreement(exporter.answering(file, program), classifier, images, resizes=exporter.RESIZES), None


def _quantised(
    exporter: Quantiser, classifier: Classifier, about: dict[str, str], file: Path, run: Run
) -> tuple[Agreement, Kept]:
    """Write a file in int8 and measure what it keeps on validation images."""
    try:
        data = _data_of(run, classifier)
    except DataError as error:
        raise DataError(f"int8 needs the run's images, and they are not at hand: {error}") from error
    program = whole(classifier, resizes=exporter.RESIZES)
    training = (image for _, image in decoded(data.train, some_of_each(data.train, CALIBRATING)))
    fp32_bytes = exporter.write_int8(program, about, training, file)
    return kept_by(
        exporter.answering(file, program), classifier, data.valid, fp32_bytes=fp32_bytes, resizes=exporter.RESIZES
    )


def _said(file: Path, measured: Agreement, kept: Kept | None) -> str:
    """The line about a written file."""
    if kept is None:
        return (
            f"wrote {file}: the same classes as the run on {measured.images} images, probabilities within "
            f"{measured.largest:.1e}"
        )
    return (
        f"wrote {file}: {kept}, the same class for {percent(measured.same)}; {terminal.human_bytes(_size(file))}, in "
        f"fp32 {terminal.human_bytes(kept.fp32_bytes)}"
    )


def _size(file: Path) -> int:
    """The bytes of a folder, or of a file and of the weights beside it."""
    written = file.iterdir() if file.is_dir() else (file, file.with_suffix(".bin"))
    return sum(each.stat().st_size for each in written if each.exists())


def _about(run: Run) -> dict[str, str]:
    """The texts that an exported file carries."""
    from importlib import metadata

    description = read_description(run.model)
    return {
        "classes": json.dumps(list(description.classes), ensure_ascii=False),
        "task": description.task,
        "backbone": description.backbone,
        "frostline_version": metadata.version("frostline"),
        "sha256": description.files["model.safetensors"],
        "licence": description.licence,
    }


def _data_of(run: Run, classifier: Classifier) -> ImageSet:
    """The images of the run, read as the fit read them; raises DataError if they are not at hand."""
    try:
        config = run.config
        options = {name: config[name] for name in OF_DATA if config.get(name) is not None}
        data = Options(config["data"], cache=False, **options).read()
    except (FrostlineError, KeyError, TypeError) as error:
        raise DataError(reason(error)) from error
    if data.classes != classifier.classes:
        raise DataError(f"the classes are now {', '.join(data.classes[:5])}")
    if read_json(run, "metrics.json").get("validation") == "crossed":  # none were held out
        together = join([data.train, data.valid])
        data = replace(data, train=together, valid=together)
    return data


def _move(source: Path, target: Path) -> None:
    """Move the files to their place, the one with the name that was asked for last."""
    for each in sorted(source.iterdir(), key=lambda path: path.suffix != ".bin"):
        move(each, target / each.name)
