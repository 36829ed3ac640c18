"""Export the classifier of a run to a file that runs without Frostline."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from frostline import terminal
from frostline.classifier.artifact import load
from frostline.classifier.description import read_description
from frostline.data.decoding import UnreadableImageError, open_image
from frostline.data.images import spread
from frostline.errors import FrostlineError, MachineError, UsageError, reason
from frostline.export import exporter_of
from frostline.export.verifying import agreement, refuse_other_answers
from frostline.export.whole import whole
from frostline.files import refuse_overwriting, sha256_of, sync_folder
from frostline.fitting.options import Options
from frostline.machine import find_machine
from frostline.runs.run import Run, load_run

SEEN = 64  # validation images that an export is compared on
OF_DATA = ("seed", "group", "path_column", "label_column", "images")  # the options that decide the validation images


def export_run(
    run: str | Path | Run,
    format: str = "onnx",  # noqa: A002  # as the flag, and as other libraries call it
    out: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write the classifier of a run as a file that runs without Frostline, and verify that file first.

    The formats onnx and torch (.pt2) take decoded images (N, H, W, 3) of uint8, any height and width, and give
    probabilities (N, classes) of float32: preprocessing and temperature are inside. openvino (.xml, with .bin beside
    it) takes pictures (N, size, size, 3) of uint8, cropped and resized as the program in MODEL_CARD.md does it.
    safetensors and pth are only the weights, under the names of the network's own source.

    out: the file; by default RUN/export/model with the extension of the format. model: as in `load`.

    Returns file, format, bytes, sha256, classes and verified: images, largest (difference of a probability) and same
    (share of images with the same class), on synthetic pictures in batches and on up to 64 validation images.
    Raises UsageError for a file that exists or has another extension and for segmentation, MachineError if a package is
    missing or if the file gives other probabilities than the classifier (by more than 1e-4); then nothing is written.

    >>> export_run("runs/pets", "onnx")["file"]  # doctest: +SKIP
    'runs/pets/export/model.onnx'
    """
    run = run if isinstance(run, Run) else load_run(run)
    exporter = exporter_of(format)
    file = Path(out) if out is not None else run.path / "export" / f"model{exporter.ENDING}"
    if file.suffix != exporter.ENDING:
        raise UsageError(f"{file} does not end in {exporter.ENDING}, the extension of format {format}")
    refuse_overwriting(file, "another --out")
    with terminal.quiet(quiet):
        classifier = load(run, model, find_machine("cpu", "fp32"))
        program, about = whole(classifier, resizes=exporter.RESIZES), _about(run)
        images = _validation_images(run)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=file.parent) as folder:
            made = Path(folder, file.name)
            try:
                exporter.write(program, about, made)
                measured = agreement(exporter.answering(made, program), classifier, images, resizes=exporter.RESIZES)
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                raise MachineError(f"this network cannot be exported to {format}: {reason(error)}") from error
            refuse_other_answers(measured, format)
            _move(Path(folder), file.parent)
        terminal.say(
            f"wrote {file}: the same classes as the run on {measured.images} images, probabilities within "
            f"{measured.largest:.1e}"
        )
    size = sum(each.stat().st_size for each in {file, file.with_suffix(".bin")} if each.exists())
    return {
        "file": str(file),
        "format": format,
        "bytes": size,
        "sha256": sha256_of(file),
        "classes": list(classifier.classes),
        "verified": asdict(measured),
    }


def _about(run: Run) -> dict[str, str]:
    """The texts that an exported file carries."""
    from importlib import metadata

    description = read_description(run.model)
    return {
        "classes": json.dumps(list(description.classes), ensure_ascii=False),
        "task": description.task,
        "frostline_version": metadata.version("frostline"),
        "sha256": description.files["model.safetensors"],
        "licence": description.licence,
    }


def _validation_images(run: Run) -> list[np.ndarray]:
    """Some validation images of the run, decoded; none, with a line that says so, if the data is not at hand."""
    try:
        config = run.config
        options = {name: config[name] for name in OF_DATA if config.get(name) is not None}
        valid = Options(config["data"], cache=False, **options).read().valid
    except (FrostlineError, KeyError, TypeError) as error:
        terminal.say(f"verifying with synthetic pictures only: the run's images are not at hand ({reason(error)})")
        return []
    found = []
    for i in spread(len(valid), SEEN).tolist():
        try:
            found.append(np.array(open_image(valid.pictures[i])))  # a copy: torch warns of arrays that it may not write
        except UnreadableImageError:
            continue
    return found


def _move(source: Path, target: Path) -> None:
    """Move the files to their place, the one with the name that was asked for last."""
    for each in sorted(source.iterdir(), key=lambda path: path.suffix != ".bin"):
        shutil.move(each, target / each.name)
    sync_folder(target)
