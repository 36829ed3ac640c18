"""Computes a network's outputs from image files, on all cores at once.

A step is a few images: a thread decodes them, makes their views, runs the engine on them and takes the next step.
So no core waits for another, and memory holds at most two steps per thread.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from frostline.data.images import Images
from frostline.data.pictures import Needed, Requested, SampleIndex, Task, ahead, decoded, pictures_of, tasks_of
from frostline.data.views import Views
from frostline.engines.choice import Engine, alone
from frostline.machine import Machine, threads_kept
from frostline.preprocessing import Preprocessing

Computed = tuple[list[SampleIndex], np.ndarray, list[Tensor], dict[int, str]]


def computed(
    images: Images,
    requested: Requested,
    views: Views,
    preprocessing: Preprocessing,
    engine: Engine,
    machine: Machine,
    needed: Needed | None = None,
) -> Iterator[Computed]:
    """Steps of: (image, view) per picture, the pictures, the engine's outputs for them, and why images failed.

    needed: for an image whose digest was unknown before, the views to compute.
    """

    def work(task: Task) -> Computed:
        places, pictures, failed = pictures_of(images, task, views, preprocessing, needed)
        return places, pictures, run(engine, pictures), failed

    if engine.parallel:
        with threads_kept():
            yield from ahead(tasks_of(requested, engine.images, machine.workers), work, machine.workers, alone)
        return
    batches = decoded(images, requested, views, preprocessing, machine.workers, engine.images, needed)
    for places, pictures, failed in batches:
        yield places, pictures, run(engine, pictures), failed


def run(engine: Engine, pictures: np.ndarray) -> list[Tensor]:
    """The outputs of an engine for any number of pictures; empty for none."""
    parts = [engine.run(pictures[i : i + engine.images]) for i in range(0, len(pictures), engine.images)]
    return parts[0] if len(parts) == 1 else [torch.cat(output) for output in zip(*parts, strict=True)]
