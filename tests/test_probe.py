from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from conftest import SIZE, Small, draw_images, small_model, state_of
from frostline.activations import Activations, Filled, activations
from frostline.data.images import Images
from frostline.network import Network
from frostline.preprocessing import Preprocessing
from frostline.probe import STRENGTHS, solve, solve_head

HOW = Preprocessing(size=SIZE, resize=36)


def features(count: int = 200, width: int = 12, classes: int = 4, seed: int = 0) -> Activations:
    chance = np.random.default_rng(seed)
    targets = chance.integers(0, classes, count)
    centres = chance.normal(size=(classes, width)) * 1.2
    x = torch.from_numpy((centres[targets] + chance.normal(size=(count, width))) * 7 + 3).float()
    images = Images(np.zeros((count, 1, 1), np.uint8), targets.astype(np.int64), [str(i) for i in range(count)])
    return Activations(images, 1, x.__getitem__, Filled(0, count, 0.0, 0, "memory"))


@pytest.mark.parametrize("seed", range(3))
def test_the_solution_is_scikit_learns(seed):
    inputs = features(seed=seed)
    ((x, y),) = inputs.batches(1000)
    solved = solve(inputs, 4)
    scaler = StandardScaler().fit(x.numpy())
    z = scaler.transform(x.numpy())
    reference = LogisticRegression(C=solved.strength, tol=1e-8, max_iter=5000).fit(z, y.numpy())
    ours = (x @ solved.weight.T + solved.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, reference.predict_proba(z), atol=5e-3)


def test_the_gradient_at_the_solution_is_zero():
    inputs = features()
    ((x, y),) = inputs.batches(1000)
    solved = solve(inputs, 4)
    deviation = x.double().std(0, unbiased=False)
    weight = (solved.weight.double() * deviation).requires_grad_()
    bias = (solved.bias.double() + solved.weight.double() @ x.double().mean(0)).requires_grad_()
    z = (x.double() - x.double().mean(0)) / deviation
    loss = nn.functional.cross_entropy(z @ weight.T + bias, y, reduction="sum")
    (loss + weight.square().sum() / (2 * solved.strength)).backward()
    assert weight.grad.abs().max() < 1e-2 * len(x)
    assert bias.grad.abs().max() < 1e-2 * len(x)


def test_noise_is_penalised_more_than_signal():
    noise = features()
    noise.images.targets[:] = np.random.default_rng(5).integers(0, 4, len(noise.images))
    assert solve(noise, 4).strength < solve(features(), 4).strength
    assert solve(noise, 4).strength in STRENGTHS


def test_a_feature_that_never_varies_does_no_harm():
    inputs = features()
    ((x, _),) = inputs.batches(1000)
    x = torch.cat([x, torch.full((len(x), 1), 5.0)], 1)
    solved = solve(Activations(inputs.images, 1, x.__getitem__, inputs.filled), 4)
    assert solved.weight.isfinite().all()
    assert solved.bias.isfinite().all()


def test_the_seed_decides_the_solution():
    assert torch.equal(solve(features(), 4, seed=1).weight, solve(features(), 4, seed=1).weight)


def test_views_of_one_image_are_in_one_fold():
    """Each image twice: were its copies spread over folds, the weakest penalty would look best."""
    once = features(60, width=80, seed=3)
    once.images.targets[:] = np.random.default_rng(1).integers(0, 4, 60)
    ((x, _),) = once.batches(1000)
    twice = Activations(once.images, 2, x.repeat_interleave(2, 0).__getitem__, once.filled)
    assert solve(twice, 4).strength <= STRENGTHS[1]


def test_solving_a_head_puts_it_into_the_network(fp32):
    model = small_model()
    network = Network(model, HOW).replace_head(3)
    lower, upper = network.cut("head")
    frozen = state_of(lower)
    inputs = activations(lower, draw_images(60), on=fp32)
    assert solve_head(network, upper, inputs)
    x, y = next(inputs.batches())
    assert (upper.eval()(x).argmax(1) == y).float().mean() > 0.9
    assert all(torch.equal(frozen[name], value) for name, value in lower.state_dict().items())


def test_what_is_not_linear_is_not_solved(fp32):
    class Curved(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    network = Network(Curved().eval(), HOW).replace_head(3)
    lower, upper = network.cut("head")
    before = state_of(upper)
    assert not solve_head(network, upper, activations(lower, draw_images(30), on=fp32))
    assert all(torch.equal(before[name], value) for name, value in upper.state_dict().items())
    lower, upper = network.cut("block2")
    assert not solve_head(network, upper, activations(lower, draw_images(30), on=fp32))
