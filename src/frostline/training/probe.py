"""The best linear head on stored features, solved rather than trained.

Multinomial logistic regression with an L2 penalty on standardised features, by L-BFGS (Liu & Nocedal 1989); the
standardisation is folded into the weights, so the result is one plain linear layer. The penalty is chosen on part of
the *training* images; validation images stay untouched by it. Features stay in the store and are read block by block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torch.nn import functional

from frostline.errors import UsageError
from frostline.network.network import Network
from frostline.store.activations import Activations
from frostline.training.scale import Blocks, Scale, blocks_of, scale_of

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C as in scikit-learn, the inverse of the penalty: the strongest comes first
USUAL_C = 0.1  # where no class has two images to choose by
CHOICE_ROWS = 2_000  # the penalty is chosen on so many rows,
CHOICE_BYTES = 32_000_000  # and so many bytes, at most
FOLDS = 4
CROSS_FOLDS = 5
ALONE = 4_000_000  # numbers up to which one thread is the fastest, and the only one that others cannot hold up
SOFTER = 4.0  # times, before what is below the head trains; after 2 times accuracy on digits still fell at first
OPTIONS = {"maxiter": 100, "ftol": 1e-4}  # what is left then is far below what the choice of images leaves


@dataclass(frozen=True)
class Linear:
    """A solved head: logits = features @ weight.T + bias; weight (classes, D), bias (classes,), and its choice of C."""

    weight: Tensor
    bias: Tensor
    c: float


def solve(
    features: Activations,
    classes: int,
    seed: int = 0,
    weight: Tensor | None = None,
    group: np.ndarray | None = None,
) -> Linear:
    """The logistic regression on rows (D,) whose penalty does best on held-out folds of the same rows.

        head = solve(activations(lower, images), classes=2)
        logits = features @ head.weight.T + head.bias

    Multinomial for class numbers; of several labels per image each class for itself. weight: of each class (of its
    presence, for several labels). All views of one image are in one fold, and so are all images of one group where
    images belong together: group has the number of that of each, (N,).
    """
    features = features.in_memory()
    width = features[0][0].numel()
    with _threads(len(features) * width):
        blocks = blocks_of(features, width)
        scale = scale_of(blocks)
        c, start = _choose_c(features, classes, scale, seed, weight, group)
        return _unscaled(_fit(blocks, scale, start, [c], weight)[0], scale, c)


def cross_fitted(
    features: Activations,
    classes: int,
    seed: int = 0,
    weight: Tensor | None = None,
    group: np.ndarray | None = None,
) -> Tensor:
    """What a head that is solved without an image says of it, for each image: the logits of view 0, (images, classes).

        logits = cross_fitted(activations(lower, images, Views(4)), classes=10)
        accuracy = (logits.argmax(1) == torch.from_numpy(images.targets)).float().mean()

    They measure the head of `solve` where there are too few images to hold some out. Images are dealt out to five folds
    as there, with all their views, and the images of a fold have no part in the head that answers for them: neither in
    its weights, nor in its scale, nor in its C. That is chosen anew for each fold, on the other four: each of them is
    predicted by the heads that are fitted without both. So a head without two folds serves both their choices, which
    makes ten paths in place of twenty (nested cross-validation: Stone 1974, Varma & Simon 2006).

    The single image of a class is predicted by a head that knows no such class. All rows are held in memory, (rows, D).
    seed, weight, group: as of `solve`. Raises UsageError for fewer than two images.
    """
    if len(features.images) < 2:
        raise UsageError("there are fewer than two images; a head that never saw one of them needs another one")
    x, y = next(features.batches(len(features)))
    x = x.flatten(1)
    with _threads(x.numel()):
        order = np.random.default_rng(seed).permutation(len(features.images))
        folds = np.empty(len(order), np.int64)
        targets = np.asarray(features.images.targets)[order]
        if group is None or len(np.unique(group)) < CROSS_FOLDS:  # of fewer, some fold would be empty
            folds[order] = _stratified_folds(targets, CROSS_FOLDS, singles=True)
        else:
            folds[order] = _folds_of_groups(targets, group[order], CROSS_FOLDS, singles=True)
        fold = torch.from_numpy(np.repeat(folds, features.views))
        plain = torch.arange(len(fold)) % features.views == 0
        losses = _nested_losses(x, y, fold, classes, weight)
        result = torch.empty(len(order), classes)
        for number, sums in enumerate(losses):
            train = fold != number
            c = CS[int(sums.argmin())] if bool(sums.any()) else USUAL_C
            left = (len(losses) - 2) / (len(losses) - 1)  # of the rows here, those that C was chosen with
            head = _heads(x[train], y[train], classes, [c * math.sqrt(left) if left else c], weight)[0]
            result[torch.from_numpy(folds == number)] = x[~train & plain] @ head.weight.T + head.bias
        return result


def _nested_losses(x: Tensor, y: Tensor, fold: Tensor, classes: int, weight: Tensor | None) -> Tensor:
    """The log-loss of each C on what is not in a fold, summed, by heads without that fold: (folds, len(CS))."""
    folds = int(fold.max()) + 1
    losses = torch.zeros(folds, len(CS))
    for pair in combinations(range(folds), 2):
        train = (fold != pair[0]) & (fold != pair[1])
        if not train.any():
            continue
        known = torch.isin(y, y[train]) if y.ndim == 1 else torch.ones(len(y), dtype=torch.bool)
        for i, head in enumerate(_heads(x[train], y[train], classes, CS, weight)):
            for held_out, chosen in (pair, pair[::-1]):
                shown = (fold == held_out) & known  # what a head cannot know asks for the strongest penalty
                losses[chosen, i] += _loss(x[shown] @ head.weight.T + head.bias, y[shown], weight)[0]
    return losses


@contextmanager
def _threads(numbers: int) -> Iterator[None]:
    """One thread for a small matrix."""
    threads = torch.get_num_threads()
    if numbers <= ALONE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def solve_head(
    network: Network,
    upper: nn.Module,
    features: Activations,
    seed: int = 0,
    weight: Tensor | None = None,
    group: np.ndarray | None = None,
) -> bool:
    """Put the solved weights into the network's head; False, and nothing changed, where `upper` is not linear.

    features, seed, weight, group: as in `solve`.
    Whether it is, is measured: for some features `upper` must give what its weights say.
    """
    if not _is_linear(network, upper, features.fetch(torch.arange(min(8, len(features))))):
        return False
    layers = [network.model.get_submodule(path) for path in network.heads]
    weights = [layer.weight for layer in layers if isinstance(layer.weight, Tensor)]
    solved = solve(features, len(weights[0]), seed, weight, group)
    for layer, target in zip(layers, weights, strict=True):
        target.copy_(solved.weight.view_as(target))
        if isinstance(layer.bias, Tensor):
            layer.bias.copy_(solved.bias)
    upper.eval()
    return True


@torch.no_grad()
def soften_head(network: Network, upper: nn.Module) -> None:
    """Make a solved head SOFTER times less sure before what lies below it trains: its logits are as many times smaller.

    A solved head fits its training images, so its logits are large. Smoothed labels want smaller ones, and the first
    steps would make them so by moving every weight of the network at once, whatever the images show: within eight steps
    of AdamW below a learning rate of 0.0001 the accuracy on digits fell by six points. Here it happens in one step that
    changes no label. A head that is frozen stays, and so does one where nothing else of `upper` trains.
    """
    layers = [network.model.get_submodule(path) for path in network.heads]
    parameters = {id(p): p for layer in layers for p in layer.parameters()}.values()
    trained = sum(parameter.requires_grad for parameter in upper.parameters())
    if all(parameter.requires_grad for parameter in parameters) and trained > len(parameters):
        for parameter in parameters:
            parameter.div_(SOFTER)


def has_linear_head(network: Network) -> bool:
    """Whether what lies above the last cut is the head alone, and linear: then it can be solved."""
    if network.trace is None:
        return False
    cut, chance = network.find(network.stage_names()[-1]), torch.Generator().manual_seed(0)
    return _is_linear(network, network.above(cut), torch.randn(2, *cut.shape, generator=chance))


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
        with _libraries().limit(limits=1, user_api="blas"):
            flat = start.double().numpy().ravel()
            result = minimize(objective, flat, jac=True, method="L-BFGS-B", options=OPTIONS)
        start = torch.from_numpy(result.x.reshape(shape)).float()
        solutions.append(start)
    return solutions


@functools.cache
def _libraries() -> ThreadpoolController:
    """Those of this process that have threads of their own; to look for them takes as long as a small solution."""
    return ThreadpoolController()


def _heads(x: Tensor, y: Tensor, classes: int, cs: Sequence[float], class_weight: Tensor | None) -> list[Linear]:
    """The solution for each C, ascending, of rows (N, D) that fit into memory.

    Rows that are fewer than features are turned into their own span first: the solution lies in it, and the penalty is
    the same there, so there are only fewer numbers to multiply.
    """
    scale = scale_of(lambda: iter([(x, y)]))
    z, span = (x - scale.mean) / scale.deviation, None
    if len(x) < x.shape[1]:
        span = torch.linalg.qr(z.T)[0]
        z = z @ span
    width = z.shape[1]
    plain = Scale(torch.zeros(width), torch.ones(width))
    solutions = _fit(lambda: iter([(z, y)]), plain, torch.zeros(classes, width + 1), cs, class_weight)
    if span is not None:
        solutions = [torch.cat([both[:, :-1] @ span.T, both[:, -1:]], 1) for both in solutions]
    return [_unscaled(both, scale, c) for both, c in zip(solutions, cs, strict=True)]


def _unscaled(both: Tensor, scale: Scale, c: float) -> Linear:
    """The head for features as they are, of weights and bias (classes, D + 1) for standardised ones."""
    matrix = both[:, :-1] / scale.deviation
    return Linear(matrix, both[:, -1] - matrix @ scale.mean, c)


def _choose_c(
    features: Activations, classes: int, scale: Scale, seed: int, weight: Tensor | None, group: np.ndarray | None
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
    targets = np.asarray(few.images.targets)
    folds = _stratified_folds(targets) if group is None else _folds_of_groups(targets, group[images])
    fold = torch.from_numpy(np.repeat(folds, few.views))
    x, y = few.fetch(rows).flatten(1), few.targets(rows)
    losses, heads = torch.zeros(len(CS)), list[Linear]()
    for number in range(FOLDS if len(rows) <= 1_000 else 1):
        train, valid = fold != number, fold == number
        if y.ndim == 1:  # of whole groups, one may be the only one of a class
            valid &= torch.isin(y, y[train])
        if not valid.any() or not train.any():
            continue
        heads = _heads(x[train], y[train], classes, CS, weight)
        for i, head in enumerate(heads):
            losses[i] += _loss(x[valid] @ head.weight.T + head.bias, y[valid], weight)[0]
        share = int(train.sum()) / len(features)
    if not heads:
        return USUAL_C, torch.zeros(classes, width + 1)
    best = heads[int(losses.argmin())]
    start = torch.cat([best.weight * scale.deviation, (best.bias + best.weight @ scale.mean)[:, None]], 1)
    return best.c * math.sqrt(share), start


def _folds_of_groups(
    targets: np.ndarray, group: np.ndarray, count: int = FOLDS, *, singles: bool = False
) -> np.ndarray:
    """The same where whole groups are dealt out, each with the class of most of its images; (N,) of int64."""
    _, number = np.unique(group, return_inverse=True)
    if targets.ndim > 1:
        return _stratified_folds(np.zeros((int(number.max()) + 1, 1)), count)[number]
    _, label = np.unique(targets, return_inverse=True)
    counts = np.zeros((int(number.max()) + 1, int(label.max()) + 1), np.int64)
    np.add.at(counts, (number, label), 1)
    return _stratified_folds(counts.argmax(1), count, singles=singles)[number]


def _stratified_folds(targets: np.ndarray, count: int = FOLDS, *, singles: bool = False) -> np.ndarray:
    """A fold number for each of the (shuffled) images, -1 for one that is never held out; (N,) of int64.

    The images are dealt out class by class, each class from the fold on at which the one before ended: all folds have
    the same size, and every class that is held out in one is in the others too. The single image of a class is never
    held out, but with `singles`. (scikit-learn's StratifiedKFold refuses classes that are smaller than the number of
    folds.) Where an image has several labels the order alone decides.
    """
    if targets.ndim > 1:
        return np.arange(len(targets)) % count
    _, numbers, counts = np.unique(targets, return_inverse=True, return_counts=True)
    order = np.argsort(numbers, kind="stable")
    if not singles:
        order = order[counts[numbers[order]] > 1]
    folds = np.full(len(targets), -1)
    folds[order] = np.arange(len(order)) % count
    return folds
