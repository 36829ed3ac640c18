from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn

from conftest import SIZE, Small, draw_images, small_model, state_of
from frostline.data.images import Images
from frostline.data.targets import targets_of
from frostline.data.views import Views
from frostline.errors import UsageError
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store.activations import Activations, Filled, computed_once
from frostline.tasks.weights import class_weights
from frostline.training import probe
from frostline.training.probe import CS, SOFTER, cross_fitted, soften_head, solve, solve_head
from frostline.training.scale import scale_of

HOW = Preprocessing(size=SIZE, resize=36)


def features(count: int = 200, width: int = 12, classes: int = 4, seed: int = 0) -> Activations:
    chance = np.random.default_rng(seed)
    targets = chance.integers(0, classes, count)
    centres = chance.normal(size=(classes, width)) * 1.2
    x = torch.from_numpy((centres[targets] + chance.normal(size=(count, width))) * 7 + 3).float()
    images = Images(np.zeros((count, 1, 1), np.uint8), targets.astype(np.int64), [str(i) for i in range(count)])
    return rows(images, x)


def rows(images: Images, x: torch.Tensor, views: int = 1) -> Activations:
    targets = targets_of(images, Views(views), HOW)
    return Activations(images, views, x.__getitem__, targets, Filled(0, len(x), 0.0, 0, "memory"))


def several(seed: int = 0, count: int = 200, width: int = 12) -> Activations:
    """Three labels that come together as they like."""
    chance = np.random.default_rng(seed)
    labels = chance.random((count, 3)) < [0.5, 0.2, 0.35]
    x = labels @ chance.normal(size=(3, width)) * 1.5 + chance.normal(size=(count, width))
    images = Images(np.zeros((count, 1, 1), np.uint8), labels, [str(i) for i in range(count)])
    return rows(images, torch.from_numpy(x * 7 + 3).float())


def uneven(seed: int = 0) -> Activations:
    """Four classes, the first two of which make nine tenths of the images."""
    inputs = features(600, seed=seed)
    targets = inputs.images.targets
    keep = np.flatnonzero((targets < 2) | (np.arange(600) % 9 == 0))
    ((x, _),) = inputs.batches(1000)
    return rows(inputs.images.take(keep), x[keep])


def reference(x: torch.Tensor, y: torch.Tensor, c: float, **options) -> np.ndarray:
    """What scikit-learn's solution on standardised features says of the same rows."""
    scale = scale_of(lambda: iter([(x, y)]))
    z = ((x - scale.mean) / scale.deviation).numpy()
    return LogisticRegression(C=c, tol=1e-8, max_iter=5000, **options).fit(z, y.numpy()).predict_proba(z)


@pytest.fixture
def to_the_end(monkeypatch):
    """Solve until nothing changes, to compare with what others solve so."""
    monkeypatch.setattr(probe, "OPTIONS", {"maxiter": 1000, "ftol": 1e-10})


def test_what_is_left_to_solve_is_worth_nothing(request):
    both = features(400)
    ((x, y),) = both.batches(1000)
    train = rows(both.images.take(np.arange(200)), x[:200])
    early = solve(train, 4)
    request.getfixturevalue("to_the_end")
    late = solve(train, 4)
    losses = [float(nn.functional.cross_entropy(x[200:] @ s.weight.T + s.bias, y[200:])) for s in (early, late)]
    assert losses[0] <= 1.01 * losses[1]


def test_the_strength_falls_as_the_root_of_the_rows_grows(monkeypatch):
    monkeypatch.setattr(probe, "CHOICE_ROWS", 100)
    few = solve(features(count=100), 4).c
    many = solve(features(count=1600), 4).c
    assert min(abs(few / many / (4 * ratio) - 1) for ratio in (0.1, 1, 10)) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_the_solution_is_scikit_learns(seed, to_the_end):
    inputs = features(seed=seed)
    ((x, y),) = inputs.batches(1000)
    solved = solve(inputs, 4)
    ours = (x @ solved.weight.T + solved.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, reference(x, y, solved.c), atol=5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_solution_of_several_labels_is_scikit_learns_one_by_one(seed, to_the_end):
    inputs = several(seed)
    ((x, y),) = inputs.batches(1000)
    solved = solve(inputs, 3)
    ours = (x @ solved.weight.T + solved.bias).sigmoid().numpy()
    for i in range(3):
        np.testing.assert_allclose(ours[:, i], reference(x, y[:, i], solved.c)[:, 1], atol=5e-3)


@pytest.mark.parametrize("seed", range(2))
def test_class_weights_are_scikit_learns(seed, to_the_end):
    inputs = uneven(seed)
    ((x, y),) = inputs.batches(1000)
    weight = class_weights("balanced", inputs.images.targets, tuple("abcd"))
    solved = solve(inputs, 4, weight=weight)
    ours = (x @ solved.weight.T + solved.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, reference(x, y, solved.c, class_weight="balanced"), atol=5e-3)


def test_weights_of_labels_are_those_of_their_presence(to_the_end):
    inputs = several()
    ((x, y),) = inputs.batches(1000)
    weight = class_weights("balanced", inputs.images.targets, tuple("abc"))
    solved = solve(inputs, 3, weight=weight)
    ours = (x @ solved.weight.T + solved.bias).sigmoid().numpy()
    for i in range(3):
        expected = reference(x, y[:, i], solved.c, class_weight={0: 1.0, 1: float(weight[i])})
        np.testing.assert_allclose(ours[:, i], expected[:, 1], atol=5e-3)


def test_weights_find_more_of_the_rare_classes_and_weights_of_one_change_nothing():
    inputs = uneven()
    ((x, y),) = inputs.batches(1000)

    def predicted(weight: torch.Tensor | None) -> torch.Tensor:
        solved = solve(inputs, 4, weight=weight)
        return (x @ solved.weight.T + solved.bias).softmax(1)

    plain, weighted = predicted(None), predicted(class_weights("balanced", inputs.images.targets, tuple("abcd")))
    rare = y >= 2
    assert weighted[rare, 2:].sum(1).mean() > plain[rare, 2:].sum(1).mean() + 0.01
    torch.testing.assert_close(predicted(torch.ones(4)), plain, rtol=1e-3, atol=1e-3)


def test_the_gradient_at_the_solution_is_zero(to_the_end):
    inputs = features()
    ((x, y),) = inputs.batches(1000)
    solved = solve(inputs, 4)
    deviation = x.double().std(0, unbiased=False)
    weight = (solved.weight.double() * deviation).requires_grad_()
    bias = (solved.bias.double() + solved.weight.double() @ x.double().mean(0)).requires_grad_()
    z = (x.double() - x.double().mean(0)) / deviation
    loss = nn.functional.cross_entropy(z @ weight.T + bias, y, reduction="sum")
    (loss + weight.square().sum() / (2 * solved.c)).backward()
    assert weight.grad.abs().max() < 1e-2 * len(x)
    assert bias.grad.abs().max() < 1e-2 * len(x)


def test_noise_is_penalised_more_than_signal():
    noise = features()
    noise.images.targets[:] = np.random.default_rng(5).integers(0, 4, len(noise.images))
    assert solve(noise, 4).c < solve(features(), 4).c


def test_a_feature_that_never_varies_does_no_harm():
    inputs = features()
    ((x, _),) = inputs.batches(1000)
    x = torch.cat([x, torch.full((len(x), 1), 5.0)], 1)
    solved = solve(rows(inputs.images, x), 4)
    assert solved.weight.isfinite().all()
    assert solved.bias.isfinite().all()


def test_the_seed_decides_the_solution():
    assert torch.equal(solve(features(), 4, seed=1).weight, solve(features(), 4, seed=1).weight)


def test_views_of_one_image_are_in_one_fold():
    """Each image twice: were its copies spread over folds, the weakest penalty would look best."""
    once = features(60, width=80, seed=3)
    once.images.targets[:] = np.random.default_rng(1).integers(0, 4, 60)
    ((x, _),) = once.batches(1000)
    twice = rows(once.images, x.repeat_interleave(2, 0), views=2)
    assert solve(twice, 4).c <= CS[1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=300), st.integers(0, 99))
def test_every_class_of_a_fold_is_trained_on_too(sizes, seed):
    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    folds = probe._stratified_folds(targets)
    counts = np.bincount(folds[folds >= 0], minlength=probe.FOLDS)
    assert counts.max() - counts.min() <= 1
    for fold in range(probe.FOLDS):
        assert set(targets[folds == fold]) <= set(targets[folds != fold])
    assert set(targets[folds < 0]) == {number for number, size in enumerate(sizes) if size == 1}
    for number, size in enumerate(sizes):
        spread = np.bincount(folds[(targets == number) & (folds >= 0)], minlength=probe.FOLDS)
        assert spread.max() - spread.min() <= 1 or size == 1


def test_a_thousand_classes_of_two_rows_hold_out_a_quarter_of_known_classes():
    folds = probe._stratified_folds(np.random.default_rng(0).permutation(np.repeat(np.arange(1000), 2)))
    assert np.bincount(folds).tolist() == [500] * 4


def test_many_classes_of_few_rows_choose_as_weak_a_penalty_as_their_signal_asks_for():
    """Classes that are absent from what is learned would ask for the strongest."""
    classes, width = 520, 24
    chance = np.random.default_rng(0)
    targets = chance.permutation(np.repeat(np.arange(classes), 2))
    centres = chance.normal(size=(classes, width)) * 3
    x = torch.from_numpy(centres[targets] + chance.normal(size=(len(targets), width)) * 0.1).float()
    images = Images(np.zeros((len(targets), 1, 1), np.uint8), targets, [str(i) for i in range(len(targets))])
    inputs = rows(images, x)
    scale = scale_of(lambda: inputs.batches(len(x)))
    c, _ = probe._choose_c(inputs, classes, scale, 0, None, None)
    assert c >= CS[3] / 2


@pytest.mark.parametrize("targets", [[0], [0, 1], [0, 1, 2, 3, 4], [0, 0, 1], [0, 0, 0, 1, 1, 2]])
@pytest.mark.parametrize("classes", [5, 50])
def test_the_smallest_sets_are_solved(targets, classes):
    """Fewer images than folds, than classes, one of each: no class can be held out, and there is a head."""
    chance = np.random.default_rng(0)
    x = torch.from_numpy(chance.normal(size=(len(targets), 12))).float()
    images = Images(np.zeros((len(targets), 1, 1), np.uint8), np.array(targets), [str(i) for i in range(len(targets))])
    solved = solve(rows(images, x), classes)
    assert solved.weight.shape == (classes, 12)
    logits = x @ solved.weight.T + solved.bias
    assert logits.isfinite().all()
    if len(set(targets)) == len(targets):  # there is nothing to choose a penalty by, and the usual one learns them
        assert logits.argmax(1).tolist() == targets


def test_solving_a_head_puts_it_into_the_network(fp32):
    model = small_model()
    network = Network(model, HOW).replace_head(3)
    lower, upper = network.cut("head")
    frozen = state_of(lower)
    inputs = computed_once(lower, draw_images(60), machine=fp32)
    assert solve_head(network, upper, inputs)
    x, y = next(inputs.batches())
    assert (upper.eval()(x).argmax(1) == y).float().mean() > 0.9
    assert all(torch.equal(frozen[name], value) for name, value in lower.state_dict().items())


@pytest.mark.parametrize("still", [(), ("head.bias",), ("block*",)])
def test_a_softened_head_says_the_same_less_surely_unless_it_is_frozen(still):
    network = Network(small_model(), HOW).replace_head(3)
    _, upper = network.cut("block2", still)
    x = torch.randn(4, *network.find("block2").shape, generator=torch.Generator().manual_seed(0))
    upper.eval()
    before = upper(x)
    soften_head(network, upper)
    torch.testing.assert_close(upper(x), before if still else before / SOFTER)


def test_a_head_of_several_labels_is_solved_into_the_network(fp32):
    shown = draw_images(60)
    labels = np.array([[True, True], [False, True], [False, False]])[shown.targets]
    network = Network(small_model(), HOW).replace_head(2)
    lower, upper = network.cut("head")
    inputs = computed_once(lower, Images(shown.pictures, labels, shown.names), machine=fp32)
    assert solve_head(network, upper, inputs, weight=torch.tensor([2.0, 1.0]))
    x, y = next(inputs.batches())
    assert ((upper.eval()(x) > 0) == y.bool()).float().mean() > 0.9


def test_what_is_not_linear_is_not_solved(fp32):
    class Curved(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    network = Network(Curved().eval(), HOW).replace_head(3)
    lower, upper = network.cut("head")
    before = state_of(upper)
    assert not solve_head(network, upper, computed_once(lower, draw_images(30), machine=fp32))
    assert all(torch.equal(before[name], value) for name, value in upper.state_dict().items())
    lower, upper = network.cut("block2")
    assert not solve_head(network, upper, computed_once(lower, draw_images(30), machine=fp32))


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("width", [12, 150])
def test_cross_fitted_says_what_a_head_is_worth_on_new_images(views, width):
    both = features(400, width)
    ((x, y),) = both.batches(1000)
    chance = torch.Generator().manual_seed(0)
    x = x[:, None] + 12 * torch.randn(400, views, width, generator=chance)
    train = rows(both.images.take(np.arange(100)), x[:100].flatten(0, 1), views)
    logits = cross_fitted(train, 4)
    assert logits.shape == (100, 4)
    solved = solve(train, 4)
    new = nn.functional.cross_entropy(x[100:, 0] @ solved.weight.T + solved.bias, y[100:])
    own = nn.functional.cross_entropy(x[:100, 0] @ solved.weight.T + solved.bias, y[:100])
    crossed = nn.functional.cross_entropy(logits, y[:100])
    assert abs(crossed - new) < 0.3 * new
    assert own < 0.7 * crossed


@pytest.mark.parametrize("several_labels", [False, True])
def test_no_image_has_a_part_in_what_is_predicted_of_it(monkeypatch, several_labels):
    """With the folds held, neither the labels nor the views of a fold change what is said of its images."""
    monkeypatch.setattr(probe, "_stratified_folds", lambda targets, *_, **__: np.arange(len(targets)) % 5)
    inputs = several(count=60, width=30) if several_labels else features(60, 30)
    ((x, _),) = inputs.batches(100)
    before = cross_fitted(inputs, 3 if several_labels else 4)
    order = np.random.default_rng(0).permutation(60)
    own = np.sort(order[2::5])
    targets = inputs.images.targets.copy()
    targets[own] = targets[own[::-1]] ^ True if several_labels else (targets[own] + 1) % 4
    images = Images(inputs.images.pictures, targets, inputs.images.names)
    relabelled = cross_fitted(rows(images, x), 3 if several_labels else 4)
    assert torch.equal(relabelled[own], before[own])
    assert not torch.equal(relabelled, before)
    moved = x.clone()
    moved[own[0]] += 50
    others = [i for i in own if i != own[0]]
    assert torch.equal(cross_fitted(rows(inputs.images, moved), 3 if several_labels else 4)[others], before[others])


def test_only_the_plain_view_is_predicted_and_none_of_its_image_is_trained_on():
    """Labels that only copies know: a head that saw another view of the image would be right."""
    inputs = features(60, width=80, seed=3)
    inputs.images.targets[:] = np.random.default_rng(1).integers(0, 4, 60)
    ((x, y),) = inputs.batches(1000)
    twice = rows(inputs.images, x.repeat_interleave(2, 0), views=2)
    logits = cross_fitted(twice, 4)
    assert (logits.argmax(1) == y).float().mean() < 0.5
    torch.testing.assert_close(logits.softmax(1), cross_fitted(inputs, 4).softmax(1), rtol=0, atol=0.35)


def test_an_image_is_not_known_by_its_copy():
    """Labels by chance, each image there twice: who learns from the copy is right, who does not guesses."""
    once = features(60, width=80, seed=3)
    once.images.targets[:] = np.random.default_rng(1).integers(0, 4, 60)
    ((x, y),) = once.batches(1000)
    images = Images(np.zeros((120, 1, 1), np.uint8), np.tile(y.numpy(), 2), [str(i) for i in range(120)])
    twice, both = rows(images, x.repeat(2, 1)), y.repeat(2)
    group = np.tile(np.arange(60), 2)
    assert (cross_fitted(twice, 4).argmax(1) == both).float().mean() > 0.7
    assert (cross_fitted(twice, 4, group=group).argmax(1) == both).float().mean() < 0.5


def test_cross_fitted_takes_class_weights_and_several_labels():
    inputs = uneven()
    weight = class_weights("balanced", inputs.images.targets, tuple("abcd"))
    rare = torch.from_numpy(inputs.images.targets >= 2)
    plain, weighted = (cross_fitted(inputs, 4, weight=w).softmax(1)[rare, 2:].sum(1).mean() for w in (None, weight))
    assert weighted > plain
    labels = several()
    logits = cross_fitted(labels, 3, weight=torch.tensor([1.0, 2.0, 1.0]))
    right = (logits > 0).numpy() == labels.images.targets
    assert right.mean() > 0.7


@pytest.mark.parametrize("targets", [[0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 2, 3, 4, 5], [1, 1, 1, 0, 0, 2, 2]])
def test_the_smallest_sets_are_cross_fitted(targets):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2 * len(targets), 12))).float()
    x[:, 3] = 1.0
    images = Images(np.zeros((len(targets), 1, 1), np.uint8), np.array(targets), [str(i) for i in range(len(targets))])
    logits = cross_fitted(rows(images, x, 2), 6)
    assert logits.shape == (len(targets), 6)
    assert logits.isfinite().all()


def test_one_image_cannot_be_cross_fitted():
    inputs = features(1)
    with pytest.raises(UsageError, match="two images"):
        cross_fitted(inputs, 4)


def test_fewer_rows_than_features_are_solved_in_their_span(to_the_end):
    """Turning them changes no solution."""
    inputs = features(40, width=90)
    ((x, y),) = inputs.batches(1000)
    head = probe._heads(x, y, 4, [0.1], None)[0]
    ours = (x @ head.weight.T + head.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, reference(x, y, 0.1), atol=5e-3)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60))
def test_a_group_is_in_one_fold(images):
    targets, group = np.array(images).T
    folds = probe._folds_of_groups(targets, group)
    assert all(len(set(folds[group == number])) == 1 for number in set(group.tolist()))
    several = probe._folds_of_groups(np.eye(4, dtype=np.uint8)[targets], group)
    assert all(len(set(several[group == number])) == 1 for number in set(group.tolist()))


def test_images_that_belong_together_do_not_vouch_for_each_other():
    """Each group has features of its own, which tell its class and nothing of other groups: a weak penalty looks best
    image by image."""
    chance = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 8)
    targets = (np.arange(30) % 2)[group]
    x = chance.normal(0, 3, (30, 40))[group] + chance.normal(0, 0.3, (240, 40)) + 0.4 * targets[:, None]
    features = rows(
        Images(np.zeros((240, 1, 1), np.uint8), targets, [str(i) for i in range(240)]), torch.from_numpy(x).float()
    )
    assert solve(features, 2, group=group).c < solve(features, 2).c


def test_each_penalty_is_a_tenth_of_the_one_before():
    """`solve` begins each solution at the one before, from the strongest penalty on."""
    assert np.diff(np.log10(CS)) == pytest.approx([1.0] * (len(CS) - 1))
