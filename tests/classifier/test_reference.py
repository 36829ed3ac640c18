from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import frostline
from conftest import Small, draw, draw_images, small_model
from frostline.classifier.artifact import load
from frostline.classifier.reference import (
    FILE,
    Reference,
    explained,
    feature_layer,
    noting,
    of_length_one,
    read_reference,
    write_reference,
)
from frostline.data.images import Images
from frostline.errors import UsageError, WeightsError
from tasks_data import HOW, probed, several_labels

pytestmark = pytest.mark.usefixtures("no_pictures")


def reference(sure=(0.9,), distances=(0.1,), features=None) -> Reference:
    features = torch.eye(3) if features is None else features
    names = tuple(f"image {i}" for i in range(len(features)))
    glances = torch.zeros(len(features), 1024, dtype=torch.uint8)
    held_out = {"sure": torch.tensor(sure), "distances": torch.tensor(distances)}
    return Reference("head", of_length_one(features), glances, names, names, **held_out, weights="abc")


@pytest.fixture(scope="module")
def run(stripes, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("frostline.report.gallery.draw_shots", lambda *_: None)
        return probed(stripes, tmp_path_factory.mktemp("reference") / "run")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=20, max_size=80), st.floats(0.5, 0.95))
def test_of_held_out_images_at_least_so_many_are_covered_and_known(values, coverage):
    known = reference(values, values)
    assert np.mean(np.float32(values) >= np.float32(known.least_probable(coverage)) - 1e-6) >= coverage
    assert np.mean(np.float32(values) <= np.float32(known.farthest())) >= 0.95


def test_sets_cover_as_often_as_promised():
    """200 resplits of the outputs of a network that is often wrong, a third of them held out."""
    chance = np.random.default_rng(0)
    targets = torch.from_numpy(chance.integers(0, 5, 1500))
    logits = torch.from_numpy(chance.normal(0, 1.5, (1500, 5))).float()
    logits[torch.arange(1500), targets] += 2
    p = logits.softmax(1)
    sure, covered, sizes = p[torch.arange(1500), targets], [], []
    for _ in range(200):
        order = torch.from_numpy(chance.permutation(1500))
        least = reference(sure[order[:500]].tolist()).least_probable(0.95)
        inside = p[order[500:]] >= least
        covered.append(float((sure[order[500:]] >= least).float().mean()))
        sizes.append(float(inside.sum(1).float().mean()))
    assert 0.945 <= np.mean(covered) <= 0.96
    assert 1 < np.mean(sizes) < 4


@given(st.floats(0, 1, width=32))
def test_what_is_as_probable_as_the_threshold_is_inside(p):
    known = reference([p] * 30, [p] * 30)
    assert torch.tensor(p) >= known.least_probable(0.9)
    assert torch.tensor(p) <= known.farthest()


@pytest.mark.parametrize(("n", "coverage", "most"), [(18, 0.95, "0.947"), (8, 0.9, "0.888")])
def test_a_promise_needs_images_enough(n, coverage, most):
    with pytest.raises(UsageError, match=f"more than {n} held-out images; use at most {most}"):
        reference([0.5] * n).least_probable(coverage)
    assert reference([0.5] * (n + 1)).least_probable(coverage) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 95.0, float("nan")])
def test_a_coverage_is_a_share(coverage):
    with pytest.raises(UsageError, match="above 0 and below 1"):
        reference([0.5] * 50).least_probable(coverage)


def test_the_nearest_come_first_whatever_the_length():
    known = reference(features=torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 7.0]]))
    cosines, numbers = known.nearest(torch.tensor([[0.1, 0.0], [0.0, 5.0]]), 2)
    assert numbers.tolist() == [[0, 1], [2, 1]]
    torch.testing.assert_close(cosines[:, 0], torch.ones(2))


def test_no_training_image_is_its_own_neighbour():
    known = reference(features=torch.eye(8))
    assert known.distances_of(torch.eye(8)).tolist() == [1.0] * 8
    double = reference(features=torch.cat([torch.eye(2)] * 5))  # each five times
    assert double.distances_of(torch.eye(2)).tolist() == pytest.approx([0.0, 0.0])
    assert double.distances_of(torch.cat([torch.eye(2)] * 5), themselves=True).tolist() == [1.0] * 10


@pytest.mark.parametrize(
    ("head", "path"),
    [
        (nn.Linear(4, 2), "head"),
        (nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 2)), "head.2"),
        (nn.Conv2d(4, 2, 1), "head"),
        (nn.Identity(), "head"),
    ],
)
def test_features_are_what_the_last_layer_of_a_head_gets(head, path):
    assert feature_layer(nn.Sequential(), "") == ""
    model = nn.Module()
    model.head = head
    assert feature_layer(model, "head") == path


def test_what_a_run_remembers_is_what_its_classifier_makes_of_the_images(run, stripes):
    known, classifier = read(run), load(run, small_model())
    assert (known.names, len(known.sure)) == (tuple(stripes.train.names), len(stripes.valid))
    with noting(classifier.model, known.layer) as noted:
        logits = torch.cat([own for _, own, _ in classifier.logits(stripes.valid)])
    p = logits.softmax(1)[torch.arange(len(logits)), torch.from_numpy(stripes.valid.targets)]
    torch.testing.assert_close(known.sure, p, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(known.distances, known.distances_of(torch.cat(noted)), atol=2e-3, rtol=0)


def read(run) -> Reference:
    return read_reference(run.path)


def test_predictions_have_sets_and_reasons(run, stripes):
    found = frostline.predict(run, list(stripes.test.pictures), coverage=0.9, why=2, model=small_model())
    truth = [stripes.classes[target] for target in stripes.test.targets]
    assert np.mean([true in each.set for each, true in zip(found, truth, strict=True)]) > 0.7
    plain = frostline.predict(run, list(stripes.test.pictures), model=small_model())
    for each, alone in zip(found, plain, strict=True):
        assert (each.label, each.probability) == (alone.label, alone.probability)
        assert len(each.why) == 2
        assert each.why[0][2] >= each.why[1][2]
        assert each.as_json().keys() >= {"set", "none", "why"}
        assert not alone.as_json().keys() & {"set", "none", "why"}


def test_a_training_image_is_its_own_reason(run, stripes):
    (found,) = frostline.predict(run, stripes.train.pictures[7], why=1, model=small_model())
    path, label, cosine = found.why[0]
    assert (path, label) == (stripes.train.names[7], stripes.classes[stripes.train.targets[7]])
    assert cosine == pytest.approx(1, abs=1e-3)


def test_what_is_like_no_training_image_is_of_none_of_the_classes(run, stripes):
    noise = np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), np.uint8)
    strange = frostline.predict(run, list(noise), coverage=0.9, model=small_model())
    known = frostline.predict(run, list(draw_images(40, seed=8).pictures), coverage=0.9, model=small_model())
    assert np.mean([each.none for each in strange]) > np.mean([each.none for each in known])


def test_an_unreadable_file_has_an_error_and_no_set(run, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    good = draw(0, np.random.default_rng(0))
    found = frostline.predict(run, [broken, good], coverage=0.9, why=1, model=small_model())
    assert (found[0].set, found[0].why, bool(found[0].error)) == (None, (), True)
    assert found[1].set is not None
    assert len(frostline.predict(run, [broken], coverage=0.9, model=small_model())) == 1


def test_few_images_without_a_split_are_known_by_the_others(tmp_path):
    few = draw_images(60, seed=1)
    images = replace(stripes_of(few), validation="crossed")
    known = read(probed(images, tmp_path / "run"))
    assert len(known.distances) == len(known.sure) == 60
    assert float(known.distances.min()) > 0


def stripes_of(train: Images):
    from frostline.data.images import ImageSet

    return ImageSet("few", ("flat", "tall", "plain"), train, train)


def test_images_of_several_labels_have_no_sets(tmp_path):
    images = several_labels()
    run = probed(images, tmp_path / "run")
    with pytest.raises(UsageError, match="no reference.safetensors"):
        frostline.predict(run, images.valid.pictures[0], coverage=0.9, model=Small(len(images.classes)))


@pytest.mark.parametrize("change", ["cut", "other", "names", "gone"])
def test_a_file_that_cannot_be_trusted_is_refused(change, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    file = copy / FILE
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif change == "gone":
        file.unlink()
    elif change == "other":
        write_reference(copy, replace(read(run), weights="0"))
    else:
        save_file(load_file(file), file, {"reference": '{"layer": "head", "weights": "x", "names": [], "labels": []}'})
    with pytest.raises(UsageError if change == "gone" else WeightsError, match=r"reference\.safetensors"):
        frostline.predict(copy, draw(0, np.random.default_rng(0)), why=1, model=small_model())


@pytest.mark.parametrize("tensor", ["sure", "features", "distances"])
def test_a_file_whose_numbers_were_changed_is_refused(tensor, run, tmp_path):
    """A promise of coverage rests on them. Without its digest, too, what is no number is refused."""
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    write_reference(copy, replace(read(run), **{tensor: torch.full_like(getattr(read(run), tensor), torch.nan)}))
    with pytest.raises(WeightsError, match="differs from the file that was written"):
        read_reference(copy)
    described = json.loads((copy / "model" / "model.json").read_text())
    described["provenance"].pop("reference_sha256")
    (copy / "model" / "model.json").write_text(json.dumps(described))
    with pytest.raises(WeightsError, match="no finite numbers"):
        read_reference(copy)


def test_a_copied_classifier_says_what_it_lacks(run, tmp_path):
    copy = shutil.copytree(run.path / "model", tmp_path / "pets")
    with pytest.raises(UsageError, match="only model/ of the run was copied"):
        read_reference(copy)
    shutil.copy(run.path / FILE, copy)
    assert read_reference(copy).names == read(run).names


def test_reasons_are_counted_from_one(run):
    with pytest.raises(UsageError, match="why is -1"):
        frostline.predict(run, draw(0, np.random.default_rng(0)), why=-1, model=small_model())


def test_another_task_is_refused():
    from frostline.classifier.classifier import Classifier
    from frostline.machine import find_machine

    classifier = Classifier(Small(3), ("a", "b", "c"), HOW, find_machine("cpu", "fp32"), "multilabel")
    with pytest.raises(UsageError, match="this is multilabel"):
        next(explained(classifier, reference(), Images([], np.zeros(0, np.int64), []), 0.9))
