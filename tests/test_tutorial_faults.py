"""The silent faults of well-known tutorial scripts, each shown to be impossible here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import frostline
from conftest import SIZE, draw, small_model, state_of
from frostline.backbones import load_backbone
from frostline.data.views import Views, pixels, suited
from frostline.fitting import attempt as fitting
from frostline.machine import find_machine
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing, normalised
from frostline.store import placement as storing

pytestmark = pytest.mark.usefixtures("no_pictures")

HOW = Preprocessing(size=SIZE, resize=36)
PLAN = [Phase("head", epochs=0), Phase("block2", epochs=3, lr=1e-2), Phase("block1", epochs=2, lr=1e-3)]


def fitted(data, out, **options):
    usual = {"backbone": load_backbone(small_model(), preprocessing=HOW), "plan": PLAN, "quiet": True, "out": out}
    return frostline.fit(data, **{**usual, **options})


@pytest.fixture
def trainings(monkeypatch):
    """The trainings of a fit, each with the state of its upper part after every epoch."""
    made = []

    class Watched(fitting.Training):
        def __init__(self, network, *given, **options):
            super().__init__(network, *given, **options)
            self.network, self.states = network, [state_of(self.upper)]
            self.below = state_of(network.model)
            made.append(self)

        def steps(self):
            for row in super().steps():
                if row is not None:
                    self.states.append(state_of(self.upper))
                yield row

    monkeypatch.setattr(fitting, "Training", Watched)
    return made


def test_the_new_head_is_never_frozen_along(small, stripes, tmp_path, trainings):
    fitted(stripes, tmp_path / "run")
    for training in trainings:
        held = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
        assert {id(p) for p in training.upper.get_submodule("head").parameters()} <= held


def test_the_optimizer_holds_exactly_what_lies_above_the_frostline(stripes, tmp_path, trainings):
    fitted(stripes, tmp_path / "run")
    above = [("block2", "head"), ("block1", "block2", "head")]
    for training, stages in zip(trainings, above, strict=True):
        held = [id(p) for group in training.optimizer.param_groups for p in group["params"]]
        named = dict(training.upper.named_parameters())
        assert {name.split(".")[0] for name in named} == set(stages)
        assert sorted(held) == sorted(id(p) for p in named.values())
        assert all(p.requires_grad for p in named.values())


def test_frozen_layers_keep_weights_and_statistics_bit_for_bit(stripes, tmp_path):
    run = fitted(stripes, tmp_path / "run")
    saved = frostline.load(run, model=small_model()).model.state_dict()
    before = small_model().state_dict()
    frozen = [name for name in before if name.startswith(("conv", "norm"))]
    assert any("running_mean" in name for name in frozen)
    assert all(torch.equal(before[name], saved[name]) for name in frozen)
    assert not torch.equal(before["block1.conv1.weight"], saved["block1.conv1.weight"])


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "torchvision:inception_v3"])
def test_a_run_stores_the_preprocessing_of_its_weights(name):
    import timm
    import torchvision

    preprocessing = load_backbone(name, "none").preprocessing
    if name.startswith("timm"):
        wanted = timm.get_pretrained_cfg(name.partition(":")[2])
        assert (preprocessing.mean, preprocessing.std, preprocessing.size) == (
            wanted.mean,
            wanted.std,
            wanted.input_size[1],
        )
        assert preprocessing.interpolation == wanted.interpolation
    else:
        wanted = torchvision.models.get_model_weights(name.partition(":")[2]).DEFAULT.transforms()
        assert (list(preprocessing.mean), list(preprocessing.std)) == (list(wanted.mean), list(wanted.std))
        assert ([preprocessing.size], [preprocessing.resize]) == (wanted.crop_size, wanted.resize_size)


def test_what_a_run_was_trained_with_is_what_it_is_deployed_with(stripes, tmp_path):
    preprocessing = Preprocessing(
        size=SIZE, resize=40, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    )
    run = fitted(
        stripes, tmp_path / "run", backbone=load_backbone(small_model(), preprocessing=preprocessing), plan="probe"
    )
    assert frostline.load(run, model=small_model()).preprocessing == preprocessing


def test_the_first_training_view_is_what_evaluation_and_deployment_show(stripes, small):
    classifier = frostline.Classifier(small.model, stripes.classes, HOW, find_machine("cpu", "fp32", 1))
    picture, digest = stripes.train.pictures[0], stripes.train.digests[0]
    shown = []
    classifier_run, network = classifier.run, small.network(3)
    for augment in ("light", "standard", "digits"):
        trained = pixels(picture, digest, [0], Views(4, augment=augment), HOW)
        assert np.array_equal(trained, pixels(picture, digest, [0], Views(), HOW))
        shown.append(classifier_run(torch.from_numpy(trained)))
    lower, _ = network.cut("stem")
    one = frostline.activations(lower, stripes.train.take(np.array([0])), Views(4))
    (predicted,) = [logits for _, logits, _ in classifier.logits(stripes.train.take(np.array([0])))]
    torch.testing.assert_close(small.model(one[0][0][None]).detach(), predicted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shown[0], predicted, rtol=1e-4, atol=1e-4)


def test_grey_images_are_the_same_as_rgb_and_normalised_channel_by_channel():
    grey = draw(0, np.random.default_rng(0))[..., 0]
    coloured = np.repeat(grey[..., None], 3, 2)
    one, three = (pixels(picture, b"", [0], Views(), HOW) for picture in (grey, coloured))
    assert np.array_equal(one, three)
    preprocessing = Preprocessing(size=SIZE, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    rows = normalised(torch.from_numpy(one).permute(0, 3, 1, 2), preprocessing)
    for channel in range(3):
        expected = (torch.from_numpy(one[0, ..., channel]) / 255 - preprocessing.mean[channel]) / preprocessing.std[
            channel
        ]
        torch.testing.assert_close(rows[0, channel], expected, rtol=1e-4, atol=1e-5)


def test_digits_are_never_mirrored_unless_somebody_asks(tmp_path, trainings):
    data = frostline.read_data("digits")
    assert suited(data.train.pictures) == "digits"
    few = data.with_splits({name: part.take(np.arange(40)) for name, part in data.splits.items()})
    seen = []
    original = storing.fill

    def watched(inventory, *more):
        seen.append(inventory.rows.views)
        return original(inventory, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "fill", watched)
        fitted(few, tmp_path / "run", plan=[Phase("head", epochs=1, views=3)])
    assert max(views.count for views in seen) == 3
    assert not any(views.recipe.mirror for views in seen)
    left = Image.new("RGB", (40, 40))
    left.paste((255, 255, 255), (0, 0, 12, 40))
    array = np.asarray(left)
    for number in range(1, 30):
        (view,) = pixels(array, bytes([number]), [number], seen[0].__class__(30, augment=seen[0].augment), HOW)
        assert view[:, : SIZE // 2].mean() > view[:, SIZE // 2 :].mean()


def test_every_epoch_has_other_weights_and_one_row(stripes, tmp_path, trainings):
    run = fitted(stripes, tmp_path / "run")
    rows = [(row["phase"], row["epoch"]) for row in run.history]
    assert len(set(rows)) == len(rows)
    for number, training in enumerate(trainings, 2):
        assert [e for p, e in rows if p == number] == list(range(training.epoch + 1))
        weights = [state["head.weight"].numpy().tobytes() for state in training.states]
        assert len(weights) == len(set(weights)) == training.epoch + 1


def test_accuracy_is_a_plain_number_from_0_to_1(stripes, tmp_path):
    run = fitted(stripes, tmp_path / "run")
    measured = [run.metrics["valid"], run.metrics["test"], frostline.evaluate(run, stripes, model=small_model())]
    for found in [*measured, *(phase["valid"] for phase in run.metrics["phases"])]:
        assert type(found["accuracy"]) is float
        assert 0 <= found["accuracy"] <= 1
    for row in run.history:
        assert 0 <= row["valid_accuracy"] <= 1
        assert row["train_accuracy"] is None or 0 <= row["train_accuracy"] <= 1


def test_a_data_set_that_normalised_already_is_refused():
    normal = np.random.default_rng(0).normal(size=(20, 3, 16, 16)).astype(np.float32)
    with pytest.raises(frostline.FrostlineError, match="before normalisation"):
        frostline.read_data((normal, np.arange(20) % 2))
