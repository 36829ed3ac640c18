"""What a fit writes while it runs, so that it can be interrupted at any step and go on without any difference.

checkpoints/phase-N.safetensors       the weights above the frostline after phase N
checkpoints/progress.safetensors      `Progress`, and the decisions of the `Job` that measured times have made
checkpoints/training-N-….safetensors  one training of the phase that is running: see fitting/keeping.py

Each file holds a digest of its tensors and of what is written about them: a damaged one is never used.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from frostline import terminal
from frostline.data.images import ImageSet
from frostline.errors import WeightsError, reason
from frostline.files import tensor_bytes, write_tensors
from frostline.fitting.job import Job
from frostline.fitting.progress import Progress, without
from frostline.runs.run import PROGRESS, Run, to_repeat, version_of
from frostline.training.optimizers import OptimizerState

FORMAT = 1  # of what is written: another version of Frostline may not know what to make of it
PLAIN = ("unreadable", "epochs", "phases", "decisions", "ended")  # of Progress


@dataclass(frozen=True, eq=False)
class Saved:
    """What a fit wrote before and after each phase.

    progress: the plain fields of `Progress`. optimizer: its state by parameter. seconds: that the fit took so far.
    weights: the SHA-256 of those it began with. config, images: digests of these. objects: options that are objects.
    stop_here: where the fit ends before its plan does. tried, left_out, forecast, kept_at: of its job, which
    measurements decided.
    """

    progress: Mapping[str, Any]
    optimizer: OptimizerState
    seconds: float
    weights: str | None
    config: str
    images: str
    objects: Sequence[str]
    stop_here: str
    tried: Sequence[Mapping[str, Any]]
    left_out: str
    forecast: Mapping[str, Any] | None
    kept_at: Sequence[int | None]


def checkpoint(run: Run, number: int) -> Path:
    """The weights above the frostline after phase `number` (from 1)."""
    return run.path / "checkpoints" / f"phase-{number}.safetensors"


def trainings(run: Run, number: int) -> list[Path]:
    """The files of the trainings of phase `number`: fitting/keeping.py writes them."""
    return sorted((run.path / "checkpoints").glob(f"training-{number}-*.safetensors"))


def forget(run: Run, number: int) -> None:
    """Remove what was kept of the trainings of a phase that is over."""
    for file in trainings(run, number):
        file.unlink(missing_ok=True)


def write_checked(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> None:
    """Write tensors, what is to say about them (as JSON), and a digest of both, atomically."""
    text = json.dumps(about or {})
    file.parent.mkdir(exist_ok=True)
    write_tensors(file, tensors, {"about": text, "digest": _digest(tensors, text)})


def read_checked(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and what is said about them; raises WeightsError if it is not what was written."""
    try:
        with safe_open(file, "pt") as content:
            said = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or reason(error)
        raise WeightsError(f"{file} cannot be read: {why}") from error
    text = said.get("about", "")
    if said.get("digest") != _digest(tensors, text):
        raise WeightsError(f"{file} is damaged: its content is not what the fit wrote")
    about: dict[str, Any] = json.loads(text)
    return tensors, about


def refuse_other_fit(file: Path, about: Mapping[str, Any], identity: str) -> None:
    """Raises WeightsError if a file, intact as it may be, is not of the fit with this identity."""
    if about.get("fit") != identity:
        raise WeightsError(f"{file} is of another fit")


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"\0{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\0".encode())
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def write_progress(job: Job, progress: Progress) -> None:
    """Write the progress of a fit, and what it needs of its job; a crash leaves the old state or the new one."""
    tensors = {f"{name}/{slot}": value for name, slots in progress.optimizer.items() for slot, value in slots.items()}
    about = {
        "format": FORMAT,
        "versions": versions(),
        "progress": {name: getattr(progress, name) for name in PLAIN},
        "seconds": time.perf_counter() - job.started,
        "weights": job.backbone.sha256,
        "config": job.config_digest,
        "images": job.images_digest,
        "objects": job.objects,
        "stop_here": job.stop_here,
        "tried": list(job.tried),
        "left_out": job.left_out,
        "forecast": asdict(job.forecast) if job.forecast else None,
        "kept_at": job.placement.kept_at,
    }
    write_checked(job.run.path / PROGRESS, tensors, about)


def read_saved(run: Run) -> Saved | None:
    """What `write_progress` wrote; None if the fit had not come so far.

    Raises WeightsError, with what to do, if the file is damaged or another version of Frostline wrote it in another
    format; prints a line if other versions of packages wrote it.
    """
    if not (run.path / PROGRESS).exists():
        return None
    try:
        tensors, about = read_checked(run.path / PROGRESS)
    except WeightsError as error:
        raise WeightsError(f"{error}; the fit cannot go on; begin it again with: {to_repeat(run.path)}") from error
    if about.pop("format") != FORMAT:
        raise WeightsError(
            f"another version of Frostline began the fit in {run.path}; go on with that one, or begin it again: "
            f"{to_repeat(run.path)}"
        )
    for package, before in about.pop("versions").items():
        if before != versions()[package]:
            terminal.say(f"note: the fit began with {package} {before}; with {versions()[package]} numbers may differ")
    optimizer: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        optimizer.setdefault(name, {})[slot] = value
    return Saved(optimizer=optimizer, **about)


def versions() -> dict[str, str]:
    """The versions of what computes the result."""
    return {package: version_of(package) for package in ("frostline", "torch")}


def progress_of(saved: Saved, images: ImageSet) -> Progress:
    """The progress of a fit; images: as it read them. The checkpoints hold the weights."""
    plain = saved.progress
    unreadable = tuple((split, name, why) for split, name, why in plain["unreadable"])
    epochs, phases, decisions = (tuple(plain[name]) for name in ("epochs", "phases", "decisions"))
    progress = Progress(images, (), epochs, phases, decisions, plain["ended"], saved.optimizer)
    return without(progress, unreadable)
