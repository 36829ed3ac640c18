"""The temperature of a run: fitted on validation images, stored, and applied wherever an image gets an answer."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import frostline
from conftest import draw_images, small_backbone, small_model
from frostline.data.images import Images, ImageSet
from frostline.plan import Phase
from frostline.report import gallery, shots
from frostline.tasks import classification
from frostline.tasks.calibration import calibrate, expected_calibration_error
from tasks_data import halves, several_labels

PLAN = [Phase("head", epochs=0, views=1)]  # solved on training images: no epoch is chosen by the validation loss
OPTIONS = {"plan": PLAN, "precision": "fp32", "device": "cpu"}


def mislabelled(part: Images, seed: int) -> Images:
    """A third of the labels drawn again."""
    chance = np.random.default_rng(seed)
    targets = part.targets.copy()
    again = chance.random(targets.shape) < 0.33
    targets[again] = chance.integers(0, 2 if targets.ndim == 2 else 3, again.sum())
    return Images(part.pictures, targets, part.names)


def doubtful(task: str) -> ImageSet:
    """Training images that are easy, and others whose labels are often wrong: a network is too sure of these."""
    if task == "multilabel":
        whole = several_labels()
    else:
        parts = [draw_images(count, seed=seed) for seed, count in enumerate((60, 90, 45), 20)]
        whole = ImageSet("doubtful", ("flat", "tall", "plain"), *parts)
    return whole.with_splits({"valid": mislabelled(whole.valid, 1), "test": mislabelled(whole.test, 2)})


@pytest.fixture(scope="module", params=["classification", "multilabel"])
def fitted(request, tmp_path_factory):
    data, folder = doubtful(request.param), tmp_path_factory.mktemp("doubtful")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_confusion", "draw_shots"):
            patch.setattr(gallery, name, lambda *_: None)
        drawn = []
        patch.setattr(shots, "shots_of", lambda *given: drawn.append(given))
        backbone = small_backbone()
        run = frostline.fit(data, backbone=backbone, out=folder / "run", store=folder / "cache", **OPTIONS)
    return data, run, drawn[0]


def test_a_network_that_is_too_sure_is_told_less_sure(fitted):
    data, run, _ = fitted
    calibration = run.metrics["calibration"]
    assert calibration.keys() == {"temperature", "n", "ece", "loss"}
    assert calibration["temperature"] > 1.2
    assert calibration["n"] == len(data.valid)
    assert calibration["loss"][1] < calibration["loss"][0]
    assert calibration["loss"][0] == pytest.approx(run.metrics["phases"][-1]["valid"]["loss"])  # as the phase ended
    assert run.metrics["valid"]["loss"] < calibration["loss"][0]
    assert run.metrics["valid"]["accuracy"] == run.metrics["phases"][-1]["valid"]["accuracy"]
    assert run.metrics["test"]["loss"] < run.metrics["phases"][-1]["test"]["loss"]


def test_one_line_tells_it(fitted):
    _, run, _ = fitted
    calibration, log = run.metrics["calibration"], (run.path / "log.txt").read_text()
    (line,) = [line for line in log.splitlines() if "calibrat" in line]
    assert f"calibrated: temperature {calibration['temperature']:.2f}, calibration error " in line
    assert f"(cross-fitted on {calibration['n']} images)" in line


def test_evaluate_gives_exactly_the_figures_of_the_fit(fitted):
    data, run, _ = fitted
    for split in ("valid", "test"):
        found = frostline.evaluate(run, data, split=split, model=small_model())
        for key, value in run.metrics[split].items():
            if key not in ("per_class", "intervals"):
                assert found[key] == pytest.approx(value, abs=1e-6), key
        for key, interval in run.metrics[split]["intervals"].items():
            assert found["intervals"][key] == pytest.approx(interval, abs=1e-6), key


def test_predictions_csv_and_predict_give_one_probability(fitted):
    data, run, _ = fitted
    with (run.path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    pictures = [*data.valid.pictures, *data.test.pictures]
    for row, answer in zip(rows, frostline.predict(run, pictures, model=small_model()), strict=True):
        assert row["predicted"] == answer.label
        assert float(row["probability"]) == pytest.approx(answer.probability, abs=2e-6)


def test_pictures_show_the_same_probabilities(fitted):
    _, run, (classifier, _, _, measured) = fitted
    assert classifier.temperature == run.metrics["calibration"]["temperature"]
    for split in ("valid", "test"):
        _, outputs = measured[split]
        assert float(outputs.losses.mean()) == pytest.approx(run.metrics[split]["loss"], abs=1e-6)


def test_it_is_stored_and_loaded_but_not_in_the_bare_weights(fitted, tmp_path):
    data, run, _ = fitted
    described = json.loads((run.path / "model" / "model.json").read_text())
    classifier = frostline.load(run, model=small_model())
    assert described["temperature"] == classifier.temperature == run.metrics["calibration"]["temperature"]
    card = (run.path / "model" / "MODEL_CARD.md").read_text()
    assert f"divided by the temperature {classifier.temperature:.4f}, fitted on the validation images" in card
    assert load_file(classifier.save(tmp_path / "bare.safetensors")).keys() == classifier.model.state_dict().keys()
    (calibrated,) = [logits for _, logits, _ in classifier.logits(data.valid.take(np.arange(4)))]
    bare = dataclasses.replace(classifier, temperature=1.0)
    (own,) = [logits for _, logits, _ in bare.logits(data.valid.take(np.arange(4)))]
    torch.testing.assert_close(calibrated * classifier.temperature, own)


def test_the_figures_are_those_of_the_networks_own_logits(fitted):
    data, run, _ = fitted
    classifier = frostline.load(run, model=small_model())
    logits = torch.cat([own for _, own, _ in classifier.logits(data.valid)]) * classifier.temperature
    targets = torch.from_numpy(data.valid.targets)
    error = expected_calibration_error(logits, targets)
    assert run.metrics["calibration"]["ece"][0] == pytest.approx(error, abs=1e-4)
    if data.task == "classification":
        again = calibrate(classification.outputs(logits, targets), classification.TASK)
        assert again.temperature == pytest.approx(classifier.temperature, rel=1e-4)


def test_the_test_images_decide_nothing(tmp_path, no_pictures):
    data = doubtful("classification")
    noise = np.random.default_rng(9).integers(0, 256, data.test.pictures.shape).astype(np.uint8)
    others = {"a": data.test, "b": Images(noise, data.test.targets[::-1].copy(), data.test.names), "c": None}
    found = [
        frostline.fit(
            data.with_splits({"test": test}), backbone=small_backbone(), out=tmp_path / name, quiet=True, **OPTIONS
        ).metrics["calibration"]
        for name, test in others.items()
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["temperature"] != 1


def test_images_that_trained_the_network_calibrate_nothing(tmp_path, no_pictures):
    """Of a data set that is too small to hold some out."""
    data = doubtful("classification")
    data = data.with_splits({"train": data.valid})
    run = frostline.fit(data, backbone=small_backbone(), out=tmp_path / "run", quiet=True, **OPTIONS)
    assert run.metrics["calibration"] is None
    assert frostline.load(run, model=small_model()).temperature == 1
    assert "The probabilities are the network's own" in (run.path / "model" / "MODEL_CARD.md").read_text()


def test_few_images_leave_it_as_it_is(tmp_path, no_pictures):
    data = doubtful("classification")
    data = data.with_splits({"valid": data.valid.take(np.arange(19))})
    run = frostline.fit(data, backbone=small_backbone(), out=tmp_path / "run", **OPTIONS)
    calibration = run.metrics["calibration"]
    assert (calibration["temperature"], calibration["n"]) == (1.0, 19)
    assert calibration["loss"][0] == calibration["loss"][1] == run.metrics["valid"]["loss"]
    assert calibration["ece"][0] == calibration["ece"][1]
    assert "calibration unchanged" in (run.path / "log.txt").read_text()


def test_a_segmentation_has_none(tmp_path, no_pictures):
    run = frostline.fit(halves(), backbone=small_backbone(), out=tmp_path / "run", plan="probe", epochs=1)
    assert run.metrics["calibration"] is None
    assert json.loads((run.path / "model" / "model.json").read_text())["temperature"] == 1
    assert "calibrat" not in (run.path / "log.txt").read_text()
