"""The benchmark runner: no peer is installed here, a script that answers like one stands for all of them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frostline
from conftest import TINY_FIT, write_photos

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import compare_peers  # noqa: E402
import environments  # noqa: E402
import export  # noqa: E402
import folders  # noqa: E402
import picture  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import rows  # noqa: E402
import watching  # noqa: E402
import work  # noqa: E402

W1 = work.UNITS[0]
MACHINE = {"cpu": "abacus", "cores": 2, "memory_gib": 1.0}
ANSWERS = """
import json, sys
epochs = int(sys.argv[sys.argv.index("--epochs") + 1])
print("some talk", {"accuracy": 0})
print(json.dumps({"accuracy": 0.5 + epochs / 100, "epoch_seconds": [1.0] * epochs, "start_seconds": 0.1}))
"""
FAILS = "import sys\nprint('reading', sys.argv[0], file=sys.stderr)\nraise SystemExit('no such | optimizer')\n"


def a_run(who: str, epochs: int, repeat: int, seconds: float, unit: str = "W1", **more: object) -> dict[str, object]:
    figures = {"seconds": seconds, "peak_bytes": 10**9, "accuracy": 0.9 + epochs / 1000, "date": "2030-01-02T03:04:05"}
    return {"work": unit, "who": who, "epochs": epochs, "repeat": repeat, "command": ["x"], **figures, **more}


def row_of(panel: rows.Panel, label: str) -> rows.Row:
    return next(row for row in panel.rows if row.label == label)


@pytest.fixture
def place(tmp_path: Path) -> compare_peers.Workbench:
    """A benchmark whose peers are scripts of two lines: the tutorial answers, fastai fails."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "tutorial_loop.py").write_text(ANSWERS)
    (scripts / "fastai_learner.py").write_text(FAILS)
    pythons = dict.fromkeys(environments.SCRIPTS, Path(sys.executable))
    return compare_peers.Workbench(tmp_path, pythons, {}, scripts)


def test_everybody_runs_once_before_anybody_runs_again() -> None:
    order = [(job.who, job.epochs, job.repeat) for job in work.jobs(W1, 2, (1, 3))]
    once = [("tutorial", 1), ("tutorial", 3), ("fastai", 1), ("fastai", 3), ("lightning", 1), ("lightning", 3)]
    once += [("huggingface", 1), ("huggingface", 3), ("sklearn", 0), ("frostline", 0), ("frostline-again", 0)]
    once += [("frostline-trained", 10), ("frostline-trained", 25)]
    assert order == [(*who, repeat) for repeat in (0, 1) for who in once]


def test_all_epochs_are_run_unless_some_are_measured() -> None:
    assert work.epochs_of(W1, "fastai", ()) == (10, 25)
    assert {job.who for job in work.jobs(W1, 1, (), ["frostline"])} == {work.SOLVED, work.AGAIN, work.TRAINED}


def test_units_by_name() -> None:
    assert [unit.name for unit in work.chosen_units(["W4", "W1"])] == ["W1", "W4-head", "W4-layer4"]
    with pytest.raises(SystemExit, match="no work unit 'W'"):
        work.chosen_units(["W"])


def test_features_cannot_train_a_stage() -> None:
    assert all("sklearn" not in unit.who for unit in work.UNITS if unit.train != "head")


def test_the_second_fit_shares_the_store_of_the_first_one_only(place: compare_peers.Workbench) -> None:
    for unit in (W1, next(unit for unit in work.UNITS if unit.name == "W3")):
        again, first = (work.Job(unit, who, 0, 1) for who in (work.AGAIN, unit.first_fit))
        assert place.store(again) == place.store(first)
        assert place.store(again) != place.store(work.Job(unit, work.AGAIN, 0, 2))
    assert place.store(work.Job(W1, work.TRAINED, 10, 1)) != place.store(work.Job(W1, work.SOLVED, 0, 1))


def test_frostline_is_run_by_its_command_line(place: compare_peers.Workbench) -> None:
    from frostline.plan import Phase, read_plan

    unit = next(unit for unit in work.UNITS if unit.name == "W4-layer4")
    words = compare_peers.command(work.Job(unit, work.TRAINED, 10, 0), place)
    assert words[1:4] == ["-m", "frostline", "fit"]
    assert words[words.index("--backbone") + 1] == "torchvision:resnet18"
    head, stage = read_plan(Path(words[words.index("--plan") + 1]))
    assert head == Phase("head", epochs=0)
    assert stage == Phase("layer4", epochs=10, patience=10, batch_size=32, views=1, lr=0.001, optimizer="adam")
    words = compare_peers.command(work.Job(W1, work.AGAIN, 0, 0), place)
    assert words[words.index("--plan") + 1] == "probe"
    assert words[-2:] == ["--seed", "1"]


def test_what_a_run_answered_is_its_last_json_line() -> None:
    assert results.last_json('{"accuracy": 1}\ntalk\n{"accuracy": 2}\ngood bye {}\n') == {"accuracy": 2}
    assert results.last_json('{\n "valid": {\n  "accuracy": 3\n }\n}\n') == {"valid": {"accuracy": 3}}
    assert results.last_json('{"accuracy": 4}\n5\n') == {"accuracy": 4}
    with pytest.raises(ValueError, match="no JSON"):
        results.last_json("nothing")


def test_a_peer_that_fails_does_not_stop_the_others(place: compare_peers.Workbench, tmp_path: Path) -> None:
    file = tmp_path / "out" / "performance.json"
    document = results.open_document(file, MACHINE)
    jobs = [work.Job(W1, who, 3, 0) for who in ("fastai", "tutorial")]
    compare_peers.run_all(jobs, place, file, document)
    failed, good = json.loads(file.read_text())["runs"]
    assert failed["failed"] == "no such | optimizer"
    assert "accuracy" not in failed
    assert good["accuracy"] == 0.53
    assert good["epoch_seconds"] == [1.0] * 3
    assert good["seconds"] > 0
    assert good["command"][:2] == ["tutorial/python", ".bench/scripts/tutorial_loop.py"]
    assert str(tmp_path) not in file.read_text()


def test_an_answer_without_an_accuracy_is_a_failure(place: compare_peers.Workbench) -> None:
    (place.scripts / "tutorial_loop.py").write_text("print({})")
    assert "accuracy" in compare_peers.measure(work.Job(W1, "tutorial", 1, 0), place)["failed"]
    (place.scripts / "tutorial_loop.py").write_text("raise SystemExit(3)")
    assert compare_peers.measure(work.Job(W1, "tutorial", 1, 0), place)["failed"] == "exit code 3"


@pytest.mark.parametrize("resume", [True, False])
def test_resuming_keeps_what_is_there(
    place: compare_peers.Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    file = tmp_path / "performance.json"
    document = results.open_document(file, environments.machine())
    broken = a_run("tutorial", 3, 0, 9.0) | {"failed": "no disk"}
    document["runs"] = [
        a_run("tutorial", 1, 0, 7.0),
        broken,
        a_run("fastai", 1, 0, 5.0),
        a_run("tutorial", 1, 0, 8.0, "W2"),
    ]
    results.write(document, file)
    ran = []
    monkeypatch.setattr(compare_peers, "set_up", lambda args, jobs: ran.extend(job.key for job in jobs) or place)
    monkeypatch.setattr(compare_peers, "warm_up", lambda place, name: None)
    monkeypatch.setattr(environments, "versions", lambda python: {"torch": "9"})
    words = ["x", "--work", "W1", "--peers", "tutorial", "--repeat", "1", "--measure-epochs", "1", "3"]
    words += ["--out", str(file)]
    monkeypatch.setattr(sys, "argv", [*words, "--resume"] if resume else words)
    compare_peers.main()
    assert ran == [("W1", "tutorial", 3, 0)] if resume else [("W1", "tutorial", 1, 0), ("W1", "tutorial", 3, 0)]
    kept = json.loads(file.read_text())
    seconds = {results.key(run): run["seconds"] for run in kept["runs"]}
    assert len(kept["runs"]) == len(seconds) == 4
    assert (seconds["W1", "tutorial", 1, 0] == 7.0) == resume
    assert seconds["W1", "fastai", 1, 0] == 5.0
    assert seconds["W2", "tutorial", 1, 0] == 8.0
    assert not any("failed" in run for run in kept["runs"])


def test_runs_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    results.write(results.open_document(tmp_path / "a.json", MACHINE), tmp_path / "a.json")
    assert results.open_document(tmp_path / "a.json", MACHINE)["runs"] == []
    with pytest.raises(SystemExit, match="another machine"):
        results.open_document(tmp_path / "a.json", MACHINE | {"cores": 64})


@pytest.mark.parametrize("words", [["--measure-epochs", "3", "1"], ["--peers", "keras"]])
def test_impossible_wishes_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        compare_peers.read_arguments(words)


def test_the_machine_is_described() -> None:
    found = environments.machine()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0.1
    assert "PYTHONDONTWRITEBYTECODE" not in environments.surroundings(Path("x"))
    assert environments.versions(Path(sys.executable))["torch"]
    names = {f"{name}.txt" for name in environments.SCRIPTS.values()}
    assert {file.name for file in environments.PEERS.glob("*.txt")} == names


def test_memory_of_the_whole_tree_is_seen(tmp_path: Path) -> None:
    code = "import time; held = bytearray(b'x') * 100_000_000; time.sleep(0.7)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    both = f"{child.replace('run', 'Popen', 1).replace(', check=True', '')}\n{code}"
    for name, script, least in (("child", child, 100e6), ("both", both, 200e6)):
        watched = watching.watch([sys.executable, "-c", script], tmp_path / f"{name}.out", tmp_path / f"{name}.err")
        assert watched.code == 0, (tmp_path / f"{name}.err").read_text()
        assert least < watched.peak_bytes < least + 60e6
        assert 0.7 < watched.seconds < 20


def test_time_of_all_epochs_from_two_runs_of_few() -> None:
    runs = [a_run("fastai", epochs, repeat, 5 + repeat + 20 * epochs) for repeat in (0, 1, 2) for epochs in (1, 3)]
    panels = rows.panels([*runs, a_run("frostline-trained", 10, 0, 10.25)])
    assert [panel.title.rpartition(", ")[2] for panel in panels] == ["10 epochs", "25 epochs"]
    ten, more = (row_of(panel, "fastai") for panel in panels)
    assert ten.seconds == (206, 205, 207)
    assert more.seconds == (506, 505, 507)
    assert ten.measured == (1, 3)
    assert ten.accuracy == pytest.approx(0.903)
    assert ten.factor == pytest.approx(206 / 10.25)


def test_epochs_that_were_run_are_not_reckoned() -> None:
    runs = [a_run("tutorial", epochs, 0, 5 + 20 * epochs) for epochs in (1, 3)] + [a_run("tutorial", 10, 0, 100)]
    row = row_of(rows.panels(runs)[0], "PyTorch tutorial loop")
    assert row.seconds[0] == 100
    assert row.measured == ()


def test_half_a_pair_says_nothing() -> None:
    runs = [a_run("tutorial", 1, 0, 25), a_run("tutorial", 3, 1, 65)]
    assert not row_of(rows.panels(runs)[0], "PyTorch tutorial loop").known


def test_noise_is_not_made_into_a_figure(tmp_path: Path) -> None:
    """More epochs in less time happens on a busy machine; a negative time must not come of it."""
    runs = [a_run("tutorial", epochs, repeat, 5 + 20 * epochs) for repeat in (0, 1) for epochs in (1, 3)]
    runs[1]["seconds"] = 24.0
    row = row_of(rows.panels(runs)[1], "PyTorch tutorial loop")
    assert not row.known
    assert row.failed == rows.TOO_FEW
    report.report({"machine": MACHINE, "versions": {}, "runs": runs}, tmp_path)
    assert rows.TOO_FEW in (tmp_path / "performance.md").read_text()


def test_the_page_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    runs = [a_run("tutorial", epochs, repeat, 5 + repeat + 20 * epochs) for repeat in (0, 1) for epochs in (1, 3)]
    runs += [a_run("frostline", 0, 0, 7.25, store_bytes=625_000), a_run("frostline-trained", 10, 0, 8.0)]
    runs += [a_run("fastai", 1, 0, 3.0) | {"failed": "no such | optimizer"}]
    runs += [a_run("frostline", 0, 0, 99.0, "W5-60000", store_bytes=157_000_000)]
    document = {"machine": MACHINE, "versions": {"tutorial": {"torch": "9.9"}}, "runs": runs}
    report.report(document, tmp_path)
    page = tmp_path / "performance.md"
    first = page.read_text()
    page.write_text(f"By hand.\n{first}And this.\n")
    report.report(document, tmp_path)
    assert page.read_text() == f"By hand.\n{first}And this.\n"
    assert "| **Frostline, head solved** | 7.2 s | 0.91 | 1.00 GB | 0.9000 | 0.6 MB |" in first
    assert "| PyTorch tutorial loop | *3.4 min (3.4 … 3.4 min)*, from 1 and 3 measured epochs | *26* |" in first
    assert "*0.9030* after 3 epochs" in first
    assert "| fastai | none: `no such \\| optimizer` |" in first
    assert "**Frostline, 60,000**" in first
    assert "torch 9.9" in first
    with Image.open(tmp_path / "performance.png") as image:
        assert image.width == picture.WIDTH_INCHES * 150
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="the page needs one"):
        report.report(document, tmp_path)


def write_idx(file: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(head + array.tobytes()))


def test_folders_from_idx_files(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    kept = {}
    for part, count in (("train", 400), ("t10k", 1200)):
        labels = np.arange(count, dtype=np.uint8) % 4
        images = chance.integers(0, 256, (count, 28, 28), np.uint8)
        write_idx(tmp_path / "idx" / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "idx" / f"{part}-labels-idx1-ubyte.gz", labels)
        kept[part] = images, labels
    made = folders.make_folder("mnist-40", tmp_path / "data", {"mnist": tmp_path / "idx"})
    counts = {split: [len(list((made / split / str(k)).glob("*.png"))) for k in range(4)] for split in ("train", "val")}
    assert counts == {"train": [10] * 4, "val": [250] * 4}
    for split, part in (("train", "train"), ("val", "t10k")):
        images, labels = kept[part]
        file = next((made / split / "3").iterdir())
        with Image.open(file) as image:
            np.testing.assert_array_equal(image, images[int(file.stem)])
        assert labels[int(file.stem)] == 3
    before = sorted(made.rglob("*"))
    assert sorted(folders.make_folder("mnist-40", tmp_path / "data", {}).rglob("*")) == before


def test_photographs_that_all_libraries_read(tmp_path: Path) -> None:
    for name in ("train/ants/a.JPG", "train/ants/lost.gif", "val/bees/b.png", "val/bees/notes.txt"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"12345")
    made = folders.make_folder("hymenoptera", tmp_path / "data", {"hymenoptera": tmp_path / "photos"})
    assert {file.name for file in made.rglob("*.*")} == {"a.JPG", "b.png"}
    assert folders.size_of(made) == 10
    with pytest.raises(SystemExit, match="no images of mnist"):
        folders.make_folder("mnist-5", tmp_path / "data", {"mnist": tmp_path / "nowhere"})


def test_stratified_by_share() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    chosen = folders.stratified(labels, 50)
    assert np.bincount(labels[chosen]).tolist() == [30, 15, 5]
    assert len(set(chosen)) == 50
    np.testing.assert_array_equal(chosen, folders.stratified(labels, 50))
    assert folders.stratified(labels, 1000).tolist() == list(range(1000))
    with pytest.raises(ValueError, match="2000 images of 1000"):
        folders.stratified(labels, 2000)


def test_bars_of_one_panel_are_drawn_to_scale() -> None:
    runs = [a_run("tutorial", 10, 0, 100.0), a_run("frostline", 0, 0, 10.0)]
    figure = picture.draw(rows.panels(runs)[:1])
    bars = figure.axes[0].patches
    assert [bar.get_x() + bar.get_width() for bar in bars] == pytest.approx([100, 10])
    assert any("accuracy 0.910" in text.get_text() for text in figure.axes[0].texts)


@pytest.mark.long
def test_exported_files_are_timed_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "IMAGES", 8)
    run = frostline.fit(write_photos(tmp_path / "photos", 10), **TINY_FIT, out=tmp_path / "run", report=False)
    found = export.measured(str(run.path), 1, 1)
    assert list(found)[:4] == ["PyTorch, fp32", "ONNX Runtime, fp32", "ONNX Runtime, int8", "OpenVINO, fp32"]
    for figures in found.values():
        assert len(figures) == len(export.COLUMNS)
        assert min(figures) > 0
