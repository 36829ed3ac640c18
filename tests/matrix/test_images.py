"""Rows A01 to A35 of the test matrix: images that are hard to read, predicted and learned from on the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frostline
from badfiles import ANY, BAD, GOOD, bad_files, photo, saved
from commands import Answer, command, without_rights
from conftest import write_photos
from frostline.data.decoding import open_image
from frostline.terminal import printable

SMALL = ["--backbone", "timm:test_resnet", "--weights", "none", "--image-size", "32", "--precision", "fp32"]
PROBE = [*SMALL, "--plan", "probe", "--quiet"]
MOST_GROWN = 50  # MB that a file may take that is refused
CODES = {GOOD: (0,), BAD: (6,), ANY: (0, 6)}

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(autouse=True)
def without_remarks() -> Iterator[None]:
    """Pillow's remarks about odd metadata, which the command line does not show."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


Predicted = Callable[..., dict[str, Answer]]


@pytest.fixture
def predicted(untrained: Path, tmp_path: Path) -> Predicted:
    """What `predict` says to every file of a row, each named .jpg; each ends as is expected of it."""

    def predict(row: str, told: str = "", most: float = MOST_GROWN) -> dict[str, Answer]:
        answers = {}
        for number, (name, (kind, content)) in enumerate(bad_files().items()):
            if not name.startswith(row):
                continue
            file = tmp_path / f"{row} {number}.jpg"
            file.write_bytes(content)
            answer = answers[name] = command("predict", untrained, file, "--json", "--quiet")
            assert answer.code in CODES[kind], (name, answer)
            if answer.code == 6:
                assert told in answer.json[0]["error"], (name, answer)
                assert answer.error == "frostline: 1 of 1 images could not be read"
                assert answer.grown < most, (name, answer)
            else:
                assert sum(p for _, p in answer.json[0]["top"]) == pytest.approx(1, abs=1e-4)
        assert answers, row
        return answers

    return predict


def decoded(name: str) -> np.ndarray:
    """The pixels of a file of the corpus, as numbers that can be subtracted."""
    return np.asarray(open_image(bad_files()[name][1])).astype(int)


def plain() -> np.ndarray:
    return np.asarray(photo()).astype(int)


def test_A01_half_a_jpeg(predicted: Predicted):
    predicted("A01", "truncated")


def test_A02_a_jpeg_without_its_end_is_not_repaired(predicted: Predicted):
    (answer,) = predicted("A02", "truncated").values()
    assert answer.code == 6


def test_A03_the_head_of_a_jpeg(predicted: Predicted):
    predicted("A03", "it looks like a JPEG with a broken header")


def test_A04_no_bytes(predicted: Predicted):
    predicted("A04", "empty file")


def test_A05_a_web_page_that_was_downloaded_instead(predicted: Predicted):
    page, text = predicted("A05", "not an image of a known format").values()
    assert "it looks like a web page; was it a failed download?" in page.json[0]["error"]
    assert "looks like" not in text.json[0]["error"]


def test_A06_the_content_decides_and_not_the_name(predicted: Predicted):
    predicted("A06")
    assert np.array_equal(decoded("A06 PNG"), plain())


def test_A07_formats_that_are_not_read_say_what_helps(predicted: Predicted):
    answers = predicted("A07", "not an image of a known format")
    told = {name: answer.json[0].get("error", "") for name, answer in answers.items()}
    assert "save it as PNG" in told["A07 SVG"]
    assert "PDF; save its pages" in told["A07 PDF"]
    assert "pip install pillow-heif" in told["A07 HEIC"] or not told["A07 HEIC"].endswith("format")
    assert "export it as JPEG" in told["A07 RAW"]


def test_A08_flipped_bits_give_pixels_or_an_error(predicted: Predicted):
    predicted("A08")


def test_A09_damaged_pngs(predicted: Predicted):
    predicted("A09")


def test_A10_a_header_of_ten_thousand_million_pixels(predicted: Predicted):
    predicted("A10", "more than 100,000,000 pixels")


def test_A11_a_header_above_the_limit(predicted: Predicted):
    predicted("A11", "12000 × 12000 pixels, more than 100,000,000")


def test_A12_pixels_above_the_limit_are_never_unpacked(predicted: Predicted):
    predicted("A12", "13000 × 13000 pixels, more than 100,000,000")


def test_A13_images_without_pixels_with_one_and_with_a_line_of_them(predicted: Predicted):
    none, one, line = predicted("A13").values()
    assert (none.code, one.code, line.code) == (6, 0, 0)


def test_A14_colours_of_print(predicted: Predicted):
    predicted("A14")
    difference = decoded("A14 CMYK").mean((0, 1)) - plain().mean((0, 1))
    assert np.abs(difference).max() < 0.03 * 255


def test_A15_grey_of_16_bits_keeps_its_levels(predicted: Predicted):
    predicted("A15", "of unknown meaning; save them as 8 or 16 bits")
    for name in ("A15 16 bits", "A15 16 bits, big-endian TIFF"):
        assert len(np.unique(decoded(name))) >= 70


def test_A16_floats_of_unknown_range(predicted: Predicted):
    predicted("A16", "floating-point pixels of unknown range; save them as 8 or 16 bits")


def test_A17_transparency_is_white(predicted: Predicted):
    predicted("A17")
    half = (plain() + 255) / 2
    assert np.abs(decoded("A17 RGBA") - half).max() <= 2


def test_A18_images_that_lie_on_a_side_are_seen_upright(predicted: Predicted, untrained: Path, tmp_path: Path):
    assert len(predicted("A18")) == 8
    (tmp_path / "turned").mkdir()
    for way in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = way
        image = photo() if way == 1 else photo().transpose(BACK[way])
        image.save(tmp_path / "turned" / f"{way}.png", exif=exif)
    said = command("predict", untrained, tmp_path / "turned", "--json", "--quiet").json
    assert len(said) == 8
    assert len({answer["probability"] for answer in said}) == 1


BACK = {  # what undoes each orientation of EXIF
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def test_A19_broken_and_endless_metadata_says_nothing_about_the_pixels(predicted: Predicted):
    predicted("A19")


def test_A20_the_first_frame_counts(predicted: Predicted):
    predicted("A20")
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decoded(f"A20 {kind}"), plain())


def test_A21_colour_profiles_never_end_a_run(predicted: Predicted):
    predicted("A21")


def test_A22_rare_kinds_of_jpeg_are_read_or_refused(predicted: Predicted):
    predicted("A22")


def test_A23_formats_of_tomorrow_are_named(predicted: Predicted):
    answers = predicted("A23", "not an image of a known format")
    assert "JPEG XL; convert it" in answers["A23 JPEG XL"].json[0]["error"]
    assert "JPEG 2000; convert it" in answers["A23 JP2"].json[0]["error"]


def test_A24_parsers_of_other_formats_never_run(predicted: Predicted, monkeypatch: pytest.MonkeyPatch):
    from PIL import EpsImagePlugin, FitsImagePlugin, PsdImagePlugin

    for module, name in ((EpsImagePlugin, "Eps"), (FitsImagePlugin, "Fits"), (PsdImagePlugin, "Psd")):
        monkeypatch.setattr(getattr(module, f"{name}ImageFile"), "_open", None)
    predicted("A24", "not an image of a known format")


def test_A25_text_that_unpacks_to_100_mb(predicted: Predicted):
    predicted("A25")


def test_A26_one_frame_of_100_000_is_read_at_once(predicted: Predicted):
    for answer in predicted("A26").values():
        assert answer.seconds < 5
        assert answer.grown < MOST_GROWN


@pytest.fixture
def between_phases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Answer]:
    """A fit of two phases that computes every row again; between the phases something happens to the files."""
    from frostline.fitting import phase as module

    monkeypatch.setattr("frostline.store.filling.MEMORY_BYTES", 0)
    photos, real = write_photos(tmp_path / "photos", 12), module.run_phase
    (tmp_path / "plan.yaml").write_text("- {frostline: head, epochs: 0}\n- {frostline: layer4, epochs: 1, views: 2}\n")

    def fit(happens: Callable[[Path], object], *flags: object) -> Answer:
        def run_phase(job, progress, phase):
            if progress.phases:
                happens(photos / "flat" / "003.png")
            return real(job, progress, phase)

        monkeypatch.setattr(module, "run_phase", run_phase)
        plan = ["--plan", tmp_path / "plan.yaml", "--out", tmp_path / "out"]
        return command("fit", photos, *SMALL, *plan, *flags, seconds=60)

    return fit


def rewritten(file: Path) -> None:
    Image.new("RGB", (40, 40)).save(file)


CHANGED = "it has changed since the data set was read"


def test_A27_a_file_that_changes_between_phases_is_left_out(between_phases):
    answer = between_phases(rewritten, "--no-cache")
    assert answer.code == 0
    assert f"flat/003.png ({CHANGED})" in answer.err


def test_A28_a_file_that_goes_between_phases_is_left_out(between_phases):
    answer = between_phases(Path.unlink, "--no-cache")
    assert answer.code == 0
    assert "flat/003.png (no such file" in answer.err


def test_A27_a_file_that_changes_in_a_phase_ends_it_and_is_named(between_phases, in_a_phase):
    answer = between_phases(in_a_phase(rewritten), "--no-cache")
    assert answer.code == 3
    assert f"flat/003.png can no longer be read: {CHANGED}; put it back, or use a store" in answer.error


def test_A28_R04_a_file_that_goes_in_a_phase_ends_it_and_is_named(between_phases, in_a_phase):
    answer = between_phases(in_a_phase(Path.unlink), "--no-cache")
    assert answer.code == 3
    assert "flat/003.png can no longer be read: no such file" in answer.error


def test_A28_with_a_store_no_file_is_opened_twice(between_phases, in_a_phase):
    assert between_phases(in_a_phase(Path.unlink)).code == 0


@pytest.fixture
def in_a_phase(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[Path], None]]:
    """What happens after a phase has opened its images."""
    from frostline.fitting import phase as module

    real = module.tune

    def later(happens: Callable[[Path], object]) -> Callable[[Path], None]:
        def now(file: Path) -> None:
            def tune(*arguments):
                happens(file)
                return real(*arguments)

            monkeypatch.setattr(module, "tune", tune)

        return now

    return later


@pytest.mark.skipif(os.name == "nt", reason="needs modes of files")
def test_A29_a_file_that_may_not_be_read_is_named(untrained: Path, nobodys: Path):
    photos, everybodys = write_photos(nobodys / "photos", 6), shutil.copytree(untrained, nobodys / "run")
    (photos / "flat" / "002.png").chmod(0)
    with without_rights():
        answer = command("predict", everybodys, photos, "--json", "--quiet")
    assert answer.code == 6
    assert [each for each in answer.json if "error" in each] == [
        {"path": f"{photos}/flat/002.png", "error": f"[Errno 13] Permission denied: '{photos}/flat/002.png'"}
    ]


@pytest.mark.skipif(os.name == "nt", reason="needs modes of files")
@pytest.mark.parametrize("name", ["photos", "photos/flat", "photos/flat/deeper"])
def test_R13_a_folder_that_may_not_be_read_is_named_and_never_left_out(untrained: Path, nobodys: Path, name: str):
    photos, everybodys = write_photos(nobodys / "photos", 6, ("flat", "tall", "wide")), nobodys / "run"
    shutil.copytree(untrained, everybodys)
    (photos / "flat" / "deeper").mkdir()
    (photos / "flat" / "deeper" / "000.png").write_bytes(saved(photo()))
    (nobodys / name).chmod(0)
    try:
        with without_rights():
            answers = [
                command("fit", photos, *PROBE, "--out", nobodys / "out"),
                command("predict", everybodys, photos, "--quiet"),
                command("evaluate", everybodys, photos, "--quiet"),
            ]
    finally:
        (nobodys / name).chmod(0o700)
    for answer in answers:
        assert answer.code == 3
        assert f"the folder {nobodys / name} cannot be read: Permission denied" in answer.error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_A30_what_is_no_file_is_never_opened(untrained: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "null.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening, within(tmp_path):
        listening.bind("socket.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "good.png").write_bytes(saved(photo()))
    answer = command("predict", untrained, tmp_path, "--json", "--quiet")
    assert answer.code == 6
    said = {Path(each["path"]).name: each.get("error", "") for each in answer.json}
    assert said == {"good.png": "", **dict.fromkeys(("pipe.jpg", "null.jpg", "socket.jpg"), "not a regular file")}


class within:  # noqa: N801  # a context like contextlib.chdir
    """In this context relative paths begin at a folder; the name of a socket must be short."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, Path.cwd()

    def __enter__(self) -> None:
        os.chdir(self.folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)


def test_A31_links_that_lead_nowhere_or_in_circles(untrained: Path, tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 2)
    (photos / "flat" / "gone.jpg").symlink_to(tmp_path / "nothing")
    (photos / "flat" / "itself.jpg").symlink_to(photos / "flat" / "itself.jpg")
    (photos / "flat" / "parent").symlink_to(photos)
    answer = command("predict", untrained, photos, "--json", "--quiet", seconds=5)
    said = {str(Path(each["path"]).relative_to(photos)): each.get("error", "") for each in answer.json}
    assert "no such file" in said.pop("flat/gone.jpg")
    assert "symbolic links" in said.pop("flat/itself.jpg")
    assert len(said) == 4
    assert {*said.values()} == {""}


def test_A32_links_that_lead_out_are_followed(untrained: Path, tmp_path: Path):
    photos, outside = write_photos(tmp_path / "photos", 2), write_photos(tmp_path / "elsewhere", 2)
    (photos / "tall" / "other").symlink_to(outside / "tall")
    (photos / "tall" / "one.png").symlink_to(outside / "flat" / "000.png")
    answer = command("predict", untrained, photos, "--json", "--quiet")
    assert answer.code == 0
    names = {str(Path(each["path"]).relative_to(photos)) for each in answer.json}
    assert names >= {"tall/other/000.png", "tall/other/001.png", "tall/one.png"}
    assert len(names) == 7


HOSTILE = [
    *("a b.png", "[red]x.png", "[bold].png", 'it\'s "quoted".png', "%s%n.png", "<img src=x onerror=alert(1)>.png"),
    *(
        "-rf.png",
        "--json.png",
        "a\nb.png",
        "a\rb.png",
        "a\r\nb.png",
        "\x1b]52;c;cm0=\x07\x1b[31m.png",
        "\u202egnp.exe.png",
    ),
    *("=cmd|calc!A1.png", "+1.png", "@SUM(1).png", "😀.png", "é.png", "e\u0301.png", "con.jpg.png", "x" * 251 + ".png"),
    *("$x$.png", "{{7*7}}.png", "a,b;c\td.png", "\udcff.png"),
]
PASSED_OVER = [".hidden.png", "._x.png", "Thumbs.db", ".DS_Store"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes with names that are hard to show, or to write."""
    root = tmp_path_factory.mktemp("hostile") / "photos"
    write_photos(root, 4)
    content = (root / "flat" / "000.png").read_bytes()
    for name in [*HOSTILE, *PASSED_OVER]:
        (root / "flat" / name).write_bytes(content)
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "000.png").write_bytes(content)
    return root


NAMES = {*HOSTILE, *(f"{i:03}.png" for i in range(4))}
posix_names = pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")


@posix_names
@pytest.mark.parametrize("layout", ["json", "jsonl", "csv"])
def test_A33_hostile_names_come_out_as_they_are(untrained: Path, hostile: Path, layout: str):
    answer = command("predict", untrained, hostile / "flat", "--format", layout)
    assert answer.code == 0
    if layout == "csv":
        paths = [record["path"] for record in csv.DictReader(io.StringIO(answer.out, newline=""))]
    else:
        assert "\x1b" not in answer.out
        documents = answer.json if layout == "json" else map(json.loads, answer.out.splitlines())
        paths = [each["path"] for each in documents]
    assert len(paths) == len(NAMES)
    assert {Path(path).name for path in paths} == NAMES


@posix_names
def test_R14_a_table_has_a_line_per_image_and_steers_no_terminal(untrained: Path, hostile: Path, monkeypatch):
    answer = command("predict", untrained, hostile / "flat")
    assert len(answer.out.splitlines()) == len(NAMES)
    assert {letter for letter in answer.out if not letter.isprintable()} == {"\n"}
    monkeypatch.setattr("frostline.cli.predict._shown", lambda _: printable)  # as for a terminal
    assert "\x1b" not in command("predict", untrained, hostile / "flat", "--format", "csv").out


@posix_names
def test_R14_no_cell_of_csv_is_a_formula(untrained: Path, hostile: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(hostile / "flat")
    names = sorted(name for name in NAMES if name[0] in "=+@")
    assert command("predict", untrained, *names, "--out", tmp_path / "out.csv", "--quiet").code == 0
    with (tmp_path / "out.csv").open() as stream:
        assert [record["path"] for record in csv.DictReader(stream)] == [f"'{name}" for name in names]


@posix_names
def test_R19_a_run_keeps_hostile_names(hostile: Path, tmp_path: Path):
    answer = command("fit", hostile, *PROBE, "--out", tmp_path / "run", seconds=60)
    assert answer.code == 0, answer
    found = frostline.load_run(tmp_path / "run")
    assert {record["path"].removeprefix("flat/") for record in found.split if record["label"] == "flat"} == NAMES
    assert "\x1b" not in (tmp_path / "run" / "log.txt").read_text(errors="replace")


@posix_names
def test_A34_paths_that_are_too_long_are_named_when_predicted(untrained: Path, deep: Path):
    answer = command("predict", untrained, deep)
    assert answer.code == 3
    assert "cannot be read: File name too long" in answer.error
    assert len(answer.error) < 600


@posix_names
def test_R13_a_fit_leaves_out_no_path_that_is_too_long(deep: Path, tmp_path: Path):
    answer = command("fit", deep, *PROBE, "--out", tmp_path / "out")
    assert answer.code == 3
    assert "cannot be read: File name too long" in answer.error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """Pictures of two classes; one of them lies in folders whose path is longer than the system opens."""
    photos = write_photos(tmp_path / "photos", 3)
    handle, top = os.open(photos / "flat", os.O_RDONLY), None
    for _ in range(21):
        os.mkdir("d" * 200, dir_fd=handle)
        top, handle = handle, os.open("d" * 200, os.O_RDONLY, dir_fd=handle)
        os.close(top)
    with os.fdopen(os.open("deep.png", os.O_WRONLY | os.O_CREAT, dir_fd=handle), "wb") as file:
        file.write(saved(photo()))
    os.close(handle)
    yield photos
    shutil.rmtree(photos)


def test_A35_endings_in_any_case(untrained: Path, tmp_path: Path):
    kinds = {".JPG": "JPEG", ".JpEg": "JPEG", ".tif": "TIFF", ".TIFF": "TIFF", ".PNG": "PNG", ".WebP": "WEBP"}
    for ending, kind in kinds.items():
        (tmp_path / f"a{ending}").write_bytes(saved(photo(), kind))
    assert len(command("predict", untrained, tmp_path, "--json", "--quiet").json) == len(kinds)
    assert command("predict", untrained, tmp_path, "--json", "--quiet").code == 0


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not tell the memory of a process")
def test_R08_four_large_images_take_the_memory_of_one(untrained: Path, tmp_path: Path):
    file = tmp_path / "0.png"
    Image.new("RGBA", (10_000, 10_000), (9, 9, 9, 77)).save(file, compress_level=1)
    for number in range(1, 4):
        (tmp_path / f"{number}.png").hardlink_to(file)
    peaks = []
    for files in ([untrained.parent / "none.png"], sorted(tmp_path.glob("*.png"))):
        with subprocess.Popen([sys.executable, "-m", "frostline", "predict", untrained, *files]) as process:
            peaks.append(os.wait4(process.pid, 0)[2].ru_maxrss / 1_000)
    assert peaks[1] - peaks[0] < 1_200


def test_a_fit_leaves_out_what_cannot_be_read_and_learns_from_the_rest(tmp_path: Path):
    """All of the corpus at once, as a class of its own."""
    photos = write_photos(tmp_path / "photos", 6)
    (photos / "odd").mkdir()
    for number, (_, content) in enumerate(bad_files().values()):
        (photos / "odd" / f"{number:03}.jpg").write_bytes(content)
    arguments = ("fit", photos, *PROBE, "--out", tmp_path / "run", "--json")
    refused = command(*arguments, seconds=60)
    assert refused.code == 3
    assert "images cannot be read; at most 10 may be: " in refused.error
    assert "--skip-unreadable" in refused.error
    answer = command(*arguments, "--skip-unreadable", seconds=60)
    assert answer.code == 0, answer.err
    kinds = [kind for kind, _ in bad_files().values()]
    left_out = len(answer.json["unreadable"])
    assert kinds.count(BAD) <= left_out <= len(kinds) - kinds.count(GOOD)
    assert answer.grown < 400


def test_ten_unreadable_images_end_no_fit(tmp_path: Path):
    """Nine of thirty, and one of seventeen: a bad file of fewer than a hundred does not end a run."""
    photos = write_photos(tmp_path / "photos", 20)
    for file in sorted((photos / "flat").iterdir())[:10]:
        file.write_bytes(b"<html>")
    answer = command("fit", photos, *PROBE, "--out", tmp_path / "run", "--json", seconds=60)
    assert answer.code == 0, answer.err
    assert len(answer.json["unreadable"]) == 10
    for file in sorted((photos / "flat").iterdir()):
        file.write_bytes(b"<html>")
    started = time.perf_counter()
    answer = command("fit", photos, *PROBE, "--out", tmp_path / "again", "--skip-unreadable", seconds=60)
    assert answer.code == 3
    assert "no training image of flat can be read" in answer.error
    assert time.perf_counter() - started < 60
