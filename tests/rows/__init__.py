"""Rows of the test matrix, each a test with the name of the row; and the rows that are not worth a test."""

from __future__ import annotations

DROPPED: dict[str, str] = {}  # row: why it has no test
