"""`frostline predict` on every kind of images and runs."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import frostline
from conftest import write_photos
from frostline.cli.evaluate import command as evaluate_command
from frostline.cli.predict import command
from frostline.data import decoding
from frostline.errors import DataError, InputsFailedError, UsageError

TINY = {"backbone": "timm:test_resnet", "weights": "none", "image_size": 64, "epochs": 1, "quiet": True}

PAINT = [0, 0, 0, 9, 9, 9, 255, 0, 200]  # black, dark grey, pink


def write_shapes(root: Path) -> Path:
    """Bright squares on noise, with masks of 0 and 2 (a class 1 is named and never shown)."""
    chance = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("ground\nnothing\nsquare\n")
    for i in range(12):
        picture, mask = chance.integers(0, 90, (40, 30, 3)), np.zeros((40, 30), np.uint8)
        mask[10:30, 5:25] = 2
        picture[mask == 2] += 160
        Image.fromarray(picture.astype(np.uint8)).save(root / "images" / f"{i}.png")
        painted = Image.fromarray(mask)
        painted.putpalette(PAINT)
        painted.save(root / "masks" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run of each of two tasks, and their data."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE", str(folder / "cache"))
        for name in ("draw_curves", "draw_confusion", "draw_shots"):
            patch.setattr(f"frostline.report.gallery.{name}", lambda *_: None)
        shapes = write_shapes(folder / "shapes")
        digits = frostline.read_data("digits")
        few = digits.with_splits({"train": digits.train.take(np.arange(300))})
        frostline.fit(shapes, plan="probe", out=folder / "masks", **{**TINY, "epochs": 30})
        frostline.fit(few, plan="probe", out=folder / "digits", **TINY)
    return {"masks": folder / "masks", "digits": folder / "digits", "shapes": shapes}


def run_or_raise(*arguments: object) -> None:
    """Raises what the command raises."""
    CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.mark.long
def test_masks_are_written_with_class_numbers_in_the_colours_of_the_training_masks(runs, tmp_path):
    files = sorted((runs["shapes"] / "images").glob("*.png"))
    result = run(runs["masks"], *files, "--masks", tmp_path / "out", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    for answer, file in zip(json.loads(result.stdout), files, strict=True):
        assert answer["mask"] == str(tmp_path / "out" / file.name)
        with Image.open(answer["mask"]) as mask:
            assert (mask.mode, mask.size) == ("P", (30, 40))
            numbers = np.asarray(mask)
            assert mask.getpalette()[:9] == PAINT
        with Image.open(runs["shapes"] / "masks" / file.name) as truth:
            assert (numbers == np.asarray(truth)).mean() > 0.8
        assert set(np.unique(numbers)) <= {0, 1, 2}
        assert 2 in numbers


def test_two_images_of_one_stem_get_a_mask_each(runs, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 7), "white").save(tmp_path / name / "same.png")
    out = tmp_path / "out"
    result = run(runs["masks"], tmp_path / "a", tmp_path / "b", "--masks", out, "--json", "--quiet")
    assert [answer["mask"] for answer in json.loads(result.stdout)] == [
        str(out / "same.png"),
        str(out / "same-2.png"),
    ]
    assert sorted(file.name for file in out.iterdir()) == ["same-2.png", "same.png"]


def test_an_unreadable_image_has_no_mask(runs, tmp_path):
    (tmp_path / "bad.png").write_text("no")
    result = run(runs["masks"], tmp_path / "bad.png", "--masks", tmp_path / "out", "--json", "--quiet")
    assert isinstance(result.exception, InputsFailedError)
    assert json.loads(result.stdout) == [{"path": str(tmp_path / "bad.png"), "error": "not an image of a known format"}]


def test_masks_of_a_classifier_are_refused(runs, tmp_path):
    result = run(runs["digits"], "digits", "--masks", tmp_path / "out")
    assert isinstance(result.exception, UsageError)
    assert "leave out --masks" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_named_data_set_is_classified_as_it_is_evaluated(runs):
    answers = json.loads(run(runs["digits"], "digits", "--json", "--quiet").stdout)
    test = frostline.read_data("digits").test
    assert [answer["path"] for answer in answers] == list(test.names)
    right = [answer["label"] == str(target) for answer, target in zip(answers, test.targets, strict=True)]
    measured = CliRunner().invoke(evaluate_command, [str(runs["digits"]), "digits", "--json", "--quiet"])
    assert json.loads(measured.stdout)["accuracy"] == pytest.approx(np.mean(right))


def test_every_layout_says_the_same(runs, tmp_path):
    photos = write_photos(tmp_path / "photos", 2)
    files = sorted(photos.rglob("*.png"))
    first = json.loads(run(runs["digits"], *files, "--format", "json", "--quiet").stdout)
    assert first == json.loads(run(runs["digits"], *files, "--json", "--quiet").stdout)
    rows = list(csv.DictReader(io.StringIO(run(runs["digits"], *files, "--format", "csv", "--quiet").stdout)))
    table = run(runs["digits"], *files, "--quiet").stdout.splitlines()
    for answer, row, line in zip(first, rows, table, strict=True):
        assert (row["path"], row["label"], row["error"]) == (answer["path"], answer["label"], "")
        assert row["probability"] == f"{answer['probability']:.6f}"
        assert line.split() == [answer["path"], f"{answer['probability']:.4f}", answer["label"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--out", "x.csv", "--json"],
            r"x\.csv is for csv, but --json is given; leave that out, or write to .*x\.json",
        ),
        (["--out", "x.json", "--format", "csv"], r"x\.json is for json, but --format csv is given; .*x\.csv"),
        (["--json", "--format", "csv"], "--json and --format csv contradict each other"),
        (["--probabilities"], "a table has no room for --probabilities; add --format csv"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(words, message, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(runs["digits"], "digits", *words)
    assert isinstance(result.exception, UsageError)
    assert re.search(message, str(result.exception))
    assert not list(tmp_path.iterdir())


def test_the_probability_of_every_class_is_in_every_layout_for_programs(runs, tmp_path):
    """Stumble 30."""
    file = next(write_photos(tmp_path / "photos", 1).rglob("*.png"))
    words = [runs["digits"], file, "--probabilities", "--quiet"]
    (row,) = csv.DictReader(io.StringIO(run(*words, "--format", "csv").stdout))
    (answer,) = json.loads(run(*words, "--json").stdout)
    (line,) = run(*words, "--format", "jsonl").stdout.splitlines()
    assert answer == json.loads(line)
    assert list(answer["probabilities"]) == [str(digit) for digit in range(10)]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert row["p_7"] == f"{answer['probabilities']['7']:.6f}"


def accuracy_line(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("accuracy ")]
    return line


def test_a_copied_classifier_is_enough(runs, tmp_path):
    alone = shutil.copytree(runs["digits"] / "model", tmp_path / "digits")
    found, whole = (run(each, "digits", "--format", "csv") for each in (alone, runs["digits"]))
    assert found.exit_code == 0
    assert found.stdout == whole.stdout
    assert accuracy_line(found.stderr) == accuracy_line(whole.stderr)


def test_patterns_that_the_shell_has_left_are_expanded(runs, tmp_path):
    for name in ("b.png", "a.png", "under/c.png", "[1].png", "x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name, "png")
    named = {
        "*.png": ["[1].png", "a.png", "b.png"],
        "**/*.png": ["[1].png", "a.png", "b.png", "under/c.png"],
        "[ab].png": ["a.png", "b.png"],
        "[1].png": ["[1].png"],
    }
    for pattern, names in named.items():
        found = json.loads(run(runs["digits"], tmp_path / pattern, "--json").stdout)
        assert [each["path"] for each in found] == [str(tmp_path / name) for name in names]
    everything = json.loads(run(runs["digits"], tmp_path / "**", "--json").stdout)  # folders would count images twice
    assert sorted(each["path"] for each in everything if "label" in each) == sorted(
        str(tmp_path / name) for name in [*named["**/*.png"], "x.txt"]
    )
    with pytest.raises(DataError, match=r"no file matches .*\*\.webp"):
        run_or_raise(runs["digits"], tmp_path / "*.webp")


def test_what_is_less_probable_than_a_threshold_is_uncertain(runs):
    plain = json.loads(run(runs["digits"], "digits", "--json").stdout)
    middle = sorted(each["probability"] for each in plain)[len(plain) // 2]
    found = json.loads(run(runs["digits"], "digits", "--json", "--threshold", middle).stdout)
    assert [each["uncertain"] for each in found] == [each["probability"] < middle for each in plain]
    assert [each["label"] for each in found] == [each["label"] for each in plain]
    table = run(runs["digits"], "digits", "--threshold", middle).stdout
    assert table.count("uncertain: ") == sum(each["uncertain"] for each in found)
    rows = list(csv.DictReader(io.StringIO(run(runs["digits"], "digits", "--format=csv", "--threshold=2e-1").stdout)))
    assert {row["uncertain"] for row in rows} <= {"true", "false"}
    with pytest.raises(UsageError, match=r"the threshold is 1\.5; it is a probability"):
        run_or_raise(runs["digits"], "digits", "--threshold", 1.5)


def test_the_accuracy_is_told_where_labels_are_known_and_is_that_of_evaluate(runs):
    measured = CliRunner().invoke(evaluate_command, [str(runs["digits"]), "digits", "--json", "--quiet"])
    evaluated = json.loads(measured.stdout)
    expected = f"accuracy {evaluated['accuracy']:.4f} (95 %: {evaluated['interval'][0]:.4f} … "
    table = run(runs["digits"], "digits", "--quiet")
    assert accuracy_line(table.stdout).startswith(expected)
    assert table.stdout.splitlines()[-1].endswith(f"of {evaluated['n']} labelled images")
    for layout in ("csv", "json"):
        result = run(runs["digits"], "digits", "--format", layout)
        assert accuracy_line(result.stderr).startswith(expected)
        assert "accuracy" not in result.stdout
    assert "accuracy" not in run(runs["digits"], "digits", "--format", "csv", "--quiet").stderr


def test_a_formula_in_a_name_is_quoted_in_csv(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 7)).save("=cmd.png")
    Path("@bad.png").write_text("no")
    result = run(runs["digits"], "=cmd.png", "@bad.png", "--format", "csv", "--quiet")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["path"] for row in rows] == ["'=cmd.png", "'@bad.png"]


def test_a_name_that_is_no_utf_8_keeps_its_bytes_in_a_pipe(runs, tmp_path):
    name = tmp_path / os.fsdecode(b"caf\xe9 \x1b[31m.png")
    Image.new("RGB", (9, 7)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(name)
    result = run(runs["digits"], name, "--format", "csv", "--quiet")
    assert result.exit_code == 0, result.exception
    assert os.fsencode(name) in result.stdout_bytes
    (answer,) = json.loads(run(runs["digits"], name, "--json", "--quiet").stdout)
    assert answer["path"] == str(name)
    table = run(runs["digits"], name, "--quiet")
    assert "\x1b" not in table.stdout
    assert "caf\\udce9 \\x1b[31m.png" in table.stdout


@pytest.mark.parametrize(
    "layout", ["table", pytest.param("csv", marks=pytest.mark.long), pytest.param("json", marks=pytest.mark.long)]
)
@pytest.mark.long
def test_a_terminal_of_few_letters_is_no_error(layout, runs, tmp_path):
    name = tmp_path / "größe ≥ 3.png"
    Image.new("RGB", (9, 7)).save(name)
    arguments = ["-m", "frostline", "predict", str(runs["digits"]), str(name), "--format", layout, "--quiet"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}
    result = subprocess.run([sys.executable, *arguments], capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert b"e \xe2\x89\xa5 3.png" in result.stdout if layout == "csv" else b"3.png" in result.stdout


def test_evaluate_tells_the_overlap_of_every_class(runs):
    result = CliRunner().invoke(evaluate_command, [str(runs["masks"]), str(runs["shapes"]), "--quiet"])
    assert result.exit_code == 0, result.output
    first, head, *rows, last = result.stdout.splitlines()
    assert last.startswith("on images new to the run: ")
    assert first.startswith("all: mean IoU ")
    assert head.split() == ["class", "n", "recall", "precision", "f1", "iou"]
    assert [row.split()[0] for row in rows] == ["ground", "nothing", "square"]
    assert rows[1].split()[2] == "–"


def test_sets_and_reasons_are_told_in_every_layout(runs):
    answers = json.loads(run(runs["digits"], "digits", "--coverage", "0.9", "--why", "--json", "--quiet").stdout)
    test = frostline.read_data("digits").test
    covered = [str(target) in answer["set"] for answer, target in zip(answers, test.targets, strict=True)]
    assert 0.8 < np.mean(covered) < 0.98
    assert {type(answer["none"]) for answer in answers} == {bool}
    assert answers[0]["why"][0].keys() == {"path", "label", "cosine"}
    rows = list(
        csv.DictReader(io.StringIO(run(runs["digits"], "digits", "--coverage", "0.9", "--format", "csv").stdout))
    )
    assert [row["set"] for row in rows] == ["|".join(answer["set"]) for answer in answers]
    assert [row["none"] for row in rows] == [str(answer["none"]).lower() for answer in answers]
    lines = run(runs["digits"], "digits", "--coverage", "0.9", "--why").stdout.splitlines()
    assert f"{{{', '.join(answers[0]['set'])}}}" in lines[0]
    assert answers[0]["why"][0]["path"] in lines[1]


@pytest.mark.parametrize("coverage", ["1", "0", "95", "0.9999"])
def test_a_coverage_that_cannot_be_promised_is_refused(runs, coverage):
    result = run(runs["digits"], "digits", "--coverage", coverage)
    assert isinstance(result.exception, UsageError)
    assert "coverage" in str(result.exception)


def test_a_run_of_masks_has_no_sets(runs):
    result = run(runs["masks"], runs["shapes"] / "images", "--coverage", "0.9")
    assert isinstance(result.exception, UsageError)


def test_a_file_of_answers_is_announced(runs, tmp_path):
    photos = write_photos(tmp_path / "photos", 2)
    result = run(runs["digits"], photos, "--out", tmp_path / "answers.csv")
    assert f"wrote {tmp_path / 'answers.csv'}: 4 images" in result.stderr


def test_names_come_from_standard_input_by_both_of_its_names(runs, tmp_path):
    """Stumble 28."""
    photos = sorted(write_photos(tmp_path / "photos", 1).rglob("*.png"))
    names = "".join(f"{photo}\n" for photo in photos)
    answers = [
        CliRunner().invoke(command, [str(runs["digits"]), name, "--json", "--quiet"], input=names).stdout
        for name in ("-", "/dev/stdin")
    ]
    assert answers[0] == answers[1]
    assert len(json.loads(answers[0])) == len(photos)


@pytest.mark.parametrize("layout", ["table", "csv", "json", "jsonl"])
def test_answers_come_while_standard_input_is_open(layout, runs, tmp_path, monkeypatch):
    photos = sorted(map(str, write_photos(tmp_path / "photos", 2).rglob("*.png")))
    (given, names), (answers, written) = os.pipe(), os.pipe()
    with (
        os.fdopen(given) as stdin,
        os.fdopen(names, "wb", 0) as typed,
        os.fdopen(written, "w") as stdout,
        os.fdopen(answers) as lines,
        ThreadPoolExecutor(1) as pool,
    ):
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        never = threading.Timer(60, typed.close)  # so that a command that waits for the end does not wait for ever
        never.start()
        words = [str(runs["digits"]), photos[0], "-", "--format", layout, "--quiet"]
        done = pool.submit(command.main, words, standalone_mode=False)
        done.add_done_callback(lambda _: stdout.close())
        for photo in photos:
            if photo != photos[0]:
                typed.write(os.fsencode(f"{photo}\n"))
            assert any(photo in line for line in iter(lines.readline, ""))
            assert not done.done()
        typed.close()
        never.cancel()
        assert done.result(timeout=60) is None


def test_what_is_piped_is_forgotten_once_it_is_answered(runs, tmp_path, monkeypatch):
    """Nothing is kept of an image, not even of one that cannot be read."""
    peaks = {}
    monkeypatch.setattr("frostline.cli.predict.BLOCK", 2_000)
    for count in (100, 300, 1_500):  # the first fills what is kept once
        names = "".join(f"gone-{number:06}.png\n" for number in range(count))
        tracemalloc.start()
        words = [str(runs["digits"]), "-", "--out", str(tmp_path / f"{count}.jsonl"), "--quiet"]
        result = CliRunner().invoke(command, words, input=names)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert str(result.exception) == f"{count} of {count} images could not be read"
    assert peaks[1_500] - peaks[300] < 1_200 * 120, peaks


def test_nothing_on_standard_input_is_an_error(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    for text in ("", "\n", f"{tmp_path / 'empty'}\n"):
        result = CliRunner().invoke(command, [str(runs["digits"]), "-", "--json"], input=text)
        assert isinstance(result.exception, UsageError)
        assert "no images on standard input; give names" in str(result.exception)
        assert not result.stdout


def test_a_web_address_is_told_from_a_file(runs):
    """Stumble 28."""
    result = run(runs["digits"], "https://example.com/cat.jpg")
    assert isinstance(result.exception, UsageError)
    assert "https://example.com/cat.jpg is a web address" in str(result.exception)
    with pytest.raises(UsageError, match="https://example.com/cat.jpg is a web address"):
        frostline.predict(str(runs["digits"]), "https://example.com/cat.jpg")
    with pytest.raises(UsageError, match="is a web address"):
        frostline.fit("https://example.com/photos.zip")


def manifest(folder: Path, records: list[str]) -> Path:
    write_photos(folder / "photos", 3, ("0", "1"))
    (folder / "list.csv").write_text("\n".join(records) + "\n")
    return folder / "list.csv"


def test_a_manifest_without_labels_is_predicted_whole(runs, tmp_path):
    """A test set of Kaggle."""
    file = manifest(tmp_path, ["id", "photos/0/000", "photos/1/001", "photos/0/000"])
    answers = json.loads(run(runs["digits"], file, "--json", "--quiet").stdout)
    assert [Path(answer["path"]).name for answer in answers] == ["000.png", "001.png"]


@pytest.mark.parametrize(
    ("labels", "measured"), [(("0", "1", "0"), True), (("0", "", "1"), False), (("0", "zebra", "1"), False)]
)
def test_no_image_of_a_manifest_is_left_out(labels, measured, runs, tmp_path):
    rows = [f"photos/{i % 2}/00{i}.png,{label}" for i, label in enumerate(labels)]
    result = run(runs["digits"], manifest(tmp_path, ["path,label", *rows]), "--json")
    assert len(json.loads(result.stdout)) == 3
    assert ("accuracy" in result.stderr) == measured


def test_bytes_on_standard_input_are_no_names(runs):
    result = CliRunner().invoke(command, [str(runs["digits"]), "-"], input=b"\x89PNG\r\n\x00\x00")
    assert isinstance(result.exception, UsageError)
    assert "standard input is not text" in str(result.exception)


def test_a_folder_of_phone_photographs_gets_its_hint(runs, tmp_path):
    """Stumble 15."""
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.heic").touch()
    result = run(runs["digits"], tmp_path / "phone")
    assert isinstance(result.exception, UsageError)
    assert "no images in" in str(result.exception)
    assert "HEIF" in decoding.READ or "pillow-heif" in str(result.exception)
