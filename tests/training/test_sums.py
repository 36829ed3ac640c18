"""A head from sums: the head of all images, wherever they are, and nothing else adds up."""

from __future__ import annotations

import functools
import operator
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge
from torch import nn
from torch.nn import functional

import frostline
from conftest import SIZE, draw_images, small_model
from frostline.data.images import Images
from frostline.data.masks import Masks
from frostline.data.targets import TableTargets
from frostline.errors import DivergedError, MachineError, UsageError, WeightsError
from frostline.files import write_tensors
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store import reading
from frostline.store.activations import Activations, computed_once
from frostline.store.reading import StoredRows
from frostline.store.shard_file import Form, ShardWriter
from frostline.tasks.calibration import fit_temperature
from frostline.training import sums as module
from frostline.training.probe import solve_head
from frostline.training.ridge import PENALTIES
from frostline.training.scale import at_least_usual
from frostline.training.sums import Sums, load_sums, logit_head, sums
from regressions import drawn, features

CLASSES = ("ant", "bee", "cat")
HOW = Preprocessing(size=SIZE, resize=36)


def given_rows(x: np.ndarray, targets: np.ndarray, views: int = 1) -> Activations:
    return replace(features(x, targets, views), key="key")


def summed(x: np.ndarray, targets: np.ndarray, views: int = 1) -> Sums:
    return sums(given_rows(x, targets, views), CLASSES)


def standardised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows around their mean in units of deviation, and these."""
    plain = torch.from_numpy(x).float().double()
    deviation = at_least_usual(plain.std(0, unbiased=False)).numpy()
    return ((plain - plain.mean(0)).numpy() / deviation), deviation


def assert_same_head(ours, other, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(ours.weight, other.weight, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.bias, other.bias, rtol=tolerance, atol=tolerance)
    assert ours.c == other.c


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 99),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from([1, 1000]),
)
def test_the_sum_of_any_partition_gives_the_head_of_all_images(seed, sizes, width, views, far):
    x, y = drawn(seed, sum(sizes), width, views)
    x, ends = x + far, np.cumsum(sizes)
    parts = [summed(x[(e - s) * views : e * views], y[e - s : e], views) for s, e in zip(sizes, ends, strict=True)]
    whole, together = summed(x, y, views), functools.reduce(operator.add, parts)
    assert together.images == sum(sizes)
    assert_same_head(together.solve(0.1), whole.solve(0.1))
    assert_same_head((parts[-1] + parts[0]).solve(0.1), (parts[0] + parts[-1]).solve(0.1), 1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.integers(1, 30), st.integers(1, 12), st.sampled_from([0.01, 1.0, 50.0]))
def test_the_head_is_the_ridge_regression_of_scikit_learn(seed, count, width, penalty):
    x, y = drawn(seed, count, width, 1)
    x[:, 0] = 3.0  # constant
    x = np.hstack([x, x[:, -1:] * 2])  # and rank-deficient
    z, deviation = standardised(x)
    right = Ridge(alpha=penalty * count).fit(z, np.eye(3)[y])
    ours = summed(x, y).solve(penalty)
    assert ours.c == 1 / penalty
    np.testing.assert_allclose(ours.weight.numpy() * deviation, right.coef_, atol=1e-6)
    mine = (torch.from_numpy(x).float().double() @ ours.weight.T + ours.bias).numpy()
    np.testing.assert_allclose(mine, right.predict(z), atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.integers(2, 20), st.integers(1, 24), st.booleans())
def test_the_penalty_has_the_least_generalised_cross_validation_error(seed, count, width, several_labels):
    x, y = drawn(seed, count, width, 1)
    t = np.random.default_rng(seed).random((count, 3)) < 0.4 if several_labels else np.eye(3)[y]
    z, _ = standardised(x)
    errors = []
    for penalty in PENALTIES:
        hat = z @ np.linalg.solve(z.T @ z + penalty * count * np.eye(width), z.T) + 1 / count
        errors.append(((t - hat @ t) ** 2).sum() / (1 - np.trace(hat) / count) ** 2)
    chosen = 1 / summed(x, t if several_labels else y).solve().c
    nearest = PENALTIES.index(min(PENALTIES, key=lambda each: abs(each - chosen)))
    assert errors[nearest] <= min(errors) * (1 + 1e-6) + 1e-20  # some errors are 0 but for rounding


def test_copies_of_each_image_choose_the_penalty_of_one():
    """Were copies images of their own, each would vouch for the other and the penalty would look needless."""
    x, y = drawn(4, 30, 40, 1)
    once, twice = summed(x, y), summed(x.repeat(3, 0), y, 3)
    assert_same_head(twice.solve(), once.solve())


def test_a_class_that_one_site_lacks_and_another_order_of_classes():
    x, y = drawn(1, 30, 6, 1)
    first = y != 2
    here = summed(x[first], y[first])
    order = ("cat", "ant", "bee")
    there = sums(given_rows(x[~first], np.zeros((~first).sum(), np.int64)), order)
    assert here.rows.counts[2] == 0
    assert_same_head((here + there).solve(0.1), summed(x, y).solve(0.1))
    turned = (there + here).solve(0.1)
    assert (there + here).classes == order
    torch.testing.assert_close(turned.weight[[1, 2, 0]], summed(x, y).solve(0.1).weight, rtol=1e-6, atol=1e-9)


def test_the_sum_of_a_list_is_that_of_its_parts():
    x, y = drawn(2, 30, 6, 1)
    parts = [summed(x[some], y[some]) for some in np.split(np.arange(30), 3)]
    assert_same_head(sum(parts).solve(), (parts[0] + parts[1] + parts[2]).solve(), 0)
    with pytest.raises(TypeError):
        1 + parts[0]


def test_one_image_says_its_class():
    x, _ = drawn(0, 1, 6, 1)
    head = summed(x, np.array([1])).solve()
    assert (torch.from_numpy(x) @ head.weight.T + head.bias).argmax() == 1


def test_other_features_and_other_classes_do_not_add_up():
    x, y = drawn(0, 9, 4, 1)
    here = summed(x, y)
    with pytest.raises(WeightsError, match="sum with the same weights, preprocessing, frostline and precision"):
        here + replace(here, key="other")
    with pytest.raises(WeightsError, match="cat, dog are in one only"):
        here + sums(given_rows(x, y), ("ant", "bee", "dog"))
    with pytest.raises(TypeError):
        here + 1


@pytest.mark.parametrize(
    ("targets", "classes", "found"),
    [
        (np.array([0, 3]), CLASSES, "have 4 classes, but there are 3 names"),
        (np.zeros((2, 2), bool), CLASSES, "have 2 classes, but there are 3 names"),
        (np.array([0, 1]), ("a", "b", "a"), "twice"),
        (np.array([], np.int64), CLASSES, "at least one image"),
    ],
)
def test_what_cannot_be_summed_is_said(targets, classes, found):
    with pytest.raises(UsageError, match=found):
        sums(given_rows(np.ones((len(targets), 2)), targets), classes)


def test_images_are_not_their_activations():
    with pytest.raises(UsageError, match="sums are taken of activations"):
        sums(draw_images(4), ("a", "b"))


def test_masks_and_features_without_a_key_are_refused():
    x, y = drawn(0, 4, 3, 1)
    with pytest.raises(UsageError, match="no key identifies"):
        sums(features(x, y), CLASSES)
    masks = Masks([np.zeros((1, 1), np.uint8)] * 4, None)
    images = Images(np.zeros((4, 1, 1), np.uint8), masks, list("abcd"))
    with pytest.raises(UsageError, match="masks"):
        sums(replace(given_rows(x, y), images=images), CLASSES)


def test_a_feature_that_is_no_number_names_its_image():
    x, y = drawn(0, 9, 4, 1)
    x[7, 2] = np.inf
    with pytest.raises(DivergedError, match="the activations of 7 are not finite"):
        summed(x, y)


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("inf"), float("nan")])
def test_a_penalty_is_above_zero(penalty):
    with pytest.raises(UsageError, match="must be above 0"):
        summed(*drawn(0, 9, 4, 1)).solve(penalty)


def test_what_was_saved_is_loaded(tmp_path):
    here, file = summed(*drawn(0, 9, 4, 1)), tmp_path / "site.safetensors"
    here.save(file)
    again = load_sums(file)
    assert (again.key, again.classes, again.images) == (here.key, here.classes, here.images)
    assert_same_head((again + here).solve(), (here + here).solve(), 0)
    with pytest.raises(MachineError):
        here.save(tmp_path / "none" / "site.safetensors")


def test_a_file_of_another_kind_says_that_it_holds_no_sums(tmp_path):
    for name, about in (("weights", None), ("others", {"format": "pt"})):
        file = tmp_path / f"{name}.safetensors"
        save_file({"mean": torch.zeros(2)}, file, about)
        with pytest.raises(WeightsError, match=f"{name}.safetensors holds no sums; give a file that Sums.save wrote"):
            load_sums(file)


def test_any_damage_is_noticed(tmp_path):
    here, file = summed(*drawn(0, 9, 4, 1)), tmp_path / "site.safetensors"
    here.save(file)
    content = file.read_bytes()
    for place in [*range(0, len(content), 23), len(content) - 1]:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(WeightsError, match="site.safetensors"):
            load_sums(file)
    file.write_bytes(content[:-1])
    with pytest.raises(WeightsError):
        load_sums(file)
    with pytest.raises(WeightsError, match="gone"):
        load_sums(tmp_path / "gone")
    write_tensors(file, {"mean": torch.zeros(2)})  # something else
    with pytest.raises(WeightsError, match="no sums"):
        load_sums(file)


def test_shapes_that_do_not_belong_together_are_refused(tmp_path):
    here, file = summed(*drawn(0, 9, 4, 1)), tmp_path / "site.safetensors"
    replace(here, classes=("ant", "bee")).save(file)
    assert load_file(file)["products"].shape == (3, 4)
    with pytest.raises(WeightsError, match="damaged"):
        load_sums(file)


def test_three_sites_give_the_pooled_head_and_no_other_network_joins_them(fp32):
    images = draw_images(60)
    network = Network(small_model(), HOW).replace_head(3)
    lower, upper = network.cut("head")

    def site(numbers: np.ndarray, lower=lower) -> Sums:
        return sums(computed_once(lower, images.take(numbers), machine=fp32), CLASSES)

    pooled = site(np.arange(60))
    together = functools.reduce(operator.add, map(site, np.split(np.random.default_rng(0).permutation(60), [7, 30])))
    assert_same_head(together.solve(), pooled.solve())
    assert solve_head(network, upper, together)
    x, y = next(computed_once(lower, images, machine=fp32).batches())
    assert (upper.eval()(x).argmax(1) == y).float().mean() > 0.9
    for other in (Network(small_model(1), HOW), Network(small_model(), Preprocessing(size=SIZE, resize=40))):
        with pytest.raises(WeightsError, match="different features"):
            together + site(np.arange(9), other.replace_head(3).cut("head")[0])
    recomputed = sums(computed_once(lower, images, machine=fp32, keep=False), CLASSES)
    assert_same_head((recomputed + together).solve(), (pooled + pooled).solve())


def test_sums_of_another_network_or_preprocessing_give_it_no_head(fp32):
    network = Network(small_model(), HOW).replace_head(3)
    lower, _ = network.cut("head")
    found = sums(computed_once(lower, draw_images(12), machine=fp32), CLASSES)
    for other in (Network(small_model(1), HOW), Network(small_model(), Preprocessing(size=SIZE, resize=40))):
        other = other.replace_head(3)
        before = other.model.state_dict()["head.weight"].clone()
        with pytest.raises(WeightsError, match="other features than this network computes .* sum with the same"):
            solve_head(other, other.cut("head")[1], found)
        assert torch.equal(other.model.state_dict()["head.weight"], before)
    higher = network.cut("block2")[1]
    with pytest.raises(WeightsError, match="other features"):
        solve_head(network, higher, found)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("frostline", ["flat", "fc"])
def test_sums_of_either_precision_and_of_flat_maps_give_the_head(fp32, precision, frostline):
    layers = {"conv": nn.Conv2d(3, 4, 8, 8), "flat": nn.Flatten(), "fc": nn.Linear(64, 5)}
    network = Network(nn.Sequential(OrderedDict(layers)), HOW).replace_head(3)
    lower, upper = network.cut(frostline)
    assert len(lower.output_shape) == (3 if frostline == "flat" else 1)
    rows = computed_once(lower, draw_images(12), machine=replace(fp32, precision=precision))
    found = sums(rows, CLASSES)
    assert solve_head(network, upper, found)
    other = network.cut("fc" if frostline == "flat" else "flat")[1]
    with pytest.raises(WeightsError, match="other features"):
        solve_head(network, other, found)


def test_the_logits_of_many_classes_are_worth_their_loss():
    """Estimates of 0 … 1 as logits have a loss near that of chance, which no temperature in its limits mends."""
    chance = torch.Generator().manual_seed(0)
    y = torch.arange(200).repeat(8)
    x = (torch.randn(200, 64, generator=chance) * 1.5)[y] + torch.randn(len(y), 64, generator=chance)
    found = sums(given_rows(x[:1200].numpy(), y[:1200].numpy()), list(map(str, range(200))))
    plain, head = found.solve(), logit_head(found)
    logits = x[1200:] @ head.weight.T.float() + head.bias.float()
    assert torch.equal(logits.argmax(1), (x[1200:] @ plain.weight.T.float() + plain.bias.float()).argmax(1))
    temperature = fit_temperature(logits, y[1200:])
    assert 0.2 < temperature < 5
    assert functional.cross_entropy(logits / temperature, y[1200:]) < 0.3


def test_a_label_is_as_likely_as_not_between_its_targets(fp32):
    """Outputs of 0 … 1 as logits would call every label likely."""
    network = Network(small_model(), HOW).replace_head(3)
    lower, upper = network.cut("head")
    images = draw_images(40)
    labels = np.eye(3, dtype=bool)[images.targets]
    rows = computed_once(lower, replace(images, targets=labels), machine=fp32)
    assert solve_head(network, upper, sums(rows, CLASSES))
    logits = upper.eval()(rows.fetch(torch.arange(40)))
    assert ((logits > 0).numpy() == labels).mean() > 0.9


def test_a_head_of_other_classes_is_not_solved_from_sums(fp32):
    network = Network(small_model(), HOW).replace_head(3)
    lower, upper = network.cut("head")
    found = sums(computed_once(lower, draw_images(12), machine=fp32), (*CLASSES, "dog"))
    with pytest.raises(UsageError, match="4 classes for a head of 3"):
        solve_head(network, upper, found)
    with pytest.raises(UsageError, match="class weights"):
        solve_head(network, upper, replace(found, classes=CLASSES), weight=torch.ones(3))


def test_threads_and_blocks_make_no_difference(monkeypatch):
    x, y = drawn(3, 90, 5, 1)
    monkeypatch.setattr(module, "PIECE", 100)
    monkeypatch.setattr(module, "CHUNK", 400)
    threads, found = torch.get_num_threads(), []
    for count in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        found.append(summed(x, y).solve())
    assert torch.equal(found[0].weight, found[1].weight)
    monkeypatch.undo()
    assert torch.get_num_threads() == threads
    assert_same_head(found[0], summed(x, y).solve())
    monkeypatch.setattr(module, "NARROW", 0)
    assert_same_head(found[0], summed(x, y).solve())


def stored(folder: Path, count: int, width: int) -> Activations:
    """Rows in four shards, none of them in memory."""
    form, chance = Form("key", (width,), "float32"), torch.Generator().manual_seed(0)
    shards = []
    for _ in range(4):
        writer = ShardWriter(folder, form, {}, [])
        writer.add(torch.randn(count // 4, width, generator=chance), np.zeros((count // 4, 16), np.uint8))
        shards.append(writer.close())
    targets = torch.arange(count) % 3
    images = Images.__new__(Images)  # names and files of so many would take longer than the test
    object.__setattr__(images, "targets", targets.numpy())
    object.__setattr__(images, "pictures", range(count))
    fetch = StoredRows(shards, np.arange(count), form, None)
    few = given_rows(np.zeros((1, width)), np.zeros(1, np.int64))
    return replace(few, images=images, fetch=fetch, targets=TableTargets(targets, 1))


def highest_memory(reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the highest memory since a moment is only known on Linux")
def test_all_rows_are_read_once_and_never_together(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "TENSOR_BYTES", 0)
    monkeypatch.setattr(module, "PIECE", 1_000_000)
    monkeypatch.setattr(module, "CHUNK", 4_000_000)
    rows = stored(tmp_path, 200_000, 64)
    asked: list[torch.Tensor] = []

    def noting(numbers: torch.Tensor) -> torch.Tensor:
        asked.append(numbers)
        return rows.fetch(numbers)

    sums(rows, CLASSES)  # what is loaded and compiled once
    before = highest_memory(reset=True)
    found = sums(replace(rows, fetch=noting), CLASSES)
    assert highest_memory() - before < 20_000_000  # of 51 MB
    assert found.images == 200_000
    counts = torch.bincount(torch.cat([numbers for numbers in asked if len(numbers) > 1]))
    assert len(counts) == 200_000
    assert bool((counts == 1).all())


def test_the_names_are_public():
    assert (frostline.sums, frostline.Sums, frostline.load_sums) == (sums, Sums, load_sums)
