"""A head from sums: of any number of images it needs as many numbers as one thousand of them have.

The ridge regression of class indicators on features depends on the images only through their number, the mean and
scatter of their features, and the sums of features and images per class. These add up over parts, machines and sites,
so a head for all of them is solved where no image and no row of features is.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from frostline.data.masks import Masks
from frostline.data.views import PLAIN
from frostline.engines.choice import alone
from frostline.errors import UsageError, WeightsError, reason, several
from frostline.files import tensor_bytes, write_tensors
from frostline.machine import Machine
from frostline.network.fingerprint import unchanged
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.network.tracing import Cut
from frostline.store.activations import Activations
from frostline.store.rows import Rows
from frostline.training.moments import NARROW, Moments, moments_of, one_blas_thread
from frostline.training.numbers import refuse_features
from frostline.training.ridge import PENALTIES
from frostline.training.scale import Linear, at_least_usual

PIECE, CHUNK = 4_000_000, 32_000_000  # bytes of rows per read, large enough for a disk, and per thread's turn
TENSORS = ("mean", "scatter", "products", "counts")
OTHER_FEATURES = "sum with the same weights, preprocessing, frostline and precision"
Eigen = tuple[Tensor, Tensor, Tensor]  # eigenvalues (D,), eigenvectors (D, D), products in them (D, classes)


@dataclass(frozen=True, eq=False, repr=False)
class Sums:
    """What a ridge head needs of some images; sums of the same features and classes add up with `+` and `sum`.

        head = sum([first, second, third]).solve()
        logits = features @ head.weight.T + head.bias

    key: of the features: weights, preprocessing, frostline and precision. classes: names, in the order of the logits.
    images: their number. rows: mean, scatter matrix and products with the targets of their features (D,), of float64.

    Nothing tells which images were summed: a site that is added twice counts twice.

    They are no secret keeper: the sums of a few images give away their features, and those of one image are them.
    """

    key: str
    classes: tuple[str, ...]
    images: int
    rows: Moments

    def __repr__(self) -> str:
        return f"Sums({self.images} images, {len(self.classes)} classes, {len(self.rows.mean)} features)"

    def __add__(self, other: Sums) -> Sums:
        """The sums of all images of both, with the order of classes of the first.

        Raises WeightsError if the features or the names of the classes differ.
        """
        if not isinstance(other, Sums):
            return NotImplemented
        if self.key != other.key:
            raise WeightsError(f"the sums are of different features ({self.key} and {other.key}); {OTHER_FEATURES}")
        if set(self.classes) != set(other.classes):
            differ = several(sorted(set(self.classes) ^ set(other.classes)))
            raise WeightsError(f"the sums are of different classes: {differ} are in one only; sum with the same names")
        order = [other.classes.index(name) for name in self.classes]
        theirs = other.rows
        rows = Moments(theirs.total, theirs.mean, theirs.scatter, theirs.products[order], theirs.counts[order])
        return Sums(self.key, self.classes, self.images + other.images, self.rows + rows)

    def __radd__(self, other: int) -> Sums:
        """`sum` starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def solve(self, penalty: float | None = None) -> Linear:
        """The ridge head: `weight` (classes, D) and `bias` (classes,), of float64, for features as they are; `c`.

            head = sums.solve()
            predicted = (features @ head.weight.float().T + head.bias.float()).argmax(1)

        It minimises mean squared error + penalty × |weight of standardised features|²; the bias has no penalty.
        Its outputs estimate 1 for the class of an image and 0 for the others: they are no logits, but
        `solve_head` makes such. `c` is 1 / penalty.
        penalty: above 0; None for the one with the lowest generalised cross-validation error, which the sums give
        (Golub, Heath & Wahba, "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter", 1979).
        The views of an image count as one, as if they were copies.

        Raises UsageError for a penalty that is not above 0 and finite.
        """
        if penalty is not None and not 0 < penalty < float("inf"):
            raise UsageError(f"the penalty is {penalty}; it must be above 0 and finite")
        rows = self.rows
        deviation = at_least_usual((rows.scatter.diagonal() / rows.total).sqrt())
        eigenvalues, vectors = torch.linalg.eigh(rows.scatter / deviation.outer(deviation))
        eigenvalues, products = eigenvalues.clamp(min=0), vectors.T @ (rows.products / deviation).T
        if penalty is None:
            errors = [self._error(each, eigenvalues, products) for each in PENALTIES]
            penalty = PENALTIES[errors.index(min(errors))]
        coefficients = products / (eigenvalues + rows.total * penalty)[:, None]
        weight = (vectors @ coefficients).T / deviation
        return Linear(weight, rows.counts / rows.total - weight @ rows.mean, 1 / penalty)

    def _error(self, penalty: float, eigenvalues: Tensor, products: Tensor) -> float:
        """The generalised cross-validation error of a penalty; infinite if as many weights are free as images."""
        total = self.rows.total
        shrunk = 1 / (eigenvalues + total * penalty)
        free = 1 - (1 + float((eigenvalues * shrunk).sum())) / self.images
        explained = (products.square() * (2 * shrunk - eigenvalues * shrunk.square())[:, None]).sum()
        around = (self.rows.counts - self.rows.counts.square() / total).sum()  # squares of 0 and 1 are they themselves
        return float(around - explained) / free**2 if free > 0 else float("inf")

    def sample(self) -> Tensor:
        """Eight random rows (8, D) of float32 with the mean and deviation of the features."""
        chance, rows = torch.Generator().manual_seed(0), self.rows
        noise = torch.randn(8, len(rows.mean), generator=chance, dtype=torch.float64)
        return (rows.mean + noise * (rows.scatter.diagonal() / rows.total).sqrt()).float()

    def save(self, file: str | Path) -> None:
        """Write them as a safetensors file, whole or not at all; an existing file is replaced.

        Raises MachineError if it cannot be written.
        """
        about = json.dumps({"key": self.key, "classes": self.classes, "images": self.images, "total": self.rows.total})
        tensors = {name: getattr(self.rows, name) for name in TENSORS}
        write_tensors(Path(file), tensors, {"sums": about, "digest": _digest(about, tensors)})


def sums(features: Activations, classes: Sequence[str]) -> Sums:
    """Sum what a head needs of some images, in one pass over their activations.

        lower, upper = network.cut("head")
        site = frostline.sums(frostline.activations(lower, data.train), data.classes)
        site.save("site.safetensors")

    features: rows (D,), or maps that are used flat. They are read block by block and summed in float64.
    classes: the names of all classes, with those that none of these images has; targets are their numbers.

    Raises UsageError for no images, masks, more targets than names, repeated names, and features that no key
    identifies, such as those of your own layers; DivergedError, which names images, for features that are not finite.
    """
    if not isinstance(features, Activations):
        raise UsageError("sums are taken of activations: frostline.activations(lower, images)")
    _check(features, classes)
    width = features.fetch(torch.arange(1)).numel()
    rows = _summed(features, width, len(classes))
    if not bool(rows.scatter.diagonal().isfinite().all()):
        refuse_features(features)
    return Sums(features.key, tuple(classes), len(features.images), rows)


def _summed(features: Activations, width: int, classes: int) -> Moments:
    """The sums of all rows; the number of threads makes no difference to the last bit."""
    size = max(1, PIECE // (4 * width))
    if width > NARROW or features.filled.kept not in ("stored", "memory"):  # or a network is in use
        batches = features.ahead(features.in_order(size))
        return moments_of(((x.flatten(1), y, None) for _, x, y in batches), width, classes)
    chunk = size * max(1, CHUNK // PIECE)

    def part(start: int) -> Moments:
        rows = torch.arange(start, min(start + chunk, len(features)))  # those of all chunks would take 80 MB
        pieces = ((features.fetch(each), features.targets(each)) for each in rows.split(size))
        return moments_of(((x.flatten(1), y, None) for x, y in pieces), width, classes)

    threads = 1 + torch.get_num_threads()  # one more, because some wait for the disk
    with one_blas_thread(), ThreadPoolExecutor(threads, initializer=alone) as pool:
        return functools.reduce(operator.add, pool.map(part, range(0, len(features), chunk)))


def load_sums(file: str | Path) -> Sums:
    """The sums that `Sums.save` wrote. No code in the file is ever run.

        total = frostline.load_sums("first.safetensors") + frostline.load_sums("second.safetensors")

    Raises WeightsError if the file is missing, damaged, or holds something else.
    """
    try:
        with safe_open(file, "pt") as opened:
            written = opened.metadata() or {}
            if not {"sums", "digest"} <= written.keys():
                raise WeightsError(f"{file} holds no sums; give a file that Sums.save wrote")
            about, digest = written["sums"], written["digest"]
            tensors = {name: opened.get_tensor(name) for name in TENSORS}
        said = json.loads(about)
        key, classes, images, total = said["key"], tuple(said["classes"]), int(said["images"]), float(said["total"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise WeightsError(f"{file} holds no sums that can be read: {reason(error)}; copy or sum again") from error
    width = len(tensors["mean"])
    shapes = {"mean": (width,), "scatter": (width, width), "products": (len(classes), width), "counts": (len(classes),)}
    if digest != _digest(about, tensors) or any(tuple(tensors[name].shape) != shapes[name] for name in TENSORS):
        raise WeightsError(f"{file} is damaged: its content is not what was saved; copy or sum again")
    return Sums(key, classes, images, Moments(total, **tensors))


def logit_head(found: Sums) -> Linear:
    """The ridge head with logits in place of estimates of 0 and 1; it predicts the same classes.

    To first order a log-probability changes by 1 / p times as much as its probability p, around p = 1 / classes, and
    log-odds by 1 / (p (1 - p)), around p = 1/2 where every label stands for itself. So the scale of logits fits any
    number of classes, and a temperature has little left to correct.
    """
    head, rows = found.solve(), found.rows
    slope = len(found.classes) if float(rows.counts.sum()) == rows.total else 4  # one label per image, or several
    return Linear(slope * head.weight, slope * (head.bias - 0.5), head.c)


def refuse_other_features(found: Sums, network: Network, upper: nn.Module) -> None:
    """Refuse sums of anything but what the network computes below `upper`, in fp32 or bf16.

    A head for other features would predict nonsense, and nothing else shows it. Raises WeightsError.
    """
    cut = _cut_below(network, upper)
    lower = network.below(cut) if cut else None
    with unchanged():  # both keys need the weights, which are read once
        machines = [Machine(torch.device("cpu"), precision, workers=1) for precision in ("fp32", "bf16")]
        keys = [Rows(lower, PLAIN, machine).key() for machine in machines] if lower else []
    if found.key not in keys:
        raise WeightsError(
            "the sums are of other features than this network computes below its head; sum with the same weights, "
            "preprocessing and frostline, or give the network that they were summed with"
        )


def _cut_below(network: Network, upper: nn.Module) -> Cut | None:
    """The cut of the network that `upper` begins at; None if it is no part of one."""
    size = len(upper.graphs[False].nodes) if isinstance(upper, Part) and upper.graphs else 0
    cuts = network.trace.cuts if network.trace else ()
    return next((cut for cut in reversed(cuts) if len(network.above(cut).graphs[False].nodes) == size), None)


def _check(features: Activations, classes: Sequence[str]) -> None:
    if not len(features):
        raise UsageError("summing needs at least one image; there are none")
    if not features.key:
        own = "made by a layer or an augmentation of your own, or by hand"
        raise UsageError(f"no key identifies these features ({own}), so their sums would add up with any; use others")
    if len(set(classes)) != len(classes):
        raise UsageError("some class names are there twice; give each of them once")
    targets = features.images.targets
    if isinstance(targets, Masks):
        raise UsageError("a head for masks cannot be solved; give images with class numbers or several labels")
    most = targets.shape[1] if targets.ndim == 2 else 1 + int(targets.max())
    if most > len(classes) or (targets.ndim == 2 and most != len(classes)):
        raise UsageError(f"the targets have {most} classes, but there are {len(classes)} names; give one for each")


def _digest(about: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for name in TENSORS:
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()
