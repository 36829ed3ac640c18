"""Every argument of fit reaches training or is refused."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional

import frostline
from conftest import SIZE, draw_images, small_model
from frostline.backbones import load_backbone
from frostline.data.images import Images, ImageSet
from frostline.errors import UsageError
from frostline.fitting import attempt as fitting
from frostline.plan import Phase, phase_from
from frostline.preprocessing import Preprocessing
from frostline.store.shard_file import open_shard

pytestmark = pytest.mark.usefixtures("no_pictures")

PLAN = [Phase("block2", epochs=2, lr=1e-2, views=2)]
CLASSES = ("flat", "tall", "plain")


def named(value: object) -> str:
    """An id without addresses: every process of the tests must find the same one."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def uneven() -> ImageSet:
    """Three classes of 24, 8 and 4 training images."""
    whole, most = draw_images(72), (24, 8, 4)
    chosen = [i for i in range(72) if i // 3 < most[i % 3]]
    return ImageSet("uneven", CLASSES, whole.take(np.array(chosen)), draw_images(24, seed=1))


def fitted(out, **options):
    backbone = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36))
    return frostline.fit(
        uneven(), **{"backbone": backbone, "plan": PLAN, "precision": "fp32", "quiet": True, "out": out, **options}
    )


def weights(run) -> bytes:
    return (run.path / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, bytes]:
    """The weights of a fit without options, trained and solved."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE", str(folder / "cache"))
        for name in ("draw_curves", "draw_confusion", "draw_shots"):
            patch.setattr(f"frostline.report.gallery.{name}", lambda *_: None)
        return {"trained": weights(fitted(folder / "a")), "solved": weights(fitted(folder / "b", plan="probe"))}


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def own_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.multi_margin_loss(logits, targets)


TRAINED = [
    {"optimizer": "sgd"},
    {"optimizer": "adam"},
    {"weight_decay": 0.9},
    {"schedule": "constant"},
    {"schedule": "step"},
    {"clip": 1e-3},
    {"mixup": 1.0},
    {"batch_size": 8},
    {"lr": 1e-3},
    {"loss": "focal"},
    {"loss": own_loss},
    {"label_smoothing": 0.2},
    {"class_weights": "balanced"},
    {"class_weights": {"flat": 1, "tall": 2, "plain": 9}},
    {"balanced": True},
    {"augment": "standard"},
    {"augment": "none"},
    {"augment": mirrored},
]
SOLVED = [
    {"loss": "focal"},
    {"loss": own_loss},
    {"label_smoothing": 0.2},
    {"class_weights": "balanced"},
    {"class_weights": {"flat": 1, "tall": 2, "plain": 9}},
    {"balanced": True},
]


def test_without_options_a_fit_repeats_itself(plain, tmp_path):
    assert weights(fitted(tmp_path / "run")) == plain["trained"]


@pytest.mark.parametrize("options", TRAINED, ids=named)
@pytest.mark.long
def test_an_option_changes_what_is_trained(options, plain, tmp_path):
    assert weights(fitted(tmp_path / "run", **options)) != plain["trained"]


@pytest.mark.parametrize("options", SOLVED, ids=named)
def test_an_option_changes_a_head_that_nothing_else_trains(options, plain, tmp_path):
    if options.get("class_weights") is None:
        options = {**options, "epochs": 3}
    assert weights(fitted(tmp_path / "run", plan="probe", **options)) != plain["solved"]


def test_momentum_is_that_of_sgd(tmp_path):
    both = [weights(fitted(tmp_path / str(m), optimizer="sgd", momentum=m)) for m in (0.0, 0.9)]
    assert both[0] != both[1]


@pytest.fixture
def trainings(monkeypatch):
    """The trainings that a fit makes."""
    made = []

    class Watched(fitting.Training):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            made.append(self)

    monkeypatch.setattr(fitting, "Training", Watched)
    return made


ASKED = {
    "epochs": 1,
    "lr": 2e-3,
    "batch_size": 7,
    "optimizer": "sgd",
    "momentum": 0.5,
    "weight_decay": 0.1,
    "schedule": "constant",
    "clip": 2.0,
    "mixup": 0.3,
    "views": 3,
}


@pytest.mark.parametrize(("plan", "loss"), [(PLAN, None), ("probe", own_loss)], ids=["trained", "instead of solved"])
def test_every_figure_reaches_every_phase_that_trains(plan, loss, trainings, tmp_path):
    fitted(tmp_path / "run", plan=plan, loss=loss, **ASKED)
    (training,) = trainings
    assert {name: getattr(training.phase, name) for name in ASKED} == ASKED
    assert training.train.views == 3
    group = training.optimizer.param_groups[0]
    assert (type(training.optimizer), group["momentum"], group["weight_decay"]) == (torch.optim.SGD, 0.5, 0.1)
    assert set(ASKED) == {
        field for field in inspect.signature(Phase).parameters if field in inspect.signature(frostline.fit).parameters
    }


def test_a_function_for_a_loss_gets_logits_and_targets_and_is_what_the_history_shows(tmp_path):
    seen = set()

    def loss(logits, targets):
        seen.add((logits.shape[1], targets.dtype))
        return functional.cross_entropy(logits, targets) * 0 + logits.square().mean() + 5

    run = fitted(tmp_path / "run", loss=loss, plan="probe", epochs=3)
    assert seen == {(3, torch.int64)}
    assert [row["epoch"] for row in run.history] == [0, 1, 2, 3]
    assert all(row["valid_loss"] > 5 for row in run.history)
    assert run.metrics["valid"]["loss"] < 5
    assert "no closed-form solution" in (run.path / "log.txt").read_text()


def test_a_smoothed_label_is_trained_but_not_judged_by(tmp_path, trainings):
    run = fitted(tmp_path / "run", label_smoothing=0.3)
    assert run.history[-1]["valid_loss"] == pytest.approx(trainings[0].evaluate()[0]["loss"], rel=0.5)
    logits, targets = torch.tensor([[9.0, 0, 0]]), torch.tensor([0])
    assert trainings[0].stepper.loss(logits, targets) > 10 * trainings[0].monitor(logits, targets)


def test_balanced_weights_are_those_of_scikit_learn(trainings, tmp_path):
    from sklearn.utils.class_weight import compute_class_weight

    fitted(tmp_path / "run", class_weights="balanced")
    weight = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=uneven().train.targets)).float()
    logits, targets = torch.randn(9, 3), torch.arange(9) % 3
    expected = functional.cross_entropy(logits, targets, weight)
    torch.testing.assert_close(trainings[0].stepper.loss(logits, targets), expected)
    torch.testing.assert_close(trainings[0].monitor(logits, targets), expected)


def several_labels() -> ImageSet:
    whole = [draw_images(count, 4, seed) for seed, count in enumerate((48, 24))]
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    parts = [Images(some.pictures, labels[some.targets], some.names) for some in whole]
    return ImageSet("several", ("flat", "tall"), *parts)


REFUSED = [
    ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
    ({"schedule": "cosin"}, "nearest: cosine"),
    ({"momentum": 1.0}, "momentum is 1.0; it must be"),
    ({"clip": -1.0}, "clip is -1.0; it must be"),
    ({"mixup": -0.1}, "mixup is -0.1; it must be"),
    ({"loss": "dice"}, "loss 'dice' does not fit these labels"),
    ({"label_smoothing": 1.0}, "label smoothing is 1.0"),
    ({"loss": "focal", "label_smoothing": 0.1}, "focal takes no"),
    ({"loss": own_loss, "class_weights": "balanced"}, "leave out"),
    ({"class_weights": "even"}, "unknown class weights 'even'"),
    ({"class_weights": {"flat": 1, "high": 2}}, "the classes are flat, tall, plain"),
    ({"augment": "strong"}, "unknown augment 'strong'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=named)
def test_what_cannot_be_done_is_refused_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        fitted(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_D18_what_a_function_makes_is_not_kept(tmp_path, own_cache):
    plan = [Phase("block2", epochs=1, views=3)]
    for name in ("one", "two"):
        computed = fitted(tmp_path / name, plan=plan, augment=mirrored).metrics["phases"][0]["computed"]
        assert computed == 36 * 3 + (24 if name == "one" else 0)
    stored = sum(len(open_shard(file)) for file in own_cache.rglob("*.shard"))
    assert stored == 24  # the validation images, which no function changes


def test_several_labels_an_image(tmp_path):
    backbone = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36))
    options = {"backbone": backbone, "quiet": True, "augment": "none"}
    run = frostline.fit(several_labels(), plan=[Phase("head", epochs=0), *PLAN], out=tmp_path / "run", **options)
    metrics = run.metrics
    assert metrics["task"] == "multilabel"
    assert metrics["valid"]["accuracy"] > 0.8
    assert metrics["valid"]["mean_ap"] > 0.9
    assert "valid_mean_ap" in run.history[0]
    chosen = several_labels().valid
    predicted = frostline.load(run, model=small_model()).predictions(chosen.pictures)
    right = [answer.label == label for answer, label in zip(predicted, chosen.labels(("flat", "tall")), strict=True)]
    assert np.mean(right) == pytest.approx(metrics["valid"]["accuracy"])
    measured = frostline.evaluate(run, several_labels(), split="valid", model=small_model())
    assert measured["mean_ap"] == pytest.approx(metrics["valid"]["mean_ap"], abs=0.02)


@pytest.mark.parametrize("options", [{}, {"loss": own_loss, "augment": mirrored, "epochs": 1}, ASKED], ids=named)
def test_a_config_says_what_was_asked_in_plain_values(options, tmp_path):
    run = fitted(tmp_path / "run", **options)
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert set(config) == set(inspect.signature(frostline.fit).parameters)
    assert config["data"] == "uneven"
    for name, value in options.items():
        assert config[name] == getattr(value, "__name__", value)
    phases = [phase_from(item, "config") for item in config["plan"]["phases"]]
    assert all(getattr(phase, name) == value for phase in phases for name, value in options.items() if name in ASKED)


def test_arrays_are_named_and_not_written_out(tmp_path):
    images = draw_images(30)
    backbone = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36))
    data = (images.pictures, images.targets)
    run = frostline.fit(data, backbone=backbone, plan="probe", out=tmp_path / "run", quiet=True)
    assert (run.config["data"], run.classes) == ("arrays", ("0", "1", "2"))


@pytest.mark.parametrize(("plan", "warned"), [("probe", True), pytest.param("full", False, marks=pytest.mark.long)])
def test_a_frozen_random_network_is_warned_of(plan, warned, stripes, tmp_path, capsys):
    """Stumble 23."""
    options = {"backbone": "torchvision:resnet18", "weights": "none", "image_size": 32, "epochs": 1, "report": False}
    options = {name: value for name, value in options.items() if plan == "full" or name != "epochs"}
    frostline.fit(stripes, plan=plan, out=tmp_path / "run", **options)
    said = "warning: without pretrained weights the frozen layers are random"
    assert (said in capsys.readouterr().err) == warned
