"""The best linear head on stored features, solved instead of trained.

Multinomial logistic regression with an L2 penalty on standardised features, by L-BFGS (Liu & Nocedal 1989); the
standardisation is folded into the weights, so the result is one plain linear layer. The penalty is chosen on part of
the *training* images, never on validation images. Features stay in the store and are read block by block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from frostline.errors import DivergedError, UsageError
from frostline.network.network import Network
from frostline.store.activations import Activations
from frostline.training.logistic import loss_and_gradient, loss_and_residual
from frostline.training.moments import one_blas_thread
from frostline.training.numbers import CHECK_WEIGHTS, refuse_activations, refuse_features
from frostline.training.scale import Linear, Scale, Total, blocks_of, scale_of, total_of
from frostline.training.summing import are_many, summing
from frostline.training.sums import Sums, logit_head, refuse_other_features
from frostline.training.whitening import WIDEST, Whitening, whitening_of

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C as in scikit-learn, the inverse of the penalty: strongest penalty first
USUAL_C = 0.1  # if no class has two images to choose by
CHOICE_ROWS = 2_000  # maximum of rows to choose the penalty on,
CHOICE_BYTES = 32_000_000  # and of bytes
FOLDS = 4
CROSS_FOLDS = 5
ALONE = 4_000_000  # numbers up to which one thread is fastest, and never waits for others
SOFTER = 4.0  # divides the logits before layers below the head train; at 2, accuracy on digits still fell at first
OPTIONS = {"maxiter": 100, "ftol": 1e-4}  # the remaining error is far below the sampling error of the images
FEW_STEPS = 10  # of L-BFGS then, with whitening; the log-loss on new images hardly changes after 5


def solve(
    features: Activations,
    classes: int,
    seed: int = 0,
    weight: Tensor | None = None,
    group: np.ndarray | None = None,
) -> Linear:
    """The logistic regression on rows (D,), with the penalty that does best on held-out folds of the same rows.

        head = solve(activations(lower, images), classes=2)
        logits = features @ head.weight.T + head.bias

    More rows than memory is spent on are read about fifteen times: the remaining error is far below the sampling error
    of so many. Where processes have joined, each reads its own of them.

    Multinomial for class numbers; one regression per class for several labels per image. weight: per class (of its
    presence, for several labels). All views of an image are in one fold, and so are all images of a group.
    group: the group number of each image, (N,), if images belong together.

    Raises DivergedError, which names images, if activations are not finite.
    """
    features = features.in_memory()
    width = features[0][0].numel()
    with _threads(len(features) * width), summing(features, width, classes) as total:
        scale = scale_of(blocks_of(features, width), total)
        if not bool(scale.deviation.isfinite().all()):  # no deviation is a number where a mean is none
            refuse_features(features)
        c, start = _choose_c(features, classes, scale, seed, weight, group)
        few_passes = are_many(features, width) and width <= WIDEST
        whitening = whitening_of(features, scale, c, seed) if few_passes else None
        head = _unscaled(_fit(total, scale, start, [c], weight, whitening)[0], scale, c)
    if not bool(head.weight.isfinite().all() and head.bias.isfinite().all()):
        raise DivergedError(f"the activations give no head of finite weights; {CHECK_WEIGHTS}")
    return head


def cross_fitted(
    features: Activations,
    classes: int,
    seed: int = 0,
    weight: Tensor | None = None,
    group: np.ndarray | None = None,
) -> Tensor:
    """Cross-validated logits of view 0 of each image, by a head that was solved without it: (images, classes).

        logits = cross_fitted(activations(lower, images, Views(4)), classes=10)
        accuracy = (logits.argmax(1) == torch.from_numpy(images.targets)).float().mean()

    They measure the head of `solve` when images are too few to hold some out. Images are split into five folds
    as there, with all their views. The images of a fold have no influence on the head that predicts them: neither on
    its weights, nor on its scale, nor on its C. C is chosen anew for each fold, on the other four: each of these is
    predicted by heads fitted without both folds. A head without two folds serves both choices, which
    makes ten paths instead of twenty (nested cross-validation: Stone 1974, Varma & Simon 2006).

    The only image of a class is predicted by a head that does not know its class. All rows are in memory, (rows, D).
    seed, weight, group: as in `solve`. Raises UsageError for fewer than two images.
    """
    if len(features.images) < 2:
        raise UsageError("cross-fitting needs at least two images: each is predicted by a head solved on the others")
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
            left = (len(losses) - 2) / (len(losses) - 1)  # the share of these rows that C was chosen with
            head = _heads(x[train], y[train], classes, [c * math.sqrt(left) if left else c], weight)[0]
            result[torch.from_numpy(folds == number)] = x[~train & plain] @ head.weight.T + head.bias
        return result


def _nested_losses(x: Tensor, y: Tensor, fold: Tensor, classes: int, weight: Tensor | None) -> Tensor:
    """The summed log-loss of each C on the images outside a fold, by heads without that fold: (folds, len(CS))."""
    folds = int(fold.max()) + 1
    losses = torch.zeros(folds, len(CS))
    for pair in combinations(range(folds), 2):
        train = (fold != pair[0]) & (fold != pair[1])
        if not train.any():
            continue
        known = torch.isin(y, y[train]) if y.ndim == 1 else torch.ones(len(y), dtype=torch.bool)
        for i, head in enumerate(_heads(x[train], y[train], classes, CS, weight)):
            for held_out, chosen in (pair, pair[::-1]):
                shown = (fold == held_out) & known  # unknown classes would favour the strongest penalty
                losses[chosen, i] += loss_and_residual(x[shown] @ head.weight.T + head.bias, y[shown], weight)[0]
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
    features: Activations | Sums,
    seed: int = 0,
    weight: Tensor | None = None,
    group: np.ndarray | None = None,
) -> bool:
    """Put the solved weights into the network's head; returns False and changes nothing if `upper` is not linear.

    features, seed, weight, group: as in `solve`. Sums give a ridge regression, for which there are no others.
        Its logits are log-probabilities to first order only: `save_run` with `data` fits their temperature.
    Linearity is measured: for some features `upper` must give the product with its weights.
    Raises UsageError for sums of other classes than the head has, WeightsError for those of other features than the
    network computes below `upper`.
    """
    layers = [network.model.get_submodule(path) for path in network.heads]
    weights = [layer.weight for layer in layers if isinstance(layer.weight, Tensor)]
    if isinstance(features, Sums):
        refuse_other_features(features, network, upper)
        sample = features.sample()
    else:
        rows = torch.arange(min(8, len(features)))
        sample = features.fetch(rows)
        refuse_activations(features, rows, sample)
    if not _is_linear(network, upper, sample):
        return False
    classes = len(weights[0])
    if not isinstance(features, Sums):
        solved = solve(features, classes, seed, weight, group)
    elif weight is not None or len(features.classes) != classes:
        given = "class weights" if weight is not None else f"{len(features.classes)} classes for a head of {classes}"
        raise UsageError(f"the sums were given with {given}; give none, and a network of as many classes")
    else:
        solved = logit_head(features)
    for layer, target in zip(layers, weights, strict=True):
        target.copy_(solved.weight.view_as(target))
        if isinstance(layer.bias, Tensor):
            layer.bias.copy_(solved.bias)
    upper.eval()
    return True


@torch.no_grad()
def soften_head(network: Network, upper: nn.Module) -> None:
    """Divide a solved head's logits by SOFTER, so that it is less sure, before layers below it train.

    A solved head fits its training images, so its logits are large. Smoothed labels need smaller ones, and the first
    steps would shrink them by moving every weight of the network at once, whatever the images show: within eight steps
    of AdamW below a learning rate of 0.0001 the accuracy on digits fell by six points. This single step
    changes no prediction. A frozen head stays unchanged, and so does one where nothing else of `upper` trains.
    """
    layers = [network.model.get_submodule(path) for path in network.heads]
    parameters = {id(p): p for layer in layers for p in layer.parameters()}.values()
    trained = sum(parameter.requires_grad for parameter in upper.parameters())
    if all(parameter.requires_grad for parameter in parameters) and trained > len(parameters):
        for parameter in parameters:
            parameter.div_(SOFTER)


def has_linear_head(network: Network) -> bool:
    """Whether only a linear head lies above the last cut, so that it can be solved."""
    if network.trace is None:
        return False
    cut, chance = network.find(network.stage_names()[-1]), torch.Generator().manual_seed(0)
    return _is_linear(network, network.above(cut), torch.randn(2, *cut.shape, generator=chance))


@torch.no_grad()
def _is_linear(network: Network, upper: nn.Module, sample: Tensor) -> bool:
    """Whether `upper` is only the head, or the mean of several, and linear in a sample (B, …) with its weights."""
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


def _fit(
    total: Total,
    scale: Scale,
    start: Tensor,
    cs: Sequence[float],
    class_weight: Tensor | None,
    whitening: Whitening | None = None,
) -> list[Tensor]:
    """The solution for each C, ascending: from the strongest penalty to the weakest, each started from the one before.

    Weights and bias (classes, D + 1) for standardised features. The features stay unscaled; the weights are scaled.
    whitening: of the weights, with which few passes are enough.
    """
    solutions, shape = [], start.shape
    options = OPTIONS if whitening is None else {**OPTIONS, "maxiter": FEW_STEPS}
    for c in cs:

        def objective(flat: np.ndarray, c: float = c) -> tuple[float, np.ndarray]:
            given = torch.from_numpy(flat.reshape(shape))
            both = (given if whitening is None else whitening.weights(given)).float()
            weight, bias = both[:, :-1], both[:, -1].clone()  # a view would be sent with all of its memory
            sums = total(loss_and_gradient, scale.mean, weight / scale.deviation, bias, class_weight)
            loss = float(sums[0]) + float((weight.double() ** 2).sum()) / (2 * c)
            gradient = sums[1:].view(shape).float()
            gradient[:, :-1] /= scale.deviation
            gradient[:, :-1] += weight / c
            turned = gradient.double() if whitening is None else whitening.gradient(gradient)
            return loss, turned.numpy().ravel()

        with one_blas_thread():
            first = start.double() if whitening is None else whitening.whitened(start)
            result = minimize(objective, first.numpy().ravel(), jac=True, method="L-BFGS-B", options=options)
        found = torch.from_numpy(result.x.reshape(shape))
        start = (found if whitening is None else whitening.weights(found)).float()
        solutions.append(start)
    return solutions


def _heads(x: Tensor, y: Tensor, classes: int, cs: Sequence[float], class_weight: Tensor | None) -> list[Linear]:
    """The solution for each C, ascending, for rows (N, D) in memory.

    If rows are fewer than features, they are first rotated into their own span: the solution lies in it, and the
    penalty is the same there, so fewer numbers are multiplied.
    """
    scale = scale_of(lambda: iter([(x, y)]))
    z, span = (x - scale.mean) / scale.deviation, None
    if len(x) < x.shape[1]:
        span = torch.linalg.qr(z.T)[0]
        z = z @ span
    width = z.shape[1]
    plain = Scale(torch.zeros(width), torch.ones(width))
    solutions = _fit(total_of(lambda: iter([(z, y)])), plain, torch.zeros(classes, width + 1), cs, class_weight)
    if span is not None:
        solutions = [torch.cat([both[:, :-1] @ span.T, both[:, -1:]], 1) for both in solutions]
    return [_unscaled(both, scale, c) for both, c in zip(solutions, cs, strict=True)]


def _unscaled(both: Tensor, scale: Scale, c: float) -> Linear:
    """The head for raw features, from weights and bias (classes, D + 1) for standardised ones."""
    matrix = both[:, :-1] / scale.deviation
    return Linear(matrix, both[:, -1] - matrix @ scale.mean, c)


def _choose_c(
    features: Activations, classes: int, scale: Scale, seed: int, weight: Tensor | None, group: np.ndarray | None
) -> tuple[float, Tensor]:
    """The C with the lowest log-loss on held-out folds of at most CHOICE_ROWS rows, and its solution there.

    Above 1,000 rows only one fold is held out, a stratified quarter: it is as informative as four of 250 rows.
    For n times as many rows 1/√n of this C is best: the penalty on the mean loss falls as 1/√rows (Sridharan,
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
        if y.ndim == 1:  # a group may hold the only images of a class
            valid &= torch.isin(y, y[train])
        if not valid.any() or not train.any():
            continue
        heads = _heads(x[train], y[train], classes, CS, weight)
        for i, head in enumerate(heads):
            losses[i] += loss_and_residual(x[valid] @ head.weight.T + head.bias, y[valid], weight)[0]
        share = int(train.sum()) / len(features)
    if not heads:
        return USUAL_C, torch.zeros(classes, width + 1)
    best = heads[int(losses.argmin())]
    start = torch.cat([best.weight * scale.deviation, (best.bias + best.weight @ scale.mean)[:, None]], 1)
    return best.c * math.sqrt(share), start


def _folds_of_groups(
    targets: np.ndarray, group: np.ndarray, count: int = FOLDS, *, singles: bool = False
) -> np.ndarray:
    """The same for whole groups, each with the class of most of its images; (N,) of int64."""
    _, number = np.unique(group, return_inverse=True)
    if targets.ndim > 1:
        return _stratified_folds(np.zeros((int(number.max()) + 1, 1)), count)[number]
    _, label = np.unique(targets, return_inverse=True)
    counts = np.zeros((int(number.max()) + 1, int(label.max()) + 1), np.int64)
    np.add.at(counts, (number, label), 1)
    return _stratified_folds(counts.argmax(1), count, singles=singles)[number]


def _stratified_folds(targets: np.ndarray, count: int = FOLDS, *, singles: bool = False) -> np.ndarray:
    """A fold number for each of the (shuffled) images, -1 for images that are never held out; (N,) of int64.

    The images are dealt class by class, each class starting at the fold where the one before ended: all folds have
    the same size, and every class held out in one is in the others too. The only image of a class is never
    held out, except with `singles`. (scikit-learn's StratifiedKFold refuses classes smaller than the number of
    folds.) For several labels per image only the order decides.
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
