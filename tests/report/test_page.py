"""The page of a run in a real browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re

import numpy as np
import pytest

import frostline
from browsing import HOSTILE, WIDTHS, fits, opened
from conftest import Small, draw, draw_images
from frostline.backbones import load_backbone
from frostline.data.images import Images, ImageSet, join
from frostline.plan import Phase
from frostline.report.page import clustered, page_of
from frostline.runs.run import write_json
from frostline.terminal import printable
from frostline.verbs.report import make_report
from tasks_data import HOW, halves, several_labels

pytestmark = pytest.mark.usefixtures("reports")


def fitted(images: ImageSet, folder, plan="probe"):
    backbone = load_backbone(Small(len(images.classes)), preprocessing=HOW)
    return frostline.fit(images, backbone=backbone, plan=plan, out=folder / "run", precision="fp32", quiet=True)


def hostile() -> ImageSet:
    """Two images of each of 30 classes that are called what nobody should call anything, and so are their files."""

    def part(seed: int) -> Images:
        chance = np.random.default_rng(seed)
        targets = np.repeat(np.arange(30), 2)
        pictures = np.stack([draw(int(target) % 3, chance) for target in targets])
        return Images(pictures, targets, [f"{HOSTILE[i]} {seed}{j}" for i in range(30) for j in range(2)])

    return ImageSet("hostile", tuple(HOSTILE), part(0), part(1))


@pytest.fixture(scope="module")
def run(tmp_path_factory, stripes):
    """One whose report has all parts: two phases, mistakes, a leak, test images."""
    few = stripes.with_splits({"train": stripes.train.take(np.arange(30)), "test": draw_images(40, seed=5)})
    leaky = few.with_splits({"valid": join([stripes.valid, few.train.take(np.arange(3))])})
    return fitted(
        leaky, tmp_path_factory.mktemp("report"), [Phase("head", epochs=0), Phase("block2", epochs=2, views=2)]
    )


def test_every_part_is_there_and_is_linked(run, browser):
    opened(browser, make_report(run))
    ids = browser.execute_script("return [...document.querySelectorAll('section')].map((s) => s.id)")
    expected = [
        "training",
        "plan",
        "confusion",
        "classes",
        "unsure",
        "harmful",
        "calibration",
        "learning",
        "map",
        "data",
        "views",
        "run",
    ]
    assert [each for each in ids if each != "mistakes"] == expected
    links = browser.execute_script("return [...document.querySelectorAll('nav a')].map((a) => a.hash)")
    assert links == [f"#{each}" for each in ids]
    text = browser.find_element("tag name", "body").text
    assert f"{100 * run.metrics['test']['accuracy']:.1f} % accurate" in text
    assert "3 images that are also in another split" in text
    assert "block2 … head" in text


def test_what_stands_in_a_figure_is_beside_it_as_csv(run, browser):
    opened(browser, make_report(run))
    links = "return [...document.querySelectorAll('a.csv')].map((a) => [a.download, a.href])"
    tables = dict(browser.execute_script(links))
    assert {"training.csv", "plan.csv", "confusion.csv", "classes.csv", "calibration.csv", "map.csv"} <= tables.keys()
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(tables["confusion.csv"].partition(",")[2]).decode())))
    assert sum(int(row["n"]) for row in rows) == len(run.predictions) - run.metrics["valid"]["n"]
    browser.find_element("css selector", "a.csv").click()
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_and_both_schemes(run, browser, width, scheme):
    fits(browser, make_report(run), width, scheme)


def test_classes_are_sorted_by_a_click_and_by_the_keyboard(run, browser):
    opened(browser, make_report(run))
    values = "return [...document.querySelectorAll('.sortable tbody tr')].map((r) => Number(r.cells[2].dataset.value))"
    button = browser.find_elements("css selector", ".sortable button")[2]
    button.click()
    assert browser.execute_script(values) == sorted(browser.execute_script(values))
    button.send_keys("\ue007")  # Enter
    assert browser.execute_script(values) == sorted(browser.execute_script(values), reverse=True)


def test_a_point_of_the_map_shows_its_image_to_mouse_and_keyboard(run, browser):
    from selenium.webdriver import ActionChains

    opened(browser, make_report(run))
    tip = browser.find_element("css selector", ".tip")
    assert not tip.is_displayed()
    circle = browser.find_elements("css selector", ".map circle")[4]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", circle)
    ActionChains(browser).move_to_element(circle).perform()
    assert tip.is_displayed()
    assert tip.find_element("tag name", "img").get_attribute("src").startswith("data:image/jpeg;base64,")
    first = tip.text
    browser.execute_script("document.querySelector('.map').focus()")
    browser.switch_to.active_element.send_keys("\ue014")  # arrow to the right
    assert tip.text != first
    browser.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not tip.is_displayed()


def test_hostile_names_are_text(browser, tmp_path):
    run = fitted(hostile(), tmp_path)
    opened(browser, make_report(run))
    rows = browser.execute_script(
        "return [...document.querySelectorAll('.sortable tbody th')].map((cell) => cell.textContent)"
    )
    assert sorted(rows) == sorted(map(printable, HOSTILE))
    tags = browser.execute_script(
        "return document.querySelectorAll('main script:not([type]), b > b, img[onerror]').length"
    )
    assert tags == 0
    assert browser.execute_script("return document.scripts.length") == 2  # the data of the map, and ours
    for number in range(60):
        assert f"alert({number})" not in browser.execute_script("return document.scripts[1].textContent")


def test_the_policy_allows_one_script_by_its_hash_and_no_request(run):
    page = page_of(run)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert not re.search(r"https?://", page.replace("http://www.w3.org", ""))


@pytest.mark.parametrize("images", [several_labels(), halves()], ids=["several labels", "masks"])
@pytest.mark.long
def test_every_task_has_a_page(images, tmp_path, browser):
    run = fitted(images, tmp_path, [Phase("head", epochs=2, views=1)])
    opened(browser, make_report(run))
    titles = browser.execute_script(
        "return [...document.querySelectorAll('#training .title')].map((e) => e.textContent)"
    )
    masks = run.metrics["task"] == "segmentation"
    heads = browser.execute_script("return [...document.querySelectorAll('#plan th')].map((e) => e.textContent)")
    assert heads[3] == ("mean IoU" if masks else "mean AP")
    cell = browser.execute_script("return document.querySelector('#plan tbody tr').cells[3].textContent")
    assert cell == f"{run.metrics['phases'][0]['valid']['mean_iou' if masks else 'mean_ap']:.4f}"
    assert titles == ["mean IoU" if masks else "mean AP", "loss"]
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#masks .masks')].map((e) => e.children.length)"
    )
    assert shown == [4] * 6 * masks  # a name and three pictures each


def test_curves_say_what_was_kept_and_what_undone(run, browser):
    opened(browser, make_report(run))
    kept = [phase["kept_epoch"] for phase in run.metrics["phases"]]
    rings = browser.execute_script(
        "return [...document.querySelectorAll('#training circle.kept title')].map((e) => e.textContent)"
    )
    bands = browser.execute_script("return document.querySelectorAll('#training rect.undone').length")
    assert len(rings) == 2 * sum(epoch is not None for epoch in kept)
    assert bands == 2 * kept.count(None)
    text = browser.find_element("css selector", "#confusion .what").text
    assert text == f"Test accuracy {run.metrics['test']['accuracy']:.3f} (n = 40)"


HARDER = [
    ({}, {}, ""),
    ({"label_smoothing": 0.1}, {}, "smoothed labels"),
    ({}, {"race": True}, "smoothed labels"),
    ({"label_smoothing": 0.0}, {"race": True}, ""),
    ({"loss": "focal"}, {"race": True}, ""),
    ({}, {"mixup": 0.2}, "mixed images (mixup)"),
    ({"label_smoothing": 0.1}, {"mixup": 0.2}, "smoothed labels and mixed images (mixup)"),
]


@pytest.mark.parametrize(("options", "phase", "what"), HARDER)
def test_a_training_loss_that_is_made_harder_is_said_to_be(run, monkeypatch, options, phase, what):
    config = run.config
    config |= {"label_smoothing": None, **options}
    config["plan"]["phases"][1] |= phase
    monkeypatch.setattr(type(run), "config", property(lambda _: config))
    sentence = f"The training loss uses {what}, so" if what else "The training loss is of"
    assert (sentence in page_of(run)) == bool(what)


def test_only_some_of_many_mistakes_are_shown_and_that_is_said(run):
    material = json.loads((run.path / "report.json").read_text())
    picture = {"name": "a", "true": "flat", "predicted": "tall", "p": 0.9, "picture": "", "heat": None}
    kept = (run.path / "report.json").read_text()
    try:
        write_json(run, "report.json", material | {"worst": [picture] * 2, "mistakes": 55})
        assert "The worst mistakes: 2 of 55" in page_of(run)
        write_json(run, "report.json", material | {"worst": [picture] * 2, "mistakes": 2})
        assert "The worst mistakes<" in page_of(run)
    finally:
        (run.path / "report.json").write_text(kept)


def test_without_images_and_pictures_it_is_made_again(run):
    before = page_of(run)
    assert page_of(frostline.load_run(run.path)) == before
    (run.path / "report.json").rename(run.path / "gone.json")
    assert "Map of the images" not in page_of(run)
    (run.path / "gone.json").rename(run.path / "report.json")


def test_no_report_leaves_none(stripes, tmp_path, no_pictures):
    backbone = load_backbone(Small(3), preprocessing=HOW)
    made = frostline.fit(stripes, backbone=backbone, plan="probe", out=tmp_path / "run", report=False, quiet=True)
    assert not (made.path / "report.html").exists()
    assert make_report(made).is_file()


def test_classes_that_are_confused_stand_together():
    assert clustered(np.diag([5, 5, 5, 5])) == [0, 1, 2, 3]
    order = clustered(np.array([[9, 0, 5, 0], [0, 9, 0, 5], [5, 0, 9, 0], [0, 5, 0, 9]]))
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1
