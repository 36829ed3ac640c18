"""Small regressions with what they are checked against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from frostline.data.images import Images
from frostline.data.targets import TableTargets, targets_of
from frostline.data.views import Views
from frostline.preprocessing import Preprocessing
from frostline.store.activations import Activations, Filled
from frostline.store.reading import HeldRows

HOW = Preprocessing(size=8, resize=8)


def features(x: np.ndarray, targets: np.ndarray, views: int = 1) -> Activations:
    count = len(targets)
    images = Images(np.zeros((count, 1, 1), np.uint8), targets, [str(i) for i in range(count)])
    rows = torch.from_numpy(x).float()
    filled = Filled(0, len(rows), 0.0, 0, "memory")
    return Activations(images, views, rows.__getitem__, targets_of(images, Views(views), HOW), filled)


def drawn(seed: int, count: int, width: int, views: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    targets = chance.integers(0, classes, count).astype(np.int64)
    each = chance.normal(size=(classes, width))[targets] + chance.normal(size=(count, width))
    x = np.repeat(each, views, 0) + 0.3 * chance.normal(size=(count * views, width))
    return x * chance.uniform(0.5, 9, width) + 3, targets


def refitted(z: np.ndarray, t: np.ndarray, w: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """The weighted least squares with a free constant, from its normal equations; penalty: not relative to the rows."""
    ones = np.hstack([z, np.ones((len(z), 1))])
    ridge = penalty * np.eye(ones.shape[1])
    ridge[-1, -1] = 0
    both = np.linalg.solve(ones.T @ (ones * w[:, None]) + ridge, ones.T @ (t * w[:, None]))
    return both[:-1], both[-1]


def held(views: int = 1, count: int = 700) -> Activations:
    """Rows in memory that may be sent to another process."""
    x, y = drawn(0, count, 20, views)
    made = features(x, y, views)
    ((rows, _),) = made.batches(count * views)
    return replace(made, fetch=HeldRows(rows), targets=TableTargets(torch.from_numpy(made.images.targets), views))
