"""The table of rows in docs/reliability.md is that of the tests there are."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "docs" / "make_rows.py"


@pytest.fixture(scope="module")
def rows() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_rows", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_not_stale(rows):
    text = rows.PAGE.read_text("utf-8")
    assert rows.page(text) == text, "the rows of docs/reliability.md are those of yesterday: python docs/make_rows.py"


def test_a_row_has_tests_or_a_reason_to_have_none(rows):
    tests, reasons = rows.found(), rows.dropped()
    assert {row for row in tests if row[0] != "R"} <= set(rows.ROWS), "a test bears the name of a row that there is not"
    assert set(reasons) <= set(rows.ROWS)
    assert not set(reasons) & set(tests), "a row that has tests needs no reason for having none"
    assert all(len(reason) > 20 for reason in reasons.values())
