"""What a classifier says beside a label: sets of classes with a promise, whether it knows such images, and its reasons.

A set holds every class that is as probable as the true one is for nearly all held-out images (split conformal
prediction: Vovk, Gammerman & Shafer 2005; this score: Sadinle, Lei & Wasserman 2019). Whatever the network is worth,
such sets hold the true class of new images like the held-out ones as often as promised. An image is of none of the
classes where it lies farther from the training images than nearly all held-out images do (Sun et al., "Out-of-
Distribution Detection with Deep Nearest Neighbors", 2022), by the features that the head works on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from frostline.classifier.classifier import Classifier, Prediction
from frostline.classifier.description import read_description
from frostline.data.images import Images
from frostline.errors import UsageError, WeightsError, reason
from frostline.files import write_tensors

FILE = "reference.safetensors"  # in a run's folder
NEIGHBOUR = 5  # the distance is that to the fifth nearest training image: one odd image among them does not count
BLOCK = 256
FALSE_ALARMS = 0.05  # of the images that are of a class, those that are called ones of none
ROUNDED, CLOSE = 0.05, 2e-3  # a fit measures in bf16 where prediction is in fp32: what logits and distances differ by


@dataclass(frozen=True, eq=False)
class Reference:
    """Training images and held-out images as a classifier sees them.

    layer: the path of the one whose inputs are the features. features: of training images, of length 1, (M, D).
    glances: of these images, what tells them when they are saved again, (M, G) of uint8 (checks/thumbnails.py).
    names, labels: of these images. sure: of each held-out image how probable its true class was, (n,).
    distances: of each held-out image that to the training images, (n,). weights: the SHA-256 of the classifier's.
    """

    layer: str
    features: Tensor
    glances: Tensor
    names: tuple[str, ...]
    labels: tuple[str, ...]
    sure: Tensor
    distances: Tensor
    weights: str

    def least_probable(self, coverage: float) -> float:
        """The probability from which a class belongs to a set that holds the true one so often (0 … 1).

        Raises UsageError for a coverage that the held-out images are too few for.
        """
        n, rank = _rank(len(self.sure), coverage)
        return _a_little_less(float(self.sure.sort().values[n - rank]))

    def farthest(self) -> float:
        """The distance beyond which an image is of none of the classes: 5 of 100 images that are of one lie there."""
        n = len(self.distances)
        rank = min(n, math.ceil((n + 1) * (1 - FALSE_ALARMS) - 1e-9))
        return float(self.distances.sort().values[rank - 1]) + CLOSE

    def distances_of(self, features: Tensor, *, themselves: bool = False) -> Tensor:
        """Of images (B, D) the distance to the fifth nearest training image, 1 - cosine, (B,).

        themselves: the images are the training images, and none is its own neighbour.
        """
        return 1 - self.nearest(features, NEIGHBOUR + themselves)[0][:, -1]

    def nearest(self, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Of images (B, D) the cosines to the nearest training images, (B, count), the highest first; their numbers."""
        count = min(count, len(self.features))
        found = [(of_length_one(part) @ self.features.T).topk(count) for part in features.split(BLOCK)]
        return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def of_length_one(features: Tensor) -> Tensor:
    """Features (B, …) as vectors of length 1, (B, D) of float32; of maps (B, C, h, w) the mean over places."""
    return functional.normalize((features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)).float())


def _a_little_less(p: float) -> float:
    """A probability whose logit is lower by what the precisions of fit and prediction may differ."""
    odds = p / max(1 - p, 1e-12) * math.exp(-ROUNDED)
    return odds / (1 + odds)


def _rank(n: int, share: float) -> tuple[int, int]:
    """Of n values and one new one, all alike, a share does not exceed the one of rank ⌈(n + 1) share⌉."""
    if not 0 < share < 1:
        raise UsageError(f"coverage {share:g}; give a share of the images, above 0 and below 1, such as 0.95")
    rank = math.ceil((n + 1) * share - 1e-9)
    if rank > n:
        most = math.floor(1000 * n / (n + 1)) / 1000
        raise UsageError(f"coverage {share:g} cannot be promised by {n} held-out images; the most is {most:.3f}")
    return n, rank


@contextmanager
def noting(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """What goes into a layer while a model runs inside, one entry for each batch, on the CPU."""
    noted: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        noted.append(inputs[0].detach().cpu())

    hook = model.get_submodule(layer).register_forward_pre_hook(note)
    try:
        yield noted
    finally:
        hook.remove()


def feature_layer(model: nn.Module, head: str) -> str:
    """The path of the last linear layer or convolution of a head: its inputs are the features."""
    inside = model.get_submodule(head)
    names = [name for name, module in inside.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return ".".join(filter(None, [head, names[-1] if names else ""]))


def explained(
    classifier: Classifier, reference: Reference, images: Images, coverage: float | None = None, why: int = 0
) -> Iterator[Prediction]:
    """Predictions with their sets, whether the image is of none of the classes, and the nearest training images.

    coverage: how often a set is to hold the true class, 0 … 1.
    why: how many training images are named. Raises UsageError for another task than one class for each image, and a
    coverage that cannot be promised.
    """
    if classifier.task != "classification":
        raise UsageError(f"sets and reasons are told where each image has one class; this is {classifier.task}")
    least = reference.least_probable(coverage) if coverage is not None else 0.0
    farthest = reference.farthest() if coverage is not None else 0.0

    def more(logits: Tensor) -> list[dict[str, Any]]:
        features = torch.cat(noted)[-len(logits) :]  # before the first batch the network may have run to be followed
        noted.clear()
        said: list[dict[str, Any]] = [{} for _ in logits]
        if coverage is not None:
            strange = reference.distances_of(features) > farthest
            inside = logits.softmax(1) >= least
            for own, classes, none in zip(said, inside, strange.tolist(), strict=True):
                own |= {"set": tuple(classifier.classes[i] for i in classes.nonzero().flatten().tolist()), "none": none}
        if why:
            cosines, numbers = reference.nearest(features, why)
            for own, near, which in zip(said, cosines.tolist(), numbers.tolist(), strict=True):
                own["why"] = tuple(
                    (reference.names[i], reference.labels[i], c) for c, i in zip(near, which, strict=True)
                )
        return said

    with noting(classifier.model, reference.layer) as noted:
        yield from classifier.predict_images(images, more)


def write_reference(folder: Path, reference: Reference) -> None:
    """Write the file of a run."""
    tensors = {name: getattr(reference, name) for name in ("glances", "sure", "distances")}
    tensors["features"] = reference.features.half()
    about = {name: getattr(reference, name) for name in ("layer", "weights", "names", "labels")}
    write_tensors(folder / FILE, tensors, {"reference": json.dumps(about)})  # one: several come in any order


def reference_of(folder: Path) -> Reference | None:
    """The same of a run that may have none."""
    return read_reference(folder) if (folder / FILE).is_file() else None


def read_reference(folder: Path) -> Reference:
    """The file of a run, by its folder.

    Raises UsageError where there is none, WeightsError where it cannot be used, or is of another classifier.
    """
    file = folder / FILE
    if not file.is_file():
        raise UsageError(
            f"{folder} has no {FILE}: no images were held out, or images have several labels or masks; sets and "
            "reasons need it"
        )
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads(opened.metadata()["reference"])
            tensors = {name: opened.get_tensor(name) for name in ("features", "glances", "sure", "distances")}
        tensors["features"] = tensors["features"].float()
        names, labels = tuple(about["names"]), tuple(about["labels"])
        reference = Reference(about["layer"], names=names, labels=labels, weights=about["weights"], **tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(f"{file} is corrupt: {reason(error)}; copy it again, or fit again") from error
    if not len(reference.features) == len(reference.glances) == len(names) == len(labels):
        raise WeightsError(f"{file} is corrupt: it has not one name and label for each feature; copy it again")
    if reference.weights != read_description(folder / "model").files["model.safetensors"]:
        raise WeightsError(f"{file} is of another classifier than the one in {folder / 'model'}; copy the run again")
    return reference
