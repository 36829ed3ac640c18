"""The page of a server in a real browser."""

from __future__ import annotations

import base64
import http.client
import json
import re
from contextlib import contextmanager

import numpy as np
import pytest

import attacking
import frostline
from browsing import HOSTILE
from conftest import TINY_FIT, draw, write_photos
from frostline.data.images import Images, ImageSet
from frostline.serve.page import HEADERS, PAGE
from tasks_data import several_labels

PROMISE = "For 95 of 100 images like those held out, the true class is in"
TOKEN = "a-token-of-this-test"  # noqa: S105
MAKE = """
const [name, kind, text] = arguments;
const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const files = new DataTransfer();
if (name) files.items.add(new File([bytes], name, { type: kind }));
"""
DROP = f"{MAKE} document.body.dispatchEvent(new DragEvent('drop', {{ dataTransfer: files, bubbles: true }}));"
DROP_ALL = """
const bytes = Uint8Array.from(atob(arguments[1]), (letter) => letter.charCodeAt(0));
const files = new DataTransfer();
for (const name of arguments[0]) files.items.add(new File([bytes], name, { type: "image/png" }));
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true }));
"""
PASTE = f"{MAKE} document.body.dispatchEvent(new ClipboardEvent('paste', {{ clipboardData: files, bubbles: true }}));"
LATER = "const real = window.fetch; window.fetch = (...all) => window.busy ? Promise.resolve(new Response("
BUSY = LATER + '\'{"detail": "too many images wait"}\', { status: 503 })) : real(...all); window.busy = true;'


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("page") / "photos", 40)


@pytest.fixture(scope="module")
def run(photos):
    return fitted(photos, photos.parent)


def fitted(data, folder) -> frostline.Run:
    """A run that another process can load."""
    return frostline.fit(data, out=folder / "run", image_size=32, **TINY_FIT)


@pytest.fixture(scope="module")
def server(run, browser):
    with serving(run.path) as address:
        yield address


@contextmanager
def serving(run, **environment):
    """A server on a free port; gives its address."""
    with attacking.serving(run, run.parent / "log", **environment) as process:
        yield f"http://127.0.0.1:{process.port}"
        assert process.end() == 0


def wait(browser, condition, seconds=20):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.05).until(condition)


def visit(browser, address, lead="classes"):
    """The page, when it has said what the server answers."""
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(address)
    wait(browser, lambda _: lead in text(browser, "header"))


def text(browser, selector) -> str:
    return browser.find_element("css selector", selector).text


def texts(browser, selector) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector
    )


def choose(browser, *files) -> None:
    browser.find_element("id", "choose").send_keys("\n".join(map(str, files)))


def answers(browser, count=1) -> list:
    """The cards, when none waits."""
    cards = "document.querySelectorAll('.card').length, document.querySelectorAll('.waits').length"
    wait(browser, lambda _: browser.execute_script(f"return [{cards}]") == [count, 0])
    return browser.find_elements("css selector", ".card")


def encoded(file) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def complaints(browser, *but: str) -> list[str]:
    """What the browser says in its console, without the answers of a server that are no success and expected."""
    return [each["message"] for each in browser.get_log("browser") if not any(part in each["message"] for part in but)]


def requests(browser) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]


def said(server, photograph) -> dict:
    """What the server answers a program about a photograph."""
    connection = http.client.HTTPConnection(server.removeprefix("http://"))
    connection.request("POST", "/predict?why=3&coverage=0.95", photograph.read_bytes(), {"content-type": "image/jpeg"})
    answer = connection.getresponse().read()
    connection.close()
    return json.loads(answer)[0]


def test_a_photograph_gets_label_bars_set_and_neighbours(server, shared, browser):
    photograph = sorted((shared / "data" / "hymenoptera" / "val" / "bees").iterdir())[0]
    visit(browser, server)
    assert text(browser, "header") == "Frostline\nWhat is in this image?\nTells which of 2 classes it is: flat, tall"
    choose(browser, photograph)
    (card,) = answers(browser)
    shown = "return [...document.images].filter((image) => image.complete && image.naturalWidth > 0).length"
    wait(browser, lambda _: browser.execute_script(shown) == 4)
    requested = requests(browser)
    assert len(requested) > 8  # page, /info twice, /predict, three training images and the addresses of four pictures
    assert all(url.startswith((server, f"blob:{server}")) for url in requested)
    expected = said(server, photograph)
    assert card.find_element("tag name", "h3").text == expected["label"]
    assert texts(browser, "#news")[0].startswith(f"{photograph.name}: {expected['label']}, ")
    assert texts(browser, ".bars bdi") == [name for name, _ in expected["top"]]
    assert texts(browser, ".bars .share") == [f"{100 * p:.1f} %" for _, p in expected["top"]]
    widths = "return [...document.querySelectorAll('.bars i')].map((i) => i.offsetWidth * i.style.cssText.slice(9, -1))"
    width = card.find_element("css selector", ".bars i").size["width"]
    assert browser.execute_script(widths) == pytest.approx([width * p for _, p in expected["top"]], rel=1e-3)
    assert expected["set"] == []
    assert texts(browser, ".promise") == [f"{PROMISE} a set of classes. Here it is empty: no class is probable enough."]
    assert expected["none"]  # a photograph among stripes
    assert text(browser, ".card .finding").startswith("May be none of the classes.")
    nearest = [f"{near['label']}{near['path'].split('/')[-1]}cosine {near['cosine']:.2f}" for near in expected["why"]]
    assert texts(browser, "figcaption") == nearest
    assert re.fullmatch(r"\d+ ms", text(browser, ".took"))
    assert complaints(browser) == []


@pytest.mark.parametrize("script", [DROP, PASTE], ids=["drop", "paste"])
def test_files_are_dropped_and_pasted(photos, server, browser, script):
    visit(browser, server)
    browser.execute_script(script, "my picture.png", "image/png", encoded(photos / "tall" / "003.png"))
    (card,) = answers(browser)
    assert card.find_element("tag name", "h3").text == "tall"
    assert card.find_element("css selector", ".name").text == "my picture.png"
    assert texts(browser, ".promise") == [f"{PROMISE} this set: tall."]
    browser.execute_script(script, "", "", "")
    assert re.search("was no file|has no image", text(browser, "#news"))
    browser.find_element("id", "clear").click()
    assert texts(browser, ".card") == []
    assert complaints(browser) == []


def test_a_file_that_is_no_image_is_named_and_the_others_are_answered(photos, server, browser, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("buy milk")
    visit(browser, server)
    choose(browser, notes)
    assert [card.text for card in answers(browser)] == ["notes.txt: not an image of a known format"]
    assert complaints(browser, "422") == []
    visit(browser, server)
    choose(browser, photos / "flat" / "000.png", notes)
    assert "not an image of a known format" in answers(browser, 2)[1].text
    assert texts(browser, "h3") == ["flat"]
    assert text(browser, "#news") == "1 of 2 images answered, 1 cannot be used"
    visit(browser, server)
    (tmp_path / "empty.png").write_bytes(b"")
    choose(browser, notes, tmp_path / "empty.png")  # with none that can be read, each has a reason of its own
    assert ["notes.txt: not an" in each.text for each in answers(browser, 2)] == [True, False]


def test_many_images_go_in_several_requests_and_keep_their_order(photos, server, browser):
    files = [photos / name / f"{i:03}.png" for i in range(20) for name in ("flat", "tall")]
    visit(browser, server)
    choose(browser, *files)
    answers(browser, 40)
    assert texts(browser, "h3") == ["flat", "tall"] * 20
    assert text(browser, "#news") == "40 of 40 images answered"
    asked = [url for url in requests(browser) if "/predict" in url]
    assert len(asked) == 2
    assert re.search(r"\?top=5&why=3&coverage=0\.\d+$", asked[0])


def test_a_file_above_the_limit_is_not_sent(server, browser):
    visit(browser, server)
    browser.execute_script(
        "const files = new DataTransfer(); files.items.add(new File([new Uint8Array(21 << 20)], 'large.png'));"
        "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true }));"
    )
    assert [card.text for card in answers(browser)] == ["large.png: too large: 21 MB; this server takes 20 MB"]
    assert not [url for url in requests(browser) if "/predict" in url]


@contextmanager
def offline(browser):
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**network, "offline": True})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**network, "offline": False})


@contextmanager
def busy(browser):
    browser.execute_script(BUSY)
    yield
    browser.execute_script("window.busy = false")


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (busy, "The server is busy: too many images wait."),
        (offline, "The server does not answer. Is it still running?"),
    ],
)
def test_images_that_were_not_answered_can_be_sent_again(photos, server, browser, state, why):
    visit(browser, server)
    with state(browser):
        choose(browser, photos / "tall" / "000.png")
        assert wait(browser, lambda _: text(browser, "#problem")) == f"{why}\nTry again"
    browser.find_element("id", "again").click()
    answers(browser)
    assert texts(browser, "h3") == ["tall"]
    assert not browser.find_element("id", "problem").is_displayed()


def test_the_keyboard_is_enough(photos, server, browser):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> str:
        ActionChains(browser).send_keys(*keys).perform()
        return browser.execute_script("return document.activeElement.id || document.activeElement.tagName")

    visit(browser, server)
    assert press(Keys.TAB) == "choose"
    outline = "return getComputedStyle(document.getElementById('zone')).outlineStyle"
    assert browser.execute_script(outline) == "solid"
    browser.execute_cdp_cmd("Page.setInterceptFileChooserDialog", {"enabled": True})
    browser.get_log("performance")
    press(Keys.SPACE)
    wait(browser, lambda _: "Page.fileChooserOpened" in str(browser.get_log("performance")))
    browser.execute_cdp_cmd("Page.setInterceptFileChooserDialog", {"enabled": False})
    choose(browser, photos / "flat" / "001.png")
    answers(browser)
    assert texts(browser, "[role=status]")[0].startswith("001.png: flat, ")
    assert press(Keys.TAB) == "clear"
    assert press(Keys.ENTER) == "choose"
    assert texts(browser, ".card") == []


@pytest.mark.long
def test_hostile_names_are_text(browser, tmp_path):
    def part(seed: int) -> Images:
        chance = np.random.default_rng(seed)
        targets = np.repeat(np.arange(30), 2)
        pictures = np.stack([draw(int(target) % 3, chance) for target in targets])
        return Images(pictures, targets, [f"{HOSTILE[i]} {seed}{j}" for i in range(30) for j in range(2)])

    run = fitted(ImageSet("hostile", tuple(HOSTILE), part(0), part(1)), tmp_path)
    picture = write_photos(tmp_path / "photos", 1) / "flat" / "000.png"
    with serving(run.path) as address:
        visit(browser, address)
        assert texts(browser, "#about bdi") == HOSTILE
        browser.execute_script(DROP_ALL, HOSTILE, encoded(picture))
        answers(browser, len(HOSTILE))
        assert texts(browser, ".name") == HOSTILE
        assert {*texts(browser, ".bars bdi")} <= {*HOSTILE}
        assert len(texts(browser, "figcaption")) == 3 * len(HOSTILE)
        try:
            screen(browser, 320)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 320
        finally:
            restore(browser)
        assert browser.execute_script("return document.scripts.length + document.querySelectorAll('b').length") == 1
        wait(browser, lambda _: "/training-image" in str(requests(browser)))
        assert complaints(browser, "/training-image") == []  # no folder has them


@pytest.mark.long
def test_several_labels_and_a_token(browser, tmp_path):
    run = fitted(several_labels(), tmp_path)
    photos = write_photos(tmp_path / "photos", 1)
    with serving(run.path, FROSTLINE_TOKEN=TOKEN) as address:
        browser.get(address)
        field = browser.find_element("id", "token")
        for typed, answer in (("tökén", "ASCII"), ("wrong", "not the token")):
            wait(browser, lambda _: field.is_displayed() and field == browser.switch_to.active_element)
            field.send_keys(f"{typed}\n")
            wait(browser, lambda _, answer=answer: answer in text(browser, "#wrong"))
        field.send_keys(f"{TOKEN}\n")
        wait(browser, lambda _: "red, green, blue" in text(browser, "header"))
        assert not field.is_displayed()
        assert TOKEN not in browser.page_source
        browser.refresh()  # the tab has kept it
        wait(browser, lambda _: "red, green, blue" in text(browser, "header"))
        choose(browser, photos / "flat" / "000.png", photos / "tall" / "000.png")
        answers(browser, 2)
        for prediction, title in zip(
            frostline.load(run.path).predictions([photos / n / "000.png" for n in ("flat", "tall")]),
            texts(browser, "h3"),
            strict=True,
        ):
            assert title == (prediction.label.replace("|", ", ") or "none of the classes")
        assert len(texts(browser, ".bars li")) == 6
        assert "images like those held out" not in text(browser, "main")
        assert complaints(browser, "401") == []


def screen(browser, width, scheme="light") -> None:
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 500})
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def restore(browser) -> None:
    screen(browser, 1200)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_it_fits_every_width_and_both_schemes(photos, server, browser, width, scheme):
    try:
        screen(browser, width, scheme)
        visit(browser, server)
        assert browser.find_element("css selector", ".camera").is_displayed() == (width == 320)
        choose(browser, photos / "tall" / "000.png")
        answers(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        colours = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        ink, paper = (sum(map(int, re.findall(r"\d+", each)[:3])) for each in browser.execute_script(f"{colours}"))
        assert (ink < paper) == (scheme == "light")
    finally:
        restore(browser)


def test_the_policy_allows_the_one_style_and_script_of_the_page():
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert not re.search(r"https?://|\bstyle=|\son\w+=|innerHTML|insertAdjacent|document\.write|\beval\b", PAGE)
