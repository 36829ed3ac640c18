from __future__ import annotations

import functools
import importlib
import json
import sys
import types

import pytest
import torch
from torch import nn

from frostline.network.fingerprint import digest
from frostline.network.sources import home, is_foreign, is_known, is_stdlib, names_in, source


def nested(x: float) -> float:
    def inner() -> float:
        return len(json.dumps(x))

    return inner()


def test_the_text_of_a_function_is_what_it_was_compiled_from():
    assert source(json.dumps.__code__).startswith("def dumps(")
    assert source((lambda x: x).__code__) is None  # several may be on one line
    assert source(compile("def f(): pass", "<string>", "exec").co_consts[0]) is None


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function of a module that a test may write again."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(body: str, reload: bool = True) -> types.FunctionType:
        (tmp_path / "written_by_test.py").write_text(f"def act(x):\n    return {body}\n")
        importlib.invalidate_caches()
        if reload:
            sys.modules.pop("written_by_test", None)
        return importlib.import_module("written_by_test").act

    yield write
    sys.modules.pop("written_by_test", None)


def test_what_runs_counts_and_not_what_the_file_says_meanwhile(written):
    function = written("x + 1")
    before = digest(function)
    assert source(function.__code__) == "def act(x):\n    return x + 1\n"
    written("x + 22", reload=False)
    assert source(function.__code__) is None  # it is known by its bytecode then
    edited = written("x + 22")
    assert len({before, digest(function), digest(edited)}) == 3
    assert digest(written("x + 1")) == before


def test_of_which_package_something_is():
    assert is_known("torch.nn.modules.linear")
    assert is_known("numpy")
    assert is_known("builtins")
    assert not is_known("timm.layers")
    assert not is_known("__main__")
    assert not is_known("torchvision.ops")


def test_a_file_with_the_name_of_a_package_of_pythons_is_not_that(monkeypatch):
    is_stdlib.cache_clear()
    assert is_stdlib("token")
    is_stdlib.cache_clear()
    monkeypatch.setitem(sys.modules, "token", types.SimpleNamespace(__file__="/home/me/token.py"))
    assert not is_stdlib("token")
    is_stdlib.cache_clear()


def test_a_function_is_of_the_module_that_it_was_written_in():
    wrapped = functools.wraps(torch.nn.functional.relu)(lambda x: x)
    assert wrapped.__module__ == "torch.nn.functional"
    assert home(wrapped) == __name__
    assert is_foreign(wrapped)
    assert is_foreign(staticmethod(nested))
    assert is_foreign(property(nested))
    assert not is_foreign(nn.ReLU.forward)
    assert not is_foreign(3)


def test_names_are_found_in_inner_functions_too():
    assert {"json", "dumps", "len"} <= set(names_in(nested.__code__))
