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
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from frostline.data.images import ImageSet
from frostline.errors import WeightsError, reason
from frostline.files import write_tensors
from frostline.fitting.job import Job
from frostline.fitting.progress import Progress, without
from frostline.runs.run import PROGRESS, Run

PLAIN = ("unreadable", "epochs", "phases", "decisions", "ended")  # of Progress


def checkpoint(run: Run, number: int) -> Path:
    """The weights above the frostline after phase `number` (from 1)."""
    return run.path / "checkpoints" / f"phase-{number}.safetensors"


def write_checked(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> None:
    """Write tensors, what is to say about them (as JSON), and a digest of both, atomically."""
    text = json.dumps(about or {})
    file.parent.mkdir(exist_ok=True)
    write_tensors(file, tensors, {"about": text, "digest": _digest(tensors, text)})


def read_checked(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and what is said about them; raises WeightsError if it is not what was written."""
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read: {reason(error)}") from error
    text = metadata.get("about", "")
    if metadata.get("digest") != _digest(tensors, text):
        raise WeightsError(f"{file} is damaged: its content is not what the fit wrote")
    about: dict[str, Any] = json.loads(text)
    return tensors, about


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_progress(job: Job, progress: Progress) -> None:
    """Write the progress of a fit, and what it needs of its job; a crash leaves the old state or the new one."""
    tensors = {f"{name}/{slot}": value for name, slots in progress.optimizer.items() for slot, value in slots.items()}
    about = {
        "progress": {name: getattr(progress, name) for name in PLAIN},
        "seconds": time.perf_counter() - job.started,
        "weights": job.backbone.sha256,
        "tried": list(job.tried),
        "left_out": job.left_out,
        "forecast": asdict(job.forecast) if job.forecast else None,
        "kept_at": job.placement.kept_at,
    }
    write_checked(job.run.path / PROGRESS, tensors, about)


def read_saved(run: Run) -> Mapping[str, Any] | None:
    """What `write_progress` wrote about the job; None if the fit had not come so far.

    Raises WeightsError if the file is damaged, with what to do.
    """
    if not (run.path / PROGRESS).exists():
        return None
    try:
        return read_checked(run.path / PROGRESS)[1]
    except WeightsError as error:
        again = f"frostline fit --config {run.path / 'config.yaml'}"
        raise WeightsError(f"{error}; the fit cannot go on; begin it again with: {again}") from error


def read_progress(run: Run, images: ImageSet) -> Progress:
    """The progress of a run; images: as the fit read them. The checkpoints hold the weights."""
    optimizer: dict[str, dict[str, Tensor]] = {}
    tensors, about = read_checked(run.path / PROGRESS)
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        optimizer.setdefault(name, {})[slot] = value
    plain = about["progress"]
    unreadable = tuple((split, name, reason) for split, name, reason in plain["unreadable"])
    epochs, phases, decisions = (tuple(plain[name]) for name in ("epochs", "phases", "decisions"))
    progress = Progress(images, (), epochs, phases, decisions, plain["ended"], optimizer)
    return without(progress, unreadable)
