"""Further outputs of a classifier: sets of classes with a guarantee, detection of unknown images, and reasons.

A set has every class that is at least as probable as the true class of nearly all held-out images (split conformal
prediction: Vovk, Gammerman & Shafer 2005; this score: Sadinle, Lei & Wasserman 2019). For new images like the held-out
ones, the sets contain the true class as often as promised, however good the network is. An image may be of no known
class if it is farther from the training images than nearly all held-out images (Sun et al., "Out-of-Distribution
Detection with Deep Nearest Neighbors", 2022). The distance uses the input features of the head.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
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
from frostline.files import sha256_of, write_tensors
from frostline.runs.run import Run

FILE = "reference.safetensors"  # in a run's folder
NEIGHBOUR = 5  # distances are to the fifth nearest training image, so that one odd image does not matter
BLOCK = 256
FALSE_ALARMS = 0.05  # share of images of a known class that are marked as of none
ROUNDED, CLOSE = 0.05, 2e-3  # differences of logits and distances between bf16 (fit) and fp32 (prediction)


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of training images, and probabilities and distances of held-out images.

    layer: the path of the layer whose inputs are the features. features: of training images, of length 1, (M, D).
    glances: thumbnails of these images, to recognise copies, (M, G) of uint8 (checks/thumbnails.py).
    names, labels: of these images. sure: the probability of the true class of each held-out image, (n,).
    distances: of each held-out image to the training images, (n,). weights: the SHA-256 of the classifier's weights.
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
        """The least probability of a class in a set, so that sets contain the true class that often (0 … 1).

        Raises UsageError if there are too few held-out images for that coverage.
        """
        n, rank = _rank(len(self.sure), coverage)
        return _a_little_less(float(self.sure.sort().values[n - rank]))

    def farthest(self) -> float:
        """The distance beyond which an image counts as of no class; 5 of 100 images of known classes are beyond it."""
        n = len(self.distances)
        rank = min(n, math.ceil((n + 1) * (1 - FALSE_ALARMS) - 1e-9))
        return float(self.distances.sort().values[rank - 1]) + CLOSE

    def distances_of(self, features: Tensor, *, themselves: bool = False) -> Tensor:
        """The distance of images (B, D) to the fifth nearest training image, 1 - cosine, (B,).

        themselves: the images are the training images; none is its own neighbour.
        """
        return 1 - self.nearest(features, NEIGHBOUR + themselves)[0][:, -1]

    def nearest(self, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The cosines of images (B, D) to the nearest training images, (B, count), the highest first; their numbers."""
        count = min(count, len(self.features))
        found = [(of_length_one(part) @ self.features.T).topk(count) for part in features.split(BLOCK)]
        return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def of_length_one(features: Tensor) -> Tensor:
    """Features (B, …) as vectors of length 1, (B, D) of float32; maps (B, C, h, w) are averaged over positions."""
    return functional.normalize((features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)).float())


def _a_little_less(p: float) -> float:
    """The probability with a slightly lower logit, to allow for the precisions of fit and prediction."""
    odds = p / max(1 - p, 1e-12) * math.exp(-ROUNDED)
    return odds / (1 + odds)


def _rank(n: int, share: float) -> tuple[int, int]:
    """n and the rank ⌈(n + 1) share⌉: of exchangeable values, a new one is at most that rank with that probability."""
    if not 0 < share < 1:
        raise UsageError(f"coverage {share:g}; give a share of the images, above 0 and below 1, such as 0.95")
    rank = math.ceil((n + 1) * share - 1e-9)
    if rank > n:
        most = math.floor(1000 * n / (n + 1)) / 1000
        raise UsageError(f"coverage {share:g} needs more than {n} held-out images; use at most {most:.3f}")
    return n, rank


@contextmanager
def noting(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Record the inputs of a layer while the model runs in this context, one entry per batch, on the CPU."""
    noted: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        noted.append(inputs[0].detach().cpu())

    hook = model.get_submodule(layer).register_forward_pre_hook(note)
    try:
        yield noted
    finally:
        hook.remove()


def latest(noted: list[Tensor], count: int) -> Tensor:
    """The noted inputs of the last `count` images; tracing may have run the network before them. Forgets all."""
    features = torch.cat(noted)[-count:]
    noted.clear()
    return features


def feature_layer(model: nn.Module, head: str) -> str:
    """The path of the last linear layer or convolution of a head: its inputs are the features."""
    inside = model.get_submodule(head)
    names = [name for name, module in inside.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return ".".join(filter(None, [head, names[-1] if names else ""]))


def explained(
    classifier: Classifier, reference: Reference, images: Images, coverage: float | None = None, why: int = 0
) -> Iterator[Prediction]:
    """Predictions with sets, whether the image may be of no known class, and the nearest training images.

    coverage: how often a set contains the true class, 0 … 1.
    why: number of nearest training images. Raises UsageError for a task other than one class per image, and for a
    coverage that the held-out images cannot guarantee.
    """
    if classifier.task != "classification":
        raise UsageError(f"sets and reasons need one class per image; this is {classifier.task}")
    if coverage is not None:
        reference.least_probable(coverage)  # refuses it before the first image

    def more(logits: Tensor) -> list[dict[str, Any]]:
        return explanations(reference, classifier.classes, logits, latest(noted, len(logits)), coverage, why)

    with noting(classifier.model, reference.layer) as noted:
        yield from classifier.predict_images(images, more)


def explanations(
    reference: Reference,
    classes: Sequence[str],
    logits: Tensor,
    features: Tensor,
    coverage: float | None = None,
    why: int = 0,
) -> list[dict[str, Any]]:
    """The fields `set`, `none` and `why` of a prediction, for each image.

    logits: calibrated, (B, classes). features: the inputs of the reference's layer for these images, (B, …).
    coverage, why: as in `explained`.
    """
    said: list[dict[str, Any]] = [{} for _ in logits]
    if coverage is not None:
        strange = reference.distances_of(features) > reference.farthest()
        inside = logits.softmax(1) >= reference.least_probable(coverage)
        for own, members, none in zip(said, inside, strange.tolist(), strict=True):
            own |= {"set": tuple(classes[i] for i in members.nonzero().flatten().tolist()), "none": none}
    if why:
        cosines, numbers = reference.nearest(features, why)
        for own, near, which in zip(said, cosines.tolist(), numbers.tolist(), strict=True):
            own["why"] = tuple((reference.names[i], reference.labels[i], c) for c, i in zip(near, which, strict=True))
    return said


def write_reference(folder: Path, reference: Reference) -> None:
    """Write the reference file of a run."""
    tensors = {name: getattr(reference, name) for name in ("glances", "sure", "distances")}
    tensors["features"] = reference.features.half()
    about = {name: getattr(reference, name) for name in ("layer", "weights", "names", "labels")}
    write_tensors(
        folder / FILE, tensors, {"reference": json.dumps(about)}
    )  # one entry, because several have no fixed order


def reference_of(folder: Path) -> Reference | None:
    """The reference of a run, or None without its file."""
    return read_reference(folder) if (folder / FILE).is_file() else None


def read_reference(folder: Path) -> Reference:
    """The reference in the folder of a run.

    Raises UsageError if there is none, WeightsError if it cannot be used or belongs to another classifier.
    """
    file = folder / FILE
    if not file.is_file():
        raise UsageError(
            f"{folder} has no {FILE}, which sets and reasons need: no images were held out, images have several "
            "labels or masks, or only model/ of the run was copied"
        )
    description = read_description(Run(folder).model)
    if description.provenance.get("reference_sha256") not in (None, sha256_of(file)):
        raise WeightsError(f"{file} differs from the file that was written (model.json has its SHA-256); copy it again")
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads(opened.metadata()["reference"])
            tensors = {name: opened.get_tensor(name) for name in ("features", "glances", "sure", "distances")}
        tensors["features"] = tensors["features"].float()
        names, labels = tuple(about["names"]), tuple(about["labels"])
        reference = Reference(about["layer"], names=names, labels=labels, weights=about["weights"], **tensors)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise WeightsError(f"{file} is corrupt: {reason(error)}; copy it again, or fit again") from error
    if not len(reference.features) == len(reference.glances) == len(names) == len(labels):
        raise WeightsError(f"{file} is corrupt: it needs one name and label per feature; copy it again")
    numbers = (reference.features, reference.sure, reference.distances)
    if [each.ndim for each in numbers] != [2, 1, 1] or not all(bool(each.isfinite().all()) for each in numbers):
        raise WeightsError(f"{file} is corrupt: it has no finite numbers; copy it again")
    if reference.weights != description.files["model.safetensors"]:
        raise WeightsError(f"{file} does not belong to the classifier in {folder / 'model'}; copy the run again")
    return reference
