"""The page of a comparison in a real browser, of runs that are written down here."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path

import pytest

from browsing import HOSTILE, WIDTHS, fits, opened
from frostline.report.comparison_page import comparison_page, remake_comparison, write_comparison
from frostline.runs.run import Run, write_csv, write_json, write_text
from frostline.terminal import printable

CLASSES = [f"class {i:02}" for i in range(45)]
COMMAND = "frostline compare 'my photos' \\\n  --backbone a"


def result(folder, number, name, accuracy, **changes):
    paired = {"difference": accuracy - 0.9, "low": -0.4, "high": 0.1, "p_value": 0.3} if accuracy < 0.9 else None
    return {
        "name": name,
        "run": str(folder / f"{number}-run"),
        "accuracy": accuracy,
        "interval": [accuracy - 0.1, accuracy + 0.05],
        "loss": 0.5 / number,
        "n": 90,
        "seconds": 7.0 * number,
        "parameters": 1000 * number,
        "bytes": 4000 * number,
        "images_per_second": 50.0 * number,
        "licence": "mit",
        "sha256": None,
        "dropped": None,
        "to_best": paired,
        "recommended": number == 1,
        "reason": f"{name}, the most accurate" if number == 1 else "",
        **changes,
    }


def left_run(folder, number, classes, task="classification", report=True):
    """A run folder with what the page reads of it."""
    run = Run(folder / f"{number}-run")
    valid = {"accuracy": 0.9, "interval": [0.8, 0.95], "n": 2 * len(classes)}
    valid["per_class"] = {name: {"n": 2, "recall": (i * number % 3) / 2} for i, name in enumerate(classes)}
    write_json(run, "metrics.json", {"task": task, "valid": valid, "validation": "held out", "chosen_of": 1})
    header = ("path", "split", "label", "predicted", "probability")
    records = [
        (f"{name} {j}.jpg", "valid", name, classes[(i + (i % number == 1)) % len(classes)], 0.5 + i / 100)
        for i, name in enumerate(classes)
        for j in range(2)
    ]
    if task == "segmentation":
        header, records = ("path", "split", "accuracy"), [("a", "valid", 0.5)]
    write_csv(run, "predictions.csv", header, records)
    if report:
        write_text(run, "report.html", "<!doctype html>")


def left(folder: Path, names=("a", "b", "c"), classes=CLASSES, task="classification"):
    """What a comparison leaves: two runs, the second without a report, one that dropped out and one that failed."""
    for number in (1, 2):
        left_run(folder, number, classes, task, report=number == 1)
    gone = {"run": None, "dropped": {"round": 1, "images": 500}}
    return [
        result(folder, 2, names[1], 0.8, loss=None),
        result(folder, 1, names[0], 0.9),
        result(folder, 3, names[2], 0.5, **gone),
        {"name": "d", "error": "out of <memory>"},
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "out"
    return write_comparison(Run(folder), left(folder), COMMAND)


def texts(browser, selector):
    return browser.execute_script(f"return [...document.querySelectorAll({selector!r})].map((e) => e.textContent)")


def test_every_part_is_there_and_is_linked(page, browser):
    opened(browser, page)
    ids = browser.execute_script("return [...document.querySelectorAll('section')].map((s) => s.id)")
    assert ids == ["runs", "time", "recalls", "images", "failed", "repeat"]
    assert browser.execute_script("return [...document.querySelectorAll('nav a')].map((a) => a.hash.slice(1))") == ids
    text = browser.find_element("tag name", "body").text
    assert "a won: 90.0 % accurate" in text
    assert "10.0 points ahead of b (95 %: -10.0 … +40.0, p = 0.3): that may be chance. Recommended: a, the most" in text
    assert "dropped out in round 1, on 500 images" in text
    assert "out of <memory>" in text
    assert COMMAND in texts(browser, "pre")
    assert "frostline fit --config 1-run/config.yaml" in text
    assert len(texts(browser, "section > p:last-of-type")) == 6


def test_each_run_that_has_a_report_is_linked_to_it(page, browser):
    opened(browser, page)
    links = browser.execute_script(
        "return [...document.querySelectorAll('#runs tbody a')].map((a) => [a.textContent, a.getAttribute('href')])"
    )
    assert links == [["a", "1-run/report.html"]]


def test_only_so_many_classes_and_images_are_shown(page, browser):
    opened(browser, page)
    assert len(texts(browser, "#recalls tbody tr")) == 40
    assert "and 5 more" in texts(browser, "#recalls .more")[0]
    assert len(texts(browser, "#images tbody tr")) == 20
    assert texts(browser, "#images > p")[0] == "Of 90 images 44 are right in a only, and 0 in b only."


def test_what_stands_in_a_figure_is_beside_it_as_csv(page, browser):
    opened(browser, page)
    links = "return [...document.querySelectorAll('a.csv')].map((a) => [a.download, a.href])"
    tables = {
        name: list(csv.DictReader(io.StringIO(base64.b64decode(link.partition(",")[2]).decode())))
        for name, link in browser.execute_script(links)
    }
    assert {name: len(rows) for name, rows in tables.items()} == {
        "runs.csv": 3,
        "time.csv": 3,
        "recalls.csv": 45,
        "images.csv": 44,
    }
    assert tables["runs.csv"][1]["to_best_p_value"] == "0.3"


def test_runs_are_sorted_by_a_click_and_by_the_keyboard(page, browser):
    opened(browser, page)
    names = "#runs tbody th"
    buttons = browser.find_elements("css selector", "#runs button")
    assert [name[0] for name in texts(browser, names)] == ["a", "b", "c"]
    buttons[2].click()
    assert [name[0] for name in texts(browser, names)] == ["c", "b", "a"]
    buttons[1].send_keys("\ue007")  # Enter, on the names
    assert [name[0] for name in texts(browser, names)] == ["a", "b", "c"]
    buttons[1].send_keys("\ue007")
    assert [name[0] for name in texts(browser, names)] == ["c", "b", "a"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_and_both_schemes(page, browser, width, scheme):
    fits(browser, page, width, scheme)


def test_hostile_names_are_text(tmp_path, browser):
    folder = Run(tmp_path / "<b>out</b> %2e&")
    results = left(folder.path, (HOSTILE[0], HOSTILE[3], HOSTILE[1]), HOSTILE)
    results += [{"name": name, "error": name} for name in HOSTILE]
    opened(browser, write_comparison(folder, [{**own, "licence": HOSTILE[2]} for own in results], HOSTILE[4]))
    assert sorted(texts(browser, "#recalls tbody th[scope]")) == sorted(map(printable, HOSTILE))
    assert HOSTILE[4] in texts(browser, "pre")
    assert set(texts(browser, "#runs .licence")) == {HOSTILE[2]}
    assert browser.execute_script("return document.scripts.length") == 1
    assert browser.execute_script("return document.querySelectorAll('img, b, svg svg, svg[onload]').length") == 0


@pytest.mark.parametrize("width", [360, 1440])
def test_hostile_names_fit(tmp_path, browser, width):
    results = left(tmp_path, (HOSTILE[20], HOSTILE[20] + "2", HOSTILE[1]), HOSTILE)
    fits(browser, write_comparison(Run(tmp_path), results, HOSTILE[20]), width, "light")


def test_the_policy_allows_one_script_by_its_hash_and_no_request(page):
    text = page.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert not re.search(r"https?://", text)


def test_masks_have_no_classes_and_no_images_that_are_right(tmp_path):
    text = comparison_page(Run(tmp_path), left(tmp_path, task="segmentation"), COMMAND)
    assert 'id="runs"' in text
    assert 'id="recalls"' not in text
    assert 'id="images"' not in text


def test_where_all_failed_that_is_said(tmp_path, browser):
    page = write_comparison(Run(tmp_path), [{"name": "a", "error": "no"}], "")
    opened(browser, page)
    assert texts(browser, "h1") == ["Nothing was fitted"]
    assert texts(browser, "#repeat p")[0].startswith("This comparison used Python objects")


def test_what_is_in_comparison_json_gives_the_same_page(page):
    folder = Run(page.parent)
    results = json.loads(json.dumps(left(page.parent)))
    assert comparison_page(folder, results, COMMAND) == page.read_text()


def test_the_page_is_made_again_wherever_the_folder_lies_now(tmp_path):
    folder = Run(tmp_path / "out")
    results = left(folder.path)
    first = write_comparison(folder, results, COMMAND).read_text()
    write_json(folder, "comparison.json", results)
    write_text(folder, "command.txt", COMMAND)
    moved = Run(tmp_path / "elsewhere" / "out")
    moved.path.parent.mkdir()
    folder.path.rename(moved.path)
    (moved.path / "comparison.html").unlink()
    assert remake_comparison(moved) == moved.path / "comparison.html"
    assert (moved.path / "comparison.html").read_text() == first
    (moved.path / "command.txt").unlink()
    assert "This comparison used Python objects" in remake_comparison(moved).read_text()
