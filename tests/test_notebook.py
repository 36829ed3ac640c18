"""What a notebook shows of runs, data and networks; and that a repr is one short line."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import frostline
from conftest import draw_images, small_backbone, small_model
from frostline.data.images import Images, ImageSet
from frostline.notebook import fragment
from tasks_data import halves, several_labels

anything = st.text(st.characters(exclude_categories=()))


class Read(HTMLParser):
    """The tags and the text of a piece of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        self.tags.append(tag)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "JPEG")
    return content.getvalue()


@given(anything, anything, anything)
def test_names_are_text_whatever_they_are(title, name, value):
    read = Read(fragment(title, {name: value}, [[name], [value]], [(title, jpeg())]))
    assert not read.open
    assert {*read.tags} <= {"div", "p", "b", "table", "tr", "th", "td", "figure", "img", "figcaption", "small"}
    assert all(c.isprintable() for c in read.text)


def test_a_run_shows_its_figures_and_pictures(stripes, tmp_path):
    """Stumble 26."""
    run = frostline.fit(stripes, backbone=small_backbone(), plan="probe", out=tmp_path / "run", quiet=True)
    shown = run._repr_html_()
    assert f"accuracy {run.metrics['valid']['accuracy']:.4f}" in shown
    assert f"accuracy {run.metrics['test']['accuracy']:.4f}" in shown
    assert "flat, tall, plain" in shown
    assert shown.count("data:image/png;base64,") >= 1
    assert not re.search(r"(src|href)=\"(?!data:)", shown)  # nothing is fetched


def test_an_unfinished_run_says_so(tmp_path):
    assert "not finished" in frostline.Run(tmp_path)._repr_html_()


def test_data_show_how_many_of_each_class_and_some_images(stripes):
    shown = Read(stripes._repr_html_())
    assert "48 train, 24 valid, 24 test" in shown.text
    assert shown.text.count("16") >= 3  # of each of three classes for training
    assert shown.tags.count("img") == 8
    part = Read(stripes.train._repr_html_())
    assert "48 images for classification" in part.text
    assert part.tags.count("img") == 8


@pytest.mark.parametrize("make", [several_labels, halves])
def test_data_of_every_task_are_shown(make):
    assert Read(make()._repr_html_()).tags.count("img") == 8


def test_images_that_cannot_be_read_are_left_out(tmp_path):
    gone = Images([tmp_path / "gone.png", tmp_path / "too.png"], np.array([0, 1]), ["gone", "too"])
    shown = Read(ImageSet("gone", ("a", "b"), gone, gone)._repr_html_())
    assert "img" not in shown.tags
    assert "2 train" in shown.text


def test_a_network_shows_its_stages():
    network = small_backbone().network(3)
    shown = Read(network._repr_html_())
    for stage in network.stages:
        assert stage.name in shown.text
    assert shown.tags.count("tr") == 1 + len(network.stages)


def test_a_repr_is_one_short_line(stripes, tmp_path):
    """Stumble 26."""
    backbone = small_backbone()
    network = backbone.network(3)
    rows = frostline.activations(network.cut("head")[0], draw_images(4), cache=False, precision="fp32")
    run = frostline.save_run(network, stripes.classes, tmp_path / "run")
    many = ImageSet("many", tuple(f"class {i}" for i in range(500)), draw_images(3), draw_images(3))
    checks = frostline.Checks(4, ())
    values = [backbone, network, rows, run, stripes, stripes.train, many, frostline.load(run, small_model()), checks]
    for value in values:
        assert "\n" not in repr(value)
        assert len(repr(value)) < 300, repr(value)
        assert type(value).__name__ in repr(value)
