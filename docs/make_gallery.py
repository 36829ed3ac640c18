"""Make the pictures of docs/gallery.md, small enough to be kept: python docs/make_gallery.py [RUN]

They are those of a run on the digits, which is fitted where no run is named, and the top of its page, photographed in
Chromium (Debian: chromium, chromium-driver).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

import frostline

PICTURES = Path(__file__).parent / "pictures"
PLOTS = ("curves", "confusion", "mistakes", "views")
WIDTH, MOST_HEIGHT, COLOURS = 900, 1000, 64


def main(run: Path) -> None:
    for name in PLOTS:
        _keep(Image.open(run / "plots" / f"{name}.png"), name)
    _keep(_photographed(run / "report.html"), "report")
    size = sum((PICTURES / f"{name}.png").stat().st_size for name in (*PLOTS, "report"))
    print(f"{size / 1000:.0f} kB in {PICTURES}")  # together below 300


def _keep(picture: Image.Image, name: str) -> None:
    """At most 900 pixels wide, in 64 colours: a few tens of kilobytes."""
    paper = Image.new("RGB", picture.size, "white")
    paper.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
    paper.thumbnail((WIDTH, 4 * MOST_HEIGHT))
    paper = paper.crop((0, 0, paper.width, min(paper.height, MOST_HEIGHT)))
    paper.quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURES / f"{name}.png", optimize=True)


def _photographed(page: Path) -> Image.Image:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1100,1250"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    with tempfile.TemporaryDirectory() as folder:
        try:
            browser.get(page.resolve().as_uri())
            browser.save_screenshot(f"{folder}/page.png")
        finally:
            browser.quit()
        return Image.open(f"{folder}/page.png").convert("RGB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = sys.argv[1] if len(sys.argv) > 1 else frostline.fit("digits", out=f"{folder}/digits").path
        main(Path(made))
