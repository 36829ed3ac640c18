"""Small data sets of the tasks beside classification, and runs on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import frostline
from conftest import SIZE, small_model
from frostline.backbones import load_backbone
from frostline.data.images import Images, ImageSet
from frostline.data.masks import Masks
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing
from frostline.runs.run import Run

HOW = Preprocessing(size=SIZE, resize=36)


def probed(images: ImageSet, folder: Path) -> Run:
    """A run whose head is solved on a small network, in `folder`."""
    backbone = load_backbone(small_model(len(images.classes)), preprocessing=HOW)
    return frostline.fit(images, backbone=backbone, plan="probe", out=folder, precision="fp32", quiet=True)


def fitted(folder: Path, images: ImageSet) -> Run:
    """A run on images of any task, short and small."""
    phase = Phase("block2", epochs=6, lr=0.01, views=1, batch_size=8)
    backbone = load_backbone(small_model(), preprocessing=HOW)
    return frostline.fit(
        images, backbone=backbone, plan=[phase], out=folder / "run", store=folder / "cache", quiet=True
    )


def several_labels() -> ImageSet:
    """Pictures of every set of three colours, each labelled with those that are in it."""

    def part(seed: int) -> Images:
        chance = np.random.default_rng(seed)
        labels = (np.arange(32)[:, None] >> np.arange(3) & 1).astype(bool)
        pictures = chance.integers(0, 60, (32, 40, 40, 3)) + 190 * labels[:, None, None]
        return Images(pictures.astype(np.uint8), labels, [f"colours-{seed}-{i}" for i in range(32)])

    return ImageSet("colours", ("red", "green", "blue"), part(0), part(1), part(2))


def halves() -> ImageSet:
    """Dark pictures of the network's size, bright from a column on; the mask tells the two."""

    def part(seed: int) -> Images:
        chance = np.random.default_rng(seed)
        pictures, masks = [], []
        for column in chance.integers(8, SIZE - 8, 16):
            mask = np.broadcast_to(np.arange(SIZE) >= column, (SIZE, SIZE)).astype(np.uint8)
            pictures.append((chance.integers(0, 60, (SIZE, SIZE, 3)) + 190 * mask[..., None]).astype(np.uint8))
            masks.append(mask)
        numbers = np.full(256, 255, np.uint8)
        numbers[:2] = 0, 1
        return Images(pictures, Masks(masks, numbers), [f"half-{seed}-{i}" for i in range(16)])

    return ImageSet("halves", ("dark", "bright"), part(0), part(1), part(2))
