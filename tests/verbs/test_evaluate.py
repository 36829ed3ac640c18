from __future__ import annotations

import csv
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

import frostline
from conftest import SIZE, Small, draw_images, small_model, write_photos
from frostline.backbones import load_backbone
from frostline.cli import main
from frostline.data import read_data
from frostline.data.images import Images, join
from frostline.errors import DataError, UsageError
from frostline.tasks.summary import summary
from frostline.verbs.evaluate import evaluate, evaluate_paired
from tasks_data import HOW, fitted, halves, several_labels


@pytest.fixture(scope="module")
def run(tmp_path_factory, stripes):
    folder = tmp_path_factory.mktemp("evaluation")
    backbone = load_backbone(small_model(), preprocessing=HOW)
    return frostline.fit(
        stripes, backbone=backbone, plan="probe", out=folder / "run", store=folder / "cache", quiet=True
    )


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("labelled"), several_labels())


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("segmented"), halves())


def measured(run, data, **options):
    return evaluate(run, data, model=small_model(), **options)


def predicted(run, images: Images):
    return list(frostline.load(run, model=small_model()).predict_images(images))


def write(images: Images, folder, name: str = "{}.png") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [name.format(i) for i in range(len(images))]
    for picture, file in zip(images.pictures, names, strict=True):
        Image.fromarray(picture).save(folder / file)
    return names


def manifest(file, column: str, names: list[str], labels: list[str]):
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("path", column), *zip(names, labels, strict=True)])
    return file


def test_one_image_has_one_answer_in_predict_and_evaluate(run):
    images = draw_images(6, seed=5)
    classes = ("flat", "tall", "plain")
    for i, answer in enumerate(predicted(run, images)):
        found = measured(run, (images.pictures[i : i + 1], [classes[images.targets[i]]]))
        truth = dict(answer.top)[classes[images.targets[i]]]
        assert found["loss"] == pytest.approx(-math.log(truth), abs=1e-4)
        assert found["accuracy"] == (answer.label == classes[images.targets[i]])
        assert (found["n"], found["split"]) == (1, "all")


def test_the_labels_of_one_image_are_the_same_in_predict_and_evaluate(labelled):
    whole = several_labels()
    images = whole.test.take(np.arange(8))
    for i, answer in enumerate(predicted(labelled, images)):
        found = measured(labelled, whole.with_splits({"test": images.take(np.array([i]))}))
        p = np.array([dict(answer.top)[name] for name in ("red", "green", "blue")])
        loss = -np.log(np.where(images.targets[i], p, 1 - p)).mean()
        assert found["loss"] == pytest.approx(loss, abs=1e-4)
        assert found["accuracy"] == (answer.label == images.labels(("red", "green", "blue"))[i])


def test_the_pixels_of_one_image_are_the_same_in_predict_and_evaluate(segmented):
    whole = halves()
    answers = predicted(segmented, whole.test)
    right = [np.mean(a.mask == np.asarray(whole.test.targets.read(i))) for i, a in enumerate(answers)]
    found = measured(segmented, whole)
    assert (found["n"], found["split"]) == (len(whole.test), "test")
    assert found["accuracy"] == pytest.approx(np.mean(right), abs=1e-4)
    assert found["accuracy"] > 0.8
    assert found["mean_iou"] > 0.6


def test_a_folder_of_images_and_masks_is_measured_as_what_it_holds(segmented, tmp_path):
    whole = halves()
    write(whole.test, tmp_path / "images")
    (tmp_path / "masks").mkdir()
    for i in range(len(whole.test)):
        whole.test.targets.read(i).save(tmp_path / "masks" / f"{i}.png")
    (tmp_path / "classes.txt").write_text("dark\nbright\n")
    from_files, from_values = measured(segmented, tmp_path), measured(segmented, whole)
    assert from_files["split"] == "all"
    for key in ("accuracy", "loss", "mean_iou"):
        assert from_files[key] == pytest.approx(from_values[key], abs=1e-4)


def test_pixels_that_count_for_nothing_change_nothing(segmented):
    whole = halves()
    before = measured(segmented, whole)
    hidden = [mask.copy() for mask in whole.test.targets.pictures]
    for mask in hidden:
        mask[: SIZE // 2] = 77
    targets = type(whole.test.targets)(hidden, whole.test.targets.numbers)
    after = measured(segmented, whole.with_splits({"test": Images(whole.test.pictures, targets, whole.test.names)}))
    pixels = [sum(c["n"] for c in found["per_class"].values()) for found in (before, after)]
    assert pixels == [16 * SIZE * SIZE, 16 * SIZE * SIZE // 2]
    assert after["accuracy"] > 0.7


@pytest.mark.parametrize("kind", ["arrays", "manifest", "folder", "mapping"])
def test_data_of_every_kind_measure_the_same(kind, run, stripes, tmp_path):
    labels = stripes.test.labels(stripes.classes)
    if kind == "arrays":
        data = (stripes.test.pictures, labels)
    elif kind == "mapping":
        data = {"train": (stripes.valid.pictures, labels), "test": (stripes.test.pictures, labels)}
    elif kind == "manifest":
        data = manifest(tmp_path / "test.csv", "label", write(stripes.test, tmp_path), labels)
    else:
        data = tmp_path
        for picture, label, name in zip(stripes.test.pictures, labels, stripes.test.names, strict=True):
            (tmp_path / label).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / label / f"{name}.png")
    found, expected = measured(run, data), measured(run, stripes)
    assert found["split"] == ("test" if kind == "mapping" else "all")
    for key in ("accuracy", "loss", "n"):
        assert found[key] == pytest.approx(expected[key], abs=1e-5)
    assert found["per_class"] == expected["per_class"]


def test_a_manifest_of_several_labels_is_measured(labelled, tmp_path):
    whole = several_labels()
    file = manifest(tmp_path / "x.csv", "labels", write(whole.test, tmp_path), whole.test.labels(whole.classes))
    found, expected = measured(labelled, file), measured(labelled, whole)
    assert found["n"] == 32
    for key in ("accuracy", "loss", "mean_ap", "f1"):
        assert found[key] == pytest.approx(expected[key], abs=1e-5)


def test_evaluation_finds_what_the_fit_measured(run, stripes):
    fitted_to = run.metrics["test"]
    found = measured(run, stripes)
    assert found["accuracy"] == pytest.approx(fitted_to["accuracy"], abs=0.05)
    assert found["loss"] == pytest.approx(fitted_to["loss"], abs=0.05)


@pytest.mark.parametrize(("split", "count"), [("train", 48), ("valid", 24), ("test", 24), ("all", 96)])
def test_the_split_is_what_was_asked_for(split, count, run, stripes):
    found = measured(run, stripes, split=split)
    assert (found["split"], found["n"]) == (split, count)


@pytest.fixture(scope="module")
def of_files(tmp_path_factory):
    """A run on a folder, fitted from another working directory's point of view, and the folder."""
    folder = tmp_path_factory.mktemp("of_files")
    photos = write_photos(folder / "photos", 10)
    backbone = load_backbone(small_model(), preprocessing=HOW)
    options = {"backbone": backbone, "plan": "probe", "store": folder / "cache", "quiet": True}
    data = replace(read_data(photos), validation="given")  # images are held out, although they are few
    return frostline.fit(data, out=folder / "run", **options), photos


def test_training_images_are_told_by_their_bytes(of_files, tmp_path, capsys):
    """Stumble 11."""
    run, photos = of_files
    result = measured(run, photos)
    assert (result["trained_on"], result["n"]) == (16, 20)
    assert "was trained on 16 of these 20 images" in capsys.readouterr().err
    assert result["checks"]["leak"] == 16
    assert result["without_leaks"]["n"] == 4
    moved = shutil.copytree(photos, tmp_path / "elsewhere")
    for number, file in enumerate(sorted(moved.rglob("*.png"))):
        file.rename(file.with_name(f"other-{number}.png"))
    assert measured(run, moved)["trained_on"] == 16


def test_new_images_of_the_same_names_are_new(of_files, tmp_path, capsys):
    run, _ = of_files
    photos = write_photos(tmp_path / "photos", 10)
    for file in photos.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    result = measured(run, photos)
    assert (result["trained_on"], result["checks"]["leak"]) == (0, 0)
    assert "without_leaks" not in result
    assert "trained on" not in capsys.readouterr().err


def test_images_in_memory_are_told_by_their_pixels(run, stripes):
    assert measured(run, stripes, split="train")["trained_on"] == len(stripes.train)
    assert measured(run, stripes, split="test")["trained_on"] == 0


def test_training_images_that_were_saved_again_are_told_by_what_they_look_like(tmp_path, capsys):
    """Patterns of colours, so that each picture looks like none of the others."""
    chance = np.random.default_rng(2)
    patterns = [chance.integers(0, 256, (5, 5, 3), np.uint8) for _ in range(60)]
    pictures = [np.asarray(Image.fromarray(each).resize((60, 60), Image.Resampling.BICUBIC)) for each in patterns]
    labels = [("flat", "tall")[i % 2] for i in range(60)]
    backbone = load_backbone(small_model(), preprocessing=HOW)
    run = frostline.fit((pictures[:40], labels[:40]), backbone=backbone, plan="probe", out=tmp_path / "run", quiet=True)
    for i in range(60):
        (tmp_path / "again" / labels[i]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[i]).resize((48, 50)).save(tmp_path / "again" / labels[i] / f"{i}.jpg", quality=80)
    result = measured(run, tmp_path / "again")
    assert (result["trained_on"], result["checks"]["leak"]) == (40, 40)
    assert result["without_leaks"]["n"] == 20
    assert "was trained on 40 of these 60 images" in capsys.readouterr().err


def test_what_is_left_without_leaks_is_measured_apart(run, stripes):
    mixed = stripes.with_splits({"test": join([stripes.train.take(np.arange(10)), stripes.test])})
    result, alone = measured(run, mixed), measured(run, stripes)
    assert result["without_leaks"] == {key: alone[key] for key in ("accuracy", "n", "interval")}
    assert result["n"] == alone["n"] + 10


def test_wrong_labels_among_the_measured_images_are_suspects(run, stripes):
    test = stripes.test.take(np.arange(len(stripes.test)))
    test.targets[:] = (test.targets + (np.arange(len(test)) == 5)) % 3
    assert measured(run, stripes)["checks"]["label-error"] == 0
    assert measured(run, stripes.with_splits({"test": test}))["checks"]["label-error"] == 1


def test_training_images_of_a_known_data_set_are_told(tmp_path, capsys):
    digits = frostline.read_data("digits")
    few = digits.with_splits({"train": digits.train.take(np.arange(200)), "test": None})
    options = {"backbone": load_backbone(small_model(), preprocessing=HOW), "plan": "probe", "quiet": True}
    run = frostline.fit(few, out=tmp_path / "run", **options)
    assert measured(run, "digits")["trained_on"] == 0
    assert measured(run, "digits", split="train")["trained_on"] == 200


def test_a_class_that_the_run_does_not_know_is_refused(run):
    with pytest.raises(DataError, match="round"):
        measured(run, (draw_images(3).pictures, ["flat", "tall", "round"]))


def test_a_summary_names_what_the_task_is_judged_by(run, labelled, segmented):
    assert summary(measured(run, (draw_images(3).pictures, ["flat", "tall", "plain"]))).startswith("accuracy ")
    assert summary(measured(labelled, several_labels())).startswith("mean AP ")
    assert "F1 " in summary(measured(labelled, several_labels()))
    assert summary(measured(segmented, halves())).startswith("mean IoU ")


@pytest.fixture(scope="module")
def worse(tmp_path_factory, stripes):
    """A run whose head is trained on a few images for a moment."""
    folder = tmp_path_factory.mktemp("worse")
    few = stripes.with_splits({"train": stripes.train.take(np.arange(6))})
    options = {"plan": [frostline.Phase("head", epochs=1, lr=1e-4)], "store": folder / "cache", "quiet": True}
    return frostline.fit(few, backbone=load_backbone(small_model(), preprocessing=HOW), out=folder / "run", **options)


def both(first, second, data, **options):
    return evaluate_paired(first, second, data, models=(small_model(), small_model()), **options)


def test_two_runs_are_compared_image_by_image(run, worse, stripes):
    result = both(run, worse, stripes)
    alone = [measured(one, stripes) for one in (run, worse)]
    assert result["runs"] == alone
    paired = result["paired"]
    assert paired["difference"] == pytest.approx(alone[0]["accuracy"] - alone[1]["accuracy"])
    assert paired["low"] < paired["difference"] < paired["high"]
    assert (paired["only_first"] - paired["only_second"]) / paired["n"] == pytest.approx(paired["difference"])
    assert paired["p_value"] == binomtest(paired["only_first"], paired["only_first"] + paired["only_second"]).pvalue
    assert paired["loss_difference"] == pytest.approx(alone[0]["loss"] - alone[1]["loss"], rel=1e-5)
    assert sum(row["n"] for row in result["per_class"].values()) == paired["n"]
    recalls = [
        alone[0]["per_class"][name]["recall"] - alone[1]["per_class"][name]["recall"] for name in stripes.classes
    ]
    assert [row["difference"] for row in result["per_class"].values()] == pytest.approx(recalls)


def test_a_run_is_as_good_as_itself(run, stripes):
    paired = both(run, run, stripes)["paired"]
    assert (paired["difference"], paired["p_value"], paired["loss_difference"]) == (0, 1, 0)
    assert (paired["only_first"], paired["only_second"]) == (0, 0)


def test_masks_are_compared_by_their_pixels(segmented):
    result = both(segmented, segmented, halves())
    assert result["paired"]["only_first"] is None
    assert "per_class" not in result


def test_runs_of_other_classes_are_not_compared(run, labelled, stripes):
    with pytest.raises((UsageError, DataError)):
        both(run, labelled, stripes)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(run.path), str(run.path), str(run.path), "digits"])
    assert end.value.code == 2


def test_groups_of_images_with_several_labels_widen_the_intervals(labelled, tmp_path):
    images = several_labels().test
    names = write(images, tmp_path / "photos")
    labels = images.labels(several_labels().classes)
    table = tmp_path / "photos" / "table.csv"
    with table.open("w", newline="") as out:
        rows = [(name, label, f"p{i // 6}") for i, (name, label) in enumerate(zip(names, labels, strict=True))]
        csv.writer(out).writerows([("path", "labels", "patient"), *rows])
    alone, together = (evaluate(labelled, table, model=own_model(), group=group) for group in (None, "patient"))
    assert "groups" not in alone
    assert together["groups"] == -(-len(images) // 6)
    assert together["mean_ap"] == alone["mean_ap"]
    assert together["intervals"]["mean_ap"] != alone["intervals"]["mean_ap"]


def own_model():
    return Small(len(several_labels().classes))
