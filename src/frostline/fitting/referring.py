"""reference.safetensors: features of a fit's images, for prediction sets with a coverage and for nearest images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from frostline.checks.thumbnails import all_telling
from frostline.classifier.reference import Reference, feature_layer, noting, of_length_one, write_reference
from frostline.data.grouping import alone
from frostline.data.images import Images
from frostline.data.split import some_of_each
from frostline.files import sha256_of
from frostline.fitting.job import Job
from frostline.fitting.progress import Measured, Progress, standing
from frostline.machine import exact
from frostline.store.activations import Activations

MOST = 5_000  # maximum of training images kept, and of held-out images compared


def refer(job: Job, progress: Progress, held_out: Measured, leaks: Collection[str] = (), *, refitted: bool) -> None:
    """Write the file for the final network, if each image has one class.

    held_out: its outputs for the validation images, calibrated. leaks: names of validation images that the network has
        seen; they do not count. One image per group counts where images belong together.
    refitted: whether the final head was solved on them as well; then they are training images.
    """
    if job.images.task != "classification":
        return
    outputs, images = held_out.outputs, held_out.valid.images
    own = np.array(_one_of_each(images.names, progress.images.groups, leaks, job.options.seed), np.int64)
    if not len(own):
        return
    number = standing(progress)
    phase = job.plan[number]
    lower, upper = job.network.cut(phase.frostline, phase.freeze)
    layer = feature_layer(job.network.model, job.network.heads[0])
    train = job.placement.activations(number, lower, progress.images.train, "train")
    train = train.some(some_of_each(train.images, MOST, job.options.seed))
    features = _features(job.network.model, upper, train, layer)
    names, labels = tuple(train.images.names), tuple(train.images.labels(job.images.classes))
    sure = outputs.logits.float().softmax(1)[torch.from_numpy(own), outputs.targets[torch.from_numpy(own)]]
    weights = sha256_of(job.run.model / "model.safetensors")
    glances = _glances(train.images)
    reference = Reference(layer, features, glances, names, labels, sure, torch.empty(0), weights)
    if job.images.validation == "crossed":
        distances = reference.distances_of(features, themselves=True)
    else:
        chosen = some_of_each(images, MOST, job.options.seed)
        valid = held_out.valid.some(chosen)
        apart = _features(job.network.model, upper, valid, layer)
        distances = reference.distances_of(apart[torch.from_numpy(np.isin(chosen, own))])
        if refitted:  # the head has learned from these as well
            reference = replace(
                reference,
                features=torch.cat([features, apart]),
                glances=torch.cat([glances, _glances(valid.images)]),
                names=(*names, *valid.images.names),
                labels=(*labels, *valid.images.labels(job.images.classes)),
            )
    write_reference(job.run.path, replace(reference, distances=distances))


def _one_of_each(names: Sequence[str], groups: Mapping[str, str], leaks: Collection[str], seed: int) -> list[int]:
    """The numbers of the images that are new to the network: one per group, and no copies."""
    order = np.random.default_rng(seed).permutation(len(names)) if groups else np.arange(len(names))
    first: dict[str, int] = {}
    of = alone(names, groups)
    for number in order.tolist():
        if names[number] not in leaks:
            first.setdefault(of[number], number)
    return sorted(first.values())


def _glances(images: Images) -> Tensor:
    return torch.from_numpy(np.stack(all_telling(images.pictures)))


@torch.inference_mode()
def _features(model: nn.Module, upper: nn.Module, rows: Activations, layer: str) -> Tensor:
    """The inputs of a layer for each plain image, normalised to length 1, (N, D)."""
    device = next(upper.parameters()).device
    upper.eval()
    with noting(model, layer) as noted, exact(device):
        for numbers in torch.arange(len(rows.images)).split(128):
            upper(rows.fetch(numbers * rows.views).to(device))
    return torch.cat([of_length_one(each) for each in noted])
