"""What is installed of the extras, and the one form of the error about what is not."""

from __future__ import annotations

import importlib.metadata

import pytest

from frostline.errors import MachineError
from frostline.extras import lacking, refuse_missing

NEEDS = [
    "torch>=2.10",
    'fastapi>=0.115; extra == "serve"',
    'gone-one>=1; extra == "serve"',
    "click>=8; extra == 'old'",
    'pytest>=8; extra == "dev"',
    'frostline[export,serve]; extra == "dev"',
    'gone-two; (sys_platform == "plan9") and extra == "dev"',
    'numpy; extra == "export"',
]


def test_extras_are_those_of_the_metadata(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: NEEDS)
    assert lacking() == {"serve": ["gone-one"], "dev": ["gone-one"], "export": [], "old": []}


def test_all_extras_of_the_package_are_named():
    assert lacking().keys() == {*importlib.metadata.metadata("frostline").get_all("Provides-Extra")}


def test_without_metadata_nothing_is_known(monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none)
    assert lacking() == {}


def test_what_is_missing_is_named_with_what_installs_it(tmp_path, monkeypatch):
    refuse_missing("export", ["numpy", "click"], ["export"])
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MachineError, match=r"^serve needs gone, wandb: pip install 'frostline\[serve,x\]'$"):
        refuse_missing("serve", ["numpy", "gone", "wandb"], ["serve", "x"])
