"""The best linear head on stored features, solved rather than trained.

Multinomial logistic regression with an L2 penalty on standardised features, by L-BFGS (Liu & Nocedal 1989); the
standardisation is folded into the weights, so the result is one plain linear layer. The penalty is chosen on part of
the *training* images; validation images stay untouched by it. Features stay in the store and are read block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional

from frostline.network.network import Network
from frostline.store.activations import Activations

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C as in scikit-learn, the inverse of the penalty: the strongest comes first
USUAL_C = 0.1  # where no class has two images to choose by
CHOICE_ROWS = 2_000  # the penalty is chosen on so many rows,
CHOICE_BYTES = 32_000_000  # and so many bytes, at most
FOLDS = 4
DEAD = 0.01  # of the mean deviation: less is no scale to measure a feature by
ALONE = 4_000_000  # numbers up to which one thread is the fastest, and the only one that others cannot hold up
BLOCK_BYTES = 2_000_000
OPTIONS = {"maxiter": 100, "ftol": 1e-4}  # what is left then is far below what the choice of images leaves

Blocks = Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Linear:
    """A solved head: logits = features @ weight.T + bias; weight (classes, D), bias (classes,), and its choice of C."""

    weight: Tensor
    bias: Tensor
    c: float


@dataclass(frozen=True)
class Scale:
    """What standardises features: mean and deviation, (D,) each."""

    mean: Tensor
    deviation: Tensor


def solve(features: Activations, classes: int, seed: int = 0, weight: Tensor | None = None) -> Linear:
    """The logistic regression on rows (D,) whose penalty does best on held-out folds of the same rows.

        head = solve(activations(lower, images), classes=2)
        logits = features @ head.weight.T + head.bias

    Multinomial for class numbers; of several labels per image each class for itself. weight: of each class (of its
    presence, for several labels). All views of one image are in one fold.
    """
    features = features.in_memory()
    width = features[0][0].numel()
    threads = torch.get_num_threads()
    if len(features) * width <= ALONE:
        torch.set_num_threads(1)
    try:
        return _solved(features, width, classes, seed, weight)
    finally:
        torch.set_num_threads(threads)


def _solved(features: Activations, width: int, classes: int, seed: int, weight: Tensor | None) -> Linear:
    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.flatten(1), y) for x, y in features.batches(max(1, BLOCK_BYTES // (4 * width))))

    scale = _moments(blocks)
    c, start = _choose_c(features, classes, scale, seed, weight)
    matrix, bias = _fit(blocks, scale, start, [c], weight)[0].T.split([width, 1])
    matrix = (matrix / scale.deviation[:, None]).T
    return Linear(matrix, bias[0] - matrix @ scale.mean, c)


@torch.no_grad()
def solve_head(
    network: Network, upper: nn.Module, features: Activations, seed: int = 0, weight: Tensor | None = None
) -> bool:
    """Put the solved weights into the network's head; False, and nothing changed, where `upper` is not linear.

    Whether it is, is measured: for some features `upper` must give what its weights say.
    """
    if not _is_linear(network, upper, features.fetch(torch.arange(min(8, len(features))))):
        return False
    layers = [network.model.get_submodule(path) for path in network.heads]
    weights = [layer.weight for layer in layers if isinstance(layer.weight, Tensor)]
    solved = solve(features, len(weights[0]), seed, weight)
    for layer, target in zip(layers, weights, strict=True):
        target.copy_(solved.weight.view_as(target))
        if isinstance(layer.bias, Tensor):
            layer.bias.copy_(solved.bias)
    upper.eval()
    return True


def has_linear_head(network: Network) -> bool:
    """Whether what lies above the last cut is the head alone, and linear: then it can be solved."""
    if network.trace is None:
        return False
    cut = network.find(network.stage_names()[-1])
    return _is_linear(network, network.above(cut), torch.randn(2, *cut.shape))


@torch.no_grad()
def _is_linear(network: Network, upper: nn.Module, sample: Tensor) -> bool:
    """Whether `upper` is the head alone, or the mean of several, and gives for a sample (B, …) what its weights say."""
    layers = [network.model.get_submodule(path) for path in network.heads]
    width, own = sample[0].numel(), {id(p) for layer in layers for p in layer.parameters()}
    weights = [
        layer.weight for layer in layers if isinstance(layer.weight, Tensor) and layer.weight[0].numel() == width
    ]
    if len(weights) < len(layers) or {id(p) for p in upper.parameters()} != own:
        return False
    x = sample.to(weights[0].device)
    logits = [x.flatten(1) @ weight.flatten(1).T for weight in weights]
    biases = [layer.bias for layer in layers if isinstance(layer.bias, Tensor)]
    expected = torch.stack(logits).mean(0) + (torch.stack(biases).mean(0) if biases else 0.0)
    upper.eval()
    return torch.allclose(upper(x), expected, rtol=1e-3, atol=1e-3)


def _moments(blocks: Blocks) -> Scale:
    """Mean and deviation of each feature, in one pass; features that never vary get deviation 1."""
    first = next(iter(blocks()))[0].mean(0)  # about the mean: what is squared below is small
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for x, _ in blocks():
        x = x - first
        count, total, squares = count + len(x), total + x.sum(0).double(), squares + (x * x).sum(0).double()
    mean = total / count
    deviation = (squares / count - mean**2).clamp(min=0).sqrt()
    least = DEAD * deviation.mean()  # what hardly varies here would explode where it does
    return Scale((first + mean).float(), torch.where(deviation > 1e-6, deviation.clamp(min=least), 1.0).float())


def _loss(logits: Tensor, targets: Tensor, weight: Tensor | None) -> tuple[float, Tensor]:
    """The loss of all rows in nats, summed, and its gradient by the logits (B, classes)."""
    if targets.ndim > 1:
        value = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="sum")
        p, positive = logits.sigmoid(), 1.0 if weight is None else weight
        return float(value), p * (1 - targets) - positive * (1 - p) * targets
    log_p = logits.log_softmax(1)
    rows = torch.arange(len(targets))
    residual = log_p.exp()
    residual[rows, targets] -= 1
    each = torch.ones(len(targets)) if weight is None else weight[targets]
    return -float((each * log_p[rows, targets]).sum()), residual * each[:, None]


def _fit(blocks: Blocks, scale: Scale, start: Tensor, cs: Sequence[float], class_weight: Tensor | None) -> list[Tensor]:
    """The solutions for each C, ascending: from the strongest penalty to the weakest, each started from the one before.

    Weights and bias (classes, D + 1) for standardised features. These are never made: weights are scaled instead.
    """
    solutions, shape = [], start.shape
    for c in cs:

        def objective(flat: np.ndarray, c: float = c) -> tuple[float, np.ndarray]:
            both = torch.from_numpy(flat.reshape(shape)).float()
            weight, bias = both[:, :-1], both[:, -1]
            scaled = weight / scale.deviation
            loss, gradient = 0.0, torch.zeros_like(both)
            for x, y in blocks():
                x = x - scale.mean
                value, residual = _loss(functional.linear(x, scaled, bias), y, class_weight)
                loss += value
                gradient[:, :-1] += residual.T @ x
                gradient[:, -1] += residual.sum(0)
            loss += float((weight.double() ** 2).sum()) / (2 * c)
            gradient[:, :-1] /= scale.deviation
            gradient[:, :-1] += weight / c
            return loss, gradient.double().numpy().ravel()

        # BLAS threads that wait in a spin for their next call take the processor from torch's: 20 times slower
        with threadpool_limits(1, user_api="blas"):
            flat = start.double().numpy().ravel()
            result = minimize(objective, flat, jac=True, method="L-BFGS-B", options=OPTIONS)
        start = torch.from_numpy(result.x.reshape(shape)).float()
        solutions.append(start)
    return solutions


def _choose_c(
    features: Activations, classes: int, scale: Scale, seed: int, weight: Tensor | None
) -> tuple[float, Tensor]:
    """The C with the least log-loss on held-out folds of at most CHOICE_ROWS rows, and its solution there.

    Above 1,000 rows one fold is held out, a stratified quarter: it says as much as four of 250 rows do.
    Of n times as many rows 1/√n of it is best: the penalty on the mean loss falls as 1/√rows does (Sridharan,
    Shalev-Shwartz & Srebro 2008).
    """
    chance = np.random.default_rng(seed)
    width = len(scale.mean)
    most = min(CHOICE_ROWS, CHOICE_BYTES // (4 * width)) // features.views
    images = chance.permutation(len(features.images))[: max(FOLDS, most)]
    few = features.some(images)
    rows = torch.arange(len(few))
    fold = torch.from_numpy(np.repeat(_stratified_folds(np.asarray(few.images.targets)), few.views))
    x, y = few.fetch(rows).flatten(1), few.targets(rows)
    losses, zeros = torch.zeros(len(CS)), torch.zeros(classes, width + 1)
    solutions: list[Tensor] = []
    for number in range(FOLDS if len(rows) <= 1_000 else 1):
        train, valid = fold != number, fold == number
        if not valid.any() or not train.any():
            continue
        part, labels = x[train], y[train]
        solutions = _fit(lambda p=part, t=labels: iter([(p, t)]), scale, zeros, CS, weight)  # type: ignore[misc]
        for i, both in enumerate(solutions):
            logits = (x[valid] - scale.mean) / scale.deviation @ both[:, :-1].T + both[:, -1]
            losses[i] += _loss(logits, y[valid], weight)[0]
    if not solutions:
        return USUAL_C, zeros
    best = int(losses.argmin())
    return CS[best] * math.sqrt(len(part) / len(features)), solutions[best]


def _stratified_folds(targets: np.ndarray) -> np.ndarray:
    """A fold number for each of the (shuffled) images, -1 for one that is never held out; (N,) of int64.

    The images are dealt out class by class, each class from the fold on at which the one before ended: all folds have
    the same size, and every class that is held out in one is in the others too. The single image of a class is never
    held out. (scikit-learn's StratifiedKFold refuses classes that are smaller than the number of folds.)
    Where an image has several labels the order alone decides.
    """
    if targets.ndim > 1:
        return np.arange(len(targets)) % FOLDS
    _, numbers, counts = np.unique(targets, return_inverse=True, return_counts=True)
    order = np.argsort(numbers, kind="stable")
    order = order[counts[numbers[order]] > 1]
    folds = np.full(len(targets), -1)
    folds[order] = np.arange(len(order)) % FOLDS
    return folds
