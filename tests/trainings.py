"""Small trainings, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from conftest import SIZE, draw_images, small_model
from frostline.backbones import Backbone
from frostline.data.images import Images
from frostline.data.masks import Masks
from frostline.data.views import Views
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing
from frostline.store.activations import computed_once
from frostline.store.shards import Cache
from frostline.tasks import NAMES, Task, task_of
from frostline.training.training import Training

HOW = Preprocessing(size=SIZE, resize=36)
classification, multilabel, segmentation = map(task_of, NAMES)
PHASE = Phase("block2", epochs=3, lr=1e-2, batch_size=8, views=2)
STEP = Phase("block2", epochs=1, lr=1.0, lr_decay=1.0, batch_size=30, optimizer="sgd", momentum=0.0, weight_decay=0.0)
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def training(
    frostline: str = "block2",
    *,
    machine,
    keep: bool = True,
    cache: Cache | None = None,
    images: tuple[Images, Images] | None = None,
    task: Task = classification,
    phase: Phase = PHASE,
    **options: Any,
) -> Training:
    name = task.name
    network = Backbone("small", small_model(), HOW).network(3, task=name)
    shown, judged = images or (draw_images(30), draw_images(12, seed=1))
    lower, upper = network.cut(frostline, phase.freeze)
    train = computed_once(lower, shown, Views(2), machine=machine, cache=cache, keep=keep)
    valid = computed_once(lower, judged, machine=machine, cache=cache, keep=keep)
    result = Training(network, upper, train, valid, phase, task=task, **options)
    result.network, result.lower = network, lower  # for the tests
    return result


def labelled(count: int, seed: int = 0) -> Images:
    """Stripes with two labels, or one, or none."""
    images = draw_images(count, seed=seed)
    labels = np.array([[True, True, False], [False, True, False], [False, False, False]])[images.targets]
    return Images(images.pictures, labels, images.names)


def masked(count: int, seed: int = 0) -> Images:
    """A bright square somewhere, green or blue, and its mask; the pixels of the rim count for nothing."""
    chance = np.random.default_rng(seed)
    pictures, masks = chance.integers(0, 90, (count, 40, 40, 3), np.uint8), np.zeros((count, 40, 40), np.uint8)
    for i, (top, left) in enumerate(chance.integers(2, 20, (count, 2))):
        pictures[i, top : top + 18, left : left + 18, 1 + i % 2] += 140
        masks[i, top : top + 18, left : left + 18] = 1 + i % 2
    masks[:, :1] = 255
    return Images(list(pictures), Masks(list(masks), np.arange(256, dtype=np.uint8)), [str(i) for i in range(count)])


def of_task(task: Task, machine, **options) -> Training:
    images = {classification: None, multilabel: (labelled(30), labelled(12, 1)), segmentation: (masked(30), masked(12))}
    return training(machine=machine, images=images[task], task=task, **options)


def rows_of(run: Training) -> list[torch.Tensor]:
    """The rows of every batch that is fetched from now on."""
    fetched: list[torch.Tensor] = []
    fetch = run.train.fetch
    run.train = replace(run.train, fetch=lambda rows: (fetched.append(rows), fetch(rows))[1])
    return fetched


def rates_of(run: Training) -> list[float]:
    """The learning rate of every step from now on, of the head."""
    rates: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    return rates


def moved(before: dict[str, torch.Tensor], run: Training) -> float:
    """How far all weights moved, together."""
    after = {name: value.detach() for name, value in run.upper.named_parameters()}
    return float(torch.stack([(after[name] - before[name]).norm() for name in after]).norm())


def figures(rows) -> list[tuple[float, ...]]:
    return [(r.train_loss, r.train_accuracy, r.valid_loss, r.valid_accuracy, r.lr) for r in rows]
