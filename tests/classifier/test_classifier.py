from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

import frostline
from conftest import SIZE, draw_images, small_model, write_photos
from frostline.classifier.classifier import as_several, mask_at
from frostline.errors import DataError, MachineError, UsageError
from tasks_data import HOW, halves, several_labels


def test_one_image_has_one_answer_in_any_company(run):
    classifier = frostline.load(run, model=small_model())
    pictures = list(draw_images(9, seed=7).pictures)
    together = list(classifier.predictions(pictures))
    for picture, prediction in zip(pictures, together, strict=True):
        (alone,) = classifier.predictions([picture])
        assert alone.label == prediction.label
        assert alone.probability == pytest.approx(prediction.probability, abs=1e-5)
    assert [prediction.path for prediction in together][:2] == ["image 0", "image 1"]
    for prediction in together:
        assert sum(p for _, p in prediction.top) == pytest.approx(1, abs=1e-5)
        assert prediction.top[0] == (prediction.label, prediction.probability)


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_logits_are_divided_by_the_temperature_and_no_label_changes(task, run, labelled, segmented):
    run = {"classification": run, "multilabel": labelled, "segmentation": segmented}[task]
    own = dataclasses.replace(frostline.load(run, model=small_model()), temperature=1.0)
    pictures = draw_images(5, seed=7).pictures
    cooler = dataclasses.replace(own, temperature=2.5)
    prepared = torch.from_numpy(np.stack([picture[:SIZE, :SIZE] for picture in pictures]))
    torch.testing.assert_close(cooler.run(prepared) * 2.5, own.run(prepared))
    before, after = list(own.predictions(pictures)), list(cooler.predictions(pictures))
    assert [one.label for one in after] == [one.label for one in before]
    assert all(one.probability < other.probability for one, other in zip(after, before, strict=True))


def test_files_and_arrays_are_the_same(run, tmp_path):
    picture = draw_images(1).pictures[0]
    Image.fromarray(picture).save(tmp_path / "picture.png")
    classifier = frostline.load(run, model=small_model())
    of_array, of_file = classifier.predictions([picture, tmp_path / "picture.png"])
    assert dict(of_array.top) == pytest.approx(dict(of_file.top))


def test_the_content_of_a_file_is_the_file(run, tmp_path):
    """A large photograph is decoded at a part of its size, whether it comes as a file or as bytes."""
    chance = np.random.default_rng(0)
    Image.fromarray(chance.integers(0, 256, (600, 800, 3), np.uint8)).save(tmp_path / "large.jpg", quality=95)
    classifier = frostline.load(run, model=small_model())
    file = tmp_path / "large.jpg"
    assert np.array_equal(classifier.predict_proba(file), classifier.predict_proba(file.read_bytes()))
    assert not np.array_equal(classifier.predict_proba(file), classifier.predict_proba(np.asarray(Image.open(file))))


def test_many_images_keep_their_order(run):
    images = draw_images(150, seed=9)
    predictions = list(frostline.load(run, model=small_model()).predictions(list(images.pictures)))
    right = [
        prediction.label == ("flat", "tall", "plain")[t]
        for prediction, t in zip(predictions, images.targets, strict=True)
    ]
    assert len(predictions) == 150
    assert np.mean(right) > 0.9


def test_several_labels_are_predicted_for_one_image(labelled):
    classifier = frostline.load(labelled, model=small_model())
    assert (classifier.task, classifier.classes) == ("multilabel", ("red", "green", "blue"))
    images = several_labels().valid
    predicted = list(classifier.predict_images(images))
    assert [prediction.path for prediction in predicted] == list(images.names)
    for prediction in predicted:
        sure = {name for name, p in prediction.top if p >= 0.5}
        assert set(prediction.label.split("|")) - {""} == sure
        assert prediction.mask is None
        assert 0.5 <= prediction.probability <= 1
    truth = images.labels(classifier.classes)
    assert np.mean([prediction.label == true for prediction, true in zip(predicted, truth, strict=True)]) > 0.5


def test_a_mask_is_as_large_as_its_image(segmented):
    classifier = frostline.load(segmented, model=small_model())
    assert classifier.task == "segmentation"
    assert classifier.preprocessing == dataclasses.replace(HOW, crop="squash", resize=SIZE)
    chance = np.random.default_rng(0)
    shapes = [(40, 40), (7, 90), (200, 33), (1, 1)]
    pictures = [chance.integers(0, 255, (*shape, 3)).astype(np.uint8) for shape in shapes]
    for prediction, shape in zip(classifier.predictions(pictures), shapes, strict=True):
        assert prediction.mask.shape == shape
        assert prediction.mask.dtype == np.uint8
        shares = {name: float((prediction.mask == i).mean()) for i, name in enumerate(classifier.classes)}
        assert dict(prediction.top) == pytest.approx(shares, abs=1e-6)


def test_a_fitted_segmentation_finds_the_halves(segmented):
    images = halves().valid
    predicted = list(frostline.load(segmented, model=small_model()).predict_images(images))
    right = [np.mean(prediction.mask == np.asarray(images.targets.read(i))) for i, prediction in enumerate(predicted)]
    assert np.mean(right) > 0.8


def test_the_mask_of_an_image_is_the_same_in_any_company(segmented):
    classifier = frostline.load(segmented, model=small_model())
    images = halves().valid
    for picture, prediction in zip(images.pictures, classifier.predict_images(images), strict=True):
        (alone,) = classifier.predictions([picture])
        assert np.mean(alone.mask == prediction.mask) > 0.999
        assert alone.probability == pytest.approx(prediction.probability, abs=1e-4)


def test_an_unreadable_image_has_an_error_and_no_mask(segmented, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    classifier = frostline.load(segmented, model=small_model())
    bad, good = classifier.predictions([tmp_path / "bad.png", halves().valid.pictures[0]])
    assert bad.error
    assert (bad.label, bad.mask) == ("", None)
    assert good.mask is not None
    assert bad.as_json().keys() == {"path", "error"}
    assert good.as_json().keys() == {"path", "label", "probability", "top"}


def test_a_mask_in_the_size_of_its_image_says_what_all_classes_upsampled_say():
    logits = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = functional.interpolate(logits[None], (9, 31), mode="bilinear", align_corners=False)[0].argmax(0)
    assert np.array_equal(mask_at(logits, 9, 31), whole.numpy())
    assert np.array_equal(mask_at(logits, 4, 4), logits.argmax(0).numpy())


def test_one_value_is_meant_as_one(run, tmp_path):
    """Not row by row, and not letter by letter. Stumbles 3 and 4."""
    classifier = frostline.load(run, model=small_model())
    picture = draw_images(1).pictures[0]
    Image.fromarray(picture).save(tmp_path / "picture.png")
    file = tmp_path / "picture.png"
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    (expected,) = classifier.predictions([picture])
    for one in (picture, tensor, tensor / 255, file, str(file), Image.fromarray(picture)):
        (prediction,) = classifier.predictions(one)
        assert not prediction.error
        assert dict(prediction.top) == pytest.approx(dict(expected.top), abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "count"),
    [((9, 7), 1), ((9, 7, 3), 1), ((1, 9, 7), 1), ((9, 7, 4), 1), ((9, 8, 7), 9), ((5, 9, 7, 3), 5), ((4, 8, 7), 4)],
)
def test_the_shape_of_an_array_tells_one_image_from_several(shape, count):
    """Stumble 4."""
    assert len(as_several(np.zeros(shape, np.uint8))) == count
    assert len(as_several(torch.zeros(shape, dtype=torch.uint8))) == count


def test_three_grey_images_are_never_taken_for_one():
    assert len(as_several(torch.zeros(3, 9, 7))) == 1  # as torchvision's tensors are
    with pytest.raises(UsageError, match=r"can be one image or three grey ones; give \[image\] for one"):
        as_several(np.zeros((3, 9, 7), np.uint8))


@pytest.mark.parametrize("thing", [None, 7, np.array(7), {"image": "cat.jpg"}, [None], [{"image": "cat.jpg"}]])
def test_what_is_no_picture_is_told_what_is_taken(run, thing):
    classifier = frostline.load(run, model=small_model())
    with pytest.raises(
        UsageError, match="is no picture; give a path, a folder, bytes, a PIL image, an array of pixels"
    ):
        classifier.predict(thing)


def test_pictures_may_come_from_a_generator(run, tmp_path):
    photos = write_photos(tmp_path / "photos", 2)
    classifier = frostline.load(run, model=small_model())
    assert len(classifier.predict(photos.rglob("*.png"))) == 4


def test_the_score_knows_labels_as_fit_does(run):
    classifier = frostline.load(run, model=small_model())
    pictures = [np.zeros((9, 7, 3), np.uint8)] * 2
    label = str(classifier.predict(pictures)[0])
    assert classifier.score(pictures, [label, label]) == 1
    assert classifier.score(pictures, np.array([[label], [label]])) == 1
    with pytest.raises(UsageError, match="the label 'zebra' is no class; the classes are "):
        classifier.score(pictures, [label, "zebra"])
    numbers = dataclasses.replace(classifier, classes=tuple(str(i) for i in range(len(classifier.classes))))
    first = int(numbers.predict(pictures)[0])
    assert numbers.score(pictures, np.array([float(first)] * 2)) == 1
    if first < 2:
        assert numbers.score(pictures, np.array([bool(first)] * 2)) == 1


def test_an_array_of_four_channels_is_one_image(run):
    """Stumble 39."""
    classifier = frostline.load(run, model=small_model())
    (prediction,) = classifier.predictions(np.zeros((9, 7, 4), np.uint8))
    (white,) = classifier.predictions(np.full((9, 7, 3), 255, np.uint8))  # what cannot be seen shows what is behind it
    assert (prediction.label, prediction.probability) == (white.label, white.probability)


def test_pixels_of_16_bits_are_the_levels_of_8(run):
    """Stumble 39."""
    classifier = frostline.load(run, model=small_model())
    levels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    levels[0, 0] = 255  # the largest level says how many bits there are
    for pixels in (levels, levels[..., 0]):
        expected, found = classifier.predict_proba([pixels, pixels.astype(np.uint16) << 8])
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
def test_the_weights_alone_are_read_by_a_bare_network(run, tmp_path, ending):
    classifier = frostline.load(run, model=small_model())
    file = classifier.save(tmp_path / f"model{ending}")
    bare = type(small_model())(classes=3)
    bare.load_state_dict(load_file(file) if ending == ".safetensors" else torch.load(file, weights_only=True))
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(bare.state_dict()[name], value)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_weights_of_an_unknown_kind_or_place_are_refused(run, tmp_path):
    classifier = frostline.load(run, model=small_model())
    with pytest.raises(UsageError, match=r"ends in '\.h5'; use \.pth, \.pt, \.safetensors"):
        classifier.save(tmp_path / "model.h5")
    with pytest.raises(MachineError, match="cannot write"):
        classifier.save(tmp_path / "none" / "model.pth")


def test_a_photograph_that_lies_on_its_side_is_turned_however_it_is_given(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "side.png", exif=exif)
    from frostline.classifier.classifier import _picture
    from frostline.data.decoding import open_image

    with Image.open(tmp_path / "side.png") as opened:
        given = _picture(opened)
    assert np.array_equal(given, np.asarray(open_image(tmp_path / "side.png")))


def test_labels_and_probabilities_come_as_scikit_learn_has_them(run):
    """Stumble 35."""
    classifier, images = frostline.load(run, model=small_model()), draw_images(9, seed=7)
    pictures = list(images.pictures)
    stream = list(classifier.predictions(pictures))
    assert classifier.predict(pictures).tolist() == [each.label for each in stream]
    p = classifier.predict_proba(pictures)
    assert (p.shape, p.dtype, classifier.classes_.tolist()) == ((9, 3), np.float32, list(classifier.classes))
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(p.max(1), [each.probability for each in stream], atol=1e-5)
    labels = [classifier.classes[i] for i in images.targets]
    assert classifier.score(pictures, labels) == np.mean([e.label == t for e, t in zip(stream, labels, strict=True)])
    with pytest.raises(UsageError, match="9 images and 2 labels"):
        classifier.score(pictures, labels[:2])


def test_a_picture_is_the_same_in_every_form(run, tmp_path):
    classifier, picture = frostline.load(run, model=small_model()), draw_images(1, seed=3).pictures[0]
    folder = tmp_path / "photos" / "more"
    folder.mkdir(parents=True)
    file = folder / "one.png"
    Image.fromarray(picture).save(file)
    expected = classifier.predict_proba(picture)
    forms = [file, str(file), [file], Image.open(file), file.read_bytes(), str(tmp_path), [tmp_path]]
    for form in (*forms, torch.from_numpy(picture)):
        assert np.array_equal(classifier.predict_proba(form), expected), type(form)
    (named,) = classifier.predictions(str(tmp_path / "photos"))
    assert named.path == str(file)


def test_a_hugging_face_dataset_gives_its_column_of_images(run):
    class Columns:
        column_names = ("caption", "image")
        features: ClassVar = {"caption": object(), "image": SimpleNamespace(decode=True)}
        images = tuple(Image.fromarray(picture) for picture in draw_images(3).pictures)

        def __len__(self):
            return 3

        def __getitem__(self, i):
            return {"caption": "a picture", "image": self.images[i]}

    classifier = frostline.load(run, model=small_model())
    theirs = classifier.predict_proba(list(draw_images(3).pictures))
    np.testing.assert_array_equal(classifier.predict_proba(Columns()), theirs)


@pytest.mark.parametrize("scale", [lambda x: x - 9.0, lambda x: x / 127.5 - 1, lambda x: x * 0.99])
def test_an_array_of_another_range_says_which(run, scale):
    picture = np.asarray(draw_images(1).pictures[0])
    classifier = frostline.load(run, model=small_model())
    (prediction,) = classifier.predictions(scale(picture))
    assert re.search(
        r"floats from .* to .*; give 0 … 1 before normalisation, or whole numbers 0 … 255", prediction.error
    )
    assert classifier.predict(picture.astype(float)) == classifier.predict(picture)


def test_a_frame_names_its_files(run, tmp_path):
    class Frame(dict):
        iloc = None

        @property
        def columns(self):
            return list(self)

        def __len__(self):
            return len(next(iter(self.values())))

    files = [str(file) for file in sorted(write_photos(tmp_path / "photos", 2).rglob("*.png"))]
    classifier = frostline.load(run, model=small_model())
    assert [each.path for each in classifier.predictions(Frame(Path=files, label=["x"] * 4))] == files
    with pytest.raises(DataError, match="the DataFrame has no path column .* Found: label"):
        classifier.predict(Frame(label=["x"]))


def test_what_cannot_be_read_ends_predict_and_not_the_stream(run, tmp_path):
    classifier = frostline.load(run, model=small_model())
    bad = [tmp_path / "gone.png", b"", b"no picture"]
    for each, why in zip(bad, ("no such file", "empty file", "not an image of a known format"), strict=True):
        (alone,) = classifier.predictions(each)
        assert why in alone.error
        with pytest.raises(DataError, match="cannot be read: .*leave it out, or use predictions"):
            classifier.predict(each)


def test_several_labels_are_a_table_and_masks_are_masks(labelled, segmented):
    classifier, images = frostline.load(labelled, model=small_model()), several_labels().test
    found = classifier.predict(list(images.pictures))
    assert (found.shape, found.dtype) == ((len(images), 3), bool)
    assert np.array_equal(found, classifier.predict_proba(list(images.pictures)) >= 0.5)
    assert classifier.score(list(images.pictures), images.targets) == np.mean((found == images.targets).all(1))
    classifier, images = frostline.load(segmented, model=small_model()), halves().valid
    masks = classifier.predict(list(images.pictures))
    assert [mask.shape for mask in masks] == [picture.shape[:2] for picture in images.pictures]
    for refused in (classifier.predict_proba, lambda pictures: classifier.score(pictures, [])):
        with pytest.raises(UsageError, match="segmentation"):
            refused(list(images.pictures))
