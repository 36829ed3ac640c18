"""The documentation site: built strictly, nothing from elsewhere, seen in a browser on a phone and a screen."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from browsing import fits

ROOT = Path(__file__).parents[2]
PACKAGES = ("zensical", "mkdocstrings", "mkdocstrings_handlers.python", "nbconvert", "ipykernel")
LOADED = re.compile(r"""(?:\bsrc|<link[^>]*\bhref|url\()\s*=?\s*["']?\s*((?:https?:)?//[^"'\s)>]+)""")


def lacking() -> list[str]:
    return [name for name in PACKAGES if importlib.util.find_spec(name.partition(".")[0]) is None]


pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        bool(lacking()), reason=f"the documentation needs {', '.join(lacking())}: pip install '.[docs]'"
    ),
]


@pytest.fixture
def site(tmp_path_factory) -> Path:
    """The built site: by the first who asks for it, of all processes of this session."""
    session = tmp_path_factory.getbasetemp()
    session = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session
    copy, done = session / "checkout", session / "checkout.done"
    try:
        copy.mkdir()
    except FileExistsError:
        while not done.exists():
            time.sleep(0.2)
    else:
        for name in ("docs", "examples", "src"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("CHANGELOG.md", "zensical.toml"):
            shutil.copy(ROOT / name, copy)
        path = {"PYTHONPATH": str(copy / "src")}
        command = [sys.executable, "docs/make_site.py"]
        built = subprocess.run(command, cwd=copy, env={**os.environ, **path}, capture_output=True, text=True)
        done.write_text(f"{built.returncode}\n{built.stdout}{built.stderr}")
    said = done.read_text()
    assert said.startswith("0\n"), said
    return copy / "build" / "site"


def test_every_page_is_built(site):
    pages = {file.relative_to(ROOT / "docs").with_suffix(".html") for file in (ROOT / "docs").rglob("*.md")}
    notebooks = {Path("notebooks", file.stem + ".html") for file in (ROOT / "examples").glob("*.ipynb")}
    built = {file.relative_to(site) for file in site.rglob("*.html")}
    assert notebooks
    assert built == pages | notebooks | {Path("changelog.html"), Path("404.html")}
    menu = (site / "index.html").read_text("utf-8")
    for page in built - {Path("404.html"), Path("index.html")}:
        assert f'href="./{page.as_posix()}"' in menu, f"{page} is not in the menu: zensical.toml"


def test_nothing_is_loaded_from_elsewhere(site):
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert LOADED.findall(file.read_text("utf-8")) == [], file


def test_the_reference_is_the_program_s_own(site):
    from inspect import signature

    import frostline

    fit = (site / "commands" / "fit.html").read_text("utf-8")
    api = (site / "api.html").read_text("utf-8")
    for name in signature(frostline.fit).parameters:
        assert name == "data" or f"<code>--{name.replace('_', '-')}</code>" in fit, name
        assert f">{name}</strong>" in api, name
    for name in frostline.__all__:
        assert f'id="frostline.{name}"' in api, name


def test_notebooks_have_run(site):
    first = (site / "notebooks" / "first_classifier.html").read_text("utf-8")
    own = (site / "notebooks" / "own_loop.html").read_text("utf-8")
    accuracies = [float(number) for number in re.findall(r"validation accuracy (0\.\d+)", own)]
    assert len(accuracies) == 3
    assert accuracies[-1] > 0.7
    assert float(re.findall(r"accuracy (0\.\d+), 95 %", first)[0]) > 0.6
    assert "<img" in first


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(360, "light"), (360, "dark"), (1440, "light"), (1440, "dark")],
)
def test_pages_fit_the_screen(browser, site, width, scheme):
    for name in ("index", "commands/fit", "api", "frostline", "gallery", "performance", "notebooks/first_classifier"):
        fits(browser, site / f"{name}.html", width, scheme)


def test_search_finds_a_flag_without_a_server(browser, site):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    links = (
        "return [...document.querySelectorAll('*')].filter((e) => e.shadowRoot)"
        ".flatMap((e) => [...e.shadowRoot.querySelectorAll('a')].map((a) => a.href))"
    )
    browser.get((site / "index.html").as_uri())
    WebDriverWait(browser, 10).until(lambda b: b.find_elements("css selector", ".md-search__button"))[0].click()
    WebDriverWait(browser, 10).until(lambda b: b.execute_script("return document.activeElement.shadowRoot !== null"))
    ActionChains(browser).send_keys("label-smoothing").perform()
    WebDriverWait(browser, 10).until(lambda b: any("/commands/fit.html" in link for link in b.execute_script(links)))
