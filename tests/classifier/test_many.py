"""Many images are answered as a few are: from the store where it knows them, else as the pass computes them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frostline
from conftest import draw, draw_images, small_backbone, small_model, write_photos
from frostline.classifier import classifier as module
from frostline.classifier.classifier import images_of
from frostline.classifier.many import CHUNK, Many, steady
from frostline.data.images import Images
from frostline.machine import find_machine


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images are many here."""
    monkeypatch.setattr(module, "MANY", 10)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 20)


def fitted(photos: Any, out: Path, **options) -> frostline.Run:
    options = {"plan": "probe", "precision": "fp32", "quiet": True, "report": False, **options}
    return frostline.fit(photos, backbone=small_backbone(), out=out, **options)


def answers(classifier: frostline.Classifier, images: Images) -> tuple[list[int], torch.Tensor, dict[int, str]]:
    numbers, logits, failed = [], [], {}
    for some, own, reasons in classifier.logits(images):
        numbers += some
        logits += [own] if some else []
        failed |= reasons
    return numbers, torch.cat(logits), failed


def assert_same(classifier: frostline.Classifier, images: Images) -> None:
    """In the same order, with the same logits but for rounding, and the same images unreadable."""
    numbers, logits, failed = answers(classifier, images)
    right_numbers, right, right_failed = answers(replace(classifier, many=None), images)
    assert numbers == right_numbers
    assert failed.keys() == right_failed.keys()
    torch.testing.assert_close(logits, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("which", ["run", "labelled", "segmented"])
def test_many_images_have_the_answers_of_each_alone(which, request):
    """Stumble 19."""
    run = request.getfixturevalue(which)
    classifier = frostline.load(run, small_model())
    assert isinstance(classifier.many(), Many)
    assert_same(classifier, draw_images(40, seed=5))


def test_what_cannot_be_read_is_told_among_the_others(photos, tmp_path):
    run = fitted(photos, tmp_path / "run")
    files = sorted(photos.rglob("*.png"))
    files[3].write_bytes(b"no image")
    files[17].unlink()
    for cache in (True, False):
        classifier = frostline.load(
            run if cache else fitted(photos, tmp_path / "b", cache=False, skip_unreadable=True), small_model()
        )
        assert_same(classifier, images_of(files))
        found = list(classifier.predictions(files))
        assert [each.path for each in found] == list(map(str, files))
        assert [bool(each.error) for each in found] == [i in (3, 17) for i in range(40)]


def test_steps_of_which_no_image_can_be_read(photos, tmp_path):
    machine = replace(find_machine("cpu", "fp32"), workers=16)
    classifier = frostline.load(fitted(photos, tmp_path / "run"), small_model(), machine)
    files = [tmp_path / f"gone-{i}.png" for i in range(12)]
    assert all(each.error for each in classifier.predictions(files))
    mixed = [*files[:6], *sorted(photos.rglob("*.png"))[:3], *files[6:]]
    assert_same(classifier, images_of(mixed))


def refuse(*_: object) -> None:
    raise AssertionError("something was computed")


def test_stored_images_are_not_looked_at_again(stripes, tmp_path, monkeypatch):
    """Stumble 20."""
    run = fitted(stripes, tmp_path / "run")
    classifier = frostline.load(run, small_model())
    right = answers(replace(classifier, many=None), stripes.train)[1]
    monkeypatch.setattr("frostline.classifier.many.engine_of", refuse)
    torch.testing.assert_close(answers(classifier, stripes.train)[1], right, rtol=1e-3, atol=1e-4)
    measured = frostline.evaluate(run, stripes, split="valid", model=small_model())
    assert measured["accuracy"] == run.metrics["valid"]["accuracy"]


def test_stored_and_new_images_keep_their_order(photos, tmp_path):
    run = fitted(photos, tmp_path / "run")
    write_photos(tmp_path / "new", 7)
    known, new = (sorted((tmp_path / name).rglob("*.png")) for name in ("photos", "new"))
    mixed = [file for pair in zip(known, [*new, *new, *new], strict=False) for file in pair]
    assert len(mixed) == 80
    assert_same(frostline.load(run, small_model()), images_of(mixed))


def test_a_file_that_has_changed_is_computed_anew(photos, tmp_path):
    from PIL import Image

    run = fitted(photos, tmp_path / "run")
    files = sorted(photos.rglob("*.png"))
    Image.fromarray(draw(2, np.random.default_rng(9), 44)).save(files[0])
    assert_same(frostline.load(run, small_model()), images_of(files))


def test_rows_of_another_precision_are_not_taken(photos, tmp_path, monkeypatch):
    run = fitted(photos, tmp_path / "run", precision="bf16")
    classifier = frostline.load(run, small_model())
    monkeypatch.setattr("frostline.classifier.many.engine_of", refuse)
    with pytest.raises(AssertionError, match="something was computed"):
        answers(classifier, images_of(sorted(photos.rglob("*.png"))))


def test_a_deeper_frostline_and_its_rows(stripes, tmp_path, monkeypatch):
    plan = [frostline.Phase("head", epochs=0), frostline.Phase("block2", epochs=2, lr=0.01)]
    run = fitted(stripes, tmp_path / "run", plan=plan, augment="none")
    classifier = frostline.load(run, small_model())
    assert_same(classifier, stripes.valid)
    kept = run.metrics["decisions"][0]["kept"]
    assert classifier.many().frostline == ("block2" if kept else "head")
    monkeypatch.setattr("frostline.classifier.many.engine_of", refuse)
    answers(classifier, stripes.valid)


def test_a_network_that_was_trained_meanwhile_answers_as_it_is_now(photos, tmp_path):
    run = fitted(photos, tmp_path / "run", cache=False)
    classifier, images = frostline.load(run, small_model()), draw_images(20)
    before = answers(classifier, images)[1]
    with torch.no_grad():
        for parameter in classifier.model.parameters():
            parameter.add_(0.05)
    assert not torch.allclose(before, answers(classifier, images)[1], atol=1e-2)
    assert_same(classifier, images)


def test_a_few_images_do_not_wait_for_the_network_to_be_followed(photos, tmp_path):
    classifier = replace(frostline.load(fitted(photos, tmp_path / "run"), small_model()), many=refuse)
    assert len(classifier.predict(list(draw_images(9).pictures))) == 9
    with pytest.raises(AssertionError, match="something was computed"):
        classifier.predict(list(draw_images(10).pictures))


@pytest.mark.parametrize("count", [9, 40])
def test_the_first_answers_wait_neither_for_that_nor_for_many_images(count, photos, tmp_path):
    classifier = replace(frostline.load(fitted(photos, tmp_path / "run"), small_model()), many=refuse)
    numbers, logits, _ = next(classifier.logits(draw_images(count)))
    assert numbers == list(range(8))
    assert len(logits) == 8


def test_a_classifier_goes_to_another_process(photos, tmp_path):
    classifier = frostline.load(fitted(photos, tmp_path / "run"), small_model())
    images = draw_images(20)
    right = answers(classifier, images)[1]
    again = pickle.loads(pickle.dumps(classifier))
    torch.testing.assert_close(answers(again, images)[1], right)


def test_only_the_model_folder_answers_too(photos, tmp_path):
    run = fitted(photos, tmp_path / "run")
    for file in run.path.iterdir():
        if file.is_file():
            file.unlink()
    classifier = frostline.load(run.path, small_model())
    assert classifier.many().frostline == ""
    assert_same(classifier, images_of(sorted(photos.rglob("*.png"))))


def test_the_store_is_asked_part_by_part(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("frostline.classifier.many.CHUNK", 7)
    assert CHUNK > 7
    run = fitted(photos, tmp_path / "run")
    assert_same(frostline.load(run, small_model()), images_of(sorted(photos.rglob("*.png"))))


def test_evaluate_has_the_figures_of_the_fit_and_the_leaks(photos, tmp_path):
    run = fitted(photos, tmp_path / "run", plan=[frostline.Phase("head", epochs=3)])
    measured = frostline.evaluate(run, photos, model=small_model())
    assert measured["trained_on"] > 0
    files = sorted(photos.rglob("*.png"))
    assert measured["accuracy"] == frostline.load(run, small_model()).score(files, [file.parent.name for file in files])


def test_sets_and_reasons_of_many_are_those_of_each(photos, tmp_path):
    run = fitted(photos, tmp_path / "run", plan=[frostline.Phase("head", epochs=5, lr=0.1)])
    files = sorted(photos.rglob("*.png"))
    many = frostline.predict(run, files, why=2, model=small_model())
    alone = [frostline.predict(run, file, why=2, model=small_model())[0] for file in files[:5]]
    for one, other in zip(many, alone, strict=False):
        assert [each[2] for each in one.why] == pytest.approx([each[2] for each in other.why], abs=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_batches_without_an_end_have_the_same_logits(photos, tmp_path, count):
    classifier = frostline.load(fitted(photos, tmp_path / "run"), model=small_model())
    assert classifier.many is not None
    found = classifier.many()
    assert found is not None
    logits = steady(found)
    size = classifier.preprocessing.size
    for seed in range(3):
        pictures = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
        expected = classifier.run(torch.from_numpy(pictures)) * classifier.temperature
        torch.testing.assert_close(logits(pictures), expected, atol=1e-4, rtol=1e-4)
