"""Rows B01 to B28 of the test matrix: data sets that are incomplete, contradictory or large, on the command line."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frostline
from badfiles import photo, saved
from commands import PEAK, Answer, command, without_rights
from conftest import write_photos

PROBE = ["--backbone", "timm:test_resnet", "--weights", "none", "--image-size", "32", "--precision", "fp32"]
PROBE = [*PROBE, "--plan", "probe"]

pytestmark = pytest.mark.usefixtures("no_pictures")

Fit = Callable[..., Answer]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """A fit of a small network into tmp_path/run; of what is refused it leaves nothing there."""

    def call(data: object, *flags: object, seconds: float = 30) -> Answer:
        answer = command("fit", data, *PROBE, "--out", tmp_path / "run", *flags, seconds=seconds)
        assert (tmp_path / "run").exists() == (answer.code == 0)
        return answer

    return call


def split_in_two(root: Path, valid: tuple[str, ...], train: tuple[str, ...] = ("flat", "tall", "wide")) -> Path:
    """Training images of some classes and validation images of others."""
    write_photos(root / "train", 6, train)
    write_photos(root / "val", 3, valid, seed=4)
    return root


# --- what is there at all


@pytest.mark.parametrize("what", ["missing", "file", "empty", "only text"])
def test_B01_no_images(fit: Fit, tmp_path: Path, what: str):
    data = tmp_path / "data"
    if what == "file":
        data.write_text("a")
    elif what != "missing":
        (data / "cat").mkdir(parents=True)
    if what == "only text":
        (data / "cat" / "a.txt").write_text("a")
    told = {"missing": f"no such folder: {data}", "file": f"{data} is a file; give a folder of class folders"}
    answer = fit(data)
    assert answer.code == 3
    assert told.get(what, f"expected {data}/train/CLASS/*.jpg or {data}/CLASS/*.jpg") in answer.error
    assert what in told or answer.error.endswith("found cat/")


def test_B02_an_empty_class_is_none_for_training_and_is_measured_by_nothing(fit: Fit, tmp_path: Path):
    data = split_in_two(tmp_path / "data", ("flat", "tall"))
    (data / "train" / "empty").mkdir()
    (data / "val" / "wide").mkdir()
    answer = fit(data, "--json")
    assert answer.code == 0
    assert answer.json["classes"] == ["flat", "tall", "wide"]
    assert "note: skipped folders without images: empty" in answer.err
    assert "note: no validation images, so nothing measures their accuracy: wide" in answer.err


def test_B03_a_class_of_files_that_are_no_images_or_cannot_be_read(fit: Fit, tmp_path: Path):
    data = write_photos(tmp_path / "data", 12)
    (data / "text").mkdir()
    (data / "text" / "a.txt").write_text("a")
    (data / "broken").mkdir()
    for number in range(3):
        (data / "broken" / f"{number}.jpg").write_text("a")
    answer = fit(data)
    assert "note: skipped folders without images: text" in answer.err
    assert answer.code == 3
    assert "no training image of broken can be read" in answer.error


def test_B04_one_class(fit: Fit, tmp_path: Path):
    answer = fit(write_photos(tmp_path / "data", 5, ("only",)))
    assert answer.code == 3
    assert answer.error.endswith("only one class, 'only', under " + f"{tmp_path}/data; a classifier needs at least two")


def test_B05_one_image_of_each_class(fit: Fit, tmp_path: Path):
    answer = fit(write_photos(tmp_path / "data", 1, ("flat", "tall", "wide")))
    assert answer.code == 0
    assert "its figures do not hold for new images" in answer.err
    assert "only one training image: flat, tall, wide" in answer.err


def test_B06_two_images_of_each_class(fit: Fit, tmp_path: Path):
    answer = fit(write_photos(tmp_path / "data", 2, ("flat", "tall", "wide")), "--json")
    assert answer.code == 0
    assert answer.json["valid"]["n"] == 6
    assert "5-fold cross-validation measures the head" in answer.err
    assert "only one training image: flat, tall, wide" in answer.err


def test_B07_a_class_that_validation_lacks_keeps_its_place(fit: Fit, tmp_path: Path):
    answer = fit(split_in_two(tmp_path / "data", ("flat", "wide")), "--json")
    assert answer.code == 0
    per_class = answer.json["valid"]["per_class"]
    assert [per_class[name]["n"] for name in ("flat", "tall", "wide")] == [3, 0, 3]
    assert per_class["tall"]["recall"] is None
    assert "note: no validation images, so nothing measures their accuracy: tall" in answer.err


@pytest.mark.parametrize("row", ["B08", "B09"])
def test_B08_a_class_that_training_does_not_know(fit: Fit, tmp_path: Path, row: str):
    valid = ("flat", "tall", "wide", "dog") if row == "B08" else ("tall", "wide", "zoo")
    answer = fit(split_in_two(tmp_path / "data", valid))
    assert answer.code == 3
    assert f"are not in the training data: {valid[-1]}; the training classes are flat, tall, wide" in answer.error


def test_B09_the_same_number_of_other_classes_is_never_measured(untrained: Path, tmp_path: Path):
    answer = command("evaluate", untrained, write_photos(tmp_path / "data", 2, ("tall", "wide", "zoo")))
    assert answer.code == 3
    assert "zoo" in answer.error


def test_B10_classes_that_differ_in_case_spaces_or_unicode_only(fit: Fit, tmp_path: Path):
    names = ("Big Cat", "big_cat", "caf\u00e9", "cafe\u0301", "dog")
    answer = fit(write_photos(tmp_path / "data", 3, names), "--json")
    assert answer.code == 0
    assert answer.err.count("differ only in case, spaces, hyphens or Unicode form") == 2
    assert len(answer.json["classes"]) == 5


def test_B11_numbers_as_class_names_are_names(fit: Fit, tmp_path: Path):
    data = write_photos(tmp_path / "data", 6, ("0", "1", "2", "10"))
    assert fit(data, "--quiet").code == 0
    answer = command("predict", tmp_path / "run", data / "10", "--json", "--quiet")
    assert [each["label"] for each in answer.json].count("2") == 0
    assert command("evaluate", tmp_path / "run", data, "--json").json["per_class"].keys() == {"0", "1", "10", "2"}


# --- what the checks find (R21)


def test_B12_a_test_image_that_was_trained_on(fit: Fit, tmp_path: Path):
    data = write_photos(tmp_path / "data" / "train", 6).parent
    write_photos(data / "test", 3, seed=9)
    shutil.copy(data / "train" / "flat" / "000.png", data / "test" / "flat" / "copy.png")
    answer = fit(data)
    assert answer.code == 0
    assert "1 image that is also in another split" in answer.err
    assert "test without images that have copies in another split:" in answer.err
    strict = command("check", data, *PROBE[:6], "--json")
    assert strict.json["counts"]["leak"] == 1


@pytest.fixture
def found(tmp_path: Path) -> Callable[[Path], dict[str, int]]:
    """How many findings of each kind `check` has."""

    def check(data: Path) -> dict[str, int]:
        answer = command("check", data, *PROBE[:6], "--json", seconds=30)
        assert answer.code == 0
        return {kind: number for kind, number in answer.json["counts"].items() if number}

    return check


def test_B13_a_picture_that_was_saved_again_in_another_split(found, tmp_path: Path):
    data = tmp_path / "data"
    for split, seeds in (("train", range(12)), ("test", range(12, 18))):
        for name in ("flat", "tall"):
            (data / split / name).mkdir(parents=True)
            for seed in seeds:
                (data / split / name / f"{seed}.png").write_bytes(saved(photo(seed=seed + 100 * (name == "flat"))))
    again = photo(seed=3).resize((120, 90), Image.Resampling.BICUBIC)
    (data / "test" / "tall" / "again.jpg").write_bytes(saved(again, "JPEG", quality=85))
    assert found(data)["leak"] == 1


def test_B14_one_image_with_two_labels(found, tmp_path: Path):
    data = write_photos(tmp_path / "data", 6)
    shutil.copy(data / "flat" / "000.png", data / "tall" / "copy.png")
    assert found(data)["label-conflict"] == 1


def test_B15_a_class_with_a_hundredth_of_the_images(found, tmp_path: Path):
    data = write_photos(tmp_path / "data", 60)
    for file in sorted((data / "tall").iterdir())[1:]:
        file.unlink()
    assert found(data)["imbalance"] == 1


# --- much of it


def write_many(root: Path, classes: int, content: bytes) -> Path:
    """That many classes of two files each; the pictures of a class differ from each other."""
    for number in range(classes):
        (root / f"c{number:05}").mkdir(parents=True)
        for copy in range(2):
            (root / f"c{number:05}" / f"{copy}.png").write_bytes(content)
    return root


def write_classes(root: Path, classes: int) -> Path:
    chance = np.random.default_rng(0)
    for number in range(classes):
        (root / f"c{number:05}").mkdir(parents=True)
        base = chance.integers(0, 256, (8, 8, 3))
        for copy in range(2):
            pixels = (base + chance.integers(-9, 10, base.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"c{number:05}" / f"{copy}.png", compress_level=1)
    return root


def test_B16_a_hundred_classes_of_two_images(fit: Fit, tmp_path: Path):
    answer = fit(write_classes(tmp_path / "data", 100), "--json")
    assert answer.code == 0
    assert answer.json["valid"]["n"] == 100
    assert "and 95 more" in answer.err  # not all classes of one training image are listed


def test_B17_a_folder_of_many_files_is_listed_in_no_time(tmp_path: Path):
    data = write_many(tmp_path / "data", 2_000, b"x")
    answer = command("fit", data, *PROBE, "--out", tmp_path / "run", "--backbone", "nothing", seconds=10)
    assert answer.code == 2
    assert answer.grown < 100


def test_B18_labels_that_may_lie_a_level_deeper(fit: Fit, tmp_path: Path):
    for name, inside in (("one", ("flat", "tall")), ("two", ("wide", "high"))):
        write_photos(tmp_path / "data" / name, 3, inside)
    answer = fit(tmp_path / "data")
    assert answer.code == 0
    assert "the classes are one, two, though all images lie in folders below them (one/flat, one/tall, " in answer.err
    assert "if those are the classes, move them up one level" in answer.err


def test_B18_the_same_classes_in_each_folder_are_splits(fit: Fit, tmp_path: Path):
    for name in ("one", "two"):
        write_photos(tmp_path / "data" / name, 3)
    answer = fit(tmp_path / "data")
    assert answer.code == 3
    assert "all have the same subfolders (flat, tall), which look like the classes" in answer.error


def test_B19_images_beside_the_class_folders_are_counted(fit: Fit, tmp_path: Path):
    data = write_photos(tmp_path / "data", 6)
    shutil.copy(data / "flat" / "000.png", data / "stray.png")
    answer = fit(data)
    assert answer.code == 0
    assert "note: 1 image is in no class folder and not used: 1 in data/" in answer.err


def test_R02_a_run_inside_the_images_is_never_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = write_photos(tmp_path / "photos", 6)
    monkeypatch.chdir(data)
    first = command("fit", "../photos", *PROBE, "--json", seconds=30)
    assert first.code == 0
    (Path(first.json["run"]) / "plots").mkdir(exist_ok=True)
    for place in (Path(first.json["run"]), shutil.copytree(first.json["run"], data / "tall" / "old")):
        shutil.copy(data / "flat" / "000.png", place / "plots" / "curves.png")
    second = command("fit", "../photos", *PROBE, "--json", "--out", "flat/new", seconds=30)
    assert second.code == 0
    assert second.json["classes"] == ["flat", "tall"]
    assert second.json["valid"]["n"] == 12
    assert "note: skipped folders without images: runs" in second.err
    assert "note: skipped the pictures of 1 run: tall/old" in second.err
    predicted = command("predict", first.json["run"], data, "--json")
    assert len(predicted.json) == 12
    assert "note: skipped the pictures of 3 runs: " in predicted.err


def test_R16_the_folder_here_gives_its_name_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(write_photos(tmp_path / "photos", 6))
    assert command("fit", ".", *PROBE, "--json", seconds=30).json["run"].endswith("photos-test_resnet-1")


# --- manifests


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures flat/000.png … of two classes; manifests are written beside them."""
    return write_photos(tmp_path_factory.mktemp("manifests") / "photos", 6)


ROWS = [(f"{name}/{i:03}.png", name) for i in range(6) for name in ("flat", "tall")]


def text_of(rows: list[tuple[str, str]] = ROWS, head: str = "path,label", comma: str = ",", end: str = "\n") -> str:
    return end.join([head, *(comma.join(row) for row in rows), ""])


Manifest = Callable[[str | bytes], Answer]


@pytest.fixture
def manifest(photos: Path, fit: Fit, request: pytest.FixtureRequest) -> Manifest:
    """A fit of a manifest with that text."""

    def call(text: str | bytes, seconds: float = 30) -> Answer:
        file = photos / f"{request.node.originalname}.csv"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return fit(file, "--json", seconds=seconds)

    return call


def test_B20_files_that_a_manifest_names_and_that_are_missing(manifest: Manifest):
    answer = manifest(text_of([*ROWS, *((f"gone/{i}.png", "flat") for i in range(7))]))
    assert answer.code == 3
    assert "7 of 19 records of" in answer.error
    assert "name files that do not exist: gone/0.png (line 14)" in answer.error
    assert "gone/6.png" not in answer.error


READ = {
    "other names": text_of(head="image,class"),
    "BOM": b"\xef\xbb\xbf" + text_of().encode(),
    "semicolons": text_of(comma=";", head="path;label"),
    "tabs": text_of(comma="\t", head="path\tlabel"),
    "CRLF": text_of(end="\r\n"),
    "quotes": text_of([(f'"{path}"', f'"{name}, or so"') for path, name in ROWS]),
    "empty lines": text_of(end="\n\n"),
    "spaces": text_of([(f" {path}", f" {name} ") for path, name in ROWS]),
}


@pytest.mark.parametrize("name", READ)
def test_B21_tables_that_are_read(photos: Path, name: str):
    file = photos / f"{name}.csv"
    file.write_bytes(READ[name] if isinstance(READ[name], bytes) else READ[name].encode())
    images = frostline.read_data(file)
    assert sorted([*images.train.names, *images.valid.names]) == sorted(path for path, _ in ROWS)
    assert len(images.classes) == 2


REFUSED = {
    "no header": (text_of(ROWS[1:], head=",".join(ROWS[0])), "has no header line: it begins with flat/000.png"),
    "wrong names": (text_of(head="what,kind"), "has no path column"),
    "no label": (text_of(head="path,kind"), "has no label column"),
    "UTF-16": (text_of().encode("utf-16"), "is not UTF-8 text (byte 0); save it as UTF-8"),
    "latin-1": (text_of([*ROWS, ("é.png", "flat")]).encode("latin-1"), "is not UTF-8 text (byte "),
    "trailing comma": (text_of([(path, f"{name},x") for path, name in ROWS]), "line 2: 3 cells for 2 columns"),
    "open quotes": (text_of([*ROWS, ("flat/000.png", '"flat')]), "unexpected end of data"),
    "nothing": ("", "has no records"),
    "a head alone": ("path,label\n", "has no records"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_B21_tables_that_are_refused(manifest: Manifest, name: str):
    text, told = REFUSED[name]
    answer = manifest(text)
    assert answer.code == 3
    assert told in answer.error


@pytest.mark.parametrize("label", ["", "  "])
def test_B22_images_without_a_label_are_left_out_with_a_note(manifest: Manifest, label: str):
    answer = manifest(text_of([*ROWS[:-1], (ROWS[-1][0], label)]))
    assert answer.code == 0
    assert answer.json["valid"]["n"] == 11
    assert "without a label" in answer.err


def test_B22_labels_are_text_and_no_numbers(photos: Path):
    file = photos / "numbers.csv"
    names = ["1", "1.0", "01", "NaN"]
    file.write_text(text_of([(path, names[number % 4]) for number, (path, _) in enumerate(ROWS)]))
    assert {*frostline.read_data(file).classes} == {*names}


def test_B23_a_record_twice_counts_once(manifest: Manifest):
    answer = manifest(text_of([*ROWS, ROWS[0]]))
    assert answer.code == 0
    assert answer.json["valid"]["n"] == 12


def test_B23_contradictory_labels_are_named_with_their_lines(photos: Path, tmp_path: Path):
    file = photos / "contradiction.csv"
    file.write_text(text_of([*ROWS, ("flat/000.png", "tall")]))
    answer = command("fit", file, *PROBE, "--out", tmp_path / "run")
    assert answer.code == 3
    assert "twice: as flat (train) in line 2 and as tall (train) in line 14; list each image once" in answer.error


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("../../etc/passwd", "leads out of "),
        ("/etc/passwd", "leads out of "),
        ("flat/../../x.png", "leads out of "),
        ("http://127.0.0.1:1/a.png", "nothing is downloaded: download the images, and name their files"),
        ("https://127.0.0.1:1/a.png", "nothing is downloaded: download the images, and name their files"),
        ("file:///etc/passwd", "do not exist"),
    ],
)
def test_B24_paths_that_lead_out_are_refused_and_nothing_is_fetched(
    manifest: Manifest, path: str, told: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("socket.socket.connect", None)
    answer = manifest(text_of([*ROWS, (path, "flat")]))
    assert answer.code == 3
    assert told in answer.error


def test_B25_a_long_manifest_is_read_line_by_line(manifest: Manifest):
    lines = [*ROWS, *((f"gone/{i:08}.png", "flat") for i in range(20_000))]
    answer = manifest(text_of(lines))
    assert answer.code == 3
    assert "20000 of 20012 records" in answer.error.replace(",", "")
    assert answer.grown < 20
    assert answer.seconds < 10


# --- the place of the data, and runs


@pytest.mark.skipif(os.name == "nt", reason="needs modes of files")
def test_B26_data_that_cannot_be_written_are_read(nobodys: Path, monkeypatch: pytest.MonkeyPatch):
    data = write_photos(nobodys / "photos", 6)
    for folder in (data, data / "flat", data / "tall"):
        folder.chmod(0o555)
    (nobodys / "cache").mkdir(mode=0o777)
    (nobodys / "cache").chmod(0o777)
    monkeypatch.setenv("FROSTLINE_CACHE", str(nobodys / "cache"))
    before = sorted(data.rglob("*"))
    with without_rights():
        answer = command("fit", data, *PROBE, "--out", nobodys / "run", seconds=30)
    for folder in (data, data / "flat", data / "tall"):
        folder.chmod(0o755)
    assert answer.code == 0
    assert sorted(data.rglob("*")) == before
    assert any((nobodys / "cache").iterdir())


def test_B27_class_names_that_were_changed_are_refused(untrained: Path, tmp_path: Path):
    copy = shutil.copytree(untrained, tmp_path / "run")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    description = json.loads((copy / "model" / "model.json").read_text())
    description["classes"] = description["classes"][::-1]
    (copy / "model" / "model.json").write_text(json.dumps(description))
    answer = command("predict", copy, tmp_path / "a.png")
    assert answer.code == 4
    assert "the classes in model.json, or their order, have changed since it was" in answer.error


@pytest.mark.parametrize("name", ["photos.zip", "photos.tgz", "photos.tar.gz"])
def test_B28_archives_are_to_be_extracted(fit: Fit, tmp_path: Path, name: str):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("../../outside.png", saved(photo()))
    answer = fit(tmp_path / name)
    assert answer.code == 3
    assert f"{name} is an archive; extract it, and give the folder" in answer.error


# --- what an adversary found, beyond the rows


@pytest.mark.parametrize(("values", "told"), [([0, 1 << 20], "1,048,576"), ([-1_000, 300], "from -1,000 to 300")])
def test_R18_grey_of_unknown_meaning_is_never_guessed(untrained: Path, tmp_path: Path, values: list[int], told: str):
    Image.fromarray(np.array([values] * 4, np.int32)).save(tmp_path / "a.tif")
    answer = command("predict", untrained, tmp_path / "a.tif", "--json", "--quiet")
    assert answer.code == 6
    assert told in answer.json[0]["error"]


def test_R20_a_class_of_one_image_among_others_is_told(fit: Fit, tmp_path: Path):
    data = write_photos(tmp_path / "data", 6)
    write_photos(tmp_path / "one", 1, ("wide",))
    (tmp_path / "one" / "wide").rename(data / "wide")
    answer = fit(data)
    assert answer.code == 0
    assert "note: only one training image: wide" in answer.err
    assert "note: no validation images, so nothing measures their accuracy: wide" in answer.err


def test_R21_a_hard_link_to_a_training_image_is_a_leak(found, tmp_path: Path):
    data = write_photos(tmp_path / "data" / "train", 6).parent
    write_photos(data / "test", 3, seed=9)
    (data / "test" / "flat" / "link.png").hardlink_to(data / "train" / "flat" / "001.png")
    assert found(data)["leak"] == 1


@pytest.mark.long
@pytest.mark.skipif(not PEAK.exists(), reason="looks at its memory in /proc")
def test_B16_R24_twenty_thousand_classes_of_two_images(fit: Fit, tmp_path: Path, reports: None):
    """The logits of the validation images alone are 1.6 GB, and at most six such tables are in memory at once."""
    answer = fit(write_classes(tmp_path / "data", 20_000), "--json", seconds=7_200)
    assert answer.code == 0
    assert answer.grown < 9_000
    assert "could not be" not in answer.err
    assert (tmp_path / "run" / "report.html").stat().st_size < 20_000_000


@pytest.mark.long
def test_B17_a_million_files_are_listed_in_a_minute(tmp_path: Path):
    data = tmp_path / "data"
    for number in range(1_000):
        (data / f"c{number:05}").mkdir(parents=True)
        for copy in range(1_000):
            (data / f"c{number:05}" / f"{copy}.png").touch()
    answer = command("fit", data, *PROBE, "--out", tmp_path / "run", seconds=90)
    assert answer.code == 3
    assert "1000000 of 1000000 images cannot be read" in answer.error
    assert answer.grown < 600


@pytest.mark.long
def test_B25_ten_million_records(photos: Path, fit: Fit):
    file = photos / "long.csv"
    with file.open("w") as stream:
        stream.write(text_of())
        stream.writelines(f"gone/{number:08}.png,flat\n" for number in range(10_000_000))
    answer = fit(file, seconds=600)
    assert answer.code == 3
    assert answer.grown < 3_000  # 0.3 kB a record


def test_B19_a_run_is_not_a_data_set(tmp_path: Path):
    for name in ("config.yaml", "classes.json", "split.csv", "log.txt", "plots/curves.png"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    with pytest.raises(
        frostline.FrostlineError, match="is a run, not a folder of images; to go on with its fit:"
    ) as told:
        frostline.read_data(tmp_path / "run")
    assert told.value.exit_code == 3
