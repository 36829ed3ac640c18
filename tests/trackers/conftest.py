from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

import frostline
from conftest import small_backbone
from frostline.plan import Phase

PLAN = [Phase("head", epochs=0), Phase("block2", epochs=3, lr=1e-2, patience=3)]


@pytest.fixture
def fitted(stripes, tmp_path, monkeypatch) -> Callable[..., Any]:
    """Fits a small network on stripes, in a folder of its own, and gives the run."""
    monkeypatch.chdir(tmp_path)

    def fit(**options: Any) -> frostline.Run:
        usual = {"backbone": small_backbone(), "plan": PLAN, "precision": "fp32", "device": "cpu"}
        return frostline.fit(stripes, **{**usual, "out": "run", **options})

    return fit


@pytest.fixture
def stand_in(monkeypatch) -> Callable[..., types.ModuleType]:
    """Puts a module of that name and those attributes where a package would be."""

    def put(name: str, **attributes: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="a test")
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put
