"""The run folder: all files of a fit, written so that a crash leaves the old state or the new one.

config.yaml     the options, resolved; repeat the fit with --config
classes.json    the class names, in the order of the network's outputs
split.csv       the split of each image, and a 16-byte digest of its content (BLAKE2b, in hexadecimal)
checks.json     findings about the images: leaks, copies, wrong labels … (frostline check)
history.csv     one line per epoch
metrics.json    the results; it exists once the run is finished
plots/          curves, confusion matrix, training views, worst mistakes (PNG, SVG)
predictions.csv validation and test images with label, prediction and probability
environment.json, log.txt
checkpoints/    the network after every phase
model/          the classifier: weights, head, class names, preprocessing, temperature, golden examples, model card
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from frostline import distributed
from frostline.data.images import Images, ImageSet
from frostline.errors import UsageError, WeightsError, reason
from frostline.files import CLASSIFIER, is_temporary, lock, write_atomically
from frostline.notebook import fragment
from frostline.tasks.summary import summary
from frostline.terminal import human_seconds
from frostline.values import MOST_YAML_BYTES, csv_text, finite, plain_cell, plain_values

T = TypeVar("T", dict[str, Any], list[Any])

TEXTS = ("frostline", "path", "split", "label", "labels", "predicted")  # columns of text
PICTURES = ("curves", "confusion", "confusion-test", "mistakes", "overlays")  # of plots/, in notebook order
PROGRESS = "checkpoints/progress.safetensors"  # of a fit that is not finished
SHOWN = 12  # names of classes
PACKAGES = ("frostline", "torch", "torchvision", "timm", "numpy", "Pillow", "safetensors", "scikit-learn")


@dataclass(frozen=True)
class Run:
    """A run folder. `metrics` is the output of `fit --json`."""

    path: Path

    @property
    def model(self) -> Path:
        """The folder of the classifier: `model/`, or the folder itself if only that was copied."""
        return self.path if (self.path / CLASSIFIER).is_file() else self.path / "model"

    @property
    def metrics(self) -> dict[str, Any]:
        result: dict[str, Any] = self._json("metrics.json", dict)
        return result

    @property
    def config(self) -> dict[str, Any]:
        file, text = self.path / "config.yaml", self._text("config.yaml")
        if len(text) > MOST_YAML_BYTES:
            raise corrupt(file, f"it is larger than {MOST_YAML_BYTES:,} bytes")
        try:
            result = plain_values(text, file) or {}
        except UsageError as error:
            raise corrupt(file, str(error)) from error
        if not isinstance(result, dict):
            raise corrupt(file, "it is no mapping")
        return result

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, self._json("classes.json", list)))

    @property
    def history(self) -> list[dict[str, Any]]:
        """The epochs of all phases, as in history.csv; with numbers as numbers, and None for empty cells.

        `pandas.DataFrame(run.history)` is a table of them.
        """
        return [_with_numbers(record) for record in self._records("history.csv", "phase", "epoch")]

    @property
    def split(self) -> list[dict[str, str]]:
        """The path, label, split and digest of every image, as in split.csv."""
        return self._records("split.csv", "path", "label", "split")

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """The final predictions for validation and test images, as in predictions.csv; with numbers as numbers."""
        return [_with_numbers(record) for record in self._records("predictions.csv", "path", "split")]

    def _repr_html_(self) -> str:
        """The display in a notebook: the figures, and the pictures that the fit drew."""
        try:
            metrics = self.metrics
        except WeightsError:
            return fragment(f"run {self.path}", {"": "not finished"})
        facts = {
            name: summary(metrics[split])
            for split, name in (("valid", "validation"), ("test", "test"))
            if metrics.get(split)
        }
        facts |= {
            "classes": ", ".join(metrics["classes"][:SHOWN]) + (" …" if len(metrics["classes"]) > SHOWN else ""),
            "backbone": metrics["backbone"]["name"],
            "time": human_seconds(metrics["seconds"]),
        }
        if (self.path / "report.html").is_file():
            facts["report"] = str(self.path / "report.html")
        files = [self.path / "plots" / f"{name}.png" for name in PICTURES]
        return fragment(
            f"run {self.path}", facts, pictures=[(file.stem, file.read_bytes()) for file in files if file.is_file()]
        )

    def _records(self, name: str, *needed: str) -> list[dict[str, str]]:
        """The records of a table of the run, which has some columns at least."""
        table = csv.DictReader(io.StringIO(self._text(name), newline=""))
        lacking = [column for column in needed if column not in (table.fieldnames or ())]
        if lacking:
            raise corrupt(self.path / name, f"it has no column {lacking[0]}")
        found = []
        for record in table:
            if None in record or None in record.values():
                raise corrupt(self.path / name, f"line {table.line_num} has not one cell per column")
            found.append({column: plain_cell(cell) for column, cell in record.items()})
        return found

    def _json(self, name: str, kind: type) -> Any:
        file, text = self.path / name, self._text(name)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise corrupt(file, reason(error)) from error
        if not isinstance(found, kind):
            raise corrupt(file, f"it is no {kind.__name__}")
        return found

    def _text(self, name: str) -> str:
        try:
            return (self.path / name).read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise WeightsError(
                f"{self.path} has no readable {name}: it is no run, or the run is not finished"
            ) from error


def corrupt(file: Path, why: str) -> WeightsError:
    """The error for a file of a run that is not as it was written."""
    return WeightsError(f"{file} is corrupt: {why}; copy it again")


def _with_numbers(record: Mapping[str, str]) -> dict[str, Any]:
    return {name: cell if name in TEXTS else _number(cell) for name, cell in record.items()}


def _number(cell: str) -> float | None:
    if not cell:
        return None
    return int(cell) if cell.isdecimal() else float(cell)


def load_run(path: str | Path) -> Run:
    """The run in a folder, or the classifier in a copy of its `model/`; raises UsageError for any other folder."""
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"there is no run at {folder}; give the folder that `frostline fit` printed")
    run = Run(folder)
    without_figures = (folder / "config.yaml").is_file() and not (folder / "metrics.json").is_file()
    if without_figures or not (run.model / CLASSIFIER).is_file():
        begun = f"; if its fit was interrupted, go on with: {to_resume(folder)}" if _is_unfinished(folder) else ""
        raise UsageError(f"{folder} is not a finished run{'' if begun else f': it has no model/{CLASSIFIER}'}{begun}")
    return run


def scores_of(run: Run, split: str) -> dict[str, float]:
    """By name of each image of a split, 1 for a right label and 0 for a wrong one; for a mask the right share of it."""
    records = {record["path"]: record for record in run.predictions if record["split"] == split}
    if any("accuracy" in record for record in records.values()):
        return {name: float(record["accuracy"]) for name, record in records.items()}
    label = "labels" if any("labels" in record for record in records.values()) else "label"
    return {name: float(record["predicted"] == record[label]) for name, record in records.items()}


def trained_on(run: Run, images: Images) -> np.ndarray:
    """Which images the run was trained on, byte for byte, (N,) of bool, by the digests in split.csv.

    Validation images count if the final head was solved on them.
    """
    trained = _said_of_trained(run, "digest")
    return np.array([digest.tobytes().hex() in trained for digest in images.digests.all()], bool)


def trained_groups(run: Run) -> set[str]:
    """The groups of the images that the run was trained on; empty for a run without groups."""
    return _said_of_trained(run, "group")


def _said_of_trained(run: Run, column: str) -> set[str]:
    seen = ("train", "valid") if run.metrics.get("refit") else ("train",)
    return {record.get(column, "") for record in run.split if record["split"] in seen} - {""}


def create_run(out: str | Path | None, name: str) -> Run:
    """Create a folder at `out`, or `runs/<name>-<number>`; raises UsageError if it exists: runs stay."""
    if out is not None:
        folder = Path(out)
        refuse_existing(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot create the run folder {folder}: {error.strerror}") from error
        return Run(folder)
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    for number in range(1, 100_000):
        folder = Path("runs") / f"{safe}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"cannot create the run folder {folder}: {error.strerror}; give --out") from error
        return Run(folder)
    raise UsageError("runs/ is full; give --out")


def refuse_existing(folder: Path) -> None:
    """Raises UsageError for a folder that cannot become a run."""
    if folder.exists() and (not folder.is_dir() or not all(is_temporary(file.name) for file in folder.iterdir())):
        begun = f"if its fit was interrupted, go on with: {to_resume(folder)}; else " if _is_unfinished(folder) else ""
        raise UsageError(f"{folder} already exists, and a run is never overwritten; {begun}give another --out")


def is_finished(folder: Path) -> bool:
    """Whether the fit of a run came to its end."""
    return (folder / "metrics.json").is_file() and not (folder / PROGRESS).exists()


def to_resume(folder: Path, data: str = "") -> str:
    """The command that goes on with an interrupted fit. data: where its images are, followed by a space."""
    return f"{distributed.launcher()}frostline fit {data}--resume {shlex.quote(str(folder))}"


def to_repeat(folder: Path) -> str:
    """The command that begins the fit of a run again."""
    return f"frostline fit --config {shlex.quote(str(folder / 'config.yaml'))} --out ANOTHER-FOLDER"


def _is_unfinished(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and not is_finished(folder)


@contextlib.contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Let no other process fit into this run meanwhile: raises UsageError if one does. Its log is locked for that."""
    with (run.path / "log.txt").open("ab") as log:
        if lock(log.fileno()) is False:
            raise UsageError(f"another process is fitting into {run.path}; wait for its end")
        yield


def write_text(run: Run, name: str, text: str) -> None:
    file = run.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text.encode("utf-8", "surrogateescape"))


def write_json(run: Run, name: str, value: Any) -> None:
    """Write a value as JSON; numbers that are not finite become null, because JSON has no NaN.

    If a file name is no Unicode, all letters beyond ASCII are escaped: then the file is valid UTF-8 and keeps the name.
    """
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(finite(value), indent=2, allow_nan=False)
    write_text(run, name, text + "\n")


def read_json(run: Run, name: str, kind: type[T] = dict) -> T:  # type: ignore[assignment]
    """The content of a JSON file of the run, a mapping or a list; empty if it is missing.

    Raises WeightsError if it is corrupt.
    """
    found: T = run._json(name, kind) if (run.path / name).is_file() else kind()
    return found


def write_csv(run: Run, name: str, header: Sequence[str], records: Iterable[Sequence[object]]) -> None:
    write_text(run, name, csv_text(header, records))


def write_config(run: Run, config: dict[str, Any]) -> None:
    """Write the resolved options."""
    write_text(run, "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def write_start(run: Run, config: dict[str, Any], data: ImageSet) -> None:
    """Write everything that is known before training."""
    write_config(run, config)
    write_data(run, data)


def remove_start(run: Run) -> None:
    """Remove a run that has nothing but what is known before training; other people's files in it stay."""
    for name in ("config.yaml", "classes.json", "environment.json", "split.csv", "log.txt"):
        (run.path / name).unlink(missing_ok=True)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    for folder in (run.path / "model", run.path / "plots", run.path):
        with contextlib.suppress(OSError):  # it is not there, or not empty
            folder.rmdir()


def write_data(run: Run, data: ImageSet) -> None:
    """Write what is known of the data, and the environment."""
    write_json(run, "classes.json", list(data.classes))
    write_json(run, "environment.json", {**environment(), "processes": distributed.size()})
    write_split(run, data)


def write_split(run: Run, data: ImageSet, read: ImageSet | None = None) -> None:
    """Write the split of each image. read: the readable images, whose digests are written where they are known."""
    known = {
        (split, name): part.digests.values[i].tobytes().hex()
        for split, part in (read.distinct if read else {}).items()
        for i, name in enumerate(part.names)
        if part.digests.known[i]
    }
    grouped = bool(data.groups)
    records = (
        (name, label, split, known.get((split, name), ""), *([data.groups.get(name, "")] if grouped else []))
        for split, images in data.distinct.items()
        for name, label in zip(images.names, images.labels(data.classes), strict=True)
    )
    write_csv(run, "split.csv", ("path", "label", "split", "digest", *(["group"] if grouped else [])), records)


def environment() -> dict[str, Any]:
    """Versions and machine, without names of people and environment variables."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version_of(name) for name in PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]] if "frostline" in sys.argv[0] else [],
    }


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
