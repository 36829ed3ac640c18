from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from frostline.errors import UsageError
from frostline.training.ridge import decompose, solution
from frostline.training.worth import worth_of
from regressions import drawn, features, refitted


def by_refits(inputs, held_out, classes, penalty, weight=None):
    """The same with the head solved anew without each image in turn."""
    ridge = decompose(inputs, classes, weight)

    def rows(part):
        ((x, y),) = part.batches(100_000)
        z = ((x.double() - ridge.scale.mean.double()) / ridge.scale.deviation.double()).numpy()
        t = (torch.nn.functional.one_hot(y, classes) if y.ndim == 1 else y).double().numpy()
        return z, t, np.ones(len(z)) if weight is None else weight.double()[y].numpy()

    (z, t, w), (zv, tv, wv) = rows(inputs), rows(held_out)
    image = np.repeat(np.arange(len(inputs.images)), inputs.views)

    def error(kept):
        matrix, bias = refitted(z[kept], t[kept], w[kept], penalty * w.sum())
        return float((((tv - zv @ matrix - bias) ** 2).sum(1) * wv).sum() / len(zv))

    whole = error(np.ones(len(z), bool))
    return ridge, np.array([error(image != i) - whole for i in range(len(inputs.images))])


penalties = st.sampled_from([0.01, 0.3, 20.0])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 999), st.integers(4, 20), st.integers(1, 30), st.integers(1, 3), st.sampled_from([0.01, 0.3, 20.0])
)
def test_worth_is_what_refits_without_each_image_show(seed, count, width, views, penalty):
    inputs, held_out = features(*drawn(seed, count, width, views), views), features(*drawn(seed + 1, 9, width, 1))
    ridge, expected = by_refits(inputs, held_out, 3, penalty)
    ours = worth_of(ridge, penalty, held_out).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6 * max(1, np.abs(expected).max()))


def test_classes_count_as_they_do_in_the_head():
    weight = torch.tensor([1.0, 3.0, 0.5])
    inputs, held_out = features(*drawn(0, 20, 6, 2), 2), features(*drawn(1, 9, 6, 1))
    ridge, expected = by_refits(inputs, held_out, 3, 0.1, weight)
    np.testing.assert_allclose(worth_of(ridge, 0.1, held_out).numpy(), expected, atol=1e-8)


def test_several_labels_have_a_worth_too():
    x, targets = drawn(0, 20, 6, 1)
    labels = np.eye(3, dtype=bool)[targets] | np.eye(3, dtype=bool)[(targets + 1) % 3]
    inputs, held_out = features(x, labels), features(x[:8] + 0.1, labels[:8])
    ridge, expected = by_refits(inputs, held_out, 3, 0.1)
    np.testing.assert_allclose(worth_of(ridge, 0.1, held_out).numpy(), expected, atol=1e-8)


def test_a_wrong_label_harms():
    x, targets = drawn(3, 120, 8, 1)
    wrong = targets[:60].copy()
    wrong[[5, 20, 40]] = (wrong[[5, 20, 40]] + 1) % 3
    worth = worth_of(decompose(features(x[:60], wrong), 3), 0.1, features(x[60:], targets[60:]))
    assert set(worth.argsort()[:5].tolist()) >= {5, 20, 40}
    assert float(worth[[5, 20, 40]].max()) < 0


def test_without_held_out_images_there_is_none():
    x, targets = drawn(0, 6, 3, 1)
    ridge = decompose(features(x, targets), 3)
    with pytest.raises(UsageError, match="held-out"):
        worth_of(ridge, 0.1, features(x[:0], targets[:0]))


@pytest.mark.long
def test_on_photographs_it_is_what_244_refits_show(shared):
    """And what a logistic head says of each image without it ranks the images as this one does."""
    import frostline
    from frostline.training.probe import solve
    from frostline.training.ridge import PENALTIES, left_out, left_out_errors

    images = frostline.read_data(shared / "data" / "hymenoptera")
    lower, _ = frostline.load_backbone("efficientnet-lite0").network(classes=2).cut("head")
    train, valid = frostline.activations(lower, images.train), frostline.activations(lower, images.valid)
    ridge = decompose(train, 2)
    penalty = PENALTIES[int(left_out_errors(ridge, PENALTIES).argmin())]
    _, expected = by_refits(train, valid, 2, penalty)
    np.testing.assert_allclose(worth_of(ridge, penalty, valid).numpy(), expected, atol=1e-6)
    targets = torch.from_numpy(images.train.targets)
    scores = left_out(ridge, [penalty])[0]
    own = (scores.gather(1, targets[:, None])[:, 0] - scores.gather(1, 1 - targets[:, None])[:, 0]).numpy()
    logistic = []
    for i in range(len(train)):
        head = solve(train.some(np.delete(np.arange(len(train)), i)), 2)
        logits = train.fetch(torch.tensor([i]))[0] @ head.weight.T + head.bias
        logistic.append(float(logits[targets[i]] - logits[1 - targets[i]]))
    assert spearmanr(own, logistic).statistic >= 0.95
    assert solution(ridge, penalty)[0].shape == (2, 1280)
