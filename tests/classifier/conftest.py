"""A run of each task, fitted once."""

from __future__ import annotations

import pytest

import frostline
from conftest import SIZE, small_model
from frostline.backbones import load_backbone
from frostline.preprocessing import Preprocessing
from tasks_data import fitted, halves, several_labels


@pytest.fixture(scope="session")
def run(tmp_path_factory, stripes):
    folder = tmp_path_factory.mktemp("classifier")
    backbone = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36))
    options = {"plan": "probe", "store": folder / "cache", "quiet": True}
    return frostline.fit(stripes, backbone=backbone, out=folder / "run", **options)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("multilabel"), several_labels())


@pytest.fixture(scope="session")
def segmented(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("segmentation"), halves())
