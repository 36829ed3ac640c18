"""What a solved head is worth on few images per class, and whether cross-fitting says so without held-out images.

    python benchmarks/few_images.py hymenoptera_folder --per-class 5 10 20 --seeds 12

Some images of each class are drawn, a head is solved on them, and all others are predicted. Beside it stands what
cross-fitting says of the drawn ones, and ridge regression whose penalty leave-one-out chooses, at the temperature that
its left-out predictions ask for. Means over the seeds, with the standard error of the accuracy.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from frostline.backbones import load_backbone, shrunk
from frostline.data import read_data
from frostline.data.images import join
from frostline.data.views import Views, suited, tiny
from frostline.store.activations import Activations, computed_once
from frostline.tasks.calibration import fit_temperature
from frostline.training.probe import cross_fitted, solve
from frostline.training.ridge import PENALTIES, decompose, left_out, left_out_errors, solution

FIGURES = ("head", "cross-fitted", "ridge, leave-one-out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--per-class", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--weights", default="pretrained")
    options = parser.parse_args()
    data = read_data(options.data, 0)
    images = join([part for part in (data.train, data.valid, data.test) if part is not None])
    backbone = load_backbone(options.backbone, options.weights)
    if tiny(images.pictures):
        backbone = shrunk(backbone, 128)
    lower, _ = backbone.network(len(data.classes)).cut("head")
    features = computed_once(lower, images, Views(options.views, augment=data.augment or suited(images.pictures)))
    print("| per class | " + " | ".join(f"{name}: accuracy | log-loss" for name in FIGURES) + " |")
    print("|---" * (1 + 2 * len(FIGURES)) + "|")
    for count in options.per_class:
        results = np.array([measured(features, len(data.classes), count, seed) for seed in range(options.seeds)])
        means, errors = results.mean(0), results.std(0, ddof=1) / np.sqrt(len(results))
        cells = [f"{means[i, 0]:.3f} ± {errors[i, 0]:.3f} | {means[i, 1]:.3f}" for i in range(len(FIGURES))]
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)


def measured(features: Activations, classes: int, count: int, seed: int) -> list[list[float]]:
    """Accuracy and log-loss of each figure for `count` images of each class, drawn by the seed."""
    targets = np.asarray(features.images.targets)
    order = np.random.default_rng(seed).permutation(len(targets))
    drawn = np.concatenate([order[targets[order] == number][:count] for number in range(classes)])
    train = features.some(np.random.default_rng(seed).permutation(drawn))
    plain = torch.from_numpy(np.setdiff1d(np.arange(len(targets)), drawn) * features.views)
    x, y = features.fetch(plain).flatten(1), features.targets(plain)
    own = torch.from_numpy(np.asarray(train.images.targets))
    head = solve(train, classes, seed)
    ridge = decompose(train, classes)
    best = PENALTIES[int(left_out_errors(ridge, PENALTIES).argmin())]
    weight, bias = solution(ridge, best)
    sharper = 10.0  # indicators are no logits: their temperature would lie beyond the bounds of the fit
    unseen = sharper * left_out(ridge, [best])[0, :: train.views]
    predicted = sharper * (x.double() @ weight.T + bias) / fit_temperature(unseen, own)
    return [
        figures(x @ head.weight.T + head.bias, y),
        figures(cross_fitted(train, classes, seed), own),
        figures(predicted, y),
    ]


def figures(logits: Tensor, targets: Tensor) -> list[float]:
    return [float((logits.argmax(1) == targets).double().mean()), float(functional.cross_entropy(logits, targets))]


if __name__ == "__main__":
    main()
